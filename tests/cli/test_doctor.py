"""``tracelet doctor``: the right diagnosis with its remedy, whatever hangs, and no secret in it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional

import pytest
from click.testing import CliRunner, Result

import tracelet
from services.mlflow_reader import tracking
from services.mlflow_server import FaultyWay, Server, free_port, serving
from tracelet.backends.mlflow import versions
from tracelet.cli.commands import tracelet as command_line

SECRET = "hunter2-planted-0123456789"
PASSWORD = f"password-{SECRET}"

#: A password takes a server half a second of a core, and a busy machine has none to spare. What is
#: proved with the default is that nothing takes longer.
PATIENT = ("--timeout", "30")


class Examined(NamedTuple):
    """What the command said."""

    code: int
    content: Mapping[str, Any]

    def of(self, subject: str, area: str = "mlflow") -> list[Mapping[str, str]]:
        return [
            each
            for each in self.content["findings"]
            if (each["area"], each["subject"]) == (area, subject)
        ]

    def one(self, subject: str, area: str = "mlflow") -> Mapping[str, str]:
        (found,) = self.of(subject, area)
        return found

    @property
    def problems(self) -> list[Mapping[str, str]]:
        return [each for each in self.content["findings"] if each["level"] == "problem"]

    @property
    def problem(self) -> Mapping[str, str]:
        assert self.code == 1
        assert self.content["ok"] is False
        (found,) = self.problems
        return found

    def fine(self) -> bool:
        return self.code == 0 and self.content["ok"] is True and self.problems == []


def command(*arguments: str, patience: tuple[str, ...] = PATIENT) -> Result:
    result = CliRunner().invoke(
        command_line, ["doctor", *patience, *arguments], catch_exceptions=False
    )
    assert SECRET not in result.output
    return result


def doctor(*arguments: str, patience: tuple[str, ...] = PATIENT) -> Examined:
    result = command("--json", *arguments, patience=patience)
    return Examined(result.exit_code, json.loads(result.output))


@pytest.fixture(scope="session")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """
    A server behind a password and host validation that leaves artifacts to its clients.

    Its users' passwords and its artifacts' root are as in the worst of stacks; the host by which
    it may be asked is this machine's.
    """
    pytest.importorskip("flask_wtf")
    folder = tmp_path_factory.mktemp("gated")
    more = ["--app-name", "basic-auth", "--default-artifact-root", str(folder / "theirs")]
    password = PASSWORD
    if versions.mlflow() >= (3, 5, 0):
        more += ["--allowed-hosts", "127.0.0.1:*"]
    variables = {
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "any",
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
    }
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = admin\nadmin_password = {password}\n"
        "authorization_function = "
        "mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    with serving(folder, more=more, environment=variables) as server:
        yield server


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


# -- everything is well -----------------------------------------------------------------------


def test_a_fresh_folder_is_fine_and_stays_empty(tmp_path: Path) -> None:
    found = doctor()
    assert found.fine()
    assert str(tmp_path) in found.one("address")["text"]
    assert "MLflow" in found.one("address")["text"]  # whose default it is
    assert found.one("look")["text"] == "mlflow ui"
    assert found.one("folder", "spool")["text"] == str(tmp_path / ".tracelet")
    assert list(tmp_path.iterdir()) == []


def test_a_database_is_fine(tmp_path: Path, mlflow_server: Server) -> None:
    with copied(mlflow_server, tmp_path):
        pass
    found = doctor("--backend-url", "sqlite:///mlflow.db", "--project", "vision")
    assert found.fine()
    assert found.one("store")["text"] == "can be read and written"
    assert "'vision' will be made" in found.one("experiment")["text"]
    assert (
        "'Default' is there"
        in doctor("--backend-url", "sqlite:///mlflow.db").one("experiment")["text"]
    )


def test_a_folder_of_files_is_fine(tmp_path: Path) -> None:
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("name: Default\n")
    found = doctor()
    assert found.fine()
    assert found.one("address")["text"].startswith((tmp_path / "mlruns").as_uri())
    notes = [each for each in found.of("store") if each["level"] == "note"]
    if versions.mlflow() >= (3, 13, 0):
        assert "MLFLOW_ALLOW_FILE_STORE=true mlflow ui" in notes[0]["remedy"]
        assert "migrate-filestore" in notes[0]["remedy"]
    else:
        assert notes == []


def test_a_server_is_fine(mlflow_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    found = doctor()
    assert found.fine()
    assert found.one("address")["text"] == f"{mlflow_server.url}, from MLFLOW_TRACKING_URI"
    assert found.one("server")["text"] == "MLflow answers"
    assert re.search(r"MLflow is \d+\.\d+\.\d+", found.one("version")["text"])
    assert found.one("credentials")["text"] == "none are sent"
    assert found.one("look")["text"] == mlflow_server.url


def test_a_backend_without_an_examination_of_its_own() -> None:
    found = doctor("--backend", "memory")
    assert found.fine()
    assert found.one("preflight", "memory")["level"] == "ok"


def test_files_of_our_own(tmp_path: Path) -> None:
    found = doctor("--backend", "jsonl")
    assert found.fine()
    assert found.one("folder", "jsonl")["text"] == str(tmp_path / "tracelet-jsonl")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    problem = doctor("--backend", "jsonl", "--backend-url", "file/below").problem
    assert "Nothing can be written" in problem["text"]
    assert problem["remedy"]


def test_backends_are_examined_at_once() -> None:
    found = doctor("--backend", "mlflow", "--backend", "jsonl")
    assert found.fine()
    assert found.one("address")
    assert found.one("folder", "jsonl")


# -- the form ---------------------------------------------------------------------------------


def test_the_form_for_a_program() -> None:
    content = doctor().content
    assert set(content) == {"ok", "seconds", "versions", "findings"}
    assert content["seconds"] > 0
    assert content["versions"]["tracelet"] == tracelet.__version__
    assert content["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"mlflow", "torch", "tensorboard", "SQLAlchemy", "psutil"} <= set(content["versions"])
    for each in content["findings"]:
        assert set(each) == {"area", "subject", "level", "text", "remedy"}
        assert each["level"] in ("ok", "note", "problem")
        assert each["text"]
        assert each["remedy"] or each["level"] != "problem"


def test_the_form_for_a_person(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    result = command("--backend-url", "sqlite:///mlflow.db")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "installed",
        "spool",
        "mlflow",
        "1 problem.",
    ]
    place = next(n for n, line in enumerate(lines) if line.startswith("  problem  store"))
    assert any(line.strip().startswith("→ ") for line in lines[place:])
    # A path is not cut, so that it can be copied.
    assert all(len(line) <= 80 for line in lines if str(tmp_path) not in line)


def test_wrong_usage() -> None:
    assert command("--backends", "mlflow").exit_code == 2


def test_nothing_of_what_is_looked_at_is_imported(mlflow_server: Server, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom tracelet.cli.doctor import examine\n"
        "for url in (None, sys.argv[1]):\n"
        "    examine(backend=(), backend_url=url, project=None, timeout=9, as_json=True)\n"
        "heavy = {'mlflow', 'torch', 'numpy', 'pandas', 'sqlalchemy', 'psutil'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))\n"
    )
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", script, mlflow_server.url],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr


# -- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TRACELET_BAKEND", "mlflow"),
        ("TRACELET_SHIPPER", "pigeon"),
        ("TRACELET_BACKEND", "mlfow"),
        ("TRACELET_BACKEND_URL", "localhost:5000"),
        ("TRACELET_MLFLOW__TIMEOUT_S", "soon"),
    ],
)
def test_a_wrong_setting_is_told_as_by_the_start(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(tracelet.TraceletError) as caught:
        tracelet.start_logging()
    found = doctor()
    problem = found.problem
    assert problem["subject"] == "settings"
    assert problem["text"] == str(caught.value)
    assert found.of("versions", "installed")


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_DISABLED", "1")
    found = doctor()
    assert found.code == 0
    assert "TRACELET_DISABLED" in found.one("mode", "settings")["text"]


# -- a server that is away --------------------------------------------------------------------


def test_nothing_listens() -> None:
    problem = doctor("--backend-url", f"http://127.0.0.1:{free_port()}").problem
    assert problem["subject"] == "server"
    assert "refused" in problem["text"]
    assert problem["remedy"].startswith("start the server")


def test_a_name_that_does_not_exist() -> None:
    problem = doctor("--backend-url", "http://no-such-host.invalid:5000").problem
    assert "no-such-host.invalid" in problem["text"]
    assert "host's name" in problem["remedy"]


@contextlib.contextmanager
def answering(speak: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A port that takes connections and does with them what it is told."""
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                threading.Thread(target=converse, args=(connection,), daemon=True).start()

    def converse(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            speak(connection, ended)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            ended.set()


def silent(_: socket.socket, ended: threading.Event) -> None:
    ended.wait(60)


def headers_only(connection: socket.socket, ended: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    ended.wait(60)


def dripping(connection: socket.socket, ended: threading.Event) -> None:
    """Never silent for long enough to be given up, and never done."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while not ended.wait(0.1):
        connection.sendall(b".")


@pytest.mark.parametrize("far_end", [silent, headers_only, dripping])
def test_a_port_that_hangs(far_end: Callable[..., None]) -> None:
    with answering(far_end) as url:
        found = doctor("--backend-url", url, patience=())
    problem = found.problem
    assert problem["area"] == "mlflow"
    assert "what listens there" in problem["remedy"] or "what hangs there" in problem["remedy"]
    # It would be minutes; 2 s on a machine at rest.
    assert found.content["seconds"] < 10
    # What was known before it hung is told all the same.
    assert found.one("address")["level"] == "ok"


def test_what_does_not_speak_http() -> None:
    with answering(lambda connection, _: connection.sendall(b"220 ready for mail\r\n")) as url:
        assert "does not speak HTTP" in doctor("--backend-url", url).problem["remedy"]


def test_https_where_there_is_none() -> None:
    with answering(lambda connection, _: connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")) as url:
        problem = doctor("--backend-url", url.replace("http:", "https:")).problem
    assert "http://" in problem["remedy"]


# -- a server that refuses --------------------------------------------------------------------


def test_no_password(gated: Server) -> None:
    problem = doctor("--backend-url", gated.url).problem
    assert "wants credentials (401)" in problem["text"]
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in problem["remedy"]


def test_a_wrong_password(gated: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    found = doctor("--backend-url", gated.url)
    assert "refuses the credentials (401)" in found.problem["text"]
    assert "check MLFLOW_TRACKING_USERNAME" in found.problem["remedy"]
    assert found.one("credentials")["text"] == (
        "a name with a password, from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    )


def test_a_token_where_a_password_is_wanted(gated: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    found = doctor("--backend-url", gated.url)
    assert "was sent a token" in found.problem["text"]
    assert found.one("credentials")["text"] == "a token, from MLFLOW_TRACKING_TOKEN"


def test_the_right_password_and_who_wins(
    gated: Server, admin: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    found = doctor("--backend-url", gated.url)
    assert found.fine()
    sent, unsent = found.of("credentials")
    assert "MLFLOW_TRACKING_PASSWORD" in sent["text"]
    assert unsent["level"] == "note"
    assert unsent["text"].startswith("MLFLOW_TRACKING_TOKEN: set and not sent")


def test_a_password_in_the_address_and_in_the_file(
    gated: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gated.url.replace("//", f"//admin:{PASSWORD}@"))
    found = doctor()
    assert found.fine()
    assert found.one("credentials")["text"].endswith("from MLFLOW_TRACKING_URI")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gated.url)
    stored = Path.home() / ".mlflow" / "credentials"
    stored.parent.mkdir(exist_ok=True)
    stored.write_text(
        f"[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = {PASSWORD}\n"
    )
    try:
        found = doctor()
    finally:
        stored.unlink()
    assert found.fine()
    assert found.one("credentials")["text"].endswith("from ~/.mlflow/credentials")


def test_a_host_name_that_the_server_does_not_know(gated: Server, admin: None) -> None:
    if versions.mlflow() < (3, 5, 0):
        pytest.skip("platform: this MLflow looks at no host's name")
    way = FaultyWay(gated.url, host="mlflow-server:5000")
    try:
        problem = doctor("--backend-url", way.url).problem
    finally:
        way.close()
    assert "host validation" in problem["text"]
    assert "--allowed-hosts" in problem["remedy"]
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" in problem["remedy"]


def test_a_wrong_prefix(mlflow_server: Server) -> None:
    problem = doctor("--backend-url", f"{mlflow_server.url}/team/mlflow").problem
    assert problem["remedy"] == f"write {mlflow_server.url!r}: MLflow answers there"


#: What stands in the place of a tracking server, by what it says.
STRANGERS: Mapping[str, tuple[tuple[int, Mapping[str, str], bytes], str, str]] = {
    "login page": (
        (200, {"Content-Type": "text/html"}, b"<html>Please log in</html>"),
        "not MLflow's interface",
        "login page",
    ),
    "other site": ((404, {}, b"<html>Not Found</html>"), "no MLflow", "check the address"),
    "other service": ((200, {}, b'{"status": "fine"}'), "not MLflow", "check the address"),
    "no permission": ((403, {}, b"Permission denied"), "Permission denied", "ask whoever"),
    "AirPlay": ((403, {"Server": "AirTunes/775.3"}, b""), "AirPlay", "another port"),
    "proxy": ((407, {}, b""), "proxy", "HTTP_PROXY"),
    "overloaded": ((503, {"Retry-After": "7"}, b""), "503", "server's own log"),
}


@pytest.mark.parametrize("case", list(STRANGERS))
def test_strangers(case: str, mlflow_server: Server) -> None:
    answer, text, remedy = STRANGERS[case]
    way = FaultyWay(mlflow_server.url)
    try:
        with way.broken(answer):
            problem = doctor("--backend-url", way.url).problem
    finally:
        way.close()
    assert text in problem["text"]
    assert remedy in problem["remedy"]


def test_a_redirect_to_a_login_page(mlflow_server: Server) -> None:
    login, way = FaultyWay(mlflow_server.url), FaultyWay(mlflow_server.url)
    page = (200, {"Content-Type": "text/html"}, b"<html>Who are you?</html>")
    moved = (302, {"Location": f"{login.url}/login?state={SECRET}"}, b"")
    try:
        with login.broken(page), way.broken(moved):
            problem = doctor("--backend-url", way.url).problem
    finally:
        login.close()
        way.close()
    assert f"it led to {login.url}/login" in problem["text"]
    assert "login page" in problem["remedy"]


@pytest.mark.parametrize("far_end", ["away", "refuses", "no MLflow"])
def test_no_secret_is_shown(
    far_end: str, mlflow_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``command`` looks for it in everything that is printed."""
    way = FaultyWay(mlflow_server.url)
    faults = {
        "away": "down",
        "refuses": "refused",
        "no MLflow": (200, {}, f"<html>{SECRET}</html>".encode()),
    }
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{SECRET}@127.0.0.1:1")
    url = way.url.replace("//", f"//me:{SECRET}@")
    try:
        with way.broken(faults[far_end]):
            assert command("--backend-url", url).exit_code == 1
            assert command("--backend-url", url, "--json").exit_code == 1
            monkeypatch.setenv("TRACELET_BACKEND_URL", f"{url}/#/x?{SECRET}=1")
            assert command().exit_code == 1
            monkeypatch.setenv("TRACELET_BACKEND_URL", f"htp://me:{SECRET}@127.0.0.1")
            assert command().exit_code == 1
    finally:
        way.close()


# -- artifacts --------------------------------------------------------------------------------


def test_a_server_that_leaves_artifacts_to_its_clients(gated: Server, admin: None) -> None:
    found = doctor("--backend-url", gated.url, "--project", "new")
    note = found.one("artifacts")
    assert note["level"] == "note"
    assert str(gated.folder / "theirs") in note["text"]
    assert note["remedy"] == (
        "start the server with --artifacts-destination instead of --default-artifact-root"
    )


@pytest.fixture
def places(mlflow_server: Server, tmp_path: Path) -> Mapping[str, str]:
    """Experiments whose artifacts go elsewhere: name → location."""
    (tmp_path / "file").write_text("")
    locations = {
        "s3": "s3://bucket/x",
        "gs": "gs://bucket/x",
        "theirs": f"{tmp_path}/theirs/1",
        "impossible": f"{tmp_path}/file/mlflow/artifacts",
    }
    with tracking(mlflow_server.url) as client:
        for name, location in locations.items():
            client.create_experiment(f"{name} {tmp_path.name}", artifact_location=location)
    return locations


def hidden(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_artifacts_that_need_a_package(
    places: Mapping[str, str],
    mlflow_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hidden(monkeypatch, "boto3", "google.cloud.storage")
    for name, package in (("s3", "boto3"), ("gs", "google-cloud-storage")):
        found = doctor("--backend-url", mlflow_server.url, "--project", f"{name} {tmp_path.name}")
        assert found.problem["subject"] == "artifacts"
        assert f"{name}://bucket" in found.problem["text"]
        assert f"pip install {package}" in found.problem["remedy"]
        assert "--artifacts-destination" in found.problem["remedy"]


def test_artifacts_that_need_credentials(
    places: Mapping[str, str],
    mlflow_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "site" / "boto3").mkdir(parents=True)
    (tmp_path / "site" / "boto3" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    arguments = ("--backend-url", mlflow_server.url, "--project", f"s3 {tmp_path.name}")
    remedies = [each["remedy"] for each in doctor(*arguments).of("artifacts")]
    assert any("AWS_ACCESS_KEY_ID" in remedy for remedy in remedies)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert [each["level"] for each in doctor(*arguments).of("artifacts")] == ["ok"]


def test_artifacts_in_a_folder_that_cannot_be(
    places: Mapping[str, str], mlflow_server: Server, tmp_path: Path
) -> None:
    project = f"impossible {tmp_path.name}"
    problem = doctor("--backend-url", mlflow_server.url, "--project", project).problem
    assert "artifacts cannot be stored" in problem["text"]
    assert "--artifacts-destination" in problem["remedy"]


def test_an_experiment_that_was_deleted(mlflow_server: Server, tmp_path: Path) -> None:
    with tracking(mlflow_server.url) as client:
        client.delete_experiment(client.create_experiment(f"gone {tmp_path.name}"))
    arguments = ("--backend-url", mlflow_server.url, "--project", f"gone {tmp_path.name}")
    assert "restores it" in doctor(*arguments).one("experiment")["text"]


# -- this machine -----------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(point: Path, *options: str) -> Iterator[Path]:
    """A file system of 1 MB of its own."""
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(["size=1m", *options]), "tracelet", str(point)]
    with contextlib.suppress(OSError):
        if subprocess.run(mount, capture_output=True).returncode == 0:
            try:
                yield point
            finally:
                subprocess.run(["umount", "-l", str(point)], check=True)
            return
    pytest.skip("platform: no file system can be mounted here")


@pytest.mark.parametrize("url", ["sqlite:///mlflow.db", "mlruns"])
def test_a_folder_that_cannot_be_written(url: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "ro") as folder:
        where = url.replace("sqlite:///", f"sqlite:///{folder}/")
        problem = doctor(
            "--backend-url", where if "sqlite" in where else (folder / where).as_uri()
        ).problem
    assert problem["subject"] == "store"
    assert "cannot be written: Read-only file system" in problem["text"]
    assert "make it writable" in problem["remedy"]


def test_a_working_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs go elsewhere, but MLflow's own default does not."""
    with small_disk(tmp_path / "disk", "ro") as folder:
        monkeypatch.chdir(folder)
        found = doctor()
        assert "Read-only" in found.problem["text"]
        assert "because" in found.one("folder", "spool")["text"]
        monkeypatch.setenv("TRACELET_SPOOL_DIR", str(folder / "spool"))
        refused = doctor().one("folder", "spool")
        monkeypatch.chdir(tmp_path)
    assert refused["level"] == "problem"
    assert "spool_dir" in refused["remedy"]


@pytest.mark.parametrize("url", ["sqlite:///mlflow.db", "mlruns"])
def test_a_full_disk(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk") as folder:
        monkeypatch.chdir(folder)
        with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        found = doctor("--backend-url", url)
        monkeypatch.chdir(tmp_path)
    full = {each["area"]: each for each in found.problems}
    assert set(full) == {"mlflow", "spool"}
    for each in full.values():
        assert "is full" in each["text"]
        assert "make room" in each["remedy"]


def test_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is a text and no database")
    assert "no SQLite database" in doctor("--backend-url", "sqlite:///mlflow.db").problem["text"]


@contextlib.contextmanager
def copied(server: Server, folder: Path) -> Iterator[sqlite3.Connection]:
    """A database of MLflow's own making, at ``mlflow.db`` in the folder."""
    with (
        contextlib.closing(sqlite3.connect(server.folder / "mlflow.db")) as original,
        contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection,
    ):
        original.backup(connection)
        yield connection


def test_a_database_of_another_version(tmp_path: Path, mlflow_server: Server) -> None:
    with copied(mlflow_server, tmp_path) as connection:
        # The first step of the tables' history, and one that is yet to come.
        for revision, text, remedy in (
            ("451aebb31d03", "an older MLflow", "mlflow db upgrade sqlite:///"),
            ("ffffffffffff", "a newer MLflow", "pip install --upgrade mlflow"),
        ):
            connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
            connection.commit()
            problem = doctor("--backend-url", "sqlite:///mlflow.db").problem
            assert text in problem["text"]
            assert remedy in problem["remedy"]


def test_a_database_that_is_locked(tmp_path: Path, mlflow_server: Server) -> None:
    with copied(mlflow_server, tmp_path) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        problem = doctor("--backend-url", "sqlite:///mlflow.db").problem
        connection.execute("ROLLBACK")
    assert "locked by another process" in problem["text"]
    assert "end the process" in problem["remedy"]
    assert doctor("--backend-url", "sqlite:///mlflow.db").fine()


def test_a_pair_of_versions_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, version in (("mlflow", "3.8.1"), ("sqlalchemy", "2.1.9")):
        metadata = tmp_path / "site" / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    versions.installed.cache_clear()
    try:
        problem = doctor().problem
    finally:
        versions.installed.cache_clear()
    assert problem["text"] == "MLflow 3.8.1 cannot use SQLAlchemy 2.1.9"
    assert problem["remedy"] == "pip install 'sqlalchemy<2.1' or 'mlflow>=3.9'"


def test_a_database_server_without_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden(monkeypatch, "psycopg", "psycopg2")
    url = f"postgresql://me:{SECRET}@127.0.0.1:{free_port()}/mlflow"
    problem = doctor("--backend-url", url).problem
    assert "needs the package 'psycopg" in problem["text"]
    assert "pip install 'psycopg" in problem["remedy"]


def test_what_waits_is_counted() -> None:
    config = {"mode": "offline", "silent": True}
    with tracelet.start_logging("name", backend="jsonl", config=config) as run:
        for step in range(3):
            run.log_metric("loss", 0.5, step)
    note = doctor().one("undelivered", "spool")
    assert (note["level"], note["remedy"]) == ("note", "tracelet sync")
    assert note["text"] == "3 records of 1 run are not delivered"


# -- the start --------------------------------------------------------------------------------

_TRAINING = """
import os, sys
for module in sys.argv[3:]:
    sys.modules[module] = None
import tracelet
run = tracelet.start_logging("one", sys.argv[2], backend_url=sys.argv[1])
run.log_metric("loss", 0.5, 1)
print(run.remote("mlflow").id)
report = tracelet.stop_logging()
assert report.backends["mlflow"].delivered == 1, report
"""


def trained(url: str, project: str, *without: str) -> tuple[str, list[str]]:
    """Run a training; return MLflow's id of its run, and the lines it was told."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", _TRAINING, url, project, *without],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.splitlines()


def values(url: str, run_id: str) -> Optional[float]:
    with tracking(url) as client:
        return client.get_run(run_id).data.metrics.get("loss")  # type: ignore[no-any-return]


def test_the_start_names_a_folder_of_the_clients(
    places: Mapping[str, str], mlflow_server: Server, tmp_path: Path
) -> None:
    run_id, lines = trained(mlflow_server.url, f"theirs {tmp_path.name}")
    (warning,) = [line for line in lines if "artifacts" in line]
    assert warning.startswith(
        f"tracelet: mlflow: artifacts are written to the folder {tmp_path}/theirs of this machine"
    )
    assert warning.endswith(
        "start the server with --artifacts-destination instead of --default-artifact-root."
    )
    assert values(mlflow_server.url, run_id) == 0.5


def test_the_start_names_a_package_for_artifacts(
    places: Mapping[str, str], mlflow_server: Server, tmp_path: Path
) -> None:
    run_id, lines = trained(mlflow_server.url, f"s3 {tmp_path.name}", "boto3")
    (warning,) = [line for line in lines if "artifacts" in line]
    assert "tracelet: mlflow: artifacts go to s3://bucket/x from here, which needs" in warning
    assert "pip install boto3" in warning
    assert values(mlflow_server.url, run_id) == 0.5


def test_a_strict_start_refuses_what_would_be_lost(
    places: Mapping[str, str],
    mlflow_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hidden(monkeypatch, "boto3")
    with pytest.raises(tracelet.TraceletError, match="pip install boto3"):
        tracelet.start_logging(
            project=f"s3 {tmp_path.name}",
            backend_url=mlflow_server.url,
            config={"strict": True},
        )
    assert tracelet.get_active_experiment() is None


def test_the_start_says_nothing_without_a_reason(mlflow_server: Server) -> None:
    _, lines = trained(mlflow_server.url, "well")
    assert not [line for line in lines if "artifacts" in line]
