"""A run as TensorBoard's events, and what goes beside them."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from tracelet.backends.plain.appended import Entry
from tracelet.backends.plain.files import RunFiles
from tracelet.backends.plain.journal import Journal
from tracelet.backends.tensorboard import encoding, projector
from tracelet.backends.tensorboard.frames import EventsFile, first_frame, frame
from tracelet.backends.tensorboard.kinds import Kinds, note
from tracelet.records import Param, Record, RunInfo, RunStatus, Scalar
from tracelet.tfevents.event import read_event, read_values
from tracelet.tfevents.tensor import read_strings, read_tensor
from tracelet.tfevents.wire import Wire, WireError

#: TensorBoard reads the files of a folder in the order of their names, and never goes back.
_HPARAMS = "events.out.tfevents.0000000000.hparams"
EVENTS = "events.out.tfevents.*.tracelet"
#: What the hparams plugin calls an end.
_ENDS: Mapping[RunStatus, int] = {RunStatus.FINISHED: 1, RunStatus.FAILED: 2, RunStatus.KILLED: 2}


class EventJournal(Journal):
    """
    A run's events while they are written.

    Args:
        run: Who the run is.
        file: Its file, open.
        parent: Id of the run that this one belongs to.
        single: Whether scalars are of 32 bits.
    """

    def __init__(
        self, run: RunInfo, file: EventsFile, parent: Optional[str], *, single: bool
    ) -> None:
        self._folder = file.path.parent
        self._params: dict[str, Scalar] = {}
        files = RunFiles(self._folder)
        self._kinds = Kinds(files, self._gather, single=single)
        super().__init__(run, file, files, parent)

    @property
    def path(self) -> Path:
        """The folder of the run: there are several files in it."""
        return self._folder

    def _content(self, record: Record) -> bytes:
        return self._kinds.event(record)

    def _placed(self, letter: str, place: int, record: Record, content: bytes) -> bytes:
        last = "p" if isinstance(record, Param) else ""
        return frame(f"{letter}{place}{last}", content)

    def _said(self, what: str, values: Mapping[str, Any], time: float) -> bytes:
        return frame(what[0], note(what, values, time))

    def _run_id(self, entry: Entry) -> Optional[str]:
        return _noted(entry.content).get("run_id")

    def _remember(self, entry: Entry) -> None:
        said = _noted(entry.content)
        if "key" in said:
            self._params[said["key"]] = said.get("value")

    def _added(self, records: Sequence[Record]) -> None:
        params = {each.key: each.value for each in records if isinstance(each, Param)}
        if params:
            self._params.update(params)
            self._write_session()

    def _ending(self, status: RunStatus, time: float) -> None:
        if self._params:
            end = encoding.session_end(_ENDS[status], time)
            self._write_session(first_frame(encoding.event(time, 0, encoding.summary(end))))

    def _write_session(self, end: bytes = b"") -> None:
        """Write the file that the hparams plugin reads."""
        created = self.run.created
        start = encoding.summary(encoding.session_start(self._params, created))
        frames = (
            first_frame(encoding.event(created, 0, encoding.VERSION)),
            first_frame(encoding.event(created, 0, start)),
            end,
        )
        _replace(self._folder / _HPARAMS, b"".join(frames))

    def _gather(self, _: str) -> None:
        """Write the file that the projector reads."""
        _replace(self._folder / projector.CONFIG, projector.gather(self._folder).encode())


def opened(folder: Path, run: RunInfo) -> EventsFile:
    """
    Open the event file of a run, or begin it.

    Raises:
        OSError: That cannot be done; another process may have it open.
    """
    there = sorted(folder.glob(EVENTS))
    if there:
        events = EventsFile(there[0], create=False)
    else:
        host = re.sub(r"[^\w.-]", "_", run.host or socket.gethostname() or "host")[:100]
        name = f"events.out.tfevents.{max(1, int(run.created)):010d}.{host}.tracelet"
        events = EventsFile(folder / name, create=True)
    try:
        if not events.whole:
            events.append(first_frame(encoding.event(run.created, 0, encoding.VERSION)))
    except BaseException:
        events.close()
        raise
    return events


def owner(path: Path) -> Optional[str]:
    """Return the run that began a folder; None when nothing says so."""
    for each in sorted(path.glob(EVENTS))[:1]:
        try:
            events = EventsFile.reading(each)
        except OSError:
            return None
        try:
            for entry in events:
                if entry.letter == "r":
                    return str(_noted(entry.content).get("run_id"))
        finally:
            events.close()
    return None


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
