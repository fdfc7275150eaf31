"""Timing calls of a writer: as plain TensorBoard has them, and with the taps of a run on."""

from __future__ import annotations

import gc
import statistics
import time
from typing import Any, Callable, NamedTuple, Sequence

from benchmarks.measure import Pairs, interleaved, percentile
from benchmarks.stores import tracked

__all__ = ["Cost", "compare", "writers"]


class Cost(NamedTuple):
    """What one kind of call took on both sides, in ns per call."""

    wall: Pairs
    cpu: Pairs
    tail: Pairs

    @property
    def plain_us(self) -> float:
        """Return the median wall of the plain call in microseconds."""
        return statistics.median(self.wall.plain) / 1000

    @property
    def ours_us(self) -> float:
        """Return the median wall of the call inside a run in microseconds."""
        return statistics.median(self.wall.ours) / 1000


class _Timed(NamedTuple):
    """One side of a round: ns per call, and of every single call."""

    wall: float
    cpu: float
    each: list[int]


def writers(folder: str) -> dict[str, Any]:
    """Return one writer of each family, made before any run was started."""
    from tensorboardX import SummaryWriter as Other
    from torch.utils.tensorboard import SummaryWriter

    return {"torch": SummaryWriter(f"{folder}/torch"), "tensorboardX": Other(f"{folder}/x")}


def compare(
    writer: Any, call: Callable[[int], Any], *, uri: str, rounds: int, calls: int, **config: Any
) -> Cost:
    """
    Time ``call`` with the taps on and off in turn, within one run, in this process.

    Everything else is the same on both sides, the sidecar that delivers meanwhile included; and a
    round is so short that what the machine does besides falls on both.

    Args:
        writer: Flushed after each side, outside of the timed part.
        call: What to time; gets the number of the call.
        uri: The MLflow store to deliver into.
        rounds: How many pairs count.
        calls: How many calls make one side of a pair.
        config: Settings of the run.
    """

    def side() -> _Timed:
        timed = _timed(call, calls)
        writer.flush()
        return timed

    # What was made until now is not looked at by the collector again: with torch and MLflow
    # loaded one look takes longer than a whole side.
    gc.collect()
    gc.freeze()
    with tracked(uri, **config) as run:
        taps = _Taps(run, keep=config.get("keep_tensorboard", True))
        first, second = interleaved(rounds, taps.off(side), side)
    return Cost(
        wall=Pairs([side.wall for side in first], [side.wall for side in second]),
        cpu=Pairs([side.cpu for side in first], [side.cpu for side in second]),
        tail=Pairs([_tail(first)], [_tail(second)]),
    )


class _Taps:
    """The patches of an active run, to be taken off and put on again without ending it."""

    def __init__(self, run: Any, *, keep: bool) -> None:
        self._integrations = list(run._integrations)
        self._sink = run._writer
        self._keep = keep

    def off(self, side: Callable[[], _Timed]) -> Callable[[], _Timed]:
        """Return ``side`` as plain TensorBoard."""

        def plain() -> _Timed:
            for integration in reversed(self._integrations):
                integration.uninstall()
            try:
                return side()
            finally:
                for integration in self._integrations:
                    integration.install(self._sink, keep=self._keep)

        return plain


def _tail(sides: Sequence[_Timed]) -> float:
    """Return p99.9 over all calls of all rounds."""
    return percentile([each for side in sides for each in side.each], 0.999)


def _timed(call: Callable[[int], Any], calls: int) -> _Timed:
    each = [0] * calls
    clock = time.perf_counter_ns
    cpu = time.thread_time_ns()
    begin = clock()
    for index in range(calls):
        before = clock()
        call(index)
        each[index] = clock() - before
    wall = clock() - begin
    cpu = time.thread_time_ns() - cpu
    return _Timed(wall / calls, cpu / calls, each)
