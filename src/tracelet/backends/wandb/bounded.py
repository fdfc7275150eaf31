"""
A limit on how long a call into the vendor's client may take.

``finish`` waits as long as its core retries, which is days. The call is made in a thread of its
own; one that is late is ended by killing the core it waits for (``service``).
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Optional, TypeVar

from tracelet.errors import RetryableError

__all__ = ["Call", "LateError", "attempted", "bounded"]

T = TypeVar("T")


class LateError(RetryableError):
    """A call did not return in time."""


def bounded(what: str, limit_s: float, function: Callable[..., T], *args: Any) -> T:
    """
    Return ``function(*args)``.

    Raises:
        LateError: It took too long; it goes on in its thread.
        BaseException: Whatever the function raised.
    """
    call = attempted(what, limit_s, function, *args)
    if call.error is not None:
        raise call.error
    return call.result  # type: ignore[no-any-return]


def attempted(what: str, limit_s: float, function: Callable[..., Any], *args: Any) -> Call:
    """
    Return the call, which is over: with its result, or with its error.

    Raises:
        LateError: It took too long; it goes on in its thread.
    """
    call = Call(function, args)
    call.start()
    call.join(limit_s)
    if call.is_alive():
        raise LateError(f"{what} took longer than {limit_s:g} s")
    return call


class Call(threading.Thread):
    """A call under way; as a context it keeps what is raised within, for whoever waits."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        super().__init__(name="tracelet-wandb-call", daemon=True)
        self._function = function
        self._arguments = args
        self.result: Any = None
        self.error: Optional[BaseException] = None

    def run(self) -> None:
        """Call, and keep what comes of it."""
        with self:
            self.result = self._function(*self._arguments)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: Optional[BaseException], traceback: object) -> bool:
        self.error = error
        return True
