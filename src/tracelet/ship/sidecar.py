"""
The shipper in a process of its own: the default host.

The sidecar outlives the trainer on purpose. It delivers what is left, ends the run with the true
status, adopts what earlier runs left behind in the same spool, and goes. It never owns the only
copy of anything: kill it at any moment, and the next one goes on from the cursor.

The trainer talks to it over a pipe, one JSON object a line; secrets travel there and nowhere
else. Nothing is ever sent back: what the sidecar does is read from the run's folder.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, Mapping, Optional, TextIO

from tracelet import registry
from tracelet.ship.credentials import makers
from tracelet.ship.orphans import Orphans
from tracelet.ship.redaction import learn, redacted
from tracelet.ship.retry import Doze
from tracelet.ship.shipment import Shipment
from tracelet.ship.shipper import Delivery, Shipper
from tracelet.spool.rundir import RunDir

__all__ = ["Sidecar", "main"]

log = logging.getLogger("tracelet")

#: How many new objects there may be before somebody looks for cycles among them.
_ALLOCATIONS = 100_000

#: How long it stays after the trainer's death while nothing moves because a backend is away. The
#: spool waits longer.
LIFETIME_S = 15 * 60.0
#: How far it steps back behind the training on a busy machine.
NICE = 10
#: How long it stays while something is said to move and no record is answered: a call that hangs
#: in somebody's SDK, or a very large file.
HANGING_S = 6 * 3600.0
#: How long it waits for a run that another process ships.
TURN_S = 5.0


class _LaneThread(threading.Thread):
    """Runs one lane of one delivery."""

    def __init__(self, shipment: Shipment, delivery: Delivery, lane: Shipper) -> None:
        name = f"tracelet-{delivery.name}-{lane.lane}"
        super().__init__(name=name, daemon=True)
        self.shipment = shipment
        self.delivery = delivery
        self.lane = lane
        self.wake = threading.Event()
        self.stopped = threading.Event()

    def run(self) -> None:
        doze = Doze()
        while not self.stopped.is_set():
            self.wake.clear()
            step = self.shipment.work(self.delivery, self.lane)
            if step.kind == "idle":
                if self.wake.wait(doze.rest()):
                    doze.wake()
                continue
            doze.wake()
            if step.kind == "wait":
                self.stopped.wait(min(step.seconds, 1.0))
            elif step.seconds:
                self.wake.wait(step.seconds)

    def stop(self) -> None:
        """Ask the thread to end after the step it is in."""
        self.stopped.set()
        self.wake.set()


class _Served:
    """A shipment with its threads."""

    def __init__(self, shipment: Shipment, log_file: logging.Handler) -> None:
        self.shipment = shipment
        self.log_file = log_file
        self.threads = [
            _LaneThread(shipment, delivery, lane)
            for delivery in shipment.all()
            for lane in delivery.lanes.values()
        ]
        for thread in self.threads:
            thread.start()

    def wake(self) -> None:
        self.shipment.asked()
        for thread in self.threads:
            thread.lane.await_all()
            thread.wake.set()

    def stop(self, patience_s: float = 1.0) -> None:
        for thread in self.threads:
            thread.stop()
        deadline = time.monotonic() + patience_s
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))


class Sidecar:
    """Everything the process does, but for reading the pipe."""

    def __init__(self, lifetime_s: float = LIFETIME_S) -> None:
        self.lifetime_s = lifetime_s
        self.hung_up = False
        self._parent = os.getppid()
        #: Since when the trainer is gone, and since when moreover nothing moves.
        self._alone_since: Optional[float] = None
        self._still_since = time.monotonic()
        self._answered = (0, time.monotonic())
        self._waiting: list[Shipment] = []
        self._served: dict[Path, _Served] = {}
        self._orphans = Orphans()
        self._lock = threading.Lock()
        self._wake = threading.Event()

    # -- what the pipe says ---------------------------------------------------------------

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take a message of the trainer's."""
        if "add" in message:
            path = Path(message["add"])
            try:
                run = RunDir.open(path)
            except (OSError, ValueError, TypeError) as error:
                log.warning("%s cannot be shipped: %s", path, error)
                return
            credentials = message.get("credentials", {})
            learn(credentials)
            with self._lock:
                self._waiting.append(_shipment(run, credentials, living=True))
            self._orphans.beside(run, credentials)
        for served in list(self._served.values()):
            served.wake()
        self._wake.set()

    def hang_up(self) -> None:
        """The trainer will say nothing more."""
        self.hung_up = True
        self._wake.set()

    # -- the loop -------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until there is nothing left to do."""
        doze = Doze()
        while not self.finished():
            # Who waits wants to know at once what has changed; else a look now and then will do:
            # ten a second cost half as much as the points.
            changed = self.look()
            if self._wake.is_set() or (changed and self._awaited()):
                doze.wake()
            self._wake.wait(doze.rest())
            self._wake.clear()
        for served in self._served.values():
            served.stop()
            served.shipment.leave()

    def _awaited(self) -> bool:
        return any(each.shipment.awaited for each in list(self._served.values()))

    def look(self) -> bool:
        """
        Take up what waits, watch what is served, put away what is done.

        Returns:
            True when anything has changed.
        """
        changed = False
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for shipment in waiting:
            if not self._take_up(shipment) and not shipment.vanished:
                # A sidecar of an earlier process still ships this run; it will let go.
                with self._lock:
                    self._waiting.append(shipment)
        for path, served in list(self._served.items()):
            changed = served.shipment.watch() or changed
            done = served.shipment.done and served.shipment.claim()
            if not done and not served.shipment.vanished:
                continue
            del self._served[path]
            served.stop()
            if done:
                served.shipment.finish()
            else:
                log.warning("the folder of %s was deleted", path.name)
                served.shipment.leave()
            log.removeHandler(served.log_file)
            served.log_file.close()
        for run, credentials in self._orphans.due(self._served):
            log.info("taking up %s, which an earlier process left behind", run.path.name)
            self._take_up(_shipment(run, credentials))
        return changed

    def finished(self) -> bool:
        """Return True when the trainer is gone and everything that can be done is done."""
        now = time.monotonic()
        if not self.hung_up and os.getppid() == self._parent:
            self._alone_since = None
            return False
        self._alone_since = now if self._alone_since is None else self._alone_since
        shipments = [served.shipment for served in self._served.values()]
        if self._alone_since == now or any(each.moving for each in shipments):
            self._still_since = now
        answered = sum(each.answered for each in shipments)
        if answered != self._answered[0] or not all(each.settled for each in shipments):
            self._answered = (answered, now)
        hangs = now - self._answered[1] > HANGING_S
        if hangs or now - self._still_since > self.lifetime_s or self.lifetime_s <= 0:
            return True
        if self._waiting and now - self._alone_since < TURN_S:
            return False
        for each in shipments:
            # A delivered run is put away first, once its owner has read how it went.
            delivered = all(delivery.state == "closed" for delivery in each.all())
            if delivered or not each.stuck:
                return False
        return not self._orphans.left(self._served)

    def _take_up(self, shipment: Shipment) -> bool:
        if not shipment.begin():
            return False
        try:
            Path.cwd()
        except FileNotFoundError:
            # Somebody deleted the folder that we work in; SDKs ask where they are.
            os.chdir(shipment.run.path.parent)
        handler = _LogFile(shipment.run.path / "ship.log", delay=True, encoding="utf-8")
        handler.setFormatter(_Redacted("%(asctime)s %(levelname)s %(threadName)s %(message)s"))
        log.addHandler(handler)
        self._served[shipment.run.path] = _Served(shipment, handler)
        return True


def _shipment(run: RunDir, credentials: Mapping[str, Any], *, living: bool = False) -> Shipment:
    collectors = registry.collector_makers(run.info.collectors) if living else ()
    return Shipment(run, makers(run.info, credentials, os.environ), collectors)


# -- what it writes -----------------------------------------------------------------------


class _LogFile(logging.FileHandler):
    """A log that only its owner reads, and whose folder may be deleted at any time."""

    def _open(self) -> Any:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        return open(self.baseFilename, self.mode, encoding=self.encoding, opener=private)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, if there still is a place for it."""
        with contextlib.suppress(OSError):
            super().emit(record)


class _Redacted(logging.Formatter):
    """Keeps secrets out of the log, whoever writes them there."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


class _RedactedStream:
    """Standard error, which libraries and the interpreter write to, without secrets."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what may be read by anybody who reads the log."""
        self._stream.write(redacted(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


# -- the process --------------------------------------------------------------------------


def _listen(sidecar: Sidecar, pipe: BinaryIO) -> None:
    try:
        for line in pipe:
            try:
                message = json.loads(line)
                if isinstance(message, dict):
                    sidecar.hear(message)
            except (ValueError, TypeError, AttributeError):
                log.warning("a message that nobody can read", exc_info=True)
    finally:
        sidecar.hang_up()


def _lifetime() -> float:
    with contextlib.suppress(ValueError):
        return float(os.environ.get("TRACELET_SIDECAR_LIFETIME_S", LIFETIME_S))
    return LIFETIME_S


def _step_back() -> None:
    """
    Let the training have the processors first.

    Linux groups tasks by session before it looks at how nice they are (sched(7), "The autogroup
    feature"), and the sidecar has a session of its own: without the second half it would get as
    much of a busy machine as the whole training.
    """
    if hasattr(os, "nice"):
        os.nice(NICE)
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(f"{NICE}\n", encoding="ascii")


def main() -> None:
    """Run the sidecar; its runs are named on standard input."""
    log.setLevel(logging.INFO)
    log.propagate = False
    sys.stderr = _RedactedStream(sys.stderr)
    _step_back()
    # Points by the thousand, none of them in a cycle: looking for cycles takes a tenth of the time.
    gc.set_threshold(_ALLOCATIONS)
    sidecar = Sidecar(_lifetime())
    listener = threading.Thread(
        target=_listen, args=(sidecar, sys.stdin.buffer), name="tracelet-pipe", daemon=True
    )
    listener.start()
    try:
        sidecar.run()
    except BaseException:
        log.exception("the sidecar failed")
        raise
    finally:
        # Threads that hang in somebody's SDK must not keep the process.
        logging.shutdown()
        os._exit(0)


if __name__ == "__main__":
    main()
