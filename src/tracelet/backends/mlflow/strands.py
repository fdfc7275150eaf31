"""
Several requests at once, all points of a key in one strand of them.

A server takes a thousand points in a tenth of a second of one processor and has several of those.
Two requests that hold the same key would wait for each other at the row of its latest value, and
could write its curve in the wrong order; two that have no key in common do neither.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from typing import Callable, Optional, Sequence

from tracelet._guard import Kept
from tracelet.backends.mlflow.store import Point
from tracelet.errors import ConfigError, RejectedError, RetryableError

__all__ = ["dealt", "together"]

#: The most points that MLflow takes in one request.
_AT_ONCE = 1000


def dealt(points: Sequence[Point], most: int) -> list[list[Sequence[Point]]]:
    """
    Return the points in strands that can be written at the same time.

    What fits into one request is one request: fewer are cheaper for everybody, and a server that
    checks a password takes half a second for each. The same points give the same strands.

    Args:
        points: In the order in which they were logged.
        most: How many strands there may be.

    Returns:
        Strands, each a list of what goes into one request, to be written in order.
    """
    counts = Counter(point.key for point in points)
    number = min(most, math.ceil(len(points) / _AT_ONCE), len(counts))
    if number <= 1:
        return [_cut(points)] if points else []
    sizes = [0] * number
    strand_of: dict[str, int] = {}
    for key, count in counts.most_common():
        least = sizes.index(min(sizes))
        strand_of[key] = least
        sizes[least] += count
    strands: list[list[Point]] = [[] for _ in sizes]
    for point in points:
        strands[strand_of[point.key]].append(point)
    return [_cut(strand) for strand in strands]


def _cut(points: Sequence[Point]) -> list[Sequence[Point]]:
    """Cut a strand into requests of about the same size."""
    size = math.ceil(len(points) / math.ceil(len(points) / _AT_ONCE))
    return [points[start : start + size] for start in range(0, len(points), size)]


def together(
    send: Callable[[Sequence[Point]], None], strands: Sequence[list[Sequence[Point]]]
) -> None:
    """
    Write all strands, the first of them in the calling thread; return when all have ended.

    Once a request has failed, no strand begins another one.

    Args:
        send: Makes one request.
        strands: From ``dealt``.

    Raises:
        Exception: What ``send`` raised; of several the one that matters most.
    """
    failed = threading.Event()
    first, *others = [_Strand(send, strand, failed) for strand in strands]
    for strand in others:
        strand.begin()
    first.run()
    for strand in others:
        strand.end()
    errors = [each.kept.error for each in (first, *others) if each.kept.error is not None]
    if errors:
        raise min(errors, key=_rank)


class _Strand:
    """Requests that are made one after the other; ``kept`` has what was raised."""

    def __init__(
        self,
        send: Callable[[Sequence[Point]], None],
        requests: Sequence[Sequence[Point]],
        failed: threading.Event,
    ) -> None:
        self.kept = Kept()
        self._send = send
        self._requests = requests
        self._failed = failed
        self._thread: Optional[threading.Thread] = None

    def begin(self) -> None:
        """Run in a thread, where there can be one: not when the interpreter is about to end."""
        thread = threading.Thread(target=self.run, name="tracelet-mlflow-strand", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return
        self._thread = thread

    def run(self) -> None:
        """Make the requests."""
        with self.kept:
            for points in self._requests:
                if self._failed.is_set():
                    return
                self._send(points)
        if self.kept.error is not None:
            self._failed.set()

    def end(self) -> None:
        """Wait until all is done; each request has its limit."""
        if self._thread is None:
            self.run()
        else:
            self._thread.join()


def _rank(error: BaseException) -> tuple[int, float]:
    """
    Put first what decides how it goes on.

    A person has to mend something; or the same batch again, as late as the server asked for; or
    nobody understands it; and only when all others arrived a record is looked for.
    """
    if isinstance(error, ConfigError):
        return 0, 0.0
    if isinstance(error, RetryableError):
        return 1, -(error.retry_after or 0.0)
    return (3 if isinstance(error, RejectedError) else 2), 0.0
