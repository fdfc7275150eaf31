"""
Runs kept in this process: for tests, and to look at a run without any tracker.

What arrives is in ``runs()`` as long as the process lives; nothing is written anywhere and no other
process sees it. A sidecar would therefore deliver into a memory of its own: use this backend with
``shipper="thread"``.

A test makes the store slow, dead or strict by setting ``before_call``.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, ClassVar, Optional

from tracelet.backends.base import Backend, BackendOptions, Batch
from tracelet.backends.sources import is_same
from tracelet.errors import RejectedError, RunGoneError
from tracelet.records import (
    RECORD_TYPES,
    Artifact,
    Metric,
    Param,
    Record,
    RemoteRun,
    RunInfo,
    RunStatus,
    Scalar,
    Tag,
)

__all__ = ["MemoryBackend", "MemoryOptions", "StoredRun", "clear", "runs"]

#: Called with the name of the method before a backend does anything; may raise or sleep.
before_call: Optional[Callable[[str], None]] = None


class MemoryOptions(BackendOptions):
    """
    Options of the memory backend.

    Args:
        parent: Id of the run that this one belongs to.
    """

    parent: Optional[str] = None


@dataclass
class StoredRun:
    """
    A run as it arrived.

    ``records`` holds every record once, in the order of arrival; ``files`` the bytes of artifacts,
    taken when they were written. ``ended`` is in seconds since the epoch.
    """

    id: str
    project: str
    name: str
    tags: dict[str, str]
    parent: Optional[str] = None
    status: RunStatus = RunStatus.RUNNING
    ended: Optional[float] = None
    records: list[Record] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    #: Where each record came from: (run in the spool, lane) → (place in the lane, index above).
    places: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict, repr=False)

    @property
    def metrics(self) -> dict[str, list[Metric]]:
        """The curves: key → points in the order of arrival."""
        curves: dict[str, list[Metric]] = {}
        for record in self.records:
            if isinstance(record, Metric):
                curves.setdefault(record.key, []).append(record)
        return curves

    @property
    def params(self) -> dict[str, Scalar]:
        """The parameters; the last value of each."""
        return {record.key: record.value for record in self.records if isinstance(record, Param)}


_runs: dict[str, StoredRun] = {}
_lock = threading.Lock()


def runs() -> dict[str, StoredRun]:
    """Return the runs of this process by id, oldest first; the runs themselves are live."""
    with _lock:
        return dict(_runs)


def clear() -> None:
    """Forget all runs."""
    with _lock:
        _runs.clear()


class MemoryBackend(Backend):
    """Keeps runs in a dictionary of this process."""

    name = "memory"
    Options = MemoryOptions
    in_memory = True
    accepts: ClassVar[frozenset[type]] = frozenset(RECORD_TYPES)

    def __init__(self, options: BackendOptions) -> None:
        super().__init__(options)
        self._run: Optional[StoredRun] = None
        self._spool_id = ""

    def preflight(self) -> None:
        """Say yes."""
        _announce("preflight")

    def look(self, run: RunInfo) -> str:
        """Return the expression that shows the run."""
        return f"tracelet.backends.memory.runs()[{run.run_id!r}]"

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        """
        Create the run, or continue the one of this id.

        Raises:
            RunGoneError: The run to continue is not there.
        """
        _announce("open")
        parent = self.options.parent if isinstance(self.options, MemoryOptions) else None
        with _lock:
            if resume is not None and resume.id not in _runs:
                raise RunGoneError(f"There is no run {resume.id!r} in the memory of this process.")
            stored = _runs.setdefault(
                resume.id if resume is not None else run.run_id,
                StoredRun(
                    id=run.run_id,
                    project=run.project or "default",
                    name=run.name or run.run_id,
                    tags=dict(run.tags),
                    parent=parent,
                ),
            )
            stored.status, stored.ended = RunStatus.RUNNING, None
        self._run, self._spool_id = stored, run.run_id
        return RemoteRun(
            id=stored.id,
            name=stored.name,
            look=f"tracelet.backends.memory.runs()[{stored.id!r}]",
        )

    def write(self, batch: Batch) -> None:
        """
        Keep what is not there yet.

        Raises:
            RejectedError: The file of an artifact is gone, or is not the one that was logged.
        """
        stored = self._opened()
        _announce("write")
        files = _contents(batch)
        with _lock:
            places = stored.places.setdefault((self._spool_id, batch.lane), [])
            known = _known(stored, places, batch)
            for index, record in enumerate(batch.records):
                if isinstance(record, Artifact):
                    stored.files[record.path] = files[index]
                if known and known[repr(record)] > 0:
                    known[repr(record)] -= 1
                    continue
                places.append((batch.offset + index, len(stored.records)))
                stored.records.append(record)
                if isinstance(record, Tag):
                    stored.tags[record.key] = record.value

    def barrier(self) -> None:
        """Return: what was written is there."""
        self._opened()
        _announce("barrier")

    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        """End the run; ``RUNNING`` only lets go of it."""
        if self._run is None:
            return
        _announce("close")
        if status is not RunStatus.RUNNING:
            with _lock:
                self._run.status, self._run.ended = status, time
        self._run = None

    def _opened(self) -> StoredRun:
        if self._run is None:
            raise RuntimeError("This backend is not open.")
        return self._run


def _known(stored: StoredRun, places: list[tuple[int, int]], batch: Batch) -> Counter[str]:
    """Count what is there already of the range that a batch is from."""
    if not batch.resend and (not places or places[-1][0] < batch.offset):
        return Counter()
    # By content and not by place: a record that was rejected moves the ones behind it. `repr`
    # because it tells doubles apart exactly, and finds NaN equal to itself.
    there = (stored.records[index] for number, index in places if number >= batch.offset)
    return Counter(map(repr, there))


def _contents(batch: Batch) -> dict[int, bytes]:
    """Read the files of a batch's artifacts: index → bytes."""
    contents: dict[int, bytes] = {}
    gone: list[int] = []
    for index, record in enumerate(batch.records):
        if not isinstance(record, Artifact):
            continue
        try:
            with open(record.source, "rb") as file:
                same = is_same(record, os.fstat(file.fileno()))
                contents[index] = file.read()
        except OSError:
            gone.append(index)
            continue
        if not same or len(contents[index]) != record.size:
            gone.append(index)
    if gone:
        raise RejectedError(gone, "the file is gone, or has changed since it was logged")
    return contents


def _announce(call: str) -> None:
    if before_call is not None:
        before_call(call)
