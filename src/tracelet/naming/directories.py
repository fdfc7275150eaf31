"""
Log directories as names: where they lie, and which of their parts say something.

Purely lexical, because the shipper may run where the directories do not exist.
"""

from __future__ import annotations

import os
import re
from itertools import takewhile
from typing import Final, NamedTuple, Sequence

#: Last parts that say which share of the data was measured; compared without regard to case.
SPLITS: Final = frozenset(
    {
        "train",
        "training",
        "val",
        "valid",
        "validate",
        "validation",
        "test",
        "testing",
        "eval",
        "evaluate",
        "evaluation",
        "dev",
        "devset",
        "holdout",
        "hold-out",
        "hold_out",
        "heldout",
        "held-out",
        "held_out",
    }
)

_ROOT: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/]*/?|[A-Za-z]:/*|/+")
#: What torch, tensorboardX and the libraries built on them call a directory that nobody named:
#: ``%b%d_%H-%M-%S_<host><comment>``. The month is in the language of the process.
_DEFAULT: Final = re.compile(r"[^\W\d_]{1,9}\.?[0-3]\d_[0-2]\d-[0-5]\d-[0-6]\d(_.*)?", re.DOTALL)
_DATE: Final = r"(19|20)\d\d[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])"
_CLOCK: Final = r"([01]\d|2[0-3])[-_:.h]?[0-5]\d([-_:.m]?[0-6]\d)?s?([.,_]\d+)?(Z|[+-]\d\d:?\d\d)?"
#: Nothing but a point in time: a date, a date and a time, or seconds since the epoch.
_TIME: Final = re.compile(rf"{_DATE}([-_T .]*{_CLOCK})?|1\d{{9}}(\.\d+)?|1\d{{12}}")
_ONLY_DATE: Final = re.compile(_DATE)
_ONLY_CLOCK: Final = re.compile(_CLOCK)


class Directory(NamedTuple):
    """A log directory in one spelling: its root (``/``, ``C:``, ``s3://…`` or none), its parts."""

    root: str
    parts: tuple[str, ...]

    @property
    def last(self) -> str:
        """The last part; empty for a root."""
        return self.parts[-1] if self.parts else ""

    @property
    def is_split(self) -> bool:
        """Whether it is named after a share of the data."""
        return self.last.casefold() in SPLITS

    def parent(self) -> Directory:
        """Return the directory above."""
        return Directory(self.root, self.parts[:-1])


def directory(logdir: str, cwd: str = "") -> Directory:
    r"""
    Return a log directory in one spelling.

    Args:
        logdir: As the writer has it: relative or absolute, a URL, with ``/`` or ``\``.
        cwd: What a relative one is relative to; unknown when empty.
    """
    text = _slashes(logdir)
    if cwd and not _ROOT.match(text):
        text = f"{_slashes(cwd)}/{text}"
    match = _ROOT.match(text)
    root = match.group().rstrip("/") if match else ""
    if match and not root:
        root = "/"
    parts: list[str] = []
    for part in text[match.end() if match else 0 :].split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in {"", "."} and not (part == ".." and root):
            parts.append(part)
    return Directory(root, tuple(parts))


def shared_parts(one: Directory, other: Directory) -> int:
    """Return how many parts two directories share from their root on; -1 for two roots."""
    if one.root != other.root:
        return -1
    pairs = zip(one.parts, other.parts)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def is_timestamp(parts: Sequence[str], index: int) -> bool:
    """Tell whether a part of a directory is only a point in time, or a name that nobody chose."""
    part = parts[index]
    if _DEFAULT.fullmatch(part) or _TIME.fullmatch(part):
        return True
    # A clock alone could be anything (10-20-30 may be three layers), but not behind a date.
    after_date = index > 0 and _ONLY_DATE.fullmatch(parts[index - 1])
    return bool(after_date and _ONLY_CLOCK.fullmatch(part))


def _slashes(path: str) -> str:
    if os.sep == "\\" or re.match(r"[A-Za-z]:\\|\\\\", path):
        return path.replace("\\", "/")
    return path
