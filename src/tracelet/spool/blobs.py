"""
Bytes too large for a frame, and the user's files as they were at the call.

A copy that shares its blocks with the original (a *reflink*) costs nothing where the file system
can make one; elsewhere it is one plain copy. Where the disk is nearly full, or when the user wants
no copies, only a reference is kept: the file's identity, checked again when it is sent.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Iterator, Optional, Union

from tracelet.records import identity_of

__all__ = [
    "Identity",
    "Snapshot",
    "files_below",
    "identity",
    "least_free",
    "new_blob",
    "take",
]

#: Keep this much of the file system free, or this share of it, whichever is smaller.
FLOOR_BYTES = 2 * 1024**3
FLOOR_SHARE = 0.05
#: ioctl that makes one file share the blocks of another (linux/fs.h).
_FICLONE = 0x40049409
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
#: A named pipe must not hold us until somebody writes to it.
_READ = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_PIECE_BYTES = 8 * 1024 * 1024

#: device, inode, size, mtime in ns
Identity = tuple[int, int, int, int]


@dataclass(frozen=True)
class Snapshot:
    """Where a file's bytes are: a blob (no identity), or the user's file as it was."""

    path: Path
    size: int
    identity: Optional[Identity] = None


def identity(path: Union[str, Path, int]) -> Identity:
    """Return what tells whether a file is still the same file with the same content."""
    return identity_of(os.stat(path))  # noqa: PTH116 - a descriptor will do as well


def least_free(total: int, told: Optional[int] = None) -> int:
    """
    Return how many bytes of a file system stay free.

    Args:
        total: How large it is, in bytes.
        told: What the user said, where they did.
    """
    return min(FLOOR_BYTES, int(total * FLOOR_SHARE)) if told is None else told


def new_blob(folder: Path) -> Path:
    """Return an unused name in the folder of blobs."""
    return folder / secrets.token_hex(16)


def take(source: Path, folder: Path, *, snapshot: bool = True) -> Snapshot:
    """
    Keep a file's bytes as they are now.

    Args:
        source: A regular file.
        folder: The run's folder of blobs.
        snapshot: False: keep a reference only.

    Raises:
        OSError: The file cannot be read.
    """
    fd = os.open(source, _READ)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{source} is not a regular file")
        if snapshot:
            with open(fd, "rb", buffering=0, closefd=False) as old:
                copied = _copied(old, found.st_size, folder)
            if copied is not None:
                return copied
        kept = identity(fd)
    finally:
        os.close(fd)
    where = os.path.abspath(source)  # noqa: PTH100 - a link stays one
    return Snapshot(Path(where), kept[2], kept)


def files_below(folder: Path) -> Iterator[tuple[Path, str]]:
    """
    Yield each regular file below ``folder`` with its POSIX path relative to it, sorted.

    A link that leads out of the folder is passed over: its target was not what the user named.
    So is a link to a folder: what is below it comes under its own name, or is outside.
    """
    root = os.path.realpath(folder)
    for base, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            path = Path(base) / name
            real = os.path.realpath(path)
            if Path(real).is_file() and os.path.commonpath([root, real]) == root:
                yield path, path.relative_to(folder).as_posix()


def _copied(old: BinaryIO, size: int, folder: Path) -> Optional[Snapshot]:
    """Return a copy of an open file; None where there is no room for one."""
    target = new_blob(folder)
    try:
        with open(os.open(target, _NEW, 0o600), "wb", buffering=0) as new:
            if _reflinked(old, new) or (_room_for(size, folder) and _copy(old, new)):
                return Snapshot(target, os.fstat(new.fileno()).st_size)
    except _SourceError as error:
        _remove(target)
        raise error.reason from None
    except OSError:
        pass  # no place for a copy: a reference will have to do
    _remove(target)
    return None


def _remove(target: Path) -> None:
    with contextlib.suppress(OSError):
        target.unlink()


def _reflinked(old: BinaryIO, new: BinaryIO) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    import fcntl  # does not exist everywhere

    try:
        fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
    except OSError:
        return False
    return True


class _SourceError(Exception):
    """Not the disk of the spool but the user's file failed."""

    def __init__(self, reason: OSError) -> None:
        self.reason = reason


def _copy(old: BinaryIO, new: BinaryIO) -> bool:
    """Copy in the kernel as far as it can, the rest (as a rule nothing) piece by piece."""
    if hasattr(os, "copy_file_range"):
        with contextlib.suppress(OSError):  # not between these two file systems
            while os.copy_file_range(old.fileno(), new.fileno(), 1 << 30):
                pass
    while True:
        try:
            piece = old.read(_PIECE_BYTES)
        except OSError as error:
            raise _SourceError(error) from error
        if not piece:
            return True
        view = memoryview(piece)
        while view:
            view = view[new.write(view) :]


def _room_for(size: int, folder: Path) -> bool:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return True
    return usage.free - size >= least_free(usage.total)
