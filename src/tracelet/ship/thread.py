"""
The shipper in one thread of the training process: where no other process can be started.

It costs the training the work of the SDK under the interpreter's lock, and what a killed process
had not sent waits in the spool for the next start or ``tracelet sync``.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Callable, Mapping

from tracelet import registry
from tracelet.ship.credentials import makers
from tracelet.ship.host import wait_until_delivered
from tracelet.ship.orphans import Orphans
from tracelet.ship.rounds import Rounds
from tracelet.ship.shipment import Shipment
from tracelet.spool.rundir import RunDir

__all__ = ["ThreadHost"]

#: A backend that is away is waited for so long: with what else an end takes, ten seconds.
AWAY_S = 5.0
#: How long the end of a delivered run may take.
PUT_AWAY_S = 1.0


class ThreadHost:
    """Ships runs from a daemon thread named ``tracelet-shipper``."""

    inside = True

    def __init__(self) -> None:
        self._rounds = Rounds()
        self._orphans = Orphans()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._work, name="tracelet-shipper", daemon=True)
        self._thread.start()

    def add(self, run: RunDir, credentials: Mapping[str, Mapping[str, Any]]) -> None:
        """Ship a run."""
        self._take_up(run, credentials, living=True)
        self._orphans.beside(run, credentials)
        self._wake.set()

    def wake(self) -> None:
        """Look at once."""
        # A forked child has inherited this object, maybe with its lock held, and no thread.
        if self._pid == os.getpid():
            self._wake.set()

    def alive(self) -> bool:
        """Return True while the thread runs, in the process that started it."""
        return self._thread.is_alive() and self._pid == os.getpid()

    def publish(self, run: RunDir) -> None:
        """Say where a run stands: the thread itself may be in the middle of a call that hangs."""
        if self.alive():
            self._rounds.publish(run)

    def wait(self, run: RunDir, timeout: float, on_wait: Callable[[str], None]) -> None:
        """Wait for a stopped run; nobody else will deliver it, so longer than others do."""
        self.wake()
        wait_until_delivered(
            run,
            timeout,
            on_wait,
            self.alive,
            away_s=AWAY_S,
            patient=True,
            publish=self.publish,
        )

    def let_go(self, run: RunDir) -> None:
        """Have a delivered run put away before the process may end, which takes a moment."""
        self.wake()
        deadline = time.monotonic() + PUT_AWAY_S
        while run.path in self._rounds.delivered and time.monotonic() < deadline:
            if not self.alive():
                return
            time.sleep(0.01)

    def close(self, timeout: float = 5.0) -> None:
        """End the thread; what is left stays in the spool."""
        if self._pid == os.getpid():
            self._stop.set()
            self._wake.set()
            self._thread.join(timeout)

    def _take_up(
        self, run: RunDir, credentials: Mapping[str, Mapping[str, Any]], *, living: bool = False
    ) -> None:
        collectors = registry.collector_makers(run.info.collectors) if living else ()
        self._rounds.add(Shipment(run, makers(run.info, credentials, os.environ), collectors))

    def _work(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            pause = self._rounds.turn()
            for run, credentials in self._orphans.due(self._rounds.served):
                self._take_up(run, credentials)
            if self._wake.wait(pause):
                self._rounds.wake()
        # What was let go of just now is put away, if that needs nobody who does not answer.
        self._rounds.put_away()
        self._rounds.leave()
