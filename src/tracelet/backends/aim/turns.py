"""One thread for all calls of an SDK that is not made for several, each call with a limit."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any, Callable, Optional, TypeVar

from tracelet._guard import Kept

__all__ = ["Turns"]

T = TypeVar("T")


class _Turn:
    """A call, and what became of it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._kept = Kept()
        self._value: Any = None
        self.over = threading.Event()

    def take(self) -> None:
        with self._kept:
            self._value = self._function()
        self.over.set()

    def result(self) -> Any:
        if self._kept.error is not None:
            raise self._kept.error
        return self._value


class Turns:
    """
    Calls one after the other, all in the same thread.

    A call that does not come back holds the thread for ever; the next caller needs new ``Turns``.
    The thread is a daemon: what hangs does not keep the process from ending.
    """

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Optional[_Turn]] = SimpleQueue()
        self._one = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="tracelet-aim", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        """
        Return what ``function`` returns; raise what it raises.

        Args:
            function: Called in the thread of this object.
            timeout_s: How long it may take, from its own beginning.

        Raises:
            TimeoutError: It has not come back.
        """
        with self._one:
            turn = _Turn(function)
            self._waiting.put(turn)
            if not turn.over.wait(timeout_s):
                raise TimeoutError(f"no end after {timeout_s:g} s")
        return turn.result()  # type: ignore[no-any-return]

    def end(self) -> None:
        """Let the thread end after what it is doing."""
        self._waiting.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (turn := self._waiting.get()) is not None:
            turn.take()
