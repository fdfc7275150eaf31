"""
One readable file per run: every record is a line of JSON. Documented, so that anything can read it.

Where things are
    ``<path>/<project>/<name>.jsonl``, with media and artifacts in ``<name>.files/`` beside it.
    Without a project the folder is ``default``; a run without a name is called by its id. A second
    run of the same name is ``<name>~<hash of its id>.jsonl``. What a file cannot be called is
    percent-encoded, so that two different names never become the same.

What is in the file
    ``{"type": "run", …}`` first: who the run is. Another one follows when it is continued later.
    ``{"lane": …, "n": …, "type": "metric", …}``: one record. ``lane`` and ``n`` say which one of
    the spool it is; the other fields are those of ``tracelet.records``.
    ``{"type": "end", "status": …, "time": …}``: how it ended. A run without it, or with a ``run``
    line behind it, is still running.
    A double is written so that reading it gives the same double; what JSON has no number for is the
    string ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``. The bytes of a medium or an artifact are in
    ``file``, relative to the folder that holds the ``.jsonl``.

Why nothing is there twice
    The file only grows. A batch that may have arrived before (``resend``) is compared with the
    lines from its place on, and only what is missing is written. A line that a crash left
    unfinished is cut off when the file is opened.

A line survives the death of this process as soon as ``write`` has returned. ``barrier`` and
``close`` make it survive the machine, and so does ``write`` itself once a second.
"""

from __future__ import annotations

from tracelet.backends.jsonl.backend import JsonlBackend
from tracelet.backends.jsonl.options import JsonlOptions

__all__ = ["JsonlBackend", "JsonlOptions"]
