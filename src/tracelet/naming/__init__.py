"""
Names: pure functions of what was logged, in the order in which it was logged.

``Names`` makes keys out of streams and tags, ``KeyMap`` and ``mapped`` make of a key what a backend
allows, ``flatten`` makes parameters of nested dictionaries, ``artifact_path`` checks where a file
is to go. Standard library only.
"""

from __future__ import annotations

from tracelet.naming.keymap import KeyMap, mapped, posix_form
from tracelet.naming.params import flatten
from tracelet.naming.paths import artifact_path
from tracelet.naming.streams import Names, series_tag

__all__ = [
    "KeyMap",
    "Names",
    "artifact_path",
    "flatten",
    "mapped",
    "posix_form",
    "series_tag",
]
