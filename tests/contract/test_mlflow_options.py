"""Where options come from, which credentials are sent, and that every option does something."""

from __future__ import annotations

import getpass
import json
import ssl
import sys
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

import pytest
from pydantic import ValidationError

from services.mlflow_reader import seen, tracking
from services.mlflow_server import FaultyWay, Server
from tracelet.backends.base import Batch, RemoteRun, RunInfo, RunStatus
from tracelet.backends.mlflow import MlflowBackend, MlflowOptions, versions
from tracelet.backends.mlflow.look import page_of
from tracelet.errors import ConfigError, RetryableError
from tracelet.records import Metric, Tag
from tracelet.run.secrets import part, recall
from tracelet.testing.samples import SAMPLES, curve, metric

NOW = 1_700_000_000.25


def resolved(
    given: Mapping[str, Any], environ: Mapping[str, str], cwd: Path
) -> tuple[MlflowOptions, Mapping[str, str]]:
    options, sources = MlflowBackend.resolve(given, environ, cwd)
    assert isinstance(options, MlflowOptions)
    return options, sources


def info(cwd: Path, **changes: Any) -> RunInfo:
    fields: dict[str, Any] = {
        "run_id": "20231114-221320-0123abcd",
        "project": "options",
        "name": "one",
        "created": NOW,
        "tags": {},
        "backends": ("mlflow",),
        "cwd": str(cwd),
    }
    return RunInfo(**{**fields, **changes})


@contextmanager
def opened(
    options: Mapping[str, Any], cwd: Path, environ: Optional[Mapping[str, str]] = None, **run: Any
) -> Iterator[tuple[MlflowBackend, RemoteRun]]:
    backend = MlflowBackend(resolved(options, environ or {}, cwd)[0])
    remote = backend.open(info(cwd, **run), None, cwd / "work")
    yield backend, remote
    backend.close(RunStatus.RUNNING)


# -- the address ------------------------------------------------------------------------------


def test_the_option_is_stronger_than_the_variable(tmp_path: Path) -> None:
    environ = {"MLFLOW_TRACKING_URI": "http://variable:1"}
    assert resolved({"url": "http://option:1"}, environ, tmp_path)[0].url == "http://option:1"
    assert resolved({}, environ, tmp_path)[0].url == "http://variable:1"
    assert resolved({"url": None}, environ, tmp_path)[0].url == "http://variable:1"


def test_what_the_program_told_mlflow_is_stronger_than_the_variable(tmp_path: Path) -> None:
    environ = {"MLFLOW_TRACKING_URI": "http://variable:1"}
    with tracking("http://program:1"):
        assert resolved({}, environ, tmp_path)[0].url == "http://program:1"
        assert resolved({"url": "http://o:1"}, environ, tmp_path)[0].url == "http://o:1"


def test_without_anything_the_default_is_taken(tmp_path: Path) -> None:
    url = resolved({}, {"MLFLOW_TRACKING_URI": ""}, tmp_path)[0].url
    assert url is not None
    assert url.startswith(("sqlite:///", "file://"))
    assert str(tmp_path) in url


def test_a_relative_address_belongs_to_the_folder_of_the_program(tmp_path: Path) -> None:
    options, _ = resolved({}, {"MLFLOW_TRACKING_URI": "sqlite:///db/x.db"}, tmp_path)
    assert options.url == f"sqlite:///{tmp_path}/db/x.db"


def test_mistakes_are_refused_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        resolved({"ulr": "http://x"}, {}, tmp_path)
    with pytest.raises(ValidationError):
        resolved({"timeout_s": "soon"}, {}, tmp_path)
    with pytest.raises(ValidationError):
        resolved({"timeout_s": 0}, {}, tmp_path)
    with pytest.raises(ConfigError, match="http://localhost:5000"):
        resolved({"url": "localhost:5000"}, {}, tmp_path)
    with pytest.raises(ConfigError):
        resolved({}, {"MLFLOW_TRACKING_URI": "htp://x"}, tmp_path)


# -- credentials ------------------------------------------------------------------------------

SERVER = {"url": "http://host:5000"}


def test_variables_give_a_pair_or_a_token(tmp_path: Path) -> None:
    pair = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pw"}
    options, sources = resolved(SERVER, pair, tmp_path)
    assert options.username is not None
    assert options.username.get_secret_value() == "me"
    assert sources == {
        "username": "env:MLFLOW_TRACKING_USERNAME",
        "password": "env:MLFLOW_TRACKING_PASSWORD",
    }
    options, sources = resolved(SERVER, {"MLFLOW_TRACKING_TOKEN": "tk"}, tmp_path)
    assert options.api_key is not None
    assert options.api_key.get_secret_value() == "tk"
    assert sources == {"api_key": "env:MLFLOW_TRACKING_TOKEN"}


def test_a_pair_wins_over_a_token_as_in_mlflow(tmp_path: Path) -> None:
    everything = {
        "MLFLOW_TRACKING_USERNAME": "me",
        "MLFLOW_TRACKING_PASSWORD": "pw",
        "MLFLOW_TRACKING_TOKEN": "tk",
    }
    options, sources = resolved(SERVER, everything, tmp_path)
    assert options.api_key is None
    assert "api_key" not in sources
    # Half a pair is none.
    del everything["MLFLOW_TRACKING_PASSWORD"]
    assert resolved(SERVER, everything, tmp_path)[0].username is None
    assert resolved(SERVER, everything, tmp_path)[0].api_key is not None


def test_an_argument_wins_over_all_variables(tmp_path: Path) -> None:
    pair = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pw"}
    options, sources = resolved({**SERVER, "api_key": "mine"}, pair, tmp_path)
    assert options.username is None
    assert sources == {"api_key": "argument"}


def test_userinfo_leaves_the_address(tmp_path: Path) -> None:
    options, sources = resolved({"url": "http://me:p%40ss@host:5000"}, {}, tmp_path)
    assert options.url == "http://host:5000"
    assert options.password is not None
    assert options.password.get_secret_value() == "p@ss"
    assert sources == {"username": "argument", "password": "argument"}
    assert "p@ss" not in repr(options)
    named = {"MLFLOW_TRACKING_URI": "postgresql://me:pw@host/db"}
    options, sources = resolved({}, named, tmp_path)
    assert options.url == "postgresql://host/db"
    assert set(sources.values()) == {"env:MLFLOW_TRACKING_URI"}


def test_variables_for_a_server_do_not_concern_a_database(tmp_path: Path) -> None:
    environ = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pw"}
    options, sources = resolved({"url": "sqlite:///x.db"}, environ, tmp_path)
    assert (options.username, dict(sources)) == (None, {})


@pytest.fixture
def headers(mlflow_server: Server) -> Iterator[tuple[FaultyWay, list[Mapping[str, str]]]]:
    """A way to the server that writes down the headers of each request."""
    way, found = FaultyWay(mlflow_server.url), []
    answer = way.answer

    def noting(handler: Any) -> None:
        found.append(dict(handler.headers))
        answer(handler)

    way.answer = noting
    yield way, found
    way.close()


@pytest.mark.parametrize(
    ("given", "environ", "sent"),
    [
        ({}, {}, None),
        ({"api_key": "tk"}, {}, "Bearer tk"),
        ({"username": "me", "password": "pw"}, {}, "Basic bWU6cHc="),
        ({}, {"MLFLOW_TRACKING_TOKEN": "tk"}, "Bearer tk"),
        (
            {},
            {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pw"},
            "Basic bWU6cHc=",
        ),
        ({"username": "me"}, {"MLFLOW_TRACKING_PASSWORD": "pw"}, "Basic bWU6cHc="),
    ],
)
def test_what_is_sent(
    headers: tuple[FaultyWay, list[Mapping[str, str]]],
    tmp_path: Path,
    given: Mapping[str, Any],
    environ: Mapping[str, str],
    sent: Optional[str],
) -> None:
    way, found = headers
    backend = MlflowBackend(resolved({"url": way.url, **given}, environ, tmp_path)[0])
    backend.preflight()
    assert [request.get("Authorization") for request in found] == [sent]


@pytest.mark.parametrize("url", ["http://me:pw@{}", "http://token@{}"])
def test_what_is_sent_of_an_address_with_userinfo(
    headers: tuple[FaultyWay, list[Mapping[str, str]]], tmp_path: Path, url: str
) -> None:
    way, found = headers
    address = url.format(way.url.partition("//")[2])
    backend = MlflowBackend(resolved({"url": address}, {}, tmp_path)[0])
    backend.preflight()
    expected = {"http://me:pw@{}": "Basic bWU6cHc=", "http://token@{}": "Basic dG9rZW46"}[url]
    assert [request.get("Authorization") for request in found] == [expected]


def test_the_file_of_credentials_is_read_as_by_mlflow(
    headers: tuple[FaultyWay, list[Mapping[str, str]]], tmp_path: Path
) -> None:
    way, found = headers
    file = Path.home() / ".mlflow" / "credentials"
    file.parent.mkdir(exist_ok=True)
    file.write_text("[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = pw\n")
    try:
        environ = {"MLFLOW_TRACKING_TOKEN": "weaker"}
        MlflowBackend(resolved({"url": way.url}, environ, tmp_path)[0]).preflight()
        MlflowBackend(resolved({"url": way.url, "api_key": "k"}, {}, tmp_path)[0]).preflight()
    finally:
        file.unlink()
    assert [request["Authorization"] for request in found] == ["Basic bWU6cHc=", "Bearer k"]


def test_sync_finds_the_secrets_again(
    headers: tuple[FaultyWay, list[Mapping[str, str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``run.json`` has no secret; the variables, or the address in one, bring them back."""
    way, found = headers
    address = f"http://me:hunter2@{way.url.partition('//')[2]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    options, sources = resolved({}, {"MLFLOW_TRACKING_URI": address}, tmp_path)
    parted = part(options, sources)
    assert "hunter2" not in json.dumps([parted.options, parted.sources])
    run = info(
        tmp_path, options={"mlflow": parted.options}, secrets={"mlflow": dict(parted.sources)}
    )
    recalled = recall(run, "mlflow", MlflowBackend)
    assert recalled.missing == {}
    again = MlflowOptions(**{**parted.options, **recalled.credentials})
    MlflowBackend(again).preflight()
    assert found[-1]["Authorization"] == "Basic bWU6aHVudGVyMg=="


# -- every option does something --------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, fresh_database: Path) -> str:
    (tmp_path / "mlflow.db").write_bytes(fresh_database.read_bytes())
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_experiment_is_for_runs_without_a_project(store: str, tmp_path: Path) -> None:
    environ = {"MLFLOW_EXPERIMENT_NAME": "from the variable"}
    with opened({"url": store}, tmp_path, environ, project=None) as (_, remote):
        assert seen(store, remote.id).project == "from the variable"
    with opened({"url": store}, tmp_path / "b", environ, project="own") as (_, remote):
        assert seen(store, remote.id).project == "own"
    given = {"url": store, "experiment": "from the option"}
    with opened(given, tmp_path / "c", environ, project=None) as (_, remote):
        assert seen(store, remote.id).project == "from the option"
    with opened({"url": store}, tmp_path / "d", project=None) as (_, remote):
        assert seen(store, remote.id).project == "Default"


def test_experiment_id_is_that_of_the_same_environment(store: str, tmp_path: Path) -> None:
    with tracking(store) as client:
        made = client.create_experiment("by id")
    environ = {"MLFLOW_TRACKING_URI": store, "MLFLOW_EXPERIMENT_ID": made}
    with opened({}, tmp_path, environ, project=None) as (_, remote):
        assert seen(store, remote.id).project == "by id"
    # In a store that the call names, an id of the environment means nothing.
    with opened({"url": store}, tmp_path / "b", environ, project=None) as (_, remote):
        assert seen(store, remote.id).project == "Default"
    with opened({"url": store, "experiment_id": made}, tmp_path / "c", project=None) as (_, remote):
        assert seen(store, remote.id).project == "by id"
    missing = opened({"url": store, "experiment_id": "4711"}, tmp_path / "d", project=None)
    with pytest.raises(ConfigError, match="4711"), missing:
        pass


def test_artifact_location_is_where_a_new_experiment_puts_files(store: str, tmp_path: Path) -> None:
    given = {"url": store, "artifact_location": (tmp_path / "elsewhere").as_uri()}
    with opened(given, tmp_path, project="placed") as (backend, remote):
        backend.write(Batch((SAMPLES["audio"],), lane="heavy"))
        assert list((tmp_path / "elsewhere").rglob("*.wav"))
        assert seen(store, remote.id).find("audio", "speech")


def test_restore_experiment(store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tracking(store) as client:
        made = client.create_experiment("gone")
        client.delete_experiment(made)
    refused = opened({"url": store, "restore_experiment": False}, tmp_path, project="gone")
    with pytest.raises(ConfigError, match="restore"), refused:
        pass
    with opened({"url": store}, tmp_path, project="gone") as (_, remote):
        assert seen(store, remote.id).project == "gone"
    assert "restored" in caplog.text


def test_description_user_and_source_are_shown(store: str, tmp_path: Path) -> None:
    given = {"url": store, "description": "**why**", "user": "ada", "source": "train.py"}
    with opened(given, tmp_path) as (_, remote):
        tags = seen(store, remote.id).tags
        with tracking(store) as client:
            assert client.get_run(remote.id).info.user_id == "ada"
    assert tags["mlflow.note.content"] == "**why**"
    assert tags["mlflow.user"] == "ada"
    assert tags["mlflow.source.name"] == "train.py"
    assert tags["mlflow.source.type"] == "LOCAL"


def test_user_and_source_are_those_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "0.1"])
    options, _ = resolved({}, {}, tmp_path)
    assert options.user == getpass.getuser()
    assert options.source == "train.py"


def test_workspace_is_a_header_and_in_the_address(
    headers: tuple[FaultyWay, list[Mapping[str, str]]], tmp_path: Path
) -> None:
    way, found = headers
    options, _ = resolved({"url": way.url}, {"MLFLOW_WORKSPACE": "team one"}, tmp_path)
    if versions.mlflow() >= (3, 10, 0):
        with pytest.raises(ConfigError, match="workspaces"):
            MlflowBackend(options).preflight()  # this server has none
    else:
        MlflowBackend(options).preflight()
    assert found[-1]["X-MLFLOW-WORKSPACE"] == "team one"
    assert page_of("3", "abc", options) == (
        "#/experiments/3/runs/abc?workflowType=machine_learning&workspace=team%20one"
    )


def test_time_limits(mlflow_server: Server, tmp_path: Path) -> None:
    way = FaultyWay(mlflow_server.url)
    limits = {"timeout_s": 0.3, "upload_timeout_s": 0.6, "connect_timeout_s": 0.3}
    with opened({"url": way.url, **limits}, tmp_path) as (backend, _), way.broken("hang"):
        for record, limit in ((metric("loss", 1.0), 0.3), (SAMPLES["audio"], 0.6)):
            started = time.monotonic()
            with pytest.raises(RetryableError, match="in time"):
                backend.write(Batch((record,)))
            assert limit <= time.monotonic() - started < limit + 1
        # A server that is merely slow gets more time when it is asked the same again.
        started = time.monotonic()
        with pytest.raises(RetryableError):
            backend.write(Batch((metric("loss", 1.0),)))
        assert time.monotonic() - started >= 0.6
    way.close()


def test_certificates(tmp_path: Path) -> None:
    environ = {
        "MLFLOW_TRACKING_SERVER_CERT_PATH": "ca.pem",
        "MLFLOW_TRACKING_CLIENT_CERT_PATH": "/etc/me.pem",
    }
    options, _ = resolved({"url": "https://localhost:1"}, environ, tmp_path)
    assert options.server_cert_path == str(tmp_path / "ca.pem")
    assert options.client_cert_path == "/etc/me.pem"
    assert options.insecure_tls is False
    # A file that is not there is told, not waited for.
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        MlflowBackend(options).preflight()
    insecure = {"MLFLOW_TRACKING_INSECURE_TLS": "true"}
    assert resolved({"url": "https://h"}, insecure, tmp_path)[0].insecure_tls is True


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and its key in one file, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_an_encrypted_server(mlflow_server: Server, tmp_path: Path, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    way = FaultyWay(mlflow_server.url, tls=context)

    def check(**given: Any) -> None:
        options, _ = resolved({"url": way.url, **given}, {}, tmp_path)
        MlflowBackend(options).preflight()

    try:
        with pytest.raises(ConfigError, match="MLFLOW_TRACKING_SERVER_CERT_PATH"):
            check()
        check(server_cert_path=str(certificate))
        check(insecure_tls=True)
        # Now the server wants to know who we are as well.
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate)
        with pytest.raises((ConfigError, RetryableError)):
            check(server_cert_path=str(certificate))
        check(server_cert_path=str(certificate), client_cert_path=str(certificate))
    finally:
        way.close()


# -- runs that are continued ------------------------------------------------------------------


def test_a_restart_keeps_tags_that_were_changed_since(store: str, tmp_path: Path) -> None:
    backend = MlflowBackend(resolved({"url": store}, {}, tmp_path)[0])
    run = info(tmp_path, tags={"stage": "start"})
    remote = backend.open(run, None, tmp_path / "work")
    backend.write(Batch((Tag("stage", "end", NOW),)))
    backend.close(RunStatus.RUNNING)
    again = MlflowBackend(resolved({"url": store}, {}, tmp_path)[0])
    again.open(run, remote, tmp_path / "work")
    again.close(RunStatus.FINISHED)
    assert seen(store, remote.id).tags["stage"] == "end"


def test_a_run_continued_elsewhere_takes_no_key_twice(store: str, tmp_path: Path) -> None:
    """The other spool does not know which keys were mapped; the run's tags do."""
    with opened({"url": store}, tmp_path / "a") as (backend, remote):
        backend.write(Batch((metric("a,b", 1.0), metric("loss", 1.0))))
    other = MlflowBackend(resolved({"url": store}, {}, tmp_path)[0])
    other.open(info(tmp_path), RemoteRun(remote.id), tmp_path / "b")
    other.write(Batch((metric("a;b", 2.0, 1), metric("a,b", 3.0, 1), metric("a_b", 4.0, 1))))
    other.close(RunStatus.FINISHED)
    found = {key: sorted(seen(store, remote.id).curve(key)) for key in ("a,b", "a;b", "a_b")}
    assert found == {"a,b": [(0, 1.0), (1, 3.0)], "a;b": [(1, 2.0)], "a_b": [(1, 4.0)]}


def test_a_deleted_run_is_gone(store: str, tmp_path: Path) -> None:
    backend = MlflowBackend(resolved({"url": store}, {}, tmp_path)[0])
    remote = backend.open(info(tmp_path), None, tmp_path / "work")
    with tracking(store) as client:
        client.delete_run(remote.id)
    with pytest.raises(ConfigError, match="deleted"):
        backend.write(Batch(tuple(curve("loss", 3))))
    with pytest.raises(ConfigError, match="mlflow runs restore"):
        MlflowBackend(resolved({"url": store}, {}, tmp_path)[0]).open(
            info(tmp_path), remote, tmp_path / "work"
        )


def test_resume_puts_the_status_back(store: str, tmp_path: Path) -> None:
    with tracking(store) as client:
        foreign = client.create_run("0", run_name="by hand").info.run_id
        client.set_terminated(foreign, "FAILED")
    backend = MlflowBackend(resolved({"url": store}, {}, tmp_path)[0])
    remote = backend.open(info(tmp_path), RemoteRun(foreign), tmp_path / "work")
    assert (remote.id, remote.name) == (foreign, "by hand")
    found = seen(store, foreign)
    assert (found.status, found.name, found.project) == ("RUNNING", "by hand", "Default")
    backend.write(Batch((Metric("loss", 1.0, 1, NOW),)))
    backend.close(RunStatus.FINISHED, NOW + 5)
    with tracking(store) as client:
        assert client.get_run(foreign).info.end_time == int((NOW + 5) * 1000)
