"""The lines of one run: each record is there exactly once, whatever is sent again."""

from __future__ import annotations

import json
import re
import threading
import time as clock
from collections import Counter
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Union

from tracelet.backends.base import Batch
from tracelet.backends.plain.encoding import line, shown
from tracelet.backends.plain.files import RunFiles
from tracelet.backends.plain.lines import LineFile
from tracelet.backends.sources import NotTheFileError
from tracelet.errors import RejectedError, RunGoneError
from tracelet.records import Artifact, Media, Record, RunInfo, RunStatus

#: Version of the lines' form; goes up when a reader of an older form would be misled.
FORMAT = 1

_SYNC_INTERVAL_S = 1.0

#: How a record's line begins: with its place in the spool.
_PLACE = re.compile(rb'\{"lane": "(\w+)", "n": (\d+), ')


class Journal:
    """
    A run's file while it is open.

    Args:
        run: Who the run is.
        lines: Its file, open.
        files: Where its media and artifacts go.
        parent: Id of the run that this one belongs to.

    Raises:
        OSError: The disk does not take the run's first line.
    """

    def __init__(
        self, run: RunInfo, lines: LineFile, files: RunFiles, parent: Optional[str]
    ) -> None:
        self.run = run
        self.lines = lines
        self.files = files
        #: For each lane the place behind the last record that is there.
        self._ends: dict[str, int] = {}
        self._lock = threading.Lock()
        self._synced: dict[str, float] = {}
        if not self._read_on():
            lines.append(line(_introduction(run, parent)))

    @property
    def path(self) -> Path:
        """The file."""
        return self.lines.path

    def write(self, batch: Batch) -> None:
        """
        Append what is not there yet.

        Raises:
            RejectedError: A record has no form in JSON; an artifact's file is not what it was.
            RunGoneError: Somebody deleted the file.
            OSError: The disk does not take it now; nothing of the batch is in the file.
        """
        # Large files are copied outside the lock: the curves do not wait for them.
        endings = _endings(batch, self.files)
        with self._lock:
            if self.lines.gone:
                raise RunGoneError(f"The file {str(self.path)!r} was deleted.")
            self.lines.append(b"".join(self._missing(batch, endings)))
            end = batch.offset + len(batch.records)
            self._ends[batch.lane] = max(self._ends.get(batch.lane, 0), end)
        # Not under the lock either, and each lane its own: a checkpoint takes seconds.
        if clock.monotonic() - self._synced.get(batch.lane, 0.0) > _SYNC_INTERVAL_S:
            if batch.lane == "heavy":
                self.files.sync()
            self.lines.sync()
            self._synced[batch.lane] = clock.monotonic()

    def sync(self) -> None:
        """Make what was written survive the machine."""
        self.files.sync()
        self.lines.sync()

    def end(self, status: RunStatus, time: Optional[float]) -> None:
        """Write how the run ended; nothing for ``RUNNING``."""
        with self._lock:
            if status is not RunStatus.RUNNING:
                ended = clock.time() if time is None else time
                self.lines.append(line({"type": "end", "status": status.value, "time": ended}))
            self.sync()

    def entries(self) -> Iterator[dict[str, Any]]:
        """Return what each line says, from the beginning; lines may be added meanwhile."""
        for text in self.lines:
            found = said(text)
            if found:
                yield dict(found)

    def close(self) -> None:
        """Let go of the file."""
        self.lines.close()

    def _read_on(self) -> bool:
        """Find the places to go on from; True when the file says that this run is going on."""
        run_id, running = "", False
        for text in self.lines:
            place = _PLACE.match(text)
            if place is None:
                found = said(text)
                running = found.get("type") == "run" or (running and found.get("type") != "end")
                run_id = found.get("run_id", run_id)
            elif run_id == self.run.run_id:
                lane = place[1].decode()
                self._ends[lane] = max(self._ends.get(lane, 0), int(place[2]) + 1)
        return running and run_id == self.run.run_id

    def _missing(self, batch: Batch, endings: list[bytes]) -> list[bytes]:
        """Return the lines of a batch that are not in the file."""
        known: Counter[bytes] = Counter()
        if batch.resend or batch.offset < self._ends.get(batch.lane, 0):
            known = self._known(batch)
        missing: list[bytes] = []
        for number, ending in enumerate(endings, batch.offset):
            if known[ending] > 0:
                known[ending] -= 1
            else:
                missing.append(b'{"lane": "%s", "n": %d, ' % (batch.lane.encode(), number) + ending)
        return missing

    def _known(self, batch: Batch) -> Counter[bytes]:
        """Count the lines that are there already of the range that a batch is from."""
        # By content and not by place: a record that was rejected moves the ones behind it.
        lane, run_id = batch.lane.encode(), ""
        known: Counter[bytes] = Counter()
        for text in self.lines:
            place = _PLACE.match(text)
            if place is None:
                run_id = said(text).get("run_id", run_id)
            elif place[1] == lane and int(place[2]) >= batch.offset and run_id == self.run.run_id:
                known[text[place.end() :] + b"\n"] += 1
        return known


def said(text: bytes) -> Mapping[str, Any]:
    """Return what a line says; nothing when it is damaged."""
    try:
        values = json.loads(text)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def owner(path: Path) -> Optional[str]:
    """Return the run that began a file of lines; None when it has no whole first line."""
    try:
        with open(path, "rb") as file:
            first = file.readline()
    except OSError:
        return None
    found = said(first).get("run_id") if first.endswith(b"\n") else None
    return found if isinstance(found, str) else None


def _introduction(run: RunInfo, parent: Optional[str]) -> Mapping[str, Any]:
    return {
        "type": "run",
        "format": FORMAT,
        "run_id": run.run_id,
        "project": run.project,
        "name": run.name,
        "created": run.created,
        "tags": dict(run.tags),
        "context": dict(run.context),
        "parent": parent,
        "host": run.host,
        "version": run.version,
    }


def _endings(batch: Batch, files: RunFiles) -> list[bytes]:
    """Return each record's line from behind its place on; its file is in the folder then."""
    found = [_ending(record, files) for record in batch.records]
    bad = {index: reason for index, reason in enumerate(found) if isinstance(reason, str)}
    if bad:
        raise RejectedError(tuple(bad), next(iter(bad.values())))
    return [ending for ending in found if isinstance(ending, bytes)]


def _ending(record: Record, files: RunFiles) -> Union[bytes, str]:
    """Return the end of a record's line, or the reason why there can be none."""
    values = shown(record)
    try:
        if isinstance(record, Media):
            values.update(files.media(record))
        elif isinstance(record, Artifact):
            values.update(files.artifact(record))
        return line(values)[1:]
    except (NotTheFileError, TypeError, ValueError) as error:
        return f"{getattr(record, 'key', '') or values['type']}: {error}"
