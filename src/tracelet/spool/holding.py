"""
Writing a point without letting go of the interpreter lock.

``os.write`` lets go of it, and TensorBoard's own thread, which the point before has woken, takes
it: the training then waits behind that thread's work, ten or twenty times as long as the write
takes. The C library's ``write``, called with the lock held (``ctypes.PyDLL``), is the same system
call.

Whoever holds the lock while a disk stalls holds every thread. So it is done on file systems of this
machine alone, and no more once the disk has stalled.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Callable, Optional

from tracelet.spool.rundir import file_system

__all__ = ["arguments", "write_for"]

#: File systems that are this machine's own. A write to any other may be answered by a network, or
#: by a thread of this very process (FUSE), which would wait for the lock.
_LOCAL = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs")
)


def write_for(folder: Path) -> Optional[Callable[..., int]]:
    """
    Return ``write(*arguments(fd, buffer))`` for files in a folder; None where it is not done.

    It returns how many bytes were written, -1 for an error; ``os.write`` then says which.
    """
    if sys.implementation.name != "cpython" or file_system(folder) not in _LOCAL:
        return None
    try:
        import ctypes

        write = ctypes.PyDLL(None)["write"]
        write.restype = ctypes.c_ssize_t
    except (AttributeError, ImportError, OSError, TypeError):
        return None  # an interpreter without libffi, or a system without such a function
    return write


def arguments(fd: int, buffer: bytearray) -> tuple[Any, ...]:
    """
    Return what ``write`` takes, made once: to convert it with every call would take half as long as
    the call. The buffer has to outlive it, and to stay as long as it is.
    """
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    return ctypes.c_int(fd), ctypes.c_void_p(address), ctypes.c_size_t(len(buffer))
