"""
One patience for a server that is away, shared by all runs of a process that go there.

Nothing here ever gives up. While a server fails, one request at a time is made, after waits that
double; as soon as it has failed long enough, a small question is asked every few seconds, so that
the long waits are not what a run is behind when the server is back. What hangs is asked seldom.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from typing import Callable, Iterator, Optional

from tracelet.ship.retry import Backoff

__all__ = ["Breaker", "breaker_of"]

#: So many failures in a row, or so long an outage, and a small question goes before any data.
MOST_FAILURES = 5
LONGEST_S = 5.0
#: How often it is asked, at most; the least is half of it.
ASK_S = 3.0
#: A question that was answered although the data failed is asked half as often, up to this.
SELDOM_S = 30.0
#: A try that hangs for a second is made again without a good sign only after so many.
REST = 10.0
LONGEST_TRY_S = 60.0
#: The longest wait that a server may ask for.
LONGEST_WAIT_S = 3600.0
#: After an outage so long, batches leave no closer together than this, all runs taken together.
CAREFUL_S = 60.0
PACE_S = 0.1


class Breaker:
    """
    Whether a server may be sent something, and when.

    Args:
        clock: Monotonic seconds.
        draw: Random numbers from 0 to 1.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._draw = draw
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        #: Held by whoever makes the one request that is made at a time while the server fails.
        self._trying = threading.Lock()
        self._backoff = Backoff(draw=draw)
        self._since = self._until = self._ask_at = self._tried_at = 0.0
        #: A question was answered: whoever comes next may try.
        self._hopeful = False
        self._misled = 0
        self._careful_until = self._next = 0.0

    @property
    def failing(self) -> bool:
        """True from the first failure until something is taken."""
        return self._backoff.failures > 0

    @property
    def open(self) -> bool:
        """True when it has failed for so long that it is asked before it is sent anything."""
        long = self._clock() - self._since >= LONGEST_S
        return self._backoff.failures >= MOST_FAILURES or (self.failing and long)

    def wait(self) -> float:
        """Return for how many seconds nothing may be sent, or until the next question."""
        with self._lock:
            now = self._clock()
            if not self.failing or self._hopeful:
                return max(0.0, self._next - now)
            left = self._until - now
            if left > 0 and self.open:
                left = min(left, max(PACE_S, self._ask_at - now))
            return max(0.0, left)

    def ask(self, question: Callable[[], Optional[float]]) -> None:
        """
        Ask the server for a sign of life, if it is time for that.

        Args:
            question: Returns None when there is one, else for how many seconds the server wants
                to be left alone.
        """
        now = self._clock()
        due = self.open and not self._hopeful and self._ask_at <= now < self._until
        if not due or not self._asking.acquire(blocking=False):
            return
        try:
            silent = question()
            with self._lock:
                if silent is None:
                    self._hopeful = self.failing
                else:
                    self._misled = 0
                    asked = min(silent, LONGEST_WAIT_S)
                    self._ask_at = max(now + self._pause(), self._clock() + asked)
        finally:
            self._asking.release()

    @contextlib.contextmanager
    def attempt(self) -> Iterator[bool]:
        """Give True when a request may be made now; while the server fails, to one at a time."""
        if not self.failing:
            self._tried_at = self._clock()
            yield True
            return
        if not self._trying.acquire(blocking=False):
            yield False
            return
        try:
            self._tried_at = self._clock()
            # Somebody else may have failed just before.
            yield self._hopeful or self._until <= self._tried_at
        finally:
            self._trying.release()

    def failed(self, at_least: Optional[float] = None) -> float:
        """
        Take note of a request that failed.

        Args:
            at_least: What the server asked for, in seconds.

        Returns:
            For how many seconds nothing is sent, unless the server gives a sign before.
        """
        with self._lock:
            now = self._clock()
            asked = min(at_least or 0.0, LONGEST_WAIT_S)
            if not self.failing:
                self._since = self._tried_at
            self._misled += self._hopeful
            self._hopeful = False
            took = min(now - self._tried_at, LONGEST_TRY_S)
            wait = max(self._backoff.failed(asked), REST * took)
            self._until = max(self._until, now + wait)
            self._ask_at = max(self._ask_at, now + asked, now + self._pause())
            return wait

    def succeeded(self) -> None:
        """Take note of a request that was answered."""
        with self._lock:
            now = self._clock()
            if self.open:
                self._careful_until = now + CAREFUL_S
            self._backoff.succeeded()
            self._until = self._ask_at = 0.0
            self._hopeful, self._misled = False, 0
            # Whoever waited for the same server comes back at the same time.
            self._next = now + PACE_S if now < self._careful_until else 0.0

    def _pause(self) -> float:
        longest = min(SELDOM_S, ASK_S * 2.0 ** min(self._misled, 16))
        return longest * (0.5 + 0.5 * self._draw())


_breakers: dict[str, Breaker] = {}
_lock = threading.Lock()


def breaker_of(server: str) -> Breaker:
    """Return the breaker of a server: the same one for every run of this process."""
    with _lock:
        return _breakers.setdefault(server, Breaker())


def _after_fork() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _breakers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
