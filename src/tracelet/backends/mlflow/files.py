"""
Our own files of a run, written so that neither a crash nor a full disk leaves half of anything.

A disk that refuses is an outage like any other: ``RetryableError``.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Iterator, Optional

from tracelet.errors import RetryableError

__all__ = [
    "append",
    "append_line",
    "make_folder",
    "private",
    "refusing",
    "replace_file",
    "whole_lines",
]


def private(path: str, flags: int) -> int:
    """Open a file that only its owner may read, whatever the program's umask is: an ``opener``."""
    return os.open(path, flags, 0o600)


def make_folder(path: Path) -> None:
    """Make a folder of ours, if it is not there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``; whoever reads it finds the old or the new one whole."""
    partial = path.with_name(path.name + ".partial")
    with refusing(path):
        with open(partial, "wb", opener=private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def append_line(path: Path, line: bytes) -> None:
    """Append ``line``, which holds no line break, and a line break; or nothing."""
    append(path, line + b"\n")


def append(path: Path, data: bytes, at: Optional[int] = None) -> None:
    """
    Append ``data``, or nothing.

    Args:
        path: Made when it is not there.
        data: The bytes.
        at: Where the file ends as far as its owner knows; what is behind goes. Its end, when not
            given.
    """
    with refusing(path), open(path, "ab", buffering=0, opener=private) as file:
        size = file.seek(0, os.SEEK_END)
        if at is not None and at < size:
            os.truncate(path, at)
            size = at
        # A full disk takes a part of it, and says so with a number instead of an error; so does
        # the kernel, which takes 2 GiB at once.
        view, written = memoryview(data), 0
        try:
            while written < len(data):
                taken = file.write(view[written:])
                if not taken:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                written += taken
        finally:
            if written != len(data):
                os.truncate(path, size)


def whole_lines(path: Path) -> int:
    """Take away a last line that a crash cut, and return the size of what is left, in bytes."""
    if not path.exists():
        return 0
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    return whole


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Make an outage of what the disk refuses: a record is not to blame for it."""
    try:
        yield
    except OSError as error:
        raise RetryableError(f"{path} cannot be written: {error}") from error
