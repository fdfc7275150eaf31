"""The ClearML backend keeps the contract: on a server that has the vendor's rules, and offline."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Any, ClassVar, Iterator, Mapping, Optional

import pytest

from services.clearml_reader import seen
from services.clearml_server import KEY, SECRET, Clearml
from tracelet.backends.base import Backend, RemoteRun, RunInfo
from tracelet.backends.clearml import ClearmlBackend
from tracelet.records import Record
from tracelet.testing import BackendSuite, Seen
from tracelet.testing.samples import metric


@pytest.fixture(scope="module")
def clearml() -> Iterator[Clearml]:
    running = Clearml()
    yield running
    running.stop()


class TestClearml(BackendSuite):
    package = "requests"
    cannot: ClassVar[Mapping[str, str]] = {
        "awkward_names": "The server strips blanks at both ends of a name.",
        "infinity": "Its store has no number for infinity.",
        "nan": "Its store has no number for NaN.",
        "repeated_step": "A series has one point for an iteration.",
    }
    forms: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("pr_curve", "mesh", "graph", "custom_scalars", "raw"), "file"
    )
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
