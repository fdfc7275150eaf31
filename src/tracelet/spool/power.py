"""
Has the disk confirm what was written, also while nobody logs: for those who fear for the power.

A process beside the training does so once a second. Who asks for more (``durability="power"``) gets
a thread in each process that logs: a writer's file is locked by having it open, and to open and
close it once more would cost that lock.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from tracelet.spool.writer import SpoolWriter

__all__ = ["POWER_S", "keep_confirming"]

#: How often, in seconds: what a power cut can cost, and what the disk takes to say so.
POWER_S = 0.1


def keep_confirming(writer: SpoolWriter) -> Optional[threading.Thread]:
    """
    Have what a writer writes confirmed until it is closed.

    Returns:
        The thread; None where none can be started any more.
    """
    thread = threading.Thread(
        target=_work, args=(weakref.ref(writer),), name="tracelet-disk", daemon=True
    )
    with contextlib.suppress(RuntimeError):
        thread.start()
        return thread
    return None


def _work(writer: weakref.ref[SpoolWriter]) -> None:
    while True:
        time.sleep(POWER_S)
        found = writer()
        if found is None or found.closed:
            return
        found.confirm()
        del found
