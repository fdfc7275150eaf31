"""
A limit on how long a call into somebody else's client may take.

MLflow's own client retries for four minutes when a server is down, and SQLAlchemy's first
connection for almost two; neither takes a limit. The call is made in a thread of its own and left
behind when it is late: what it still does is the same that will be done again.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Optional, TypeVar

from tracelet.errors import RetryableError

__all__ = ["Bounded"]

T = TypeVar("T")


class Bounded:
    """
    Calls with a limit, one at a time for each thread that makes them.

    Args:
        limit_s: How long a call may take, in seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s

    def __call__(self, what: str, function: Callable[..., T], *args: Any) -> T:
        """
        Return ``function(*args)``.

        Raises:
            RetryableError: It took too long.
            BaseException: Whatever the function raised.
        """
        call = _Call(function, args)
        call.start()
        call.join(self._limit_s)
        if call.is_alive():
            raise RetryableError(f"{what} took longer than {self._limit_s:g} s")
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[no-any-return]


class _Call(threading.Thread):
    """A call under way; as a context it keeps what is raised within, for whoever waits."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        super().__init__(name="tracelet-mlflow-call", daemon=True)
        self._function = function
        self._arguments = args
        self.result: Any = None
        self.error: Optional[BaseException] = None

    def run(self) -> None:
        with self:
            self.result = self._function(*self._arguments)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: Optional[BaseException], traceback: object) -> bool:
        self.error = error
        return True
