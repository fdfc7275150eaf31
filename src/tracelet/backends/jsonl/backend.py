"""How a batch gets into a run's file exactly once."""

from __future__ import annotations

import errno
import os
import re
import threading
import time as clock
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Iterable, Iterator, Mapping, NamedTuple, Optional, Union

from tracelet.backends.base import Backend, BackendOptions, Batch
from tracelet.backends.jsonl import places
from tracelet.backends.jsonl.encoding import line, shown
from tracelet.backends.jsonl.files import NotTheFileError, RunFiles
from tracelet.backends.jsonl.lines import LineFile
from tracelet.backends.jsonl.options import JsonlOptions
from tracelet.errors import ConfigError, RejectedError, RetryableError, RunGoneError
from tracelet.findings import Finding, of_error
from tracelet.records import (
    RECORD_TYPES,
    Artifact,
    Media,
    Record,
    RemoteRun,
    RunInfo,
    RunStatus,
)

#: Version of the file's form; goes up when a reader of an older form would be misled.
FORMAT = 1

_SYNC_INTERVAL_S = 1.0

#: How a record's line begins: with its place in the spool.
_PLACE = re.compile(rb'\{"lane": "(\w+)", "n": (\d+), ')

# A person has to change something. Everything else that a disk says may pass.
_HOPELESS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
)


class _Open(NamedTuple):
    """What there is while a run is open."""

    run: RunInfo
    lines: LineFile
    files: RunFiles
    #: For each lane the place behind the last record that is there.
    ends: dict[str, int]


class JsonlBackend(Backend):
    """Writes each run into a file of its own."""

    name = "jsonl"
    Options = JsonlOptions
    accepts: ClassVar[frozenset[type]] = frozenset(RECORD_TYPES)

    @classmethod
    def resolve(
        cls,
        options: Mapping[str, Any],
        environ: Mapping[str, str],  # noqa: ARG003 - this backend has no variables
        cwd: Path,
    ) -> tuple[JsonlOptions, Mapping[str, str]]:
        """
        Make the folder absolute.

        Raises:
            pydantic.ValidationError: An option is unknown or of the wrong type.
            ConfigError: ``url`` is no folder, or says something else than ``path``.
        """
        given = JsonlOptions(**options)
        return JsonlOptions(path=str(given.folder(cwd)), parent=given.parent), {}

    def __init__(self, options: BackendOptions) -> None:
        super().__init__(options)
        self._options = JsonlOptions.model_validate(options.model_dump())
        self._folder = self._options.folder(Path.cwd())
        self._lock = threading.Lock()
        self._open: Optional[_Open] = None
        self._synced: dict[str, float] = {}

    def preflight(self) -> None:
        """
        Make the folder, and see whether one may write into it.

        Raises:
            ConfigError: One may not.
            RetryableError: The disk fails in a way that may pass.
        """
        with _answered(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise ConfigError(
                f"Nothing can be written into the folder {str(self._folder)!r}",
                "give another one with the option 'path'",
            )

    def examine(
        self,
        project: Optional[str],
        sources: Mapping[str, str],
        deadline: float,
    ) -> Iterable[Finding]:
        """See whether one may write into the folder, or make it; see ``Backend.examine``."""
        existing = self._folder
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
            yield Finding("ok", "folder", str(self._folder))
        else:
            yield of_error(self._refusal(), "folder")

    def _refusal(self) -> ConfigError:
        return ConfigError(
            f"Nothing can be written into the folder {str(self._folder)!r}",
            "give another one with the option 'path'",
        )

    def look(self, run: RunInfo) -> str:
        """Return the path of the run's file."""
        return str(places.find(self._folder, run)[0])

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        """
        Make the run's file, or go on in it.

        Raises:
            ConfigError: The folder cannot be used, or ``resume.id`` is no id of ours.
            RunGoneError: The file of the run to continue is not there.
            RetryableError: The disk does not work now, or another process has the file open.
        """
        self._let_go()
        lines = self._begin(run) if resume is None else self._continue(resume.id)
        path = lines.path
        self._open = _Open(run, lines, RunFiles(path.with_suffix(".files")), {})
        with _answered(path):
            if not _read_on(self._open):
                lines.append(line(self._introduction(run)))
        return RemoteRun(id=places.remote_id(path), name=run.name or path.stem, look=str(path))

    def write(self, batch: Batch) -> None:
        """
        Append what is not there yet.

        Raises:
            RejectedError: A record has no form in JSON; an artifact's file is not what it was.
            RunGoneError: Somebody deleted the file.
            RetryableError: The disk does not take it now; nothing of the batch is in the file.
        """
        here = self._opened()
        with _answered(here.lines.path, RetryableError):
            # Large files are copied outside the lock: the curves do not wait for them.
            endings = _endings(batch, here.files)
            with self._lock:
                if here.lines.gone:
                    raise RunGoneError(f"The file {str(here.lines.path)!r} was deleted.")
                here.lines.append(b"".join(_missing(here, batch, endings)))
                end = batch.offset + len(batch.records)
                here.ends[batch.lane] = max(here.ends.get(batch.lane, 0), end)
            # Not under the lock either, and each lane its own: a checkpoint takes seconds.
            if clock.monotonic() - self._synced.get(batch.lane, 0.0) > _SYNC_INTERVAL_S:
                if batch.lane == "heavy":
                    here.files.sync()
                here.lines.sync()
                self._synced[batch.lane] = clock.monotonic()

    def barrier(self) -> None:
        """
        Make what was written survive the machine.

        Raises:
            RetryableError: The disk does not take it now.
        """
        here = self._opened()
        with _answered(here.lines.path, RetryableError):
            here.files.sync()
            here.lines.sync()

    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        """
        Write how the run ended; ``RUNNING`` only lets go of the file.

        Raises:
            RetryableError: The disk does not take it now; the run is still open.
        """
        here = self._open
        if here is None:
            return
        with _answered(here.lines.path, RetryableError), self._lock:
            if status is not RunStatus.RUNNING:
                ended = clock.time() if time is None else time
                here.lines.append(line({"type": "end", "status": status.value, "time": ended}))
            here.files.sync()
            here.lines.sync()
        self._let_go()

    def _begin(self, run: RunInfo) -> LineFile:
        path, exists = places.find(self._folder, run)
        with _answered(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return LineFile(path, create=not exists)
            except FileExistsError as error:
                # The next try finds it there, and takes the longer name.
                raise RetryableError(f"another run began {str(path)!r} just now") from error

    def _continue(self, run_id: str) -> LineFile:
        path = places.path_of(self._folder, run_id)
        if path is None:
            raise ConfigError(f"{run_id!r} is no run of the jsonl backend: say 'project/name'.")
        if not path.is_file():
            raise RunGoneError(f"There is no file {str(path)!r} to continue.")
        with _answered(path):
            return LineFile(path, create=False)

    def _introduction(self, run: RunInfo) -> Mapping[str, Any]:
        return {
            "type": "run",
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

    def _opened(self) -> _Open:
        if self._open is None:
            raise RuntimeError("This backend is not open.")
        return self._open

    def _let_go(self) -> None:
        here, self._open = self._open, None
        if here is not None:
            here.lines.close()


def _read_on(here: _Open) -> bool:
    """Find the places to go on from; True when the file says that this very run is going on."""
    run_id, running = "", False
    for text in here.lines:
        place = _PLACE.match(text)
        if place is None:
            said = places.said(text)
            running = said.get("type") == "run" or (running and said.get("type") != "end")
            run_id = said.get("run_id", run_id)
        elif run_id == here.run.run_id:
            lane = place[1].decode()
            here.ends[lane] = max(here.ends.get(lane, 0), int(place[2]) + 1)
    return running and run_id == here.run.run_id


def _missing(here: _Open, batch: Batch, endings: list[bytes]) -> list[bytes]:
    """Return the lines of a batch that are not in the file."""
    known: Counter[bytes] = Counter()
    if batch.resend or batch.offset < here.ends.get(batch.lane, 0):
        known = _known(here, batch)
    missing: list[bytes] = []
    for number, ending in enumerate(endings, batch.offset):
        if known[ending] > 0:
            known[ending] -= 1
        else:
            missing.append(b'{"lane": "%s", "n": %d, ' % (batch.lane.encode(), number) + ending)
    return missing


def _known(here: _Open, batch: Batch) -> Counter[bytes]:
    """Count the lines that are there already of the range that a batch is from."""
    # By content and not by place: a record that was rejected moves the ones behind it.
    lane, run_id = batch.lane.encode(), ""
    known: Counter[bytes] = Counter()
    for text in here.lines:
        place = _PLACE.match(text)
        if place is None:
            run_id = places.said(text).get("run_id", run_id)
        elif place[1] == lane and int(place[2]) >= batch.offset and run_id == here.run.run_id:
            known[text[place.end() :] + b"\n"] += 1
    return known


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


@contextmanager
def _answered(path: Path, otherwise: Optional[type[RetryableError]] = None) -> Iterator[None]:
    """Turn what the disk says into one of a backend's answers."""
    try:
        yield
    except BlockingIOError as error:
        raise RetryableError(f"another process is writing {str(path)!r}") from error
    except OSError as error:
        if otherwise is None and error.errno in _HOPELESS:
            raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}.") from error
        raise RetryableError(f"{str(path)!r} cannot be written now: {error.strerror}") from error
