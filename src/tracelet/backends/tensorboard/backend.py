"""How a batch gets into a run's event file exactly once."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time as clock
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Mapping, NamedTuple, Optional, Union

from tracelet.backends.base import BackendOptions, Batch
from tracelet.backends.plain.backend import FolderBackend
from tracelet.backends.plain.files import RunFiles
from tracelet.backends.plain.folder import answered
from tracelet.backends.sources import NotTheFileError
from tracelet.backends.tensorboard import encoding, projector
from tracelet.backends.tensorboard.frames import EventsFile, first_frame, frame
from tracelet.backends.tensorboard.kinds import Kinds, note
from tracelet.backends.tensorboard.options import TensorBoardOptions
from tracelet.errors import RejectedError, RetryableError, RunGoneError
from tracelet.records import Param, Record, RemoteRun, RunInfo, RunStatus, Scalar
from tracelet.tfevents.event import read_event, read_values
from tracelet.tfevents.tensor import read_strings, read_tensor
from tracelet.tfevents.wire import Wire, WireError

#: Version of what we write besides TensorBoard's own events.
FORMAT = 1

#: TensorBoard reads the files of a folder in the order of their names, and never goes back.
_HPARAMS = "events.out.tfevents.0000000000.hparams"
_EVENTS = "events.out.tfevents.*.tracelet"
_SYNC_INTERVAL_S = 1.0
#: What the hparams plugin calls an end.
_ENDS: Mapping[RunStatus, int] = {RunStatus.FINISHED: 1, RunStatus.FAILED: 2, RunStatus.KILLED: 2}


class _Open(NamedTuple):
    """What there is while a run is open."""

    run: RunInfo
    path: Path
    events: EventsFile
    files: RunFiles
    kinds: Kinds
    #: For each lane the place behind the last record that is there.
    ends: dict[str, int]
    params: dict[str, Scalar]


class TensorBoardBackend(FolderBackend[TensorBoardOptions]):
    """Writes each run into a folder of event files."""

    name = "tensorboard"
    Options = TensorBoardOptions
    option: ClassVar[str] = "logdir"

    def __init__(self, options: BackendOptions) -> None:
        super().__init__(options)
        self._lock = threading.Lock()
        self._open: Optional[_Open] = None
        self._synced: dict[str, float] = {}

    @staticmethod
    def owner(path: Path) -> Optional[str]:
        """Return the id of the run that began a folder; None when nothing says so."""
        for each in sorted(path.glob(_EVENTS))[:1]:
            try:
                events = EventsFile.reading(each)
            except OSError:
                return None
            try:
                for entry in events:
                    if entry.letter == "r":
                        return str(_noted(entry.event).get("run_id"))
            finally:
                events.close()
        return None

    def look(self, run: RunInfo) -> str:
        """Return the command that shows the run."""
        return f"tensorboard --logdir {self._folder}"

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        """
        Make the run's folder, or go on in it.

        Raises:
            ConfigError: The folder cannot be used, or ``resume.id`` is no id of ours.
            RunGoneError: The run to continue is not there.
            RetryableError: The disk does not work now, or another process has the file open.
        """
        self._let_go()
        path = self._places.find(run)[0] if resume is None else self._known(resume.id)
        with answered(path):
            path.mkdir(parents=True, exist_ok=True)
            events = _events_of(path, run)
        try:
            with answered(path):
                files = RunFiles(path)
                kinds = Kinds(
                    files,
                    lambda _: _replace(path / projector.CONFIG, projector.gather(path).encode()),
                    single=self._options.precision == "single",
                )
                here = _Open(run, path, events, files, kinds, {}, {})
                if not _read_on(here):
                    events.append(self._introduction(run))
        except BaseException:
            events.close()
            raise
        self._open = here
        return RemoteRun(
            id=self._places.remote_id(path), name=run.name or path.name, look=self.look(run)
        )

    def write(self, batch: Batch) -> None:
        """
        Append what is not there yet.

        Raises:
            RejectedError: TensorBoard has no such step; an artifact's file is not what it was.
            RunGoneError: Somebody deleted the file.
            RetryableError: The disk does not take it now; nothing of the batch is in the file.
        """
        here = self._opened()
        with answered(here.path, RetryableError):
            # Large files are copied outside the lock: the curves do not wait for them.
            events = _events(batch, here.kinds)
            with self._lock:
                if here.events.gone:
                    raise RunGoneError(f"The event file in {str(here.path)!r} was deleted.")
                here.events.append(b"".join(_missing(here, batch, events)))
                end = batch.offset + len(batch.records)
                here.ends[batch.lane] = max(here.ends.get(batch.lane, 0), end)
                params = {each.key: each.value for each in batch.records if isinstance(each, Param)}
                if params:
                    here.params.update(params)
                    _replace(here.path / _HPARAMS, _session(here, None))
            if clock.monotonic() - self._synced.get(batch.lane, 0.0) > _SYNC_INTERVAL_S:
                if batch.lane == "heavy":
                    here.files.sync()
                here.events.sync()
                self._synced[batch.lane] = clock.monotonic()

    def barrier(self) -> None:
        """
        Make what was written survive the machine.

        Raises:
            RetryableError: The disk does not take it now.
        """
        here = self._opened()
        with answered(here.path, RetryableError):
            here.files.sync()
            here.events.sync()

    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        """
        Write how the run ended; ``RUNNING`` only lets go of the file.

        Raises:
            RetryableError: The disk does not take it now; the run is still open.
        """
        here = self._open
        if here is None:
            return
        with answered(here.path, RetryableError), self._lock:
            if status is not RunStatus.RUNNING:
                ended = clock.time() if time is None else time
                if here.params:
                    end = encoding.session_end(_ENDS[status], ended)
                    _replace(here.path / _HPARAMS, _session(here, (ended, end)))
                here.events.append(
                    frame("e", note("end", {"status": status.value, "time": ended}, ended))
                )
            here.files.sync()
            here.events.sync()
        self._let_go()

    def _known(self, run_id: str) -> Path:
        path = self._place(run_id)
        if not any(path.glob(_EVENTS)):
            raise RunGoneError(f"There is no run in {str(path)!r} to continue.")
        return path

    def _introduction(self, run: RunInfo) -> bytes:
        said = {
            "format": FORMAT,
            "run_id": run.run_id,
            "project": run.project,
            "name": run.name,
            "created": run.created,
            "tags": dict(run.tags),
            "context": dict(run.context),
            "parent": self._options.parent,
            "host": run.host,
            "version": run.version,
        }
        return frame("r", note("run", said, run.created))

    def _opened(self) -> _Open:
        if self._open is None:
            raise RuntimeError("This backend is not open.")
        return self._open

    def _let_go(self) -> None:
        here, self._open = self._open, None
        if here is not None:
            here.events.close()


def _events_of(path: Path, run: RunInfo) -> EventsFile:
    """Open the event file of a run, or begin it."""
    there = sorted(path.glob(_EVENTS))
    if there:
        events = EventsFile(there[0], create=False)
    else:
        host = re.sub(r"[^\w.-]", "_", run.host or socket.gethostname() or "host")[:100]
        name = f"events.out.tfevents.{max(1, int(run.created)):010d}.{host}.tracelet"
        events = EventsFile(path / name, create=True)
    try:
        if not events.whole:
            events.append(first_frame(encoding.event(run.created, 0, encoding.VERSION)))
    except BaseException:
        events.close()
        raise
    return events


def _read_on(here: _Open) -> bool:
    """Find the places to go on from; True when the file says that this very run is going on."""
    run_id, running = "", False
    for letter, place, parameter, event in here.events:
        if letter == "r":
            run_id, running = str(_noted(event).get("run_id")), True
        elif letter == "e":
            running = False
        elif place >= 0 and run_id == here.run.run_id:
            lane = "light" if letter == "l" else "heavy"
            here.ends[lane] = max(here.ends.get(lane, 0), place + 1)
        if parameter:
            said = _noted(event)
            if "key" in said:
                here.params[said["key"]] = said.get("value")
    return running and run_id == here.run.run_id


def _events(batch: Batch, kinds: Kinds) -> list[bytes]:
    """Return each record's event; its file is in the folder then."""
    found = [_event(record, kinds) for record in batch.records]
    bad = {index: reason for index, reason in enumerate(found) if isinstance(reason, str)}
    if bad:
        raise RejectedError(tuple(bad), next(iter(bad.values())))
    return [event for event in found if isinstance(event, bytes)]


def _event(record: Record, kinds: Kinds) -> Union[bytes, str]:
    """Return the event of a record, or the reason why there can be none."""
    try:
        return kinds.event(record)
    except (NotTheFileError, TypeError, ValueError, OverflowError) as error:
        return f"{getattr(record, 'key', '') or type(record).__name__.lower()}: {error}"


def _missing(here: _Open, batch: Batch, events: list[bytes]) -> list[bytes]:
    """Return the frames of a batch that are not in the file."""
    known: Counter[bytes] = Counter()
    if batch.resend or batch.offset < here.ends.get(batch.lane, 0):
        known = _known(here, batch)
    letter = batch.lane[0]
    missing: list[bytes] = []
    for number, (record, event) in enumerate(zip(batch.records, events), batch.offset):
        if known[event] > 0:
            known[event] -= 1
        else:
            last = "p" if isinstance(record, Param) else ""
            missing.append(frame(f"{letter}{number}{last}", event))
    return missing


def _known(here: _Open, batch: Batch) -> Counter[bytes]:
    """Count the events that are there already of the range that a batch is from."""
    # By content and not by place: a record that was rejected moves the ones behind it.
    wanted, run_id = batch.lane[0], ""
    known: Counter[bytes] = Counter()
    for letter, place, _, event in here.events:
        if letter == "r":
            run_id = str(_noted(event).get("run_id"))
        elif letter == wanted and place >= batch.offset and run_id == here.run.run_id:
            known[event] += 1
    return known


def _noted(event: bytes) -> Mapping[str, Any]:
    """Return what one of our own events says; nothing when it is damaged."""
    wire = Wire(event)
    try:
        [value] = read_values(wire, read_event(wire))
        [text] = read_strings(wire, read_tensor(wire, value.span))
        found = json.loads(text)
    except (WireError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _session(here: _Open, end: Optional[tuple[float, bytes]]) -> bytes:
    """Return the file that the hparams plugin reads."""
    created = here.run.created
    start = encoding.summary(encoding.session_start(here.params, created))
    frames = [
        first_frame(encoding.event(created, 0, encoding.VERSION)),
        first_frame(encoding.event(created, 0, start)),
    ]
    if end is not None:
        frames.append(first_frame(encoding.event(end[0], 0, encoding.summary(end[1]))))
    return b"".join(frames)


def _replace(path: Path, content: bytes) -> None:
    # Not a name that a reader of event files would open before it is whole.
    part = path.with_name(f".{secrets.token_hex(4)}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
