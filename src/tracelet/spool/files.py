"""The system calls of the spool's writer, in one place: a test can make each of them fail."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_NEW = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | os.O_APPEND
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_BINARY", 0)
)
#: Where a descriptor is put: from the first of these numbers on that the process may have.
_ASIDE = (900, 200, 50)


class Files:
    """What a writer does to the disk."""

    write = staticmethod(os.write)
    close = staticmethod(os.close)
    ftruncate = staticmethod(os.ftruncate)
    fstat = staticmethod(os.fstat)
    unlink = staticmethod(os.unlink)

    @staticmethod
    def sync(fd: int) -> None:
        """Return when the disk itself has what the file holds."""
        if hasattr(os, "fdatasync"):
            os.fdatasync(fd)
        elif sys.platform == "darwin":  # pragma: no cover - where fsync only hands over
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:  # pragma: no cover
            os.fsync(fd)

    @staticmethod
    def show(fd: int, hidden: Path, path: Path) -> int:
        """Give an open file its name; return the descriptor to go on with."""
        if os.name != "nt":
            hidden.rename(path)
            return fd
        # Windows renames no file that is open. (Not tested: Linux is what the tests run on.)
        os.close(fd)
        hidden.rename(path)
        return os.open(path, _NEW & ~(os.O_CREAT | os.O_EXCL))

    @staticmethod
    def create(path: Path) -> int:
        """Open a new file for appending; it must not exist."""
        return _aside(os.open(path, _NEW, 0o600))


def _aside(fd: int) -> int:
    """
    Return the descriptor under a number that nobody gets by chance.

    A program that closes every descriptor (as a daemon does) and opens files of its own gets the
    lowest numbers for them; and one that has closed its standard streams still writes to theirs.
    """
    if sys.platform == "win32":  # pragma: no cover - Linux is what the tests run on
        return fd
    for number in _ASIDE:
        try:
            moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, number)
        except OSError:
            continue  # more than this process may have
        os.close(fd)
        return moved
    return fd
