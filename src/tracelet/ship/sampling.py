"""
What the machine does, measured beside the training and put into the spool with everything else.

The samples are a writer's of their own, so that they survive, are delivered, and are sent again
like any other record. But nobody logged them: they are in no count. Their steps are counted by the
shipper, so that whoever goes on after a sidecar that died goes on with the next one.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Callable, Sequence

from tracelet.spool.writer import SpoolWriter

if TYPE_CHECKING:
    from tracelet.collect.base import Collector
    from tracelet.spool.rundir import RunDir

__all__ = ["Sampling"]

log = logging.getLogger("tracelet")

#: How long the last samples may wait for a disk that refuses.
PATIENCE_S = 0.5
#: Nothing is imported for a run that ends at once, and in a process that may just be ending.
SETTLED_S = 1.0


class Sampling:
    """
    Takes a sample every so often, as long as it is asked. Nothing here raises.

    The first one comes when the first interval is over, as in MLflow: a run that is shorter has
    none.

    Args:
        run: The run.
        makers: What makes the collectors, by name; one that raises is told of once and left out.
        interval_s: How many seconds lie between two samples.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        run: RunDir,
        makers: Sequence[tuple[str, Callable[[], Collector]]],
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._interval_s = max(0.1, interval_s)
        self._began = clock()
        self._turns = 0
        self._makers = list(makers)
        self._collectors: dict[str, Collector] = {}
        self._writer = SpoolWriter(run, main=False, name=run.new_writer(main=False, sampler=True))

    @property
    def writer(self) -> str:
        """The name of the writer that the samples are of."""
        return self._writer.name

    def turn(self) -> bool:
        """
        Take a sample, if it is time.

        Returns:
            True when something was written.
        """
        elapsed = self._clock() - self._began
        if self._makers and elapsed >= min(SETTLED_S, self._interval_s / 2):
            self._begin()
        passed = int(elapsed / self._interval_s)
        if passed <= self._turns or not self._collectors:
            return False
        # What was missed while the machine slept is not made up for.
        self._turns = passed
        for name, collector in list(self._collectors.items()):
            try:
                for key, value in collector.sample().items():
                    # Without a step: the shipper counts them.
                    self._writer.scalar("", key, value, None, None)
            except Exception as error:
                log.warning("%s measures nothing any more", name, exc_info=error)
                del self._collectors[name]
        return True

    def _begin(self) -> None:
        makers, self._makers = self._makers, []
        for name, make in makers:
            try:
                self._collectors[name] = make()
            except Exception as error:
                log.info("nothing is measured by %s: %s", name, error)

    def end(self) -> None:
        """Take no more; what was measured is on disk then."""
        self._makers = []
        for name, collector in self._collectors.items():
            try:
                collector.close()
            except Exception as error:
                log.info("%s could not be closed", name, exc_info=error)
        self._collectors.clear()
        self._writer.close(PATIENCE_S)
