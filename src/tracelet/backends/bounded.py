"""
A limit on how long a call into a vendor's client may take, for clients that know none.

The call is made in a thread of its own. One that is late is left behind: its caller either does
the same again later, or ends what the call waits for.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Optional, Protocol, TypeVar

from tracelet._guard import Kept
from tracelet.errors import RetryableError

__all__ = ["Bounded", "Call", "Watch"]

T = TypeVar("T")

#: How often is looked around while a call goes on.
_LOOK_S = 1.0


class Watch(Protocol):
    """Looks around while a call goes on."""

    def look(self) -> None:
        """Look; called once a second."""

    def over(self) -> None:
        """The call is over, or too late."""


class Bounded:
    """
    Calls with a limit, one at a time for each thread that makes them.

    Args:
        limit_s: How long a call may take, in seconds.
        thread: The name of the threads.
        watch: Looks around while a call goes on.
    """

    def __init__(self, limit_s: float, thread: str, watch: Optional[Watch] = None) -> None:
        self._limit_s = limit_s
        self._thread = thread
        self._watch = watch

    def __call__(self, what: str, function: Callable[..., T], *args: Any) -> T:
        """
        Return ``function(*args)``.

        Raises:
            RetryableError: It took too long; it goes on in its thread.
            BaseException: Whatever the function raised.
        """
        call = self.attempt(what, function, *args)
        if call.kept.error is not None:
            raise call.kept.error
        return call.result  # type: ignore[no-any-return]

    def attempt(self, what: str, function: Callable[..., Any], *args: Any) -> Call:
        """
        Return the call, which is over: with its result, or with what was raised.

        Raises:
            RetryableError: It took too long; it goes on in its thread.
        """
        call = Call(self._thread, function, args)
        call.start()
        self._wait_for(call)
        if call.is_alive():
            raise RetryableError(f"{what} took longer than {self._limit_s:g} s")
        return call

    def _wait_for(self, call: Call) -> None:
        watch = self._watch
        if watch is None:
            call.join(self._limit_s)
            return
        deadline = time.monotonic() + self._limit_s
        try:
            while (left := deadline - time.monotonic()) > 0:
                call.join(min(_LOOK_S, left))
                if not call.is_alive():
                    return
                watch.look()
        finally:
            watch.over()


class Call(threading.Thread):
    """A call under way."""

    def __init__(self, thread: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        super().__init__(name=thread, daemon=True)
        self._function = function
        self._arguments = args
        self.result: Any = None
        self.kept = Kept()

    def run(self) -> None:
        """Call, and keep what comes of it."""
        with self.kept:
            self.result = self._function(*self._arguments)
