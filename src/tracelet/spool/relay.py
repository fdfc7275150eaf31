"""
A thread that writes in the place of the program's own calls, while the disk stalls.

As a rule there is none. It comes when a write has held a call for too long, and goes when the disk
has been quick for a while. A call leaves its record in memory, wakes the thread, and waits for it:
as long as the disk answers, what has returned is on disk, as ever. Once the disk refuses, or holds
the thread, nobody waits any more, until the thread has caught up. A thread that only waits for a
processor is waited for: a busy machine is no stalling disk, and must cost nothing at a kill.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Callable, Optional

__all__ = ["CALM_S", "STALL_S", "Relay"]

#: A write that takes longer is a stall; and so long a call waits in any case.
STALL_S = 0.05
#: How long a call waits for a thread that the disk holds, …
HELD_S = 0.25
#: … and how long for one that has no processor.
STARVED_S = 5.0
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
        "refused",
        "stalled_s",
        "told",
        "writing_since",
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
        #: Since when it has been at the disk, if it is.
        self.writing_since: Optional[float] = None
        #: The disk did not take all of what it was given last.
        self.refused = False
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
            began = time.monotonic()
            while not self.late and not done():
                waited = time.monotonic() - began
                if waited > STALL_S and (waited > STARVED_S or self._in_vain()):
                    self.late = True
                    return
                time.sleep(_LOOK_S)
        finally:
            self._waiters.discard(me)

    def _in_vain(self) -> bool:
        """Tell whether it is the disk that a call waits for."""
        if self.refused:
            return True
        since = self.writing_since
        return since is not None and time.monotonic() - since > HELD_S and not self._runnable()

    def _runnable(self) -> bool:
        """Return True where it can be seen that the thread only waits for a processor (Linux)."""
        try:
            with open(f"/proc/self/task/{self._thread.native_id}/stat", "rb") as file:  # type: ignore[union-attr]
                # The state follows the name in parentheses, which may hold anything (proc(5)).
                return bool(file.read().rpartition(b")")[2].split()[0] == b"R")
        except (AttributeError, OSError, IndexError):
            return False

    def _work(self) -> None:
        while True:
            pause = self._turn(self)
            if pause is None:
                return
            if pause:
                self._bell.acquire(timeout=pause)
