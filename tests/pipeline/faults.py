"""
A process that delivers, and whose system calls fail at a chosen place; or that dies there.

Nothing of ours is patched for it, and nothing of it is in the package: the interpreter tells an
audit hook of every call that names a file before it is made, and the hook may raise instead. The
few calls that it does not tell of are wrapped.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any, Callable, Optional

#: The audit events of calls that look at a folder, change it, or take a lock in it.
EVENTS = frozenset(
    {
        "fcntl.lockf",
        "open",
        *(f"os.{call}" for call in ("chmod", "listdir", "mkdir", "remove", "rename", "rmdir")),
        *(f"os.{call}" for call in ("scandir", "truncate", "utime")),
    }
)
#: Not told to audit hooks.
WRAPPED = ("fdatasync", "fstat", "fsync", "stat", "write")


def inject(
    folder: Path,
    *,
    at: int = -1,
    error: Optional[str] = None,
    for_ever: bool = False,
    log: Optional[str] = None,
) -> None:
    """
    Have a system call of this process fail, from now on.

    Args:
        folder: Calls are counted that name a file in it, or none at all (only a descriptor).
        at: Which of them it is.
        error: The name of the error; None: the process dies instead of making the call.
        for_ever: So does every call after it.
        log: A file for what was called.
    """
    number = 0
    busy = False
    within = os.fspath(folder)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) if log else None
    write = os.write

    def called(call: str, what: Any) -> None:
        nonlocal number, busy
        if busy or not _inside(what, within):
            return
        busy = True
        try:
            if out is not None:
                write(out, json.dumps([call, str(what)]).encode() + b"\n")
            reached = number == at or (for_ever and number > at >= 0)
            number += 1
        finally:
            busy = False
        if reached and error is None:
            os._exit(9)
        elif reached and error is not None:
            code = getattr(errno, error)
            raise OSError(code, os.strerror(code), str(what))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS:
            called(event, arguments[1 if event == "os.rename" else 0])

    for name in WRAPPED:
        setattr(os, name, _wrapped(name, getattr(os, name), called))
    sys.addaudithook(hook)


def _inside(what: Any, folder: str) -> bool:
    if isinstance(what, int):
        return True  # a descriptor; what is opened for other reasons is not locked or cut
    name = os.fsdecode(what) if isinstance(what, (str, bytes, os.PathLike)) else ""
    # A name without a folder is one in a folder that is being deleted.
    return os.path.abspath(name).startswith(folder)


def _wrapped(
    name: str, original: Callable[..., Any], called: Callable[[str, Any], None]
) -> Callable[..., Any]:
    def call(what: Any, *more: Any, **named: Any) -> Any:
        called(f"os.{name}", what)
        return original(what, *more, **named)

    return call


def deliver() -> None:
    """Do what ``tracelet sync`` does, in the spool of this folder, without much patience."""
    from tracelet.ship import drain, shipment
    from tracelet.spool.rundir import find_runs

    # What is done now and then is done at once.
    shipment.SWEEP_S = shipment.SYNC_S = 0.0
    for run in find_runs(Path(".tracelet")):
        drain.drain(run, away_s=3.0, timeout=60.0)
