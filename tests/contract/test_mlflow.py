"""The MLflow backend keeps the contract: on SQLite, on files, and on a tracking server."""

from __future__ import annotations

import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Iterator, Mapping, Optional

import pytest

from services.mlflow_reader import seen
from services.mlflow_server import FaultyWay, Server
from tracelet.backends.base import Backend, RemoteRun, RunInfo
from tracelet.backends.mlflow import MlflowBackend
from tracelet.records import Metric, Record
from tracelet.testing import BackendSuite, Seen

try:
    import resource
except ImportError:  # Windows
    resource = None

#: What every store of MLflow has in common.
CANNOT: Mapping[str, str] = {
    "artifact_paths": "MLflow's server cuts paths at '#' and decodes '%41': they are mapped.",
}
FORMS: Mapping[str, str] = dict.fromkeys(
    ("audio", "video", "pr_curve", "mesh", "graph", "custom_scalars", "raw"), "file"
)
_LOCAL_CANNOT: Mapping[str, str] = {
    **CANNOT,
    "busy": "A disk does not ask for a wait.",
    "unavailable": "A disk has one way to fail.",
    "lost_answer": "A call of the system returns, or the process is dead.",
    "hang": "A call of the system on a local disk cannot be cut.",
}


class _Mlflow(BackendSuite):
    """What is the same on every store."""

    package = "mlflow"
    forms = FORMS
    changed_param = "first"
    fractional_step_as = 0
    url: str

    def backend(self) -> Backend:
        options, _ = MlflowBackend.resolve(self.given(), {}, self.folder)
        return MlflowBackend(options)

    def given(self) -> dict[str, Any]:
        return {"url": self.url}

    def info(self, **changes: Any) -> RunInfo:
        return super().info(**{"cwd": str(self.folder), **changes})

    def read_back(self, remote: RemoteRun) -> Seen:
        return seen(self.store_url(), remote.id)

    def store_url(self) -> str:
        return self.url

    def child_of(self, parent: RemoteRun, run: RunInfo) -> tuple[Backend, RunInfo]:
        return self.backend(), self.info(tags={"mlflow.parentRunId": parent.id})

    def sdk_globals(self) -> Mapping[str, object]:
        from mlflow.tracking._tracking_service import utils

        return {"tracking_uri": utils._tracking_uri}


class _Local(_Mlflow):
    """On a disk of this machine."""

    cannot: ClassVar[Mapping[str, str]] = _LOCAL_CANNOT

    @contextmanager
    def break_with(self, fault: str) -> Iterator[Optional[Record]]:
        if fault == "bad_record":
            yield Metric("loss", 1.0, 2**63, 1.0)
        elif fault == "refused":
            with self.replaced():
                yield None
        else:
            with full_disk(self.room()):
                yield None

    @contextmanager
    def replaced(self) -> Iterator[None]:
        """Put something else where the store was."""
        path, aside = self.place(), self.place().with_suffix(".aside")
        there = path.exists()
        if there:
            path.rename(aside)
        path.parent.mkdir(exist_ok=True)
        path.write_text("this is neither a database nor a folder")
        yield
        path.unlink()
        if there:
            aside.rename(path)

    def place(self) -> Path:
        raise NotImplementedError

    def room(self) -> int:
        raise NotImplementedError


class TestSqlite(_Local):
    infinity_as = sys.float_info.max

    @pytest.fixture(autouse=True)
    def _store(self, _place: None, fresh_database: Path) -> None:
        # A copy of an empty one: making the tables takes seconds.
        self.place().parent.mkdir()
        self.place().write_bytes(fresh_database.read_bytes())
        self.url = f"sqlite:///{self.place()}"

    def place(self) -> Path:
        return self.folder / "store" / "mlflow.db"

    def room(self) -> int:
        return 64 * 1024  # the tables' roots; what is written lies behind


class TestFiles(_Local):
    @pytest.fixture(autouse=True)
    def _store(self, _place: None) -> None:
        self.url = self.place().as_uri()

    def place(self) -> Path:
        return self.folder / "mlruns"

    def room(self) -> int:
        return 90  # a few points of one curve


class TestServer(_Mlflow):
    cannot: ClassVar[Mapping[str, str]] = CANNOT
    infinity_as = sys.float_info.max

    @pytest.fixture(autouse=True)
    def _store(self, _place: None, mlflow_server: Server) -> Iterator[None]:
        self.direct = mlflow_server.url
        self.way = FaultyWay(mlflow_server.url)
        self.url = self.way.url
        yield
        self.way.close()

    def given(self) -> dict[str, Any]:
        limits = {"connect_timeout_s": 1, "timeout_s": 2, "upload_timeout_s": 2}
        return {"url": self.url, **limits}

    def store_url(self) -> str:
        return self.direct

    @contextmanager
    def break_with(self, fault: str) -> Iterator[Optional[Record]]:
        if fault == "bad_record":
            yield Metric("loss", 1.0, 2**63, 1.0)
        else:
            with self.way.broken(fault):
                yield None


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let no file grow beyond ``room`` bytes."""
    if resource is None:
        pytest.skip("platform: no limit for the size of a file here")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        with suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
