"""
Servers that send clients elsewhere with their files: ``--default-artifact-root``.

Both commands stand in many guides. Numbers arrive all the same, and a file that cannot is named.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

import tracelet
from services.mlflow_reader import tracking
from services.mlflow_server import ServerProcess
from services.s3 import BUCKET
from services.stack import Storage, storage

__all__ = ["storage"]

pytestmark = [pytest.mark.slow, pytest.mark.stores, pytest.mark.figure("1b")]


@pytest.fixture(scope="module")
def production(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """PostgreSQL, and a bucket that every client has to reach; the server has no key for it."""
    arguments = [
        *("--host", "0.0.0.0"),
        *("--default-artifact-root", f"s3://{BUCKET}/artifacts"),
        *("--backend-store-uri", storage.database.url()),
        # Not in the guide; its default of four takes two cores a minute to start.
        *("--workers", "2"),
    ]
    server = ServerProcess(tmp_path_factory.mktemp("production"), arguments, python=sys.executable)
    try:
        server.start()
        yield server.url
    finally:
        server.end()


def recorded(url: str, model: Path, seconds: float = 60.0, **arguments: Any) -> tracelet.Run:
    """Record a parameter, points and a file; return the run, stopped."""
    model.write_bytes(b"weights")
    run = tracelet.start_logging(
        project="roots", backend="mlflow", backend_url=url, config={"silent": True}, **arguments
    )
    run.log_params({"lr": 0.1})
    for step in range(50):
        run.log_metric("loss", 1 / (step + 1), step)
    run.log_artifact(model, "models/")
    run.remote("mlflow")
    run.stop(timeout=seconds)
    return run


def numbers_are_there(url: str, run_id: str) -> str:
    """Check parameter and points through MLflow's client; return the run's artifact URI."""
    with tracking(url) as client:
        found = client.get_run(run_id)
        assert found.data.params["lr"] == "0.1"
        points = client.get_metric_history(run_id, "loss")
        assert [(point.step, point.value) for point in points] == [
            (step, 1 / (step + 1)) for step in range(50)
        ]
    return str(found.info.artifact_uri)


def test_a_client_with_keys_brings_its_files_to_the_bucket(
    production: str, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in storage.objects.environment.items():
        monkeypatch.setenv(name, value)
    run = recorded(production, tmp_path / "model.pth")
    address = numbers_are_there(production, run.remote("mlflow").id)
    assert address.startswith(f"s3://{BUCKET}/artifacts/")
    key = address.partition(f"{BUCKET}/")[2] + "/models/model.pth"
    assert storage.objects.read(key) == b"weights"


def test_without_keys_the_numbers_arrive_and_the_file_is_named(
    production: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way to a bucket that is not on this machine must not be tried: no key, no request."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    run = recorded(production, tmp_path / "model.pth", seconds=30.0)
    numbers_are_there(production, run.remote("mlflow").id)
    report = run.stop()
    assert report.check() == []
    (mlflow,) = report.backends.values()
    assert mlflow.pending == 1
    assert "credentials" in mlflow.detail.lower()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server whose artifact root is a folder, and that folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    root = folder / "mlflow" / "artifacts"
    arguments = [
        *("--host", "0.0.0.0", "--default-artifact-root", str(root), "--workers", "1"),
        # A name that is not this machine's own, for all that the client can tell.
        *("--allowed-hosts", "127.0.0.2:*,127.0.0.1:*"),
    ]
    server = ServerProcess(folder, arguments, python=sys.executable)
    try:
        server.start()
        yield server.url.replace("127.0.0.1", "127.0.0.2"), root
    finally:
        server.end()


def test_a_folder_of_the_servers_machine_is_not_made_on_ours(
    elsewhere: tuple[str, Path], tmp_path: Path
) -> None:
    url, root = elsewhere
    run = recorded(url, tmp_path / "model.pth", seconds=30.0)
    numbers_are_there(url, run.remote("mlflow").id)
    report = run.stop()
    (mlflow,) = report.backends.values()
    assert not root.exists()
    assert mlflow.pending == 1
    assert "--artifacts-destination" in mlflow.detail


def test_a_folder_that_both_see_is_used(elsewhere: tuple[str, Path], tmp_path: Path) -> None:
    """A disk that is mounted on the client, too."""
    url, root = elsewhere
    root.mkdir(parents=True)
    run = recorded(url, tmp_path / "model.pth")
    address = numbers_are_there(url, run.remote("mlflow").id)
    assert Path(address, "models", "model.pth").read_bytes() == b"weights"
