"""
A thread that writes in the place of the program's own calls, while the disk stalls.

As a rule there is none. It comes when a write has held a call for too long, and goes when the disk
has been quick for a while. A call leaves its record in memory, wakes the thread, and waits a moment
for it: as long as the disk answers, what has returned is on disk, as ever. Once the disk is late
nobody waits any more, until the thread has caught up.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Callable, Optional

__all__ = ["CALM_S", "STALL_S", "Relay"]

#: A write that takes longer is a stall; and no call waits longer for the thread.
STALL_S = 0.05
#: The thread goes when no write has stalled for so long.
CALM_S = 30.0
#: How often a waiting call looks.
_LOOK_S = 0.0002


class Relay:
    """
    The thread, and what the calls of the program know of it.

    Nothing in here can be interrupted half-way by a signal handler or a finalizer that logs: there
    is no lock but one that is taken and let go of in a single step, as a bell.

    Args:
        turn: Does some of the work; returns for how many seconds there is none, None when it is
            over.
        passing: Go as soon as everything is written, if the disk is quick.
    """

    __slots__ = (
        "_bell",
        "_since",
        "_thread",
        "_turn",
        "_waiters",
        "_writes",
        "busy",
        "late",
        "passing",
        "stalled_s",
        "told",
    )

    def __init__(self, turn: Callable[[Relay], Optional[float]], *, passing: bool = False) -> None:
        self._turn = turn
        self._bell = threading.Lock()
        self._bell.acquire()
        self._thread: Optional[threading.Thread] = None
        self._waiters: set[int] = set()
        #: Since when no write has stalled, and how many there were since.
        self._since = time.monotonic()
        self._writes = 0
        self.passing = passing
        #: It is writing, without anybody's lock: the segment is its own.
        self.busy = False
        #: A call has waited for it in vain; no other one does before it has caught up.
        self.late = False
        #: How long the disk stalled, in seconds, once that is certain; and whether it was told.
        self.stalled_s = 0.0
        self.told = False

    def ring(self) -> bool:
        """Have the thread look; False when there cannot be one."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="tracelet-spool-writer", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False  # too many of them, or the interpreter is at its end
            self._thread = thread
        self.dismiss()
        return True

    def dismiss(self) -> None:
        """Have the thread look, if there is one."""
        with contextlib.suppress(RuntimeError):  # it rings already
            self._bell.release()

    def wrote(self, seconds: float) -> None:
        """Take note of how long a write took."""
        self._writes += 1
        if seconds > STALL_S:
            self._since, self._writes, self.passing = time.monotonic(), 0, False

    def calm(self) -> bool:
        """Return True when the program may write for itself again."""
        return self.passing or (self._writes > 0 and time.monotonic() - self._since > CALM_S)

    def rest(self) -> float:
        """Return how long the thread has nothing to do, in seconds."""
        left = self._since + CALM_S - time.monotonic()
        return left + 0.01 if self._writes and left > 0 else 60.0

    def wait_for(self, done: Callable[[], bool]) -> None:
        """Wait until ``done``, as long as a call may be held; not at all when it is late."""
        me = threading.get_ident()
        if me in self._waiters:
            return  # a signal handler, within such a wait; it would be interrupted by the next one
        self._waiters.add(me)
        try:
            deadline = time.monotonic() + STALL_S
            while not self.late and not done():
                if time.monotonic() > deadline:
                    self.late = True
                    return
                time.sleep(_LOOK_S)
        finally:
            self._waiters.discard(me)

    def _work(self) -> None:
        while True:
            pause = self._turn(self)
            if pause is None:
                return
            if pause:
                self._bell.acquire(timeout=pause)
