"""The compose file has what a server that is relied on needs, and its command runs as it stands."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Mapping
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import requests

import tracelet
from services.compose import DEPLOY, UnsetError, compose
from services.elsewhere import run_python
from services.mlflow_reader import tracking
from services.mlflow_server import ServerProcess
from services.s3 import BUCKET, S3
from services.stack import Storage, storage

__all__ = ["storage"]

FILLED = {
    "POSTGRES_PASSWORD": "password",
    "S3_ACCESS_KEY": "somebody",
    "S3_SECRET_KEY": "secret",
    "S3_BUCKET": BUCKET,
    "MLFLOW_HOSTS": "mlflow.example.com,mlflow.example.com:*",
    "MLFLOW_ADMIN_PASSWORD": "a-password-of-twenty-characters",
    "MLFLOW_SECRET_KEY": "nobody-knows",
}
ONCE = {"bucket"}


@pytest.fixture
def services() -> Mapping[str, Any]:
    found: Mapping[str, Any] = compose(FILLED)["services"]
    return found


def test_every_service_says_when_it_is_well_and_comes_back(services: Mapping[str, Any]) -> None:
    for name, service in services.items():
        if name in ONCE:
            assert service["restart"].startswith("on-failure"), name
        else:
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert service["restart"] == "unless-stopped", name


def test_nobody_starts_before_what_it_stands_on(services: Mapping[str, Any]) -> None:
    needs = {name: service.get("depends_on", {}) for name, service in services.items()}
    assert set(needs["mlflow"]) == set(services) - {"mlflow"}
    assert set(needs["bucket"]) == {"s3"}
    for name, conditions in needs.items():
        for other, how in conditions.items():
            wanted = "service_completed_successfully" if other in ONCE else "service_healthy"
            assert how["condition"] == wanted, (name, other)


def test_everything_that_must_stay_is_in_a_named_volume(services: Mapping[str, Any]) -> None:
    named = compose(FILLED)["volumes"]
    for service, folder in (("postgres", "/var/lib/postgresql/data"), ("s3", "/data")):
        (volume,) = services[service]["volumes"]
        name, _, inside = volume.partition(":")
        assert name in named
        assert inside == folder
    # The server itself keeps nothing.
    assert "volumes" not in services["mlflow"]


def test_versions_are_fixed(services: Mapping[str, Any]) -> None:
    for name, service in services.items():
        assert re.search(r":[^:]*\d+\.\d+[^:]*$", service["image"]), name
    lines = (DEPLOY / "mlflow" / "Dockerfile").read_text().splitlines()
    assert re.search(r":\d+\.\d+\.\d+", lines[1])
    packages = [line for line in lines if "==" in line]
    assert len(packages) == 3
    # The image is called after the MLflow in it.
    assert services["mlflow"]["image"].rpartition(":")[2] in packages[0]


def test_nothing_is_installed_at_start(services: Mapping[str, Any]) -> None:
    assert not any("install" in str(service.get("command")) for service in services.values())


def test_only_the_server_can_be_reached_and_only_from_here(services: Mapping[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {"mlflow": ["127.0.0.1:5000:5000"]}


def test_clients_are_given_no_place_for_artifacts(services: Mapping[str, Any]) -> None:
    command = services["mlflow"]["command"]
    assert "--default-artifact-root" not in command
    assert "--artifacts-destination" in command


@pytest.mark.parametrize("name", ["POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"])
def test_no_password_is_there_by_itself(name: str) -> None:
    with pytest.raises(UnsetError, match=name):
        compose({**FILLED, name: ""})
    secrets = ("PASSWORD", "KEY")
    for line in (DEPLOY / ".env.example").read_text().splitlines():
        variable, _, value = line.lstrip("#").partition("=")
        if variable.endswith(secrets):
            assert value == "", line


def test_the_variant_with_passwords_changes_nothing_else() -> None:
    plain = compose(FILLED)["services"]["mlflow"]
    guarded = compose(FILLED, "compose.auth.yaml")["services"]["mlflow"]
    assert guarded["command"] == [*plain["command"], "--app-name", "basic-auth"]
    with pytest.raises(UnsetError):
        compose({**FILLED, "MLFLOW_ADMIN_PASSWORD": ""}, "compose.auth.yaml")


# -- as it runs -------------------------------------------------------------------------------


def here(service: Mapping[str, Any], storage: Storage) -> tuple[list[str], dict[str, str]]:
    """Return arguments and variables with the services' names replaced by where they are here."""
    program, verb, *arguments = service["command"]
    assert (program, verb) == ("mlflow", "server")
    place = arguments.index("--port")
    del arguments[place : place + 2]
    arguments[arguments.index("--host") + 1] = "127.0.0.1"
    environment = {name: _here(value, storage) for name, value in service["environment"].items()}
    return arguments, environment


def _here(text: str, storage: Storage) -> str:
    database = storage.database.url("").partition("@")[2].rstrip("/")
    return (
        text.replace("://mlflow:", "://user:")
        .replace("@postgres:5432", f"@{database}")
        .replace("http://s3:8333", storage.objects.url)
    )


@pytest.fixture(scope="module")
def deployed(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server of the compose file, on this machine."""
    arguments, environment = here(compose(FILLED)["services"]["mlflow"], storage)
    folder = tmp_path_factory.mktemp("deployed")
    server = ServerProcess(folder, arguments, python=sys.executable, environment=environment)
    try:
        server.start()
        yield server.url
    finally:
        server.end()


@pytest.mark.slow
def test_the_bucket_is_made_once(storage: Storage, tmp_path: Path) -> None:
    script = (DEPLOY / "mlflow" / "make_bucket.py").read_text()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in storage.objects.environment.items():
            patch.setenv(name, value)
        run_python(script, "a-new-bucket", cwd=tmp_path)
        run_python(script, "a-new-bucket", cwd=tmp_path)
    assert S3(storage.objects.url, "a-new-bucket").keys() == []


@pytest.mark.slow
def test_a_run_arrives_with_its_files(deployed: str, storage: Storage, tmp_path: Path) -> None:
    """The client needs nothing for S3, and what it sent lies there."""
    (tmp_path / "model.pth").write_bytes(b"weights")
    with tracelet.start_logging(
        project="deploy", backend="mlflow", backend_url=deployed, config={"silent": True}
    ) as run:
        run.log_params({"lr": 0.1})
        for step in range(100):
            run.log_metric("loss", 1 / (step + 1), step)
        run.log_artifact(tmp_path / "model.pth", "models/")
        remote = run.remote("mlflow")
    with tracking(deployed) as client:
        found = client.get_run(remote.id)
        assert found.data.params["lr"] == "0.1"
        assert len(client.get_metric_history(remote.id, "loss")) == 100
    assert found.info.artifact_uri.startswith("mlflow-artifacts:/")
    key = f"artifacts/{found.info.experiment_id}/{remote.id}/artifacts/models/model.pth"
    assert storage.objects.read(key) == b"weights"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("mlflow.example.com", 200),
        ("mlflow.example.com:5000", 200),
        ("mlflow:5000", 200),
        ("127.0.0.1:5000", 200),
        ("localhost:5000", 200),
        ("elsewhere.example.com", 403),
    ],
)
def test_the_server_answers_to_its_own_names(deployed: str, host: str, status: int) -> None:
    address = f"{deployed}/api/2.0/mlflow/experiments/search?max_results=1"
    assert requests.get(address, headers={"Host": host}, timeout=20).status_code == status


@pytest.mark.slow
def test_the_health_checks_tell_well_from_ill(deployed: str, tmp_path: Path) -> None:
    """Of both variants, as they are written, but for the port."""
    port = deployed.rpartition(":")[2]
    for more in ([], ["compose.auth.yaml"]):
        test = compose(FILLED, *more)["services"]["mlflow"]["healthcheck"]["test"]
        assert test[:3] == ["CMD", "python", "-c"]
        run_python(test[3].replace(":5000/", f":{port}/"), cwd=tmp_path)
        with pytest.raises(AssertionError, match="refused"):
            run_python(test[3].replace(":5000/", ":9/"), cwd=tmp_path)


@pytest.mark.slow
def test_the_variant_with_passwords_wants_one(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compose(FILLED, "compose.auth.yaml")
    arguments, environment = here(found["services"]["mlflow"], storage)
    settings = tmp_path / "auth.ini"
    settings.write_text(_here(found["configs"]["auth"]["content"], storage))
    environment["MLFLOW_AUTH_CONFIG_PATH"] = str(settings)
    server = ServerProcess(tmp_path, arguments, python=sys.executable, environment=environment)
    try:
        server.start()
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(f"{server.url}/api/2.0/mlflow/experiments/search?max_results=1"))
        assert caught.value.code == 401
        begin = time.monotonic()
        with tracelet.start_logging(
            project="guarded",
            backend="mlflow",
            backend_url=server.url,
            config={
                "silent": True,
                "mlflow": {"username": "admin", "password": FILLED["MLFLOW_ADMIN_PASSWORD"]},
            },
        ) as run:
            for step in range(5000):
                run.log_metric("loss", 1 / (step + 1), step)
            assert run.flush(timeout=60)
        assert time.monotonic() - begin < 60
        for name, value in (("USERNAME", "admin"), ("PASSWORD", FILLED["MLFLOW_ADMIN_PASSWORD"])):
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
        with tracking(server.url) as client:
            assert len(client.get_metric_history(run.remote("mlflow").id, "loss")) == 5000
    finally:
        server.end()
