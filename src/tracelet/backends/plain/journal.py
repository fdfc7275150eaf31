"""What is written of one run: each record is there exactly once, whatever is sent again."""

from __future__ import annotations

import threading
import time as clock
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Union

from tracelet.backends.base import Batch
from tracelet.backends.plain.appended import AppendedFile, Entry
from tracelet.backends.plain.files import RunFiles
from tracelet.backends.sources import NotTheFileError
from tracelet.errors import RejectedError, RunGoneError
from tracelet.records import Record, RunInfo, RunStatus

#: Version of what is written; goes up when a reader of an older form would be misled.
FORMAT = 1

_SYNC_INTERVAL_S = 1.0


class Journal(ABC):
    """
    A run's file while it is open.

    Args:
        run: Who the run is.
        file: Its file, open.
        files: Where its media and artifacts go.
        parent: Id of the run that this one belongs to.

    Raises:
        OSError: The disk does not take the run's first entry.
    """

    def __init__(
        self, run: RunInfo, file: AppendedFile, files: RunFiles, parent: Optional[str]
    ) -> None:
        self.run = run
        self.file = file
        self.files = files
        #: For each lane, by its letter, the place behind the last record that is there.
        self._ends: dict[str, int] = {}
        self._lock = threading.Lock()
        self._synced: dict[str, float] = {}
        if not self._read_on():
            file.append(self._said("run", _introduction(run, parent), run.created))

    @property
    def path(self) -> Path:
        """What is written to, for a person."""
        return self.file.path

    def write(self, batch: Batch) -> None:
        """
        Append what is not there yet.

        Raises:
            RejectedError: A record has no form here; an artifact's file is not what it was.
            RunGoneError: Somebody deleted the file.
            OSError: The disk does not take it now; nothing of the batch is in the file.
        """
        # Large files are copied outside the lock: the curves do not wait for them.
        contents = self._contents(batch)
        letter = batch.lane[0]
        with self._lock:
            if self.file.gone:
                raise RunGoneError(f"The file {str(self.file.path)!r} was deleted.")
            self.file.append(b"".join(self._missing(batch, contents)))
            end = batch.offset + len(batch.records)
            self._ends[letter] = max(self._ends.get(letter, 0), end)
            self._added(batch.records)
        # Not under the lock either, and each lane its own: a checkpoint takes seconds.
        if clock.monotonic() - self._synced.get(batch.lane, 0.0) > _SYNC_INTERVAL_S:
            if batch.lane == "heavy":
                self.files.sync()
            self.file.sync()
            self._synced[batch.lane] = clock.monotonic()

    def sync(self) -> None:
        """Make what was written survive the machine."""
        self.files.sync()
        self.file.sync()

    def end(self, status: RunStatus, time: Optional[float]) -> None:
        """Write how the run ended; nothing for ``RUNNING``."""
        with self._lock:
            if status is not RunStatus.RUNNING:
                ended = clock.time() if time is None else time
                self._ending(status, ended)
                self.file.append(self._said("end", {"status": status.value, "time": ended}, ended))
            self.sync()

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

    # -- what differs from one kind of file to another ---------------------------------------

    @abstractmethod
    def _content(self, record: Record) -> bytes:
        """
        Return what an entry says of a record; its file is in the folder then.

        Raises:
            NotTheFileError: The file of an artifact is not the one that was logged.
            TypeError: There is no form for it, as with the other two.
            ValueError: As above.
            OverflowError: As above.
            OSError: The disk does not take its file.
        """

    @abstractmethod
    def _placed(self, letter: str, place: int, record: Record, content: bytes) -> bytes:
        """Return a record's entry."""

    @abstractmethod
    def _said(self, what: str, values: Mapping[str, Any], time: float) -> bytes:
        """Return the entry of ``run`` or ``end``."""

    @abstractmethod
    def _run_id(self, entry: Entry) -> Optional[str]:
        """Return the id of the run that an entry of the letter ``r`` tells of."""

    def _remember(self, entry: Entry) -> None:
        """Take note of a parameter that is there already."""
        return

    def _added(self, records: Sequence[Record]) -> None:
        """Do what else is to be done when records were written."""
        return

    def _ending(self, status: RunStatus, time: float) -> None:
        """Do what else is to be done before the end is written."""
        return

    # -- what is there, and what is not -------------------------------------------------------

    def _read_on(self) -> bool:
        """Find the places to go on from; True when the file says that this run is going on."""
        run_id: Optional[str] = None
        running = False
        for entry in self.file:
            if entry.letter == "r":
                run_id, running = self._run_id(entry), True
            elif entry.letter == "e":
                running = False
            elif entry.place >= 0 and run_id == self.run.run_id:
                self._ends[entry.letter] = max(self._ends.get(entry.letter, 0), entry.place + 1)
            if entry.parameter:
                self._remember(entry)
        return running and run_id == self.run.run_id

    def _contents(self, batch: Batch) -> list[bytes]:
        """Return what there is to say of each record."""
        found = [self._content_or_reason(record) for record in batch.records]
        bad = {index: reason for index, reason in enumerate(found) if isinstance(reason, str)}
        if bad:
            raise RejectedError(tuple(bad), next(iter(bad.values())))
        return [content for content in found if isinstance(content, bytes)]

    def _content_or_reason(self, record: Record) -> Union[bytes, str]:
        try:
            return self._content(record)
        except (NotTheFileError, TypeError, ValueError, OverflowError) as error:
            return f"{getattr(record, 'key', '') or type(record).__name__.lower()}: {error}"

    def _missing(self, batch: Batch, contents: Sequence[bytes]) -> list[bytes]:
        """Return the entries of a batch that are not in the file."""
        letter = batch.lane[0]
        known: Counter[bytes] = Counter()
        if batch.resend or batch.offset < self._ends.get(letter, 0):
            known = self._known(letter, batch.offset)
        missing: list[bytes] = []
        for place, (record, content) in enumerate(zip(batch.records, contents), batch.offset):
            if known[content] > 0:
                known[content] -= 1
            else:
                missing.append(self._placed(letter, place, record, content))
        return missing

    def _known(self, letter: str, offset: int) -> Counter[bytes]:
        """Count what is there already of the range that a batch is from."""
        # By content and not by place: a record that was rejected moves the ones behind it.
        run_id: Optional[str] = None
        known: Counter[bytes] = Counter()
        for entry in self.file:
            if entry.letter == "r":
                run_id = self._run_id(entry)
            elif entry.letter == letter and entry.place >= offset and run_id == self.run.run_id:
                known[entry.content] += 1
        return known


def _introduction(run: RunInfo, parent: Optional[str]) -> Mapping[str, Any]:
    return {
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
