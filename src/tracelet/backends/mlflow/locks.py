"""
One process at a time opens a fresh store on this disk.

MLflow makes a database's tables without a lock: of two processes that start in an empty folder one
always crashes. The file beside the database, or beside the folder of files, is ours and goes away
again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import Iterator

from tracelet.backends.mlflow import uri
from tracelet.errors import RetryableError

__all__ = ["alone", "beside"]

_mine = threading.local()


def beside(url: str) -> Path:
    """Return the lock file of the SQLite database or folder at ``url``."""
    path = uri.local(url)
    return path.with_name(f"{path.name}.tracelet-lock")


@contextlib.contextmanager
def alone(path: Path, timeout_s: float) -> Iterator[None]:
    """
    Hold the lock file ``path``; a thread that has it already may have it once more.

    Args:
        path: The file; made when it is not there, removed afterwards.
        timeout_s: How long to wait for whoever has it.

    Raises:
        RetryableError: Somebody has it for longer.
    """
    held: set[Path] = _mine.__dict__.setdefault("held", set())
    if path in held:
        yield
        return
    deadline = time.monotonic() + timeout_s
    while True:
        number = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        if _lock(number) and _is_still(path, number):
            break
        os.close(number)
        if time.monotonic() > deadline:
            raise RetryableError(f"another process is opening the database beside {path}")
        time.sleep(0.05)
    held.add(path)
    try:
        yield
    finally:
        held.discard(path)
        with contextlib.suppress(OSError):
            path.unlink()  # Windows keeps a file that is open; it stays, empty
        os.close(number)


def _is_still(path: Path, number: int) -> bool:
    """Return False when the file that we locked was removed by its former holder."""
    try:
        return os.path.samestat(path.stat(), os.fstat(number))
    except FileNotFoundError:
        return False


def _lock(number: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
