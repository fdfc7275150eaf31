"""
Whose files of one name are whose, when a run is continued from another spool.

Some files of a run grow or are numbered: pages, texts, data files. Whoever made the run, or came
first to a run of the user's, has the plain names. A later training that goes on with the run knows
nothing of what is in them, and has its own: ``histograms-1f0c2a.html`` beside ``histograms.html``.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Mapping, NamedTuple, Optional

from tracelet.backends.mlflow.files import replace_file
from tracelet.backends.mlflow.opening import RUN_ID_TAG
from tracelet.backends.mlflow.store import RunState
from tracelet.records import RemoteRun, RunInfo

__all__ = ["FIRST_TAG", "Session", "session_of"]

#: The tag that says who has the plain names in a run that the user had made.
FIRST_TAG = "tracelet.first_run_id"


class Session(NamedTuple):
    """What is in the names of files that grow, and the tags by which the next one knows."""

    label: str
    tags: Mapping[str, str]
    file: Path

    def write_down(self) -> None:
        """Keep the label; after the tags were set."""
        replace_file(self.file, self.label.encode())


def session_of(
    run: RunInfo, state: RunState, resume: Optional[RemoteRun], workdir: Path, *, fresh: bool
) -> Session:
    """
    Return the session of a run that was just opened; the same one whenever it is opened again.

    Args:
        run: Who the run is.
        state: What the store says of it.
        resume: What was continued.
        workdir: Where the label is written down.
        fresh: There was nothing in ``workdir``.
    """
    file = workdir / "label"
    if file.exists():
        return Session(file.read_text(), {}, file)
    first = state.tags.get(RUN_ID_TAG) or state.tags.get(FIRST_TAG)
    if resume is None or first is None:
        # Made by us; or by the user, and nobody of us was there before.
        return Session("", {} if resume is None else {FIRST_TAG: run.run_id}, file)
    if first != run.run_id:
        return Session(_label(run.run_id), {}, file)
    if fresh and resume.facts:
        # We have been here, and what we knew is gone: nothing that is there may be overwritten.
        return Session(_label(f"{run.run_id} {secrets.token_hex(8)}"), {}, file)
    return Session("", {}, file)


def _label(text: str) -> str:
    return "-" + hashlib.sha256(text.encode()).hexdigest()[:6]
