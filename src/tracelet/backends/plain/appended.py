"""A file that only grows, by whole entries, written by one process."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self

if sys.platform != "win32":
    import fcntl

BLOCK_BYTES = 1 << 20


class Entry(NamedTuple):
    """
    What stands at one place of a file.

    ``letter`` is ``r`` for who the run is from here on, ``e`` for how it ended, and for a record
    the first one of its lane. ``place`` is a record's in its lane, -1 for anything else;
    ``content`` what it says without that.
    """

    letter: str
    place: int
    content: bytes
    parameter: bool = False


class AppendedFile:
    """
    Entries in a file. Its owner holds a lock around what changes it; reading needs none.

    Opening cuts off a last entry that is not whole: whoever wrote it died over it.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        """
        Open the file for this process alone.

        Args:
            path: The file; its folder exists.
            create: True: the file must not exist yet. False: it must.

        Raises:
            FileExistsError: ``create``, and somebody was there before.
            FileNotFoundError: Not ``create``, and there is no such file.
            BlockingIOError: Another process has it open.
        """
        self.path = path
        flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        self._reading = threading.Lock()
        self._descriptor = os.open(path, flags, 0o666)
        try:
            _lock(self._descriptor)
            self._size = self.size()
            self._size = self._end_of_last()
            self._cut()
        except BaseException:
            os.close(self._descriptor)
            raise

    @classmethod
    def reading(cls, path: Path) -> Self:
        """
        Open a file to look into it; neither locked nor cut, and nothing may be appended.

        Raises:
            OSError: It cannot be read.
        """
        found = cls.__new__(cls)
        found.path = path
        found._reading = threading.Lock()  # noqa: SLF001
        flags = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        found._descriptor = os.open(path, os.O_RDONLY | flags)  # noqa: SLF001 - our own
        found._size = found.size()  # noqa: SLF001
        return found

    def __iter__(self) -> Iterator[Entry]:
        """Read all entries from the beginning; more may be appended meanwhile."""
        raise NotImplementedError

    @property
    def whole(self) -> int:
        """How many bytes of whole entries there are."""
        return self._size

    @property
    def gone(self) -> bool:
        """Whether somebody deleted the file while it was open."""
        return os.fstat(self._descriptor).st_nlink == 0

    def append(self, entries: bytes) -> None:
        """
        Write all of ``entries``, or nothing and raise ``OSError``.

        Args:
            entries: Whole ones.
        """
        # Something may be left of an attempt that could not even be undone.
        self._cut()
        rest = memoryview(entries)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            with suppress(OSError):
                self._cut()
            raise
        self._size += len(entries)

    def sync(self) -> None:
        """Make what was written survive the machine."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def size(self) -> int:
        """Return how long the file is on the disk, in bytes."""
        return os.fstat(self._descriptor).st_size

    def _end_of_last(self) -> int:
        """Return where the last whole entry ends."""
        raise NotImplementedError

    def _cut(self) -> None:
        if self.size() != self._size:
            os.ftruncate(self._descriptor, self._size)

    def _read(self, position: int, count: int) -> bytes:
        # Through the one descriptor: opening the file a second time would drop the lock at close.
        with self._reading:
            os.lseek(self._descriptor, position, os.SEEK_SET)
            return os.read(self._descriptor, count)


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError as error:
        # POSIX lets a system say "somebody has it" in either way.
        raise BlockingIOError(error.errno, error.strerror) from error
    except BlockingIOError:
        raise
    except OSError:
        # A file system without locks: the shipper's own lock on the run has to do.
        return
