"""The Aim backend keeps the contract through a real ``aim server``, also one that dies."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import ClassVar, Iterator, Mapping, Optional

import pytest

from services.aim_reader import seen
from services.aim_server import AimProcess, Way
from tracelet.backends.aim import AimBackend, AimOptions
from tracelet.backends.base import Backend, RemoteRun, RunInfo
from tracelet.records import Metric, Record
from tracelet.testing import BackendSuite, Seen

if sys.version_info >= (3, 13):
    pytest.skip("platform: Aim has no build for this Python", allow_module_level=True)
pytest.importorskip("aim")

pytestmark = pytest.mark.stores


class TestAimServer(BackendSuite):
    package = "aim"
    fractional_step_as = 0
    cannot: ClassVar[Mapping[str, str]] = {
        "busy": "Aim's client does not say how long a server wants to be left alone.",
        "refused": "An Aim server knows no users.",
    }

    @pytest.fixture(autouse=True)
    def _store(self, _place: None, aim_server: AimProcess) -> Iterator[None]:
        self.server = aim_server
        self.way = Way(aim_server.port)
        yield
        self.way.close()

    def backend(self) -> Backend:
        return AimBackend(self.options())

    def options(self, parent: Optional[str] = None) -> AimOptions:
        url = f"aim://127.0.0.1:{self.way.port}"
        uri = f"file://{self.folder / 'artifacts'}"
        return AimOptions(url=url, artifacts_uri=uri, timeout_s=8, parent=parent)

    def read_back(self, remote: RemoteRun) -> Seen:
        return seen(self.server.folder, remote.id)

    @contextmanager
    def break_with(self, fault: str) -> Iterator[Optional[Record]]:
        if fault == "bad_record":
            yield Metric("loss", 1.0, 2**63, 1.0)
        else:
            with self.way.broken(fault):
                yield None

    def child_of(self, parent: RemoteRun, run: RunInfo) -> tuple[Backend, RunInfo]:
        return AimBackend(self.options(parent.id)), run
