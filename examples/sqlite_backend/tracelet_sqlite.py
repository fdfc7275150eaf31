"""A backend for tracelet that keeps runs in one SQLite database: tables for whoever knows SQL."""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Iterator, Mapping, Optional

from tracelet import records
from tracelet.backends.base import Backend, BackendOptions, Batch, RemoteRun, RunInfo, RunStatus
from tracelet.errors import ConfigError, RejectedError, RetryableError, RunGoneError

SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, project TEXT, name TEXT, parent TEXT, status TEXT, ended REAL);
CREATE TABLE IF NOT EXISTS tags (run TEXT, key TEXT, value TEXT, PRIMARY KEY (run, key));
CREATE TABLE IF NOT EXISTS params (run TEXT, key TEXT, value TEXT, PRIMARY KEY (run, key));
CREATE TABLE IF NOT EXISTS artifacts (run TEXT, path TEXT, content BLOB, PRIMARY KEY (run, path));
CREATE TABLE IF NOT EXISTS records (
    run TEXT, spool TEXT, lane TEXT, n INTEGER, kind TEXT, key TEXT, step, time REAL,
    value REAL, number INTEGER, data BLOB, facts TEXT);
CREATE INDEX IF NOT EXISTS places ON records (run, spool, lane, n);
CREATE VIEW IF NOT EXISTS metrics AS
    SELECT run, key, step, value, time FROM records WHERE kind = 'metric' ORDER BY rowid;
"""


class SqliteOptions(BackendOptions):
    """Where the database is, how long to wait for others, and whose child the run is."""

    url: str = "tracelet.db"
    timeout_s: float = 5.0
    parent: Optional[str] = None


class SqliteBackend(Backend):
    """Writes each batch in one transaction."""

    name = "sqlite_example"
    Options = SqliteOptions
    accepts: ClassVar[frozenset[type]] = frozenset(records.RECORD_TYPES)

    def __init__(self, options: BackendOptions) -> None:
        super().__init__(options)
        self._options = SqliteOptions.model_validate(options.model_dump())
        self._run = self._spool = ""

    @classmethod
    def resolve(
        cls, options: Mapping[str, Any], environ: Mapping[str, str], cwd: Path
    ) -> tuple[SqliteOptions, Mapping[str, str]]:
        """Make the path absolute: the process that delivers may work elsewhere."""
        given = SqliteOptions(**options)
        return given.model_copy(update={"url": str(cwd / given.url)}), {}

    def preflight(self) -> None:
        """Open the database before training starts."""
        with self._database() as database:
            database.execute("SELECT count(*) FROM runs")

    def look(self, run: RunInfo) -> str:
        """Return what a person can type to see the run."""
        return f"sqlite3 {self._options.url} \"SELECT * FROM metrics WHERE run = '{run.run_id}'\""

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        """Make the run, or go on with it: the id is ours, so that a second call finds it."""
        self._run, self._spool = resume.id if resume else run.run_id, run.run_id
        who = (self._run, run.project or "default", run.name or run.run_id, self._options.parent)
        with self._database() as database:
            if resume is None:
                database.execute("INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, '', NULL)", who)
            again = "UPDATE runs SET status = 'RUNNING', ended = NULL WHERE id = ?"
            if not database.execute(again, (self._run,)).rowcount:
                raise RunGoneError(f"There is no run {resume} in {self._options.url}.")
            tags = [(self._run, key, value) for key, value in run.tags.items()]
            database.executemany("INSERT OR REPLACE INTO tags VALUES (?, ?, ?)", tags)
        return RemoteRun(self._run, run.name or "", look=self.look(run))

    def write(self, batch: Batch) -> None:
        """Write all of it or nothing. What goes again replaces what is there from its place on."""
        if not self._run:
            raise RuntimeError("This backend is not open.")
        place = (self._run, self._spool, batch.lane)
        refused: dict[int, str] = {}
        with self._database() as database:
            if batch.resend:
                where = "run = ? AND spool = ? AND lane = ? AND n >= ?"
                database.execute(f"DELETE FROM records WHERE {where}", (*place, batch.offset))
            for index, record in enumerate(batch.records):
                try:
                    self._insert(database, record, (*place, batch.offset + index))
                except (OSError, OverflowError, UnicodeError) as error:
                    refused[index] = f"{getattr(record, 'key', 'artifact')}: {error}"
            if refused:
                raise RejectedError(tuple(refused), next(iter(refused.values())))

    def _insert(self, database: Any, record: records.Record, place: tuple[Any, ...]) -> None:
        if isinstance(record, (records.Tag, records.Param)):
            table = "tags" if isinstance(record, records.Tag) else "params"
            row: tuple[Any, ...] = (self._run, record.key, str(record.value))
            database.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", row)
        elif isinstance(record, records.Artifact):
            row = (self._run, record.path, _content(record))
            database.execute("INSERT OR REPLACE INTO artifacts VALUES (?, ?, ?)", row)
        else:
            assert not isinstance(record, records.RunEnd)  # that is `close`
            facts = dataclasses.asdict(record)
            kind = facts.pop("kind", type(record).__name__.lower())
            value = record.value if isinstance(record, records.Metric) else None  # NaN becomes NULL
            data = facts.pop("data") if isinstance(record, records.Media) else None
            row = (*place, kind, record.key, record.step, record.time, value)
            row += (facts.get("index", 0), data, None if value is not None else json.dumps(facts))
            database.execute("INSERT INTO records VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", row)

    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        """Say how the run ended; ``RUNNING`` only lets go of it."""
        if self._run and status is not RunStatus.RUNNING:
            with self._database() as database:
                end = (status.value, time, self._run)
                database.execute("UPDATE runs SET status = ?, ended = ? WHERE id = ?", end)
        self._run = ""

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """One transaction; what SQLite says becomes one of the three answers."""
        path, timeout = self._options.url, self._options.timeout_s
        try:
            with closing(sqlite3.connect(path, timeout)) as database, database:
                database.executescript(SCHEMA)
                yield database
        except sqlite3.OperationalError as error:
            raise RetryableError(f"{path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"{path} is no database of ours: {error}") from error


def _content(artifact: records.Artifact) -> bytes:
    """Return the bytes of a file as it was when it was logged."""
    with open(artifact.source, "rb") as file:
        content, found = file.read(), os.fstat(file.fileno())
    identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    if len(content) != artifact.size or artifact.identity not in (None, identity):
        raise OSError("the file has changed since it was logged")
    return content
