"""
A limit on how long a call into a vendor's client may take, for clients that know none.

The call is made in a thread of its own. One that is late is left behind: its caller either does
the same again later, or ends what the call waits for.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, TypeVar

from tracelet._guard import Kept
from tracelet.errors import RetryableError

__all__ = ["Bounded", "Call"]

T = TypeVar("T")


class Bounded:
    """
    Calls with a limit, one at a time for each thread that makes them.

    Args:
        limit_s: How long a call may take, in seconds.
        thread: The name of the threads.
    """

    def __init__(self, limit_s: float, thread: str) -> None:
        self._limit_s = limit_s
        self._thread = thread

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
        call.join(self._limit_s)
        if call.is_alive():
            raise RetryableError(f"{what} took longer than {self._limit_s:g} s")
        return call


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
