"""Where a file goes among the artifacts of a run."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_MAX_BYTES: Final = 1024
_DRIVE: Final = re.compile(r"[A-Za-z]:")
#: Formatting characters that change the direction of what is shown around them.
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def artifact_path(path: str) -> str:
    """
    Return a relative POSIX path in normal form: no empty part, no ``.``, no ``/`` at the end.

    Args:
        path: What the user wrote; empty for the root of the artifacts.

    Raises:
        ValueError: Absolute, leads out of the run (``..``), not POSIX (a drive, a backslash), holds
            a control character or one that changes the direction of text, is no valid Unicode, or
            is longer than 1024 bytes.
    """
    if path.startswith("/") or _DRIVE.match(path):
        raise ValueError(f"an artifact path is relative, not {path!r}")
    if "\\" in path:
        raise ValueError(f"an artifact path has '/' between its parts: {path!r}")
    if any(
        unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} or char in _BIDI for char in path
    ):
        raise ValueError(f"an artifact path has no control characters: {path!r}")
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise ValueError(f"an artifact path stays inside the run: {path!r}")
    clean = "/".join(parts)
    if len(clean.encode("utf-8")) > _MAX_BYTES:
        raise ValueError(f"an artifact path has at most {_MAX_BYTES} bytes: {path[:80]!r}…")
    return clean
