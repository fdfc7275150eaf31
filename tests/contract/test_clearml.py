"""The ClearML backend keeps the contract: on a server that has the vendor's rules, and offline."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Iterator, Mapping, Optional

import pytest

from services.clearml_reader import STATUSES, loaded, seen
from services.clearml_server import KEY, SECRET, Clearml
from tracelet.backends.base import Backend, RemoteRun, RunInfo
from tracelet.backends.clearml import ClearmlBackend
from tracelet.records import Record
from tracelet.testing import BackendSuite, Seen
from tracelet.testing.samples import metric

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

CANNOT: Mapping[str, str] = {
    "awkward_names": "The server strips blanks at both ends of a name.",
    "infinity": "Its store has no number for infinity.",
    "nan": "Its store has no number for NaN.",
    "repeated_step": "A series has one point for an iteration.",
}
FORMS: Mapping[str, str] = dict.fromkeys(
    ("pr_curve", "mesh", "graph", "custom_scalars", "raw"), "file"
)


@pytest.fixture(scope="module")
def clearml() -> Iterator[Clearml]:
    running = Clearml()
    yield running
    running.stop()


class TestClearml(BackendSuite):
    package = "requests"
    cannot = CANNOT
    forms = FORMS
    store: Clearml

    @pytest.fixture(autouse=True)
    def _server(self, clearml: Clearml) -> None:
        self.store = clearml

    def backend(self) -> Backend:
        return self._backend()

    def _backend(self, **more: Any) -> Backend:
        given = {
            "url": self.store.url,
            "web_url": "http://127.0.0.1:8080",
            "files_url": self.store.url,
            "access_key": KEY,
            "secret_key": SECRET,
            "connect_timeout_s": 1,
            "timeout_s": 1.5,
            "upload_timeout_s": 1.5,
            **more,
        }
        return ClearmlBackend(ClearmlBackend.resolve(given, {}, self.folder)[0])

    def read_back(self, remote: RemoteRun) -> Seen:
        return seen(self.store, remote.id)

    @contextmanager
    def break_with(self, fault: str) -> Iterator[Optional[Record]]:
        if fault == "bad_record":
            yield metric("loss", math.nan, 5)
            return
        with self.store.failing(fault):
            yield None

    def child_of(self, parent: RemoteRun, run: RunInfo) -> tuple[Backend, RunInfo]:
        return self.backend(), self.info(parents={"clearml": parent.id})


class TestOffline(BackendSuite):
    """A session in a folder, read as its import would leave it."""

    package = "requests"
    forms = FORMS
    cannot: ClassVar[Mapping[str, str]] = {
        **CANNOT,
        "busy": "A disk does not ask for a wait.",
        "unavailable": "A disk has one way to fail.",
        "lost_answer": "A call of the system returns, or the process is dead.",
        "hang": "A call of the system on a local disk cannot be cut.",
    }

    @property
    def sessions(self) -> Path:
        return self.folder / "sessions"

    def backend(self) -> Backend:
        given = {"offline": True, "folder": str(self.sessions)}
        return ClearmlBackend(ClearmlBackend.resolve(given, {}, self.folder)[0])

    def read_back(self, remote: RemoteRun) -> Seen:
        session = self.sessions / remote.id
        said = json.loads((session / "task.json").read_text())["hyperparams"]["properties"]
        status = STATUSES[said["tracelet_status"]["value"]]
        # The zip file is there from the end on, and as long as it is the end.
        assert session.with_name(f"{session.name}.zip").exists() == (status != "RUNNING")
        return seen(loaded(session), remote.id, status)

    @contextmanager
    def break_with(self, fault: str) -> Iterator[Optional[Record]]:
        if fault == "bad_record":
            yield metric("loss", math.nan, 5)
        elif fault == "refused":
            # A file where the folder should be: this holds for the superuser too.
            self.sessions.write_text("")
            yield None
            self.sessions.unlink()
        else:
            with full_disk(self.sessions):
                yield None

    def child_of(self, parent: RemoteRun, run: RunInfo) -> tuple[Backend, RunInfo]:
        return self.backend(), self.info(parents={"clearml": parent.id})


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Let no file grow beyond the largest one in ``folder`` and a little: lines are torn."""
    if resource is None:
        pytest.skip("platform: no limit for the size of a file here")
    largest = max([0, *(path.stat().st_size for path in folder.rglob("*") if path.is_file())])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 30, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
