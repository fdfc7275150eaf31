"""The contract, on this backend. What arrived is read with SQL, never with the backend."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager
from typing import Any, ClassVar, Iterator, Mapping, Optional

from tracelet.backends.base import Backend, RemoteRun, RunInfo
from tracelet.records import Metric, Record
from tracelet.testing import BackendSuite, Item, Seen
from tracelet_sqlite import SqliteBackend, SqliteOptions


class TestSqlite(BackendSuite):
    cannot: ClassVar[Mapping[str, str]] = {
        "busy": "SQLite does not say how long to wait.",
        "unavailable": "A database that cannot answer is locked: that is 'down'.",
        "lost_answer": "A transaction is there or it is not.",
    }

    def backend(self) -> Backend:
        return SqliteBackend(SqliteOptions(url=self.path, timeout_s=0.5))

    def child_of(self, parent: RemoteRun, run: RunInfo) -> tuple[Backend, RunInfo]:
        return SqliteBackend(SqliteOptions(url=self.path, parent=parent.id)), run

    @property
    def path(self) -> str:
        return str(self.folder / "runs.db")

    def rows(self, sql: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as database:
            return database.execute(sql, values).fetchall()

    def read_back(self, remote: RemoteRun) -> Seen:
        run = remote.id
        [(project, name, parent, status)] = self.rows(
            "SELECT project, name, parent, status FROM runs WHERE id = ?", run
        )
        metrics: dict[str, list[Metric]] = {}
        for key, step, value, time in self.rows(
            "SELECT key, step, value, time FROM metrics WHERE run = ?", run
        ):
            number = float("nan") if value is None else value
            metrics.setdefault(key, []).append(Metric(key, number, step, time))
        records = self.rows(
            "SELECT kind, key, step, number, data, facts FROM records"
            " WHERE run = ? AND kind != 'metric'",
            run,
        )
        return Seen(
            id=run,
            project=project,
            name=name,
            status=status,
            tags=dict(self.rows("SELECT key, value FROM tags WHERE run = ?", run)),
            params=dict(self.rows("SELECT key, value FROM params WHERE run = ?", run)),
            metrics=metrics,
            items=[
                Item(kind, key, step, number, _content(kind, data, facts))
                for kind, key, step, number, data, facts in records
            ],
            artifacts=dict(self.rows("SELECT path, content FROM artifacts WHERE run = ?", run)),
            parent=parent,
        )

    @contextmanager
    def break_with(self, fault: str) -> Iterator[Optional[Record]]:
        if fault == "bad_record":
            yield Metric("too far", 1.0, 2**70, 1.0)
        elif fault == "refused":
            (self.folder / "runs.db").write_text("not a database" * 100)
            yield None
            (self.folder / "runs.db").unlink()
        else:
            # Somebody else holds the database: "down" and "hang" look the same.
            with closing(sqlite3.connect(self.path)) as database:
                database.execute("BEGIN EXCLUSIVE")
                yield None
                database.rollback()


def _content(kind: str, data: Optional[bytes], facts: str) -> Any:
    if data is not None:
        return data
    found = json.loads(facts)
    if kind == "histogram":
        return (found["edges"], found["counts"])
    return (found["columns"], found["rows"]) if kind == "table" else found["text"]
