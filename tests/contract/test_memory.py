"""The memory backend keeps the contract."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Iterator, Mapping, Optional

import pytest

from tracelet.backends import memory
from tracelet.backends.base import Backend, Batch, RemoteRun, RunInfo
from tracelet.backends.memory import MemoryBackend, MemoryOptions
from tracelet.errors import ConfigError, RetryableError
from tracelet.records import (
    Artifact,
    Histogram,
    Media,
    Metric,
    Param,
    Record,
    RunStatus,
    Table,
    Text,
)
from tracelet.testing import BackendSuite, Item, Seen

ANSWERS = {
    "down": RetryableError("nobody there"),
    "busy": RetryableError("too many requests", retry_after=0.5),
    "unavailable": RetryableError("try again later"),
    "refused": ConfigError("wrong key"),
}


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    memory.before_call = None
    memory.clear()


class TestMemory(BackendSuite):
    cannot: ClassVar[Mapping[str, str]] = {
        "other_process": "A run lives in the memory of one process.",
        "lost_answer": "There is no way on which an answer could get lost.",
        "hang": "There is nobody to wait for.",
    }

    def backend(self) -> Backend:
        return MemoryBackend(MemoryOptions())

    def read_back(self, remote: RemoteRun) -> Seen:
        run = memory.runs()[remote.id]
        return Seen(
            id=run.id,
            project=run.project,
            name=run.name,
            status=run.status.value,
            tags=run.tags,
            params={key: str(value) for key, value in run.params.items()},
            metrics=run.metrics,
            items=[item for item in map(_item, run.records) if item is not None],
            artifacts=run.files,
            parent=run.parent,
        )

    @contextmanager
    def break_with(self, fault: str) -> Iterator[Optional[Record]]:
        if fault == "bad_record":
            yield Artifact("gone.pth", str(self.folder / "gone"), 3, 1.0)
            return

        def fail(call: str) -> None:
            if call != "close":
                raise ANSWERS[fault]

        memory.before_call = fail
        try:
            yield None
        finally:
            memory.before_call = None

    def child_of(self, parent: RemoteRun, run: RunInfo) -> tuple[Backend, RunInfo]:
        return MemoryBackend(MemoryOptions(parent=parent.id)), run


def _item(record: Record) -> Optional[Item]:
    if isinstance(record, Text):
        return Item("text", record.key, record.step, content=record.text)
    if isinstance(record, Histogram):
        return Item(
            "histogram", record.key, record.step, content=(list(record.edges), list(record.counts))
        )
    if isinstance(record, Table):
        content = (list(record.columns), [list(row) for row in record.rows])
        return Item("table", record.key, record.step, content=content)
    if isinstance(record, Media):
        return Item(record.kind, record.key, record.step, record.index, record.data)
    return None


def test_runs_are_listed_by_id_and_can_be_forgotten() -> None:
    backend = MemoryBackend(MemoryOptions())
    info = RunInfo("20260101-000000-aa", None, None, 1.0, {}, ["memory"])
    backend.open(info, None, Path())
    backend.write(Batch([Metric("loss", 0.5, 1, 2.0), Param("lr", 0.1, 2.0)]))
    [run] = memory.runs().values()
    assert (run.id, run.project, run.name) == (info.run_id, "default", info.run_id)
    assert run.metrics == {"loss": [Metric("loss", 0.5, 1, 2.0)]}
    assert run.params == {"lr": 0.1}
    memory.clear()
    assert memory.runs() == {}


def test_a_test_sees_every_call_before_it_is_made() -> None:
    calls: list[str] = []
    memory.before_call = calls.append
    backend = MemoryBackend(MemoryOptions())
    backend.preflight()
    backend.open(RunInfo("id", None, None, 1.0, {}, ["memory"]), None, Path())
    backend.write(Batch([]))
    backend.barrier()
    backend.close(RunStatus.FINISHED)
    assert calls == ["preflight", "open", "write", "barrier", "close"]
