"""Stores and credentials that only a plug-in of MLflow knows: its own client does the work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from services.elsewhere import run_python
from services.mlflow_reader import seen
from services.mlflow_server import FaultyWay, Server

PLUG_IN = """
from mlflow.store.tracking.file_store import FileStore
from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider

def store(store_uri, artifact_uri=None):
    root = store_uri.replace("mystore:", "file:")
    return FileStore(root, root)

class Signed(RequestAuthProvider):
    def get_name(self):
        return "mine"

    def get_auth(self):
        def sign(request):
            request.headers["X-Signed"] = "by me"
            return request
        return sign
"""

RUN = """
import os, sys, time
os.environ.update(item.split("=", 1) for item in sys.argv[2:])
from pathlib import Path
from tracelet.backends.base import Batch
from tracelet.backends.mlflow import MlflowBackend
from tracelet.records import RunInfo, RunStatus
from tracelet.testing.samples import SAMPLES, curve, param

cwd = Path.cwd()
backend = MlflowBackend(MlflowBackend.resolve({"url": sys.argv[1]}, os.environ, cwd)[0])
backend.preflight()
info = RunInfo("r1", "plug-in", "one", time.time(), {"a": "b"}, ("mlflow",), cwd=str(cwd))
remote = backend.open(info, None, cwd / "work")
backend.write(Batch((*curve("loss", 50), param("lr", 0.1))))
backend.write(Batch(tuple(SAMPLES.values()), lane="heavy"))
backend.barrier()
backend.close(RunStatus.FINISHED)
print("opened", remote.id)
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with two plug-ins."""
    site = tmp_path / "site"
    metadata = site / "my_plug_in-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "my_plug_in.py").write_text(PLUG_IN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plug-in\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[mlflow.tracking_store]\nmystore = my_plug_in:store\n"
        "[mlflow.request_auth_provider]\nmine = my_plug_in:Signed\n"
    )
    monkeypatch.syspath_prepend(str(site))
    return tmp_path


def test_a_store_of_a_plug_in(plug_in: Path) -> None:
    allowed = "MLFLOW_ALLOW_FILE_STORE=true"
    said = run_python(RUN, f"mystore://{plug_in}/store", allowed, cwd=plug_in)
    found = seen(f"file://{plug_in}/store", said.split("opened ")[1].split()[0])
    assert (found.status, found.project) == ("FINISHED", "plug-in")
    assert len(found.metrics["loss"]) == 50
    assert found.params == {"lr": "0.1"}
    assert {item.kind for item in found.items} >= {"histogram", "text", "image", "audio"}


def test_a_server_with_credentials_of_a_plug_in(plug_in: Path, mlflow_server: Server) -> None:
    way, signed = FaultyWay(mlflow_server.url), []
    answer = way.answer

    def noting(handler: Any) -> None:
        signed.append(handler.headers.get("X-Signed"))
        answer(handler)

    way.answer = noting
    try:
        said = run_python(RUN, way.url, "MLFLOW_TRACKING_AUTH=mine", cwd=plug_in)
    finally:
        way.close()
    found = seen(mlflow_server.url, said.split("opened ")[1].split()[0])
    assert found.status == "FINISHED"
    assert len(found.metrics["loss"]) == 50
    assert {item.kind for item in found.items} >= {"histogram", "text", "image", "audio"}
    assert len(signed) > 10
    assert set(signed) == {"by me"}
    assert "MLFLOW_TRACKING_AUTH" not in os.environ
