"""
The one loop that brings records from the spool to a backend, one step at a time.

No thread, no process and no sleep in sight: whoever hosts the shipper calls ``step`` and waits as
long as it is told. A position moves only after the backend said yes, or after a record was set
aside by name.
"""

from __future__ import annotations

import base64
import dataclasses
import errno
import json
import logging
import os
import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator, NamedTuple, Optional

from tracelet.backends.base import Backend, Batch
from tracelet.errors import (
    ConfigError,
    RejectedError,
    RetryableError,
    RunGoneError,
    TraceletError,
    shortened,
)
from tracelet.records import Artifact, Record, RemoteRun, RunInfo, RunStatus, Tag
from tracelet.ship.assembly import UNCOUNTED, Assembly, Blob, Load, cut, merge
from tracelet.ship.breaker import Breaker, breaker_of
from tracelet.ship.catalog import Catalog
from tracelet.ship.redaction import redacted
from tracelet.ship.retry import Backoff
from tracelet.spool import blobs, thinned
from tracelet.spool.cursor import LANES, Cursor
from tracelet.spool.reader import Position
from tracelet.spool.rundir import RunDir

__all__ = ["Delivery", "Shipper", "Step", "Trouble"]

log = logging.getLogger("tracelet")

#: Records that are safe only after a barrier wait so long for it.
BARRIER_S = 5.0
#: They wait longer where a barrier takes long (one part in so many of the time is spent on it), but
#: no longer than this, and no more batches than that.
BARRIER_REST = 20
LONGEST_BARRIER_S = 60.0
MOST_UNCONFIRMED = 250
#: An error that nobody understands is taken for an outage so many times, then for a bad record.
STRANGE_TRIES = 3
#: So often a single record must be refused without a name before it is set aside, and so often a
#: server must stumble over a batch before that is suspected of something.
SINGLE_TRIES = 3
DOUBTS = 5
#: A tracker that owes an answer for so long is taken for away.
SILENT_S = 2.0
#: Uploads wait longer between tries than anything else.
UPLOAD_CAP_S = 60.0
#: A backend that waits for a person is asked again so often.
CONFIG_RETRY_S = 60.0
#: Of what a backend says so much is told.
SHOWN_CHARACTERS = 500


@dataclass(frozen=True)
class Step:
    """
    What one step did: ``idle``, ``sent``, ``wait`` (for seconds), ``halved``, ``rejected``.

    ``sent`` with seconds: that was all there was; what comes meanwhile should come as one batch.
    """

    kind: str
    seconds: float = 0.0


IDLE, SENT, HALVED, REJECTED = Step("idle"), Step("sent"), Step("halved"), Step("rejected")
#: Many small batches cost the tracker, and the machine, several times what a large one does.
GATHERING = Step("sent", 0.4)
#: Somebody else is at it.
BUSY = Step("wait", 0.05)
#: Somebody else tries whether the server is back.
HELD = Step("wait", 0.2)


class Trouble(NamedTuple):
    """Why something does not go on: ``waiting`` for a backend, or for a person (``config``)."""

    state: str
    text: str


def trouble(error: Exception) -> Trouble:
    """Return what an answer that was no means. What a person has to mend, time does not."""
    text = shortened(redacted(str(error) or type(error).__name__), SHOWN_CHARACTERS)
    # A package that is not there, or a plug-in that cannot be imported, does not come by waiting.
    hopeless = isinstance(error, (TraceletError, ImportError))
    return Trouble("config" if hopeless else "waiting", text)


#: A file is not there. One that is not ours may also have been taken out of our reach for good;
#: anything else that keeps us from looking at it passes.
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_OUT_OF_REACH = _NOT_THERE | {errno.EACCES, errno.EPERM, errno.ELOOP}


def _is_gone(error: Exception, *, ours: bool) -> bool:
    """Tell whether waiting will not bring a file back, from what was said when it was looked at."""
    if not isinstance(error, OSError):
        return True  # not even a name
    return error.errno in (_NOT_THERE if ours else _OUT_OF_REACH)


class Delivery:
    """
    One run on its way to one backend: the remote run, the cursor, and what both lanes share.

    Args:
        run: The run.
        name: The backend's name, as in ``run.json``.
        make: Makes a new backend with the run's options.
        catalog: The run's names.
        dead: Says whether a writer will never write again.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        run: RunDir,
        name: str,
        make: Callable[[], Backend],
        catalog: Catalog,
        dead: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run = run
        self.name = name
        self.catalog = catalog
        self.dead = dead
        self.clock = clock
        self.cursor = Cursor(run, name)
        self._make = make
        self.backend: Optional[Backend] = None
        self.opened = False
        #: Of the whole; ``shown`` tells what a person should see.
        self.state = "closed" if self.cursor.closed else "starting"
        self.detail = self.error = ""
        #: The remote run was deleted there.
        self.gone = False
        self.lanes = {lane: Shipper(self, lane) for lane in LANES}
        self._spent: dict[Path, Blob] = {}
        self._backoff = Backoff()
        self._blocked_until = 0.0
        #: How many records the remote run says were set aside.
        self._remarked = 0
        #: Its own until it is known which server it waits for.
        self.breaker = Breaker(clock)
        self._opening = threading.Lock()

    @property
    def light(self) -> Shipper:
        """The lane of metrics, parameters and tags."""
        return self.lanes["light"]

    @property
    def heavy(self) -> Shipper:
        """The lane of everything else."""
        return self.lanes["heavy"]

    def shown(self) -> tuple[str, str, str]:
        """Return state, detail and last error, both lanes taken together."""
        state, detail, error = self.state, self.detail, self.error
        backend = self.backend
        if state in ("opening", "sending", "idle") and backend is not None:
            silent = backend.silence()
            if silent > SILENT_S:
                # By the second, so that it is not published anew all the time.
                detail = "no answer for some seconds"
                return "waiting", detail, error
        if state in ("sending", "idle"):
            # What hampers the heavy lane alone matters once the other has nothing more to do.
            told = self.light.trouble or (self.heavy.trouble if state == "idle" else None)
            error = error or (self.heavy.trouble.text if self.heavy.trouble else "")
            if told is not None:
                return told.state, told.text, told.text
        if state == "idle" and self.heavy.underway:
            state = "sending"
        return state, detail, error

    def damaged(self) -> dict[str, int]:
        """Return how many records could not be read back, by reason."""
        with self.cursor.lock:
            found = dict(self.cursor.damaged)
        for lane in self.lanes.values():
            if lane.assembly is not None:
                merge(found, lane.assembly.tail)
        return found

    def spent(self) -> set[Path]:
        """Return the blobs that the backend needs no more, and that no lane will read again."""
        with self.cursor.lock:
            return {
                path
                for path, blob in self._spent.items()
                if self.cursor.passed(blob.writer) >= blob.after
            }

    def forget(self, deleted: set[Path]) -> None:
        """Take note of blobs that are deleted now."""
        with self.cursor.lock:
            for path in deleted:
                self._spent.pop(path, None)

    def spend(self, blobs: list[Blob]) -> None:
        """Take note of blobs that have been dealt with."""
        with self.cursor.lock:
            self._spent.update((blob.path, blob) for blob in blobs)

    def blocked(self) -> float:
        """Return for how many seconds nothing may be tried; ask whether the server is back."""
        own = self._blocked_until - self.clock()
        if own > 0:
            return own
        backend = self.backend
        if backend is not None:
            self.breaker.ask(lambda: _silent(backend))
        return self.breaker.wait()

    def open(self) -> Step:
        """Open the remote run, for the first time or again; every lane can go on after that."""
        with self._opening:
            if self.opened:
                return SENT
            return Step("wait", self.blocked()) if self.blocked() else self._open()

    def _open(self) -> Step:
        self.state = "opening" if self.state in ("starting", "closed") else self.state
        try:
            backend = self.instance()
            info = self.run.info_for(self.name)
            with self.breaker.attempt() as allowed:
                if not allowed:
                    return HELD
                remote = backend.open(
                    info, self.cursor.remote or self._asked(info), self.run.workdir(self.name)
                )
            with self.cursor.lock:
                self.cursor.remote = remote
                self.cursor.closed = None
                self.cursor.save(sync=True)
        except Exception as error:
            return self.failed(error)
        self.answered()
        self.opened = True
        return SENT

    def instance(self) -> Backend:
        """Return the backend, made with the run's options at its first use. May raise anything."""
        if self.backend is None:
            backend = self._make()
            server = backend.server
            if server is not None:
                self.breaker = breaker_of(server)
            self.backend = backend
        return self.backend

    def _asked(self, info: RunInfo) -> Optional[RemoteRun]:
        wanted = info.resume.get(self.name)
        return RemoteRun(wanted) if wanted else None

    def answered(self) -> None:
        """The backend took something: it is well."""
        self._backoff.succeeded()
        self.breaker.succeeded()
        self.state, self.detail, self.error, self.gone = "sending", "", "", False

    def failed(self, error: Exception) -> Step:
        """Take note of an answer that was no; return how long to wait."""
        before = self.state
        self.state, text = trouble(error)
        self.gone = isinstance(error, RunGoneError)
        if self.state == "config":
            wait = CONFIG_RETRY_S
            if text != self.error:
                log.warning("%s cannot go on: %s", self.name, text)
        elif before != "waiting":
            log.info("%s is away: %s", self.name, text, exc_info=error)
        self.detail = self.error = text
        if isinstance(error, RetryableError):
            return Step("wait", self.breaker.failed(error.retry_after))
        if self.state != "config":
            wait = self._backoff.failed()
        self._blocked_until = self.clock() + wait
        return Step("wait", wait)

    def remark(self, lane: str, reason: str, *, more: int = 0) -> None:
        """
        Have the remote run say how many records were set aside. May raise anything.

        Args:
            lane: The lane of the last one.
            reason: Why that was.
            more: How many are about to be.
        """
        count = more + sum(each.rejected for each in self.cursor.lanes.values())
        if self.backend is not None and count != self._remarked:
            last = redacted(reason)[:SHOWN_CHARACTERS]
            records = "record was" if count == 1 else "records were"
            self.backend.remark(f"{count:,} {records} refused; the last one: {last}", lane)
            self._remarked = count

    def close(self, status: RunStatus, when: Optional[float], session: Optional[str]) -> Step:
        """
        End the remote run, once both lanes are quiet.

        Args:
            status: How it ended.
            when: When, in seconds since the epoch, if that is known.
            session: The owner's session whose end it is.
        """
        if not self.opened or self.backend is None:
            return self.open()
        if self.blocked():
            return Step("wait", self.blocked())
        with self.light.resting() as light, self.heavy.resting() as heavy:
            # A child may have written something in the very last moment.
            return self._close(status, when, session) if light and heavy else BUSY

    def _close(self, status: RunStatus, when: Optional[float], session: Optional[str]) -> Step:
        backend = self.backend
        assert backend is not None
        try:
            with self.breaker.attempt() as allowed:
                if not allowed:
                    return HELD
                self.light.tell_thinned()
                backend.barrier()
                for lane in self.lanes.values():
                    lane.say()
                backend.close(status, when)
            self.opened, self.backend = False, None
            with self.cursor.lock:
                self.cursor.closed, self.cursor.session = status.value, session
                self.cursor.save(sync=True)
        except Exception as error:
            return self.failed(error)
        self._backoff.succeeded()
        self.breaker.succeeded()
        self.state, self.detail, self.error = "closed", "", ""
        return SENT

    def abandon(self) -> None:
        """Let go of the remote run without ending it."""
        backend, self.backend, self.opened = self.backend, None, False
        if backend is not None:
            try:
                backend.close(RunStatus.RUNNING)
            except Exception as error:
                log.debug("letting go of %s failed", self.name, exc_info=error)

    def set_aside(
        self, record: Record, reason: str, place: dict[str, Position], number: int
    ) -> None:
        """Write a record that will never be taken where a person finds it."""
        line = {
            "time": time.time(),
            "reason": redacted(reason),
            "frame": number,
            "at": {writer: list(position) for writer, position in place.items()},
            "type": type(record).__name__,
            # Whole, so that it can be sent some day.
            "record": {
                key: {"base64": base64.b64encode(value).decode()}
                if isinstance(value, bytes)
                else value
                for key, value in dataclasses.asdict(record).items()
            },
        }
        path = self.run.rejects / f"{self.name}.jsonl"
        text = json.dumps(line, ensure_ascii=False, default=str)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with open(fd, "a", encoding="utf-8", errors="surrogatepass") as file:
                file.write(text + "\n")
        except OSError as error:
            # It is counted all the same.
            log.warning("%s could not be written", path, exc_info=error)


def _silent(backend: Backend) -> Optional[float]:
    """Return None when a tracker gives a sign of life, else how long it wants to be left alone."""
    try:
        backend.ping()
    except RetryableError as error:
        return error.retry_after or 0.0
    except Exception as error:
        # It answers; what that means the data will show.
        log.debug("the answer to a small question", exc_info=error)
    return None


@dataclass
class _Sending:
    """A load on its way: the groups of records still to be written, and how it went so far."""

    load: Load
    offset: int
    groups: deque[list[int]] = field(default_factory=deque)
    taken: int = 0
    reasons: dict[int, str] = field(default_factory=dict)
    #: The records of ``reasons``, and the blobs that the others came from, once it has arrived.
    refused: dict[int, Record] = field(default_factory=dict)
    spent: list[Blob] = field(default_factory=list)
    tries: int = 0
    #: How often the group at its head, of one record, was refused without a name.
    refusals: int = 0
    #: How often the server stumbled over that group; whether this batch is suspected; and of a
    #: group of one record, how many groups had been taken when that began.
    doubts: int = 0
    suspected: bool = False
    #: It stands in the state's list of what is being sent.
    listed: bool = False
    announced: bool = False


class Shipper:
    """One lane of a delivery."""

    def __init__(self, delivery: Delivery, lane: str) -> None:
        self.delivery = delivery
        self.lane = lane
        self.state = delivery.cursor.lanes[lane]
        # Held during a step.
        self._busy = threading.Lock()
        #: Held while the spool is read: whoever puts a smaller segment in a larger one's place
        #: must not do it then.
        self.reading = threading.Lock()
        #: What hampers this lane alone.
        self.trouble: Optional[Trouble] = None
        self._assembly: Optional[Assembly] = None
        self._sending: Optional[_Sending] = None
        self._unconfirmed: list[_Sending] = []
        self._barrier_due: Optional[float] = None
        self._barrier_s = BARRIER_S
        self._awaited = False
        self._unsaved = False
        self._saved_at = 0.0
        self._introduced: Optional[Backend] = None
        self._backoff = Backoff(cap_s=UPLOAD_CAP_S)
        self._blocked_until = 0.0
        #: Why the last record was set aside, while the remote run does not say so yet.
        self._unsaid = ""

    # -- what a host asks -----------------------------------------------------------------

    def step(self, *, hurry: bool = False) -> Step:
        """
        Do one thing: write one batch, or find out that there is nothing to do. Raises nothing.

        Args:
            hurry: Do not wait for the time of a barrier: the run is at its end.
        """
        with self._busy:
            # Asked before anything is read: what was logged until then is in what is read.
            awaited, self._awaited = self._awaited, False
            try:
                result = self._step(hurry=hurry or awaited)
            except Exception as error:
                # Our own notes cannot be written just now, or a mistake of ours.
                log.warning("delivery to %s stumbled", self.delivery.name, exc_info=error)
                result = self._hampered(error)
            if result is not IDLE:
                self._awaited = self._awaited or awaited
            return result

    def await_all(self) -> None:
        """Have the next barrier as soon as all that is there was sent: somebody waits for it."""
        self._awaited = True

    @contextmanager
    def resting(self) -> Iterator[bool]:
        """
        Keep this lane from doing anything.

        It gives True when the owner's records are all dealt with, and its children's so far; False
        when the lane is in the middle of something, or has something to do.
        """
        if not self._busy.acquire(blocking=False):
            yield False
            return
        try:
            yield not self.underway and self._assembly is not None and self._assembly.quiet()
        finally:
            self._busy.release()

    def quiet(self) -> bool:
        """Return True when there is nothing to do for this lane, and nothing under way."""
        with self.resting() as at_rest:
            return at_rest

    @property
    def underway(self) -> bool:
        """True while a batch is on its way, or waits to be confirmed."""
        return self._sending is not None or bool(self._unconfirmed)

    def held(self, writer: str) -> tuple[int, int]:
        """
        Return the first and last segment of a writer that must stay as they are, byte for byte.

        This lane stands in them, or has a batch of them on its way that may have to be made again.
        The last is below the first where there is none. Ask while holding ``reading``.
        """
        with self.delivery.cursor.lock:
            first = last = self.state.at.get(writer, Position())
            for bound in self.state.sending:
                last = max(last, bound.get(writer, last))
        if self._assembly is not None:
            last = max(last, self._assembly.reached(writer))
        return first.segment, last.segment - (last.offset == 0)

    @property
    def assembly(self) -> Optional[Assembly]:
        """What this lane reads from, once it has begun."""
        return self._assembly

    def _step(self, *, hurry: bool) -> Step:
        wait = max(self.delivery.blocked(), self._blocked_until - self.delivery.clock())
        if wait > 0:
            return Step("wait", wait)
        if self.lane == "heavy" and self.delivery.breaker.failing and self.delivery.light.underway:
            # Whether the server is back is tried with something small.
            return HELD
        if not self.delivery.opened and self.delivery.state != "closed":
            # The light lane opens; a closed run is opened again only if there is more for it.
            return self.delivery.open() if self.lane == "light" else BUSY
        if self._assembly is None:
            try:
                self._assembly = self._begin(self.delivery.instance())
            except Exception as error:
                return self.delivery.failed(error)
        if self._unconfirmed and self._due() and self.delivery.opened:
            return self._confirm()
        if self._sending is None:
            self._sending = self._take(self._assembly)
        if self._sending is None:
            return self._rest(hurry=hurry)
        if self._sending.groups and not self.delivery.opened:
            return self.delivery.open()
        if not self._sending.announced:
            self._announce(self._sending)
        return self._write(self._sending, hurry=hurry)

    def _begin(self, backend: Backend) -> Assembly:
        return Assembly(
            self.delivery.run,
            self.lane,
            self.state,
            self.delivery.catalog,
            backend.accepts,
            backend.limits,
            self.delivery.dead,
            doubtful=self.delivery.cursor.doubtful,
        )

    # -- one batch ------------------------------------------------------------------------

    def _take(self, assembly: Assembly) -> Optional[_Sending]:
        """Assemble the next batch."""
        try:
            with self.reading:
                load = assembly.next()
            if load is None:
                return None
            offset = self.state.offset + sum(each.taken for each in self._unconfirmed)
            sending = _Sending(load, offset, listed=load.again)
            sending.groups.extend(cut(load.records, assembly.limits))
            self._check_artifacts(sending)
        except Exception:
            # What it had read is not in any batch: the next one begins where the state says, and
            # with what was on its way.
            self._assembly, self._unconfirmed, self._barrier_due = None, [], None
            raise
        return sending

    def _announce(self, sending: _Sending) -> None:
        """Write down that a batch is about to be sent. Raises OSError."""
        if sending.load.records:
            self.delivery.catalog.save()
            with self.delivery.cursor.lock:
                if not sending.listed:
                    self.state.sending.append(dict(sending.load.behind))
                    sending.listed = True
                self.delivery.cursor.save()
            self._unsaved = False
        sending.announced = True

    def _write(self, sending: _Sending, *, hurry: bool) -> Step:
        """Write the next group of a batch."""
        result = SENT
        backend = self.delivery.backend
        if sending.groups and backend is not None:
            group = sending.groups[0]
            batch = Batch(
                [sending.load.records[index] for index in group],
                sending.offset + sending.taken,
                self.lane,
                sending.load.resend,
            )
            try:
                with self._attempt() as allowed:
                    if not allowed:
                        return HELD
                    backend.write(batch)
            except RejectedError as error:
                self.delivery.breaker.succeeded()
                named = [group[i] for i in error.indexes if 0 <= i < len(group)]
                result = self._refused(sending, named, error.reason)
            except RetryableError as error:
                if not error.doubtful or not self._to_blame(sending, error):
                    return self._failed(sending, error)
                result = self._refused(sending, [], str(error), sure=True)
            except ConfigError as error:
                return self._failed(sending, error)
            except Exception as error:
                sending.tries += 1
                if sending.tries < STRANGE_TRIES:
                    return self._failed(sending, error)
                log.warning("%s failed in an unknown way", self.delivery.name, exc_info=error)
                sending.tries = 0
                reason = f"{type(error).__name__}: {error}"
                result = self._refused(sending, [], reason, sure=True)
            else:
                sending.groups.popleft()
                sending.taken += len(group)
                sending.tries = sending.refusals = sending.doubts = 0
                self._succeeded()
        if not sending.groups:
            self._sending = None
            self._arrived(sending)
            caught_up = not (sending.load.full or sending.load.again)
            if result is SENT and caught_up and not hurry:
                result = GATHERING
        return result

    def _succeeded(self) -> None:
        self._backoff.succeeded()
        self.trouble = None
        self.delivery.answered()

    def _failed(self, sending: _Sending, error: Exception) -> Step:
        # What may have arrived is marked, so that a store that only appends reads back first.
        sending.load.resend = True
        if self.lane == "light":
            return self.delivery.failed(error)
        # A heavy upload that fails must not hold up the curves: it waits on its own.
        return self._hampered(error)

    def _hampered(self, error: Exception) -> Step:
        """Take note of what keeps this lane alone from going on; return how long to wait."""
        before, self.trouble = self.trouble, trouble(error)
        self.delivery.gone = self.delivery.gone or isinstance(error, RunGoneError)
        if self.trouble.state == "config":
            wait = CONFIG_RETRY_S
        else:
            at_least = error.retry_after if isinstance(error, RetryableError) else None
            wait = self._backoff.failed(at_least)
        if self.trouble != before:
            log.warning(
                "%s (%s) cannot go on: %s", self.delivery.name, self.lane, self.trouble.text
            )
        self._blocked_until = self.delivery.clock() + wait
        return Step("wait", wait)

    @contextmanager
    def _attempt(self) -> Iterator[bool]:
        """Give True when a request may be made now. An upload is nobody's try."""
        if self.lane == "heavy":
            yield True
            return
        with self.delivery.breaker.attempt() as allowed:
            yield allowed

    def _to_blame(self, sending: _Sending, error: Exception) -> bool:
        """
        Tell whether a server stumbles over these records, rather than having fallen.

        Halving costs nothing and is done on a suspicion. A single record is to blame only when the
        server takes something else the same way.
        """
        sending.doubts += 1
        several = len(sending.groups[0]) > 1
        if sending.doubts < (1 if several and sending.suspected else DOUBTS):
            return False
        sending.suspected = True
        if not several:
            try:
                self.delivery.remark(self.lane, str(error), more=1 + len(sending.reasons))
            except Exception as refusal:
                log.info("%s takes nothing at all", self.delivery.name, exc_info=refusal)
                return False
            self._succeeded()
        sending.doubts = 0
        return True

    def _refused(
        self, sending: _Sending, indexes: list[int], reason: str, *, sure: bool = False
    ) -> Step:
        """
        Set the named records aside, or find the bad one by halving.

        Args:
            sending: What is being sent.
            indexes: The bad ones, if they are known.
            reason: Why.
            sure: A single record needs no second opinion. Without that it is asked for: what stands
                between us and a tracker refuses now and then what it takes a moment later.
        """
        group = sending.groups.popleft()
        if not indexes and len(group) == 1 and not sure:
            sending.refusals += 1
            if sending.refusals < SINGLE_TRIES:
                sending.groups.appendleft(group)
                return HALVED
        sending.refusals = 0
        if indexes or len(group) == 1:
            bad = set(indexes) or set(group)
            sending.reasons.update(dict.fromkeys(bad, reason))
            self._unsaid = reason
            rest = [index for index in group if index not in bad]
            if rest:
                sending.groups.appendleft(rest)
            return REJECTED
        middle = len(group) // 2
        sending.groups.extendleft([group[middle:], group[:middle]])
        return HALVED

    def _check_artifacts(self, sending: _Sending) -> None:
        """
        A file that was only referred to must still be what it was; see ``spool.blobs``.

        Raises:
            OSError: A file is there, as far as that can be told, but cannot be looked at just now.
        """
        for group in sending.groups:
            for index in list(group):
                record = sending.load.records[index]
                if not isinstance(record, Artifact):
                    continue
                try:
                    found = blobs.identity(record.source)
                except (OSError, ValueError) as error:
                    if not _is_gone(error, ours=record.identity is None):
                        raise
                    sending.reasons[index] = "the file was gone before it could be sent"
                    group.remove(index)
                    continue
                if record.identity is not None and found != tuple(record.identity):
                    log.warning("%s changed before it could be sent", record.source)
                    with self.delivery.cursor.lock:
                        merge(self.delivery.cursor.warnings, {"changed": 1})
        sending.groups = deque(group for group in sending.groups if group)

    # -- what is written down -------------------------------------------------------------

    def _arrived(self, sending: _Sending) -> None:
        """Everything of a load has been answered; it counts now, or after the next barrier."""
        backend = self.delivery.backend
        records = sending.load.records
        sending.refused = {index: records[index] for index in sending.reasons}
        sending.spent = [blob for blob in sending.load.blobs if blob.record not in sending.reasons]
        deferred = backend is not None and any(
            type(record) in backend.deferred for record in records
        )
        if not deferred and not self._unconfirmed:
            self._commit([sending])
            return
        # The records themselves may be large, and are of no more use.
        sending.load.records = []
        self._unconfirmed.append(sending)
        if self._barrier_due is None:
            self._barrier_due = self.delivery.clock() + self._barrier_s

    def _due(self) -> bool:
        if self._barrier_due is None or len(self._unconfirmed) >= MOST_UNCONFIRMED:
            return True
        return self.delivery.clock() >= self._barrier_due

    def _rest(self, *, hurry: bool) -> Step:
        """Nothing new to send: confirm what waits for it, save what was not worth a save."""
        if self._unconfirmed and (hurry or self._due()):
            return self._confirm() if self.delivery.opened else self.delivery.open()
        now = self.delivery.clock()
        if self._unsaved and (hurry or now - self._saved_at > 1.0):
            with self.delivery.cursor.lock:
                self.delivery.cursor.save()
            self._unsaved, self._saved_at = False, now
        if self._unsaid and self.delivery.opened:
            try:
                self.say()
            except Exception as error:
                light = self.lane == "light"
                return self.delivery.failed(error) if light else self._hampered(error)
            return SENT
        if self.lane == "heavy" and self.delivery.opened:
            self._introduce()
        if self.lane == "light" and self.delivery.opened:
            try:
                if self.tell_thinned():
                    return SENT
            except Exception as error:
                return self.delivery.failed(error)
        refused = self._assembly.refused if self._assembly else ""
        if refused or (self.trouble is not None and not self.underway):
            self.trouble = Trouble("config", refused) if refused else None
        return IDLE

    def say(self) -> None:
        """Have the remote run say that something was set aside. May raise anything."""
        if not self._unsaid:
            return
        try:
            self.delivery.remark(self.lane, self._unsaid)
        except RejectedError as error:
            log.info("%s takes no remark", self.delivery.name, exc_info=error)
        self._unsaid = ""

    def tell_thinned(self) -> bool:
        """
        Have the remote run say what it lacks because there was no room for it, if that is news.

        Nobody logged these tags: they are in no count. Saying them twice changes nothing.
        """
        delivery = self.delivery
        totals = thinned.counted(delivery.damaged())
        backend = delivery.backend
        if totals == delivery.cursor.told or backend is None or Tag not in backend.accepts:
            return False
        now = time.time()
        tags = [Tag(f"tracelet.dropped.{kind}", str(n), now) for kind, n in sorted(totals.items())]
        backend.write(Batch(tags, self.state.offset, self.lane, resend=True))
        with delivery.cursor.lock:
            self.state.offset += len(tags)
            delivery.cursor.told = totals
            delivery.cursor.save()
        return True

    def _introduce(self) -> None:
        """Have what is known about a run from its start stored early: a machine may die."""
        backend = self.delivery.backend
        if backend is not None and backend is not self._introduced:
            self._introduced = backend
            if self.delivery.run.info.context:
                backend.barrier()

    def _confirm(self) -> Step:
        backend = self.delivery.backend
        if backend is None:
            return BUSY
        started = self.delivery.clock()
        try:
            backend.barrier()
        except Exception as error:
            return self._failed(self._unconfirmed[-1], error)
        took = self.delivery.clock() - started
        self._barrier_s = min(max(BARRIER_S, BARRIER_REST * took), LONGEST_BARRIER_S)
        waiting, self._unconfirmed, self._barrier_due = self._unconfirmed, [], None
        self._succeeded()
        self._commit(waiting)
        return SENT

    def _commit(self, arrived: list[_Sending]) -> None:
        """Move the position behind what arrived."""
        with self.delivery.cursor.lock:
            for each in arrived:
                self._settle(each)
            self.state.sending = self.state.sending[sum(each.listed for each in arrived) :]
            # Written with the next batch's announcement, or when there is nothing else to do.
            self._unsaved = True

    def _settle(self, sending: _Sending) -> None:
        load, state, delivery = sending.load, self.state, self.delivery
        rejected = {load.frame_of[index] for index in sending.reasons} - {UNCOUNTED}
        unsupported = load.unsupported - rejected
        for index, reason in sending.reasons.items():
            delivery.set_aside(sending.refused[index], reason, load.behind, load.frame_of[index])
        state.rejected += len(rejected)
        state.unsupported += len(unsupported)
        state.delivered += load.frames - len(rejected) - len(unsupported)
        state.offset += sending.taken
        state.at.update(load.behind)
        state.steps.update(load.steps)
        merge(delivery.cursor.damaged, load.damaged)
        delivery.spend(sending.spent)
