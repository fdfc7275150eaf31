"""Doing two things at once, or one with a limit; nothing waits for ever."""

from __future__ import annotations

import threading
import time as clock
from typing import Callable

from tracelet._guard import Kept


def in_threads(*calls: Callable[[], object], timeout_s: float = 60) -> None:
    """Run calls at the same time; raise what one of them raised, or TimeoutError."""
    carried = [Kept() for _ in calls]

    def run(call: Callable[[], object], result: Kept) -> None:
        with result:
            call()

    # Daemons: one that hangs for ever does not keep pytest from ending.
    threads = [threading.Thread(target=run, args=both, daemon=True) for both in zip(calls, carried)]
    deadline = clock.monotonic() + timeout_s
    for thread in threads:
        thread.start()
    for thread, result in zip(threads, carried):
        thread.join(max(0.0, deadline - clock.monotonic()))
        if thread.is_alive():
            raise TimeoutError(f"no end after {timeout_s} s")
        if result.error is not None:
            raise result.error


def soon(true: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until something is true, and tell whether it ever was."""
    deadline = clock.monotonic() + timeout_s
    while not true():
        if clock.monotonic() > deadline:
            return False
        clock.sleep(0.05)
    return True
