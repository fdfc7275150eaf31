"""
The contract's tests can fail.

Each class below is a backend with one fault that a hurried author might make; the clause that is
there for it has to notice. Otherwise a green suite would say nothing about a stranger's backend.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, ClassVar, Iterator, Optional

import pytest

from tracelet.backends import memory
from tracelet.backends.base import Backend, Batch, RemoteRun, RunInfo, RunStatus
from tracelet.backends.memory import MemoryBackend, MemoryOptions
from tracelet.records import Artifact, Metric, Record
from tracelet.testing import BackendSuite, Seen


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    memory.before_call = None
    memory.clear()


class Suite(BackendSuite):
    """The suite as an author would fill it in, for whatever class of backend."""

    kind: type[Backend] = MemoryBackend
    hang_limit_s = 0.3
    leave_within_s = 0.3

    def backend(self) -> Backend:
        return self.kind(MemoryOptions())

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
            artifacts=run.files,
        )

    @contextmanager
    def break_with(self, fault: str) -> Iterator[Optional[Record]]:
        if fault == "bad_record":
            yield Artifact("gone", "gone", 1, 1.0)
            return
        memory.before_call = lambda call: time.sleep(2) if fault == "hang" else _refuse(call)
        try:
            yield None
        finally:
            memory.before_call = None


def _refuse(call: str) -> None:
    if call != "close":
        raise ConnectionRefusedError(call)


class Altering(MemoryBackend):
    """Stores something else than it was given."""

    def write(self, batch: Batch) -> None:
        super().write(replace(batch, records=[self.altered(record) for record in batch.records]))

    def altered(self, record: Record) -> Record:
        return record


class Rounding(Altering):
    def altered(self, record: Record) -> Record:
        return replace(record, value=round(record.value, 6)) if _is_metric(record) else record


class LosingNaN(Altering):
    def altered(self, record: Record) -> Record:
        if isinstance(record, Metric) and record.value != record.value:
            return replace(record, value=0.0)
        return record


class ForgettingSteps(Altering):
    def altered(self, record: Record) -> Record:
        return replace(record, step=0) if _is_metric(record) else record


class OfThisMoment(Altering):
    def altered(self, record: Record) -> Record:
        return replace(record, time=time.time()) if _is_metric(record) else record


class MergingKeys(Altering):
    def altered(self, record: Record) -> Record:
        if isinstance(record, Metric):
            return replace(record, key=record.key.replace("(", "_").replace("[", "_"))
        return record


class LosingSome(MemoryBackend):
    def write(self, batch: Batch) -> None:
        super().write(replace(batch, records=batch.records[:999]))


class Doubling(MemoryBackend):
    """Trusts that nothing is ever sent again."""

    def write(self, batch: Batch) -> None:
        super().write(replace(batch, offset=time.monotonic_ns(), resend=False))


class AlwaysNew(MemoryBackend):
    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        return super().open(
            replace(run, run_id=f"{run.run_id}-{time.monotonic_ns()}"), None, workdir
        )


class Linking(MemoryBackend):
    """Reads files when somebody looks."""

    def write(self, batch: Batch) -> None:
        super().write(batch)
        stored = self._opened()
        for record in batch.records:
            if isinstance(record, Artifact):
                stored.files = _Later(stored.files, {record.path: record.source})


class _Later(dict[str, bytes]):
    def __init__(self, known: dict[str, bytes], sources: dict[str, str]) -> None:
        super().__init__(known)
        self.sources = sources

    def __getitem__(self, path: str) -> bytes:
        return Path(self.sources[path]).read_bytes()


class AlwaysFinished(MemoryBackend):
    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        super().close(RunStatus.FINISHED, time)


class ClosingOnce(MemoryBackend):
    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        self._opened()
        super().close(status, time)


class DeafAfterClose(MemoryBackend):
    def write(self, batch: Batch) -> None:
        if self._run is not None:
            super().write(batch)

    def barrier(self) -> None:
        if self._run is not None:
            super().barrier()


class LeavingAThread(MemoryBackend):
    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
        return super().open(run, resume, workdir)


class LeavingAVariable(MemoryBackend):
    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        os.environ["LEFT_BEHIND"] = run.run_id
        return super().open(run, resume, workdir)


class LeavingAFile(MemoryBackend):
    files: ClassVar[list[Any]] = []

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        self.files.append(open(workdir / "left", "w"))  # noqa: SIM115
        return super().open(run, resume, workdir)


FAULTS: list[tuple[type[Backend], Callable[..., None], tuple[Any, ...]]] = [
    (Rounding, BackendSuite.test_02_a_metric_keeps_its_double, ()),
    (OfThisMoment, BackendSuite.test_02_a_metric_keeps_its_time, ()),
    (ForgettingSteps, BackendSuite.test_03_falling_and_irregular_steps_are_kept, ()),
    (
        LosingNaN,
        BackendSuite.test_04_a_value_that_is_not_finite_arrives_or_is_rejected_by_name,
        ("nan", float("nan")),
    ),
    (LosingSome, BackendSuite.test_05_ten_thousand_metrics_arrive_complete_and_in_order, ()),
    (MergingKeys, BackendSuite.test_07_awkward_keys_of_metrics_stay_distinct, ()),
    (Doubling, BackendSuite.test_11_the_same_batch_twice_gives_the_same_picture, ()),
    (Doubling, BackendSuite.test_11_a_range_that_arrived_in_part_is_completed, ()),
    (AlwaysNew, BackendSuite.test_12_open_again_continues_the_same_run, ()),
    (AlwaysNew, BackendSuite.test_12_a_creation_whose_answer_was_lost_is_found_again, ()),
    (AlwaysNew, BackendSuite.test_12_a_run_that_is_not_there_is_an_error, ()),
    (MemoryBackend, BackendSuite.test_13_a_failure_that_passes_is_retryable, ("down",)),
    (MemoryBackend, BackendSuite.test_15_a_call_that_hangs_is_cut, ("write",)),
    (Linking, BackendSuite.test_16_the_stores_copy_is_its_own, ()),
    (AlwaysFinished, BackendSuite.test_17_an_end_shows_as_what_it_was, (RunStatus.FAILED,)),
    (AlwaysFinished, BackendSuite.test_17_a_run_that_was_let_go_is_running, ()),
    (ClosingOnce, BackendSuite.test_18_close_twice_is_close_once, ()),
    (DeafAfterClose, BackendSuite.test_18_write_after_close_raises, ()),
    (LeavingAThread, BackendSuite.test_20_nothing_is_left_behind, ()),
    (LeavingAVariable, BackendSuite.test_20_nothing_is_left_behind, ()),
    (LeavingAFile, BackendSuite.test_20_nothing_is_left_behind, ()),
]


def _is_metric(record: Record) -> bool:
    return isinstance(record, Metric)


def run(
    kind: type[Backend], clause: Callable[..., None], arguments: tuple[Any, ...], folder: Path
) -> None:
    suite = Suite()
    suite.kind = kind  # type: ignore[misc]
    suite.folder = folder
    suite._left_open = ExitStack()
    with suite._left_open:
        clause(suite, *arguments)


@pytest.mark.parametrize(
    ("kind", "clause", "arguments"), FAULTS, ids=lambda value: getattr(value, "__name__", "with")
)
def test_a_clause_notices(
    kind: type[Backend],
    clause: Callable[..., None],
    arguments: tuple[Any, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEFT_BEHIND", "")
    try:
        with pytest.raises(
            (AssertionError, pytest.fail.Exception, OSError, KeyError, RuntimeError)
        ):
            run(kind, clause, arguments, tmp_path)
    finally:
        while LeavingAFile.files:
            LeavingAFile.files.pop().close()


STRANGER = """
from tracelet.backends import memory
from tracelet.testing import BackendSuite, Seen

class TestMine(BackendSuite):
    cannot = {"other_process": "It lives in memory."}

    def backend(self):
        return memory.MemoryBackend(memory.MemoryOptions())

    def read_back(self, remote):
        run = memory.runs()[remote.id]
        return Seen(
            id=run.id, project=run.project, name=run.name, status=run.status.value,
            metrics=run.metrics, params=dict(run.params), artifacts={"lost": b"everything"},
        )
"""


def test_a_stranger_needs_pytest_and_nothing_else(tmp_path: Path) -> None:
    """Their package, their folder, no conftest.py of ours; a failure explains itself."""
    (tmp_path / "test_mine.py").write_text(STRANGER)
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            ".",
            "-k",
            "test_02 or test_17 or test_16_the_stores or other_process or test_12_another",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "1 failed, 6 passed, 1 skipped" in process.stdout, process.stdout + process.stderr
    assert "KeyError: 'model.pth'" in process.stdout
