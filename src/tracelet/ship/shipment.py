"""
One run on its way to all its backends, and the watch over it: who lives, what is over, what may go.

A shipment has no thread. Its host calls ``work`` for each lane, from one thread or from many, and
``watch`` a few times a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Collection, Iterator, Mapping, Optional, Sequence

from tracelet.backends.base import Backend
from tracelet.records import RunEnd, RunStatus
from tracelet.ship import state
from tracelet.ship.catalog import Catalog
from tracelet.ship.put_away import put_away, removes
from tracelet.ship.sampling import Sampling
from tracelet.ship.shipper import Delivery, Shipper, Step
from tracelet.ship.thinner import Thinner
from tracelet.spool.packing import packed_path
from tracelet.spool.reader import alive, written
from tracelet.spool.rundir import RunDir, is_main, is_sampler, sync_folder

if TYPE_CHECKING:
    from tracelet.collect.base import Collector

__all__ = ["Shipment"]

log = logging.getLogger("tracelet")

#: How often is looked whether the owner lives, and as long as it does, whether its children do.
LIFE_S = 0.2
CHILDREN_S = 1.0
#: How often what was written is forced to the disk: what a power failure can cost.
SYNC_S = 1.0
#: How often segments and blobs that nobody needs any more are deleted.
SWEEP_S = 2.0
#: How often is looked whether the run has grown beyond its bounds.
BOUNDS_S = 2.0
#: States are published no more often than this; and where nobody waits and only numbers have grown,
#: than that: it is a file that is written anew each time.
PUBLISH_S, NUMBERS_S = 0.05, 0.5
#: So long somebody is taken to wait who has asked.
ASKED_S = 5.0

STUMBLED = Step("wait", 1.0)


class Shipment:
    """
    A run and its deliveries.

    Args:
        run: The run.
        makers: For each backend of the run, what makes a new one with its options.
        collectors: What makes the collectors that measure while the run goes on; empty for a run
            that nobody sees living.
        only: Of the backends, those to deliver to now; all when None. The others stay as they are,
            and are asked nothing.
        bounded: Keep it within its bounds while it cannot be delivered. Not where somebody waits
            for just this run to be delivered.

    Use it only after ``begin`` returned True. Nothing here raises: what is wrong with the folder of
    one run must not be felt by the others. It is told, and tried again.
    """

    def __init__(
        self,
        run: RunDir,
        makers: Mapping[str, Callable[[], Backend]],
        collectors: Sequence[tuple[str, Callable[[], Collector]]] = (),
        only: Optional[Collection[str]] = None,
        *,
        bounded: bool = True,
    ) -> None:
        self.run = run
        self._only = only
        #: What was last known of those that nothing is delivered to now.
        self._resting: Mapping[str, state.BackendState] = {}
        self._makers = makers
        self._collectors = collectors
        #: While the run lives; the remote run is not ended before this is.
        self._sampling: Optional[Sampling] = None
        #: The folder was deleted by somebody: nothing is left to ship.
        self.vanished = False
        self._told = ""
        self._gone: set[str] = set()
        self._looked_at = 0.0
        self._children_looked_at = 0.0
        self._synced_at = 0.0
        self._synced: dict[Path, int] = {}
        #: What is confirmed whole: blobs no longer than they were a second before, and segments
        #: that have a successor.
        self._steady: set[Path] = set()
        self._swept_at = time.monotonic()
        self._written: dict[str, tuple[int, int, int]] = {}
        self._published: Mapping[str, state.BackendState] = {}
        self._published_at = 0.0
        self._asked_at = time.monotonic()
        self._published_kinds: Sequence[object] = ()
        self.deliveries: dict[str, Delivery] = {}
        self._thinner = Thinner(run, self._lanes) if bounded else None
        self._bounded_at = time.monotonic()

    def begin(self) -> bool:
        """
        Become the one who ships this run.

        Returns:
            False when somebody else is, or when there is no such run any more (``vanished``).
        """
        try:
            if not self._there() or not self._acquire():
                return False
            if not self._there() or self._retargeted():
                # Whoever shipped it put it away while we waited for the lock.
                self.run.shipping.release()
                return False
            if self._only is not None:
                self._resting = {
                    name: found
                    for name, found in state.read(self.run).items()
                    if name not in self._only
                }
            catalog = Catalog(self.run)
            for name, make in self._makers.items():
                self.deliveries[name] = Delivery(self.run, name, make, catalog, self.dead)
            self._look(everybody=True)
            if self._collectors and not self._over():
                self._sampling = Sampling(
                    self.run, self._collectors, self.run.info.sample_interval_s
                )
        except Exception as error:
            self._tell("be taken up", error)
            self.deliveries.clear()
            self.run.shipping.release()
            return False
        return True

    def _acquire(self) -> bool:
        try:
            return self.run.shipping.acquire(str(os.getpid()).encode())
        except FileNotFoundError:
            self.vanished = True
            return False

    def _tell(self, what: str, error: Exception) -> None:
        text = f"{what}: {error}"
        if text != self._told and self._there():
            self._told = text
            log.warning("%s cannot %s", self.run.path, what, exc_info=error)

    def _retargeted(self) -> bool:
        """Tell whether the run goes elsewhere, too, by now: we would delete it too early."""
        self.vanished = self.vanished or self.run.retargeted()
        return self.vanished

    def _there(self) -> bool:
        self.vanished = self.vanished or not self.run.exists()
        return not self.vanished

    def leave(self) -> None:
        """Stop shipping; whoever comes next goes on from the cursor."""
        self._end_sampling()
        for delivery in self.deliveries.values():
            delivery.abandon()
        try:
            if not self.vanished:
                for delivery in self.all():
                    delivery.cursor.save(sync=True)
                self.publish(force=True)
        except Exception as error:
            self._tell("be left in order", error)
        finally:
            self.run.shipping.release()

    # -- work -----------------------------------------------------------------------------

    def work(self, delivery: Delivery, lane: Shipper) -> Step:
        """Do one step of one lane; the light one also ends the remote run when all is done."""
        try:
            return self._work(delivery, lane)
        except Exception as error:
            self._tell("be read", error)
            return STUMBLED

    def _work(self, delivery: Delivery, lane: Shipper) -> Step:
        newest = self._newest_main()
        if delivery.state == "closed" and newest not in (None, delivery.cursor.session):
            # Ended for an earlier session of its owner, who has come back.
            return delivery.open()
        step = lane.step(hurry=newest is not None and self.dead(newest))
        if step.kind == "idle" and lane is delivery.light and delivery.state != "closed":
            ended = self._ended(newest)
            if ended and all(each.quiet() for each in delivery.lanes.values()):
                status, when = ended
                adopted = self.run.info_for(delivery.name).adopted
                if delivery.name in adopted and self._last_word(newest) is not None:
                    status = RunStatus.RUNNING  # the program's own, and it lives to end it
                return delivery.close(status, when, newest)
            if delivery.state == "sending":
                delivery.state = "idle"
        return step

    def _ended(self, newest: Optional[str]) -> Optional[tuple[RunStatus, Optional[float]]]:
        """Return how and when the run ended; None while its owner is at it, or we are."""
        if self._sampling is not None:
            return None
        if newest is None:
            # Nothing was ever written; or everything was deleted, which is nobody's end.
            over = not self.run.owner_alive() and self._there()
            return (RunStatus.KILLED, None) if over else None
        if not self.dead(newest):
            return None
        end = self._last_word(newest)
        if end is not None:
            return end.status, end.time
        return RunStatus.KILLED, self._last_written(newest)

    def _last_word(self, newest: Optional[str]) -> Optional[RunEnd]:
        for delivery in self.deliveries.values():
            assembly = delivery.light.assembly
            end = assembly.end(newest) if assembly and newest is not None else None
            if end is not None:
                return end
        return None

    def _over(self) -> bool:
        """Return True when the owner will never write again."""
        newest = self._newest_main()
        return not self.run.owner_alive() if newest is None else self.dead(newest)

    def _end_sampling(self) -> None:
        sampling = self._sampling
        if sampling is not None:
            sampling.end()
            # In this order: whoever sees it dead finds it written to its end.
            self._gone.add(sampling.writer)
            self._sampling = None

    @property
    def done(self) -> bool:
        """
        True when every backend has everything, nobody is left who could write more, and the owner,
        who may still want to read how it went, has let go.
        """
        try:
            return self._done()
        except Exception as error:
            self._tell("be looked after", error)
            return False

    def _done(self) -> bool:
        return not self.run.owner_alive() and self._delivered()

    def _delivered(self) -> bool:
        newest = self._newest_main()
        deliveries = self.deliveries.values()
        return (
            all(each.state == "closed" and each.cursor.session == newest for each in deliveries)
            and self.settled
            and not any(each.pending for each in self._of_the_resting().values())
            # The last record of a child that has just died may not have been read yet.
            and all(lane.quiet() for each in self.all() for lane in each.lanes.values())
        )

    @property
    def stuck(self) -> bool:
        """True when nothing more can happen without a person."""
        return self._states_within("closed", "config") and self.settled

    @property
    def moving(self) -> bool:
        """True while somebody writes to the run, or a backend takes something."""
        return not (self._states_within("closed", "config", "waiting") and self.settled)

    @property
    def answered(self) -> int:
        """How many records backends have answered for, all of them together."""
        return sum(
            lane.state.delivered + lane.state.rejected + lane.state.unsupported
            for delivery in self.all()
            for lane in delivery.lanes.values()
        )

    def _states_within(self, *states: str) -> bool:
        return all(each.shown()[0] in states for each in self.all())

    @property
    def settled(self) -> bool:
        """True when no process is left that writes to this run."""
        try:
            return all(self.dead(writer) for writer in self.run.segment_numbers()) and (
                self._newest_main() is not None or not self.run.owner_alive()
            )
        except OSError as error:
            self._tell("be looked after", error)
            return False

    def asks(self, backend: str) -> bool:
        """Return True for a backend that something is delivered to now."""
        return self._only is None or backend in self._only

    def all(self) -> list[Delivery]:
        """Return the deliveries that something is done for."""
        return [each for name, each in self.deliveries.items() if name not in self._resting]

    def _lanes(self) -> list[Shipper]:
        return [lane for each in self.deliveries.values() for lane in each.lanes.values()]

    # -- life -----------------------------------------------------------------------------

    def dead(self, writer: str) -> bool:
        """Return True when a writer will never write again. That never changes back."""
        return writer in self._gone

    def _look(self, *, everybody: bool = False) -> None:
        """Find out who has died. What is listed is listed first: a new session is never dead."""
        numbers = self.run.segment_numbers()
        ours = self._sampling.writer if self._sampling else ""
        # Only who ships measures, and that is us.
        self._gone.update(each for each in numbers if is_sampler(each) and each != ours)
        mains = [writer for writer in numbers if is_main(writer)]
        self._gone.update(mains[:-1])
        if mains and mains[-1] not in self._gone:
            sealed = any(
                lane.assembly is not None and lane.assembly.sealed(mains[-1])
                for delivery in self.all()
                for lane in delivery.lanes.values()
            )
            if sealed or not self.run.owner_alive():
                self._gone.add(mains[-1])
        now = time.monotonic()
        ended = bool(mains) and mains[-1] in self._gone
        if not everybody and not ended and now - self._children_looked_at < CHILDREN_S:
            return
        self._children_looked_at = now
        for writer, found in numbers.items():
            if is_main(writer) or is_sampler(writer) or writer in self._gone:
                continue
            if alive(self.run, writer, found[-1]):
                continue
            again = self.run.segment_numbers().get(writer, found)
            if again[-1] == found[-1]:
                self._gone.add(writer)

    def _newest_main(self) -> Optional[str]:
        mains = [writer for writer in self.run.segment_numbers() if is_main(writer)]
        return mains[-1] if mains else None

    def _last_written(self, writer: str) -> Optional[float]:
        numbers = self.run.segment_numbers().get(writer)
        try:
            return self.run.segment_path(writer, numbers[-1]).stat().st_mtime if numbers else None
        except OSError:
            return None

    # -- watch ----------------------------------------------------------------------------

    def watch(self) -> bool:
        """
        Look who lives, force to disk what was written, delete what nobody needs, publish.

        Returns:
            True when anything has changed.
        """
        try:
            return self._watch()
        except Exception as error:
            self._tell("be looked after", error)
            return False

    def _watch(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at >= LIFE_S:
            self._looked_at = now
            if not self._there():
                return True
            self._look()
        if self._sampling is not None:
            if self._over():
                self._end_sampling()
            else:
                self._sampling.turn()
        if now - self._synced_at >= SYNC_S:
            self._synced_at = now
            self._sync()
        if now - self._swept_at >= SWEEP_S:
            self._swept_at = now
            self._sweep()
        if self._thinner is not None and now >= self._bounded_at:
            self._keep_within(self._thinner, now)
        return self.publish()

    def publish(self, *, force: bool = False) -> bool:
        """
        Tell the trainer, and whoever asks, where every backend stands.

        Returns:
            True when that has changed.
        """
        now = time.monotonic()
        since = now - self._published_at
        if since < PUBLISH_S and not force:
            return False
        kinds = [
            (*each.shown(), each.gone, *(lane.underway for lane in each.lanes.values()))
            for each in self.all()
        ]
        calm = kinds == self._published_kinds and not self.awaited
        if calm and since < NUMBERS_S and not force:
            return False
        self._published_at, self._published_kinds = now, kinds
        states = self.states()
        if states == self._published and not force:
            return False
        state.publish(self.run, states)
        self._published = states
        return True

    def asked(self) -> None:
        """Take note that somebody waits for what is published."""
        self._asked_at = time.monotonic()

    @property
    def awaited(self) -> bool:
        """True while somebody is taken to wait for what is published."""
        return time.monotonic() - self._asked_at < ASKED_S

    def tell(self) -> None:
        """Publish for somebody who waits; see ``publish``."""
        self.asked()
        try:
            self.publish()
        except Exception as error:
            self._tell("be looked after", error)

    def states(self) -> Mapping[str, state.BackendState]:
        """Return where every backend stands."""
        total = self._spooled()
        states = self._of_the_resting()
        for each in self.all():
            name = each.name
            shown, detail, error = each.shown()
            before = self._published.get(name)
            began = before.since if before and before.state == shown else time.time()
            states[name] = state.of_cursor(
                each.cursor,
                total,
                state=shown,
                detail=detail,
                error=error,
                damaged=each.damaged(),
                since=began,
                gone=each.gone,
            )
        return {name: states[name] for name in self.deliveries}

    def _of_the_resting(self) -> dict[str, state.BackendState]:
        total = self._spooled() if self._resting else 0
        return {
            name: dataclasses.replace(each, pending=max(0, total - each.answered))
            for name, each in self._resting.items()
        }

    def _spooled(self) -> int:
        """Return what ``state.spooled`` does, without looking again into what did not grow."""
        total = 0
        for writer, numbers in self.run.segment_numbers().items():
            if is_sampler(writer):
                continue
            known = self._written.get(writer, (0, 0, 0))
            try:
                size = self.run.segment_path(writer, numbers[-1]).stat().st_size
            except FileNotFoundError:
                size = -1  # compressed
            if known[:2] != (numbers[-1], size):
                count = written(self.run, writer, numbers[-1])
                self._written[writer] = known = (numbers[-1], size, count)
            total += known[2]
        return total

    def _sync(self) -> None:
        """The training never waits for a disk; we do, on the very same files."""
        for path, growing in self._unconfirmed():
            try:
                size = path.stat().st_size
                if self._synced.get(path) == size:
                    if not growing:
                        self._steady.add(path)
                    continue
                fd = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
            except OSError:
                continue
            try:
                # Never the owner's lock file, so closing this descriptor costs no lock.
                getattr(os, "fdatasync", os.fsync)(fd)
                if path not in self._synced:
                    sync_folder(path.parent)
                self._synced[path] = size
            except OSError as error:
                # Asked again, it would say yes: the kernel has forgotten what it could not write.
                log.warning("the disk would not confirm %s", path.name, exc_info=error)
                self._synced[path] = size
                with contextlib.suppress(OSError):
                    self.run.suspect(path.name)
            finally:
                os.close(fd)

    def _unconfirmed(self) -> Iterator[tuple[Path, bool]]:
        """Return the files that the disk may not have confirmed, and whether they still grow."""
        # A blob before the segment that speaks of it.
        with contextlib.suppress(OSError):
            blobs = [path for path in self.run.blobs.iterdir() if path not in self._steady]
            yield from ((path, False) for path in blobs)
        for writer, numbers in self.run.segment_numbers().items():
            for number in numbers:
                path = self.run.segment_path(writer, number)
                if path not in self._steady:
                    yield path, number == numbers[-1]

    def _sweep(self) -> None:
        """Delete what every backend is done with, unless the run is to be kept."""
        if self.run.info.keep or not self.deliveries:
            return
        everybody = self.deliveries.values()
        old = [
            self.run.segment_path(writer, number)
            for writer, numbers in self.run.segment_numbers().items()
            for number in numbers[:-1]
            if number < min(each.cursor.passed(writer).segment for each in everybody)
        ]
        spent = set.intersection(*(each.spent() for each in everybody))
        if not old and not spent:
            return
        for each in self.all():
            each.cursor.save(sync=True)
        for path in old:
            path.unlink(missing_ok=True)
            packed_path(path).unlink(missing_ok=True)
            self._synced.pop(path, None)
            self._steady.discard(path)
        for blob in spent:
            blob.unlink(missing_ok=True)
            self._synced.pop(blob, None)
            self._steady.discard(blob)
        for each in self.all():
            each.forget(spent)

    def _keep_within(self, thinner: Thinner, now: float) -> None:
        """Compress, or give up, one segment's worth of what cannot be delivered."""
        again = False
        try:
            again = thinner.turn(growing=not self._over())
        except Exception as error:
            self._tell("be made smaller", error)
        took = time.monotonic() - now
        # Half of the time at most, however much there is to do; a twentieth, to find that out.
        self._bounded_at = now + (2 * took if again else max(BOUNDS_S, 20 * took))

    # -- the end --------------------------------------------------------------------------

    def claim(self) -> bool:
        """
        Take a run that is ``done`` out of everybody's hands, if it is to be deleted.

        Returns:
            False when somebody has taken it up again meanwhile.
        """
        try:
            self.publish(force=True)
            if not removes(self.run):
                return True
            if not self.run.own(patience_s=0.0):
                return False
            # Whoever owned it for a moment may have written something.
            self._look(everybody=True)
            if self._delivered():
                return True
        except Exception as error:
            self._tell("be put away", error)
        self.run.release()
        return False

    def finish(self) -> None:
        """Put away a run that was claimed: deleted, or kept, as the user wished."""
        try:
            for each in self.all():
                each.cursor.save(sync=True)
            self.publish(force=True)
            if sys.platform == "win32":  # pragma: no cover - an open file cannot be deleted
                self.run.shipping.release()
                self.run.release()
            put_away(self.run, self._gone)
        except Exception as error:
            self._tell("be put away", error)
        finally:
            # Not before, so that nobody takes up a folder that is half gone.
            self.run.shipping.release()
            self.run.release()
