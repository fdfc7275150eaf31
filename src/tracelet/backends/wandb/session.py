"""
One session of the vendor's client: from ``init`` to ``finish``.

What is logged in a session is in the memory of the core until ``finish`` has returned. Nothing here
waits longer than its limit; a call that is late is for the caller to end, with the core.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time as clock
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Optional, Sequence

from tracelet.backends.bounded import Bounded
from tracelet.backends.wandb.media import Attic, made
from tracelet.backends.wandb.names import STEP
from tracelet.backends.wandb.options import HOSTED, WandbOptions
from tracelet.backends.wandb.outbox import Entry
from tracelet.backends.wandb.rows import Row
from tracelet.backends.wandb.sign import Sign
from tracelet.backends.wandb.swift import swift
from tracelet.backends.wandb.transactionlog import payloads
from tracelet.errors import BackendError, ConfigError, RetryableError, RunGoneError, shortened

__all__ = ["Identity", "Session", "last_row"]

_THREAD = "tracelet-wandb-call"
_SHOWN = 300
_POLL_S = 0.05
_STOPPING_S = 1.0
#: A core has half a second to start; on a busy machine it takes some.
_STARTING_S = 10.0
_MARK = "_tracelet.confirmed"
_FILLER = "_tracelet.filler"
_BLOCK_BYTES = 33_000
_FLUSHES = "x_transaction_log_flush_interval"


@dataclass(frozen=True)
class Identity:
    """Which run, and what it is called. ``settings`` are further ones of the vendor's."""

    id: str
    project: str
    name: Optional[str]
    entity: Optional[str] = None
    group: Optional[str] = None
    job_type: Optional[str] = None
    notes: Optional[str] = None
    continued: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


class Session:
    """
    A session.

    Args:
        wandb: The vendor's module.
        options: The complete options, with the key.
        identity: The run.
        folder: Where the client may keep its files.
        config: Parameters that are new.
        labels: The run's labels.
        sign: Of a server.
        ends: The run ends with this session.
    """

    def __init__(
        self,
        wandb: Any,
        options: WandbOptions,
        identity: Identity,
        folder: Path,
        *,
        config: Mapping[str, Any],
        labels: Sequence[str],
        sign: Optional[Sign] = None,
        ends: bool = False,
    ) -> None:
        self._wandb = wandb
        self._options = options
        self._folder = folder
        self.ends = ends
        self._sign = sign
        self.offline = options.mode == "offline"
        self._bytes = 0.0
        self._run: Any = None
        self._start = 0
        #: How many entries of the outbox were handed over.
        self.handed = 0
        #: The number of the next row.
        self.row = 0
        folder.mkdir(parents=True, exist_ok=True)
        #: How far the file of an offline run was read.
        self._seen = 7
        # The client has the same limit, and comes to a clean end when it finds out by itself.
        limit = options.timeout_s + _STOPPING_S + _STARTING_S
        try:
            self._call("opening the run", self._init, identity, config, labels, limit_s=limit)
        except BaseException:
            self.drop()
            raise

    @property
    def start(self) -> int:
        """The number of the first row that W&B does not have."""
        return self._start if self.offline else int(self._run.starting_step)

    def resumes_at(self, number: int) -> None:
        """Say which row is the first one of an offline session."""
        self._start = number

    @property
    def url(self) -> Optional[str]:
        """Where the run can be looked at."""
        found = self._run.url
        return str(found) if found else None

    @property
    def name(self) -> str:
        """What the run is called."""
        return str(self._run.name or self._run.id)

    @property
    def entity(self) -> str:
        """Whose run it is."""
        return str(self._run.entity or "")

    @property
    def log(self) -> Path:
        """The file of an offline run."""
        return Path(self._run.settings.sync_file)

    @property
    def place(self) -> Path:
        """The folder of the session."""
        return Path(self._run.settings.sync_dir)

    def send(self, entries: Iterable[Entry], rows: Iterable[tuple[int, Row]], attic: Attic) -> None:
        """
        Hand over what comes next.

        Args:
            entries: What is new.
            rows: Their rows with their numbers, also those that the server has already.
            attic: Where the files are.
        """
        entries, rows = list(entries), list(rows)
        self._bytes += sum(_size(entry, attic) for entry in entries)
        self._call("sending rows", self._send, entries, rows, attic)
        self.handed += len(entries)
        self.row = rows[-1][0] + 1 if rows else self.row

    def update(self, config: Mapping[str, Any], labels: Iterable[str]) -> None:
        """Set parameters and labels."""
        self._call("sending parameters", self._update, dict(config), tuple(labels))

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Set what the table of runs shows of each metric."""
        self._call("sending the summary", self._run.summary.update, dict(values))

    def save(self, name: str, content: str) -> None:
        """Keep a small file of the run under its name."""
        path = Path(self._run.dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        self._call(
            "sending a file",
            lambda: self._run.save(str(path), base_path=self._run.dir, policy="now"),
        )

    def finish(self, exit_code: int = 0, limit_s: Optional[float] = None) -> None:
        """Return when everything is where it belongs."""
        self._call("waiting for W&B", self._run.finish, exit_code, limit_s=limit_s)
        if not self.offline:
            shutil.rmtree(self.place, ignore_errors=True)

    def drop(self) -> None:
        """Let the client's threads of this run end; its core is about to be killed."""
        if self._run is None:
            return
        # At the end of the process it would try to finish the run.
        self._run._atexit_cleanup_called = True  # noqa: SLF001
        checker = getattr(self._run, "_run_status_checker", None)
        if checker is not None:
            with contextlib.suppress(BackendError, OSError, RuntimeError):
                Bounded(_STOPPING_S, _THREAD)("stopping the checks", checker.join)

    def settle(self, number: int) -> None:
        """Return when everything so far is in the file of an offline run, and on the disk."""
        self._call("writing parameters", self._mark, number)
        deadline = clock.monotonic() + self._limit()
        position = self._seen
        while True:
            from wandb.proto import wandb_internal_pb2

            if self.log.exists():
                for behind, data in payloads(self.log, position):
                    position = behind
                    record = wandb_internal_pb2.Record.FromString(data)
                    if any(
                        item.key == _MARK and item.value_json == str(number)
                        for item in record.config.update
                    ):
                        self._seen = position
                        _force(self.log)
                        self._bytes = 0
                        return
            if clock.monotonic() > deadline:
                raise RetryableError("W&B does not write its file")
            clock.sleep(_POLL_S)

    def _await_another_second(self, run_id: str) -> None:
        """The client names its folder after the second, and would write over what is there."""
        while any((self._folder / "wandb").glob(f"offline-run-{_second()}*-{run_id}*")):
            clock.sleep(_POLL_S)

    def _mark(self, number: int) -> None:
        self._update({_MARK: number}, None)
        if _FLUSHES not in self._wandb.Settings.model_fields:
            # An older core (0.26) writes a block when it is full. What fills it is taken back.
            self._run.summary[_FILLER] = " " * _BLOCK_BYTES
            del self._run.summary[_FILLER]

    def _init(self, identity: Identity, config: Mapping[str, Any], labels: Sequence[str]) -> None:
        options = self._options
        if self.offline:
            self._await_another_second(identity.id)
        key = options.api_key.get_secret_value() if options.api_key is not None else None
        wanted = {
            **identity.settings,
            "base_url": options.url or HOSTED,
            "api_key": None if self.offline else key,
            "console": "off",
            "silent": True,
            "quiet": True,
            "sync_tensorboard": False,
            "disable_code": True,
            "disable_git": True,
            "disable_job_creation": True,
            "x_disable_meta": True,
            "x_disable_machine_info": True,
            "x_disable_stats": True,
            "x_save_requirements": False,
            "x_update_finish_state": self.ends or self.offline,
            "x_skip_transaction_log": not self.offline,
            "x_file_stream_transmit_interval": 1,
            _FLUSHES: 0.1,
            "init_timeout": options.timeout_s,
            "allow_media_symlink": False,
            "allow_val_change": True,
            # What was away for a moment is asked again soon: our own limit is the shorter one.
            "x_file_stream_retry_wait_min_seconds": 1,
            "x_file_transfer_retry_wait_min_seconds": 1,
            "x_graphql_retry_wait_min_seconds": 1,
            "x_file_stream_retry_wait_max_seconds": 5,
            "x_file_transfer_retry_wait_max_seconds": 5,
            "x_graphql_retry_wait_max_seconds": 5,
        }
        known = self._wandb.Settings.model_fields
        settings = {name: value for name, value in wanted.items() if name in known}
        self._run = self._wandb.init(
            entity=identity.entity,
            project=identity.project,
            id=identity.id,
            name=identity.name,
            group=identity.group,
            job_type=identity.job_type,
            notes=identity.notes,
            config=dict(config),
            tags=tuple(labels),
            dir=str(self._folder),
            mode=options.mode,
            resume=None if self.offline else "must" if identity.continued else "allow",
            reinit="create_new",
            settings=self._wandb.Settings(**settings),
        )
        self._artifacts = itertools.count()
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP, step_sync=False)

    def _send(
        self, entries: Iterable[Entry], rows: Iterable[tuple[int, Row]], attic: Attic
    ) -> None:
        for plain, group in itertools.groupby(rows, lambda each: _plain(each[1])):
            if plain:
                with swift(self._run) as log:
                    self._log(group, attic, log)
            else:
                # Some media wait for an answer to what would not have been sent yet.
                self._log(group, attic, None)
        for entry in entries:
            for name, kind, meta, files in entry.artifacts:
                self._artifact(name, kind, meta, files, attic)

    def _log(
        self,
        rows: Iterable[tuple[int, Row]],
        attic: Attic,
        log: Optional[Callable[[int, Row], bool]],
    ) -> None:
        for number, row in rows:
            if log is not None and number >= self.start and log(number, row):
                continue
            values = {key: made(self._wandb, value, attic) for key, value in row.items()}
            if number >= self.start:
                self._run.log(values, step=number, commit=True)
            else:
                self._again(number, row, values)

    def _again(self, number: int, row: Row, values: Row) -> None:
        """A row that the server has: its files may not have got there."""
        from wandb.sdk.data_types.utils import val_to_json

        for key, value in row.items():
            if not isinstance(value, dict) or value["wandb"] == "histogram":
                continue  # all of it is in the row
            name, whole = key, values[key]
            if value["wandb"] == "curve":
                # As the client does it: what a chart shows is a table beside it.
                whole.spec.key = key
                name, whole = whole.spec.table_key, whole.table
            val_to_json(self._run, name, whole, namespace=number)

    def _artifact(
        self, name: str, kind: str, meta: Mapping[str, Any], files: Any, attic: Attic
    ) -> None:
        artifact = self._wandb.Artifact(name, kind, metadata=dict(meta))
        for path, source, kept in files:
            origin = attic.path(source) if kept else source
            if self.offline:
                origin = self._own_copy(origin)
            artifact.add_file(origin, path, policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def _own_copy(self, source: str) -> str:
        """Copy a file to the folder of an offline run, which has to stand alone."""
        number = next(self._artifacts)
        target = self.place / "artifacts" / f"{number:05}-{Path(source).name[:60]}"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)
        return str(target)

    def _update(self, config: Mapping[str, Any], labels: Optional[tuple[str, ...]]) -> None:
        if config:
            self._run.config.update(config, allow_val_change=True)
        if labels is not None and tuple(self._run.tags or ()) != labels:
            self._run.tags = labels

    def _limit(self) -> float:
        return self._options.timeout_s + self._bytes / self._options.slowest_bytes_per_s

    def _call(self, what: str, function: Any, *args: Any, limit_s: Optional[float] = None) -> Any:
        limit = self._limit() if limit_s is None else limit_s
        call = Bounded(limit, _THREAD, self._sign).attempt(what, function, *args)
        error = call.kept.error
        if error is None:
            return call.result
        if isinstance(error, BackendError) or not isinstance(error, Exception):
            raise error
        raise _understood(what, error) from error


def _second() -> str:
    return clock.strftime("%Y%m%d_%H%M%S")


def _plain(row: Row) -> bool:
    return not any(type(value) is dict for value in row.values())


def _understood(what: str, error: Exception) -> BackendError:
    """Return our word for what the client raised; names, because versions differ in places."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = shortened(str(error) or type(error).__name__, _SHOWN)
    if "UsageError" in kinds and "resume" in text:
        return RunGoneError(f"W&B has no such run: {text}")
    if "AuthenticationError" in kinds or "not logged in" in text or "permission" in text:
        return ConfigError(f"W&B refuses: {text}", "look at the key and at the entity")
    # Records were looked at before: it is the way that fails, whatever it is called.
    return RetryableError(f"{what}: {text}")


def last_row(log: Path) -> int:
    """Return the number behind the last whole row in the file of an offline run, or 0."""
    from wandb.proto import wandb_internal_pb2

    behind = 0
    with contextlib.suppress(FileNotFoundError):
        for _, data in payloads(log):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                behind = max(behind, record.history.step.num + 1)
    return behind


def _size(entry: Entry, attic: Attic) -> float:
    size = 200.0 * len(entry.rows)
    files = [attic.path(name) for name in entry.files]
    files += [source for each in entry.artifacts for _, source, kept in each[3] if not kept]
    for path in files:
        with contextlib.suppress(OSError):
            size += Path(path).stat().st_size
    return size


def _force(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
