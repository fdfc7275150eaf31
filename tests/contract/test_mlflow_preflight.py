"""The right diagnosis in less than two seconds, before training, without MLflow's SDK."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any, Iterator, Mapping

import pytest

from services.elsewhere import run_python
from services.mlflow_server import FaultyWay, Server, free_port
from tracelet.backends.mlflow import MlflowBackend, versions
from tracelet.errors import ConfigError, MissingPackageError, RetryableError


def check(cwd: Path, url: str, **options: Any) -> None:
    """Run the preflight; it has to end within its second, whatever it says."""
    resolved, _ = MlflowBackend.resolve({"url": url, **options}, {}, cwd)
    backend = MlflowBackend(resolved)
    started = time.monotonic()
    try:
        backend.preflight()
    finally:
        assert time.monotonic() - started < 2


def test_a_working_server_says_nothing(mlflow_server: Server, tmp_path: Path) -> None:
    check(tmp_path, mlflow_server.url)
    check(tmp_path, mlflow_server.url + "/")


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(RetryableError, match="cannot be reached"):
        check(tmp_path, f"http://127.0.0.1:{free_port()}")


def test_a_name_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RetryableError, match="cannot be reached"):
        check(tmp_path, "http://no-such-host.invalid:5000")


def test_a_port_that_accepts_and_says_nothing(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(RetryableError, match="in time"):
            check(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")


#: What different things in the place of a tracking server say.
ANSWERS: Mapping[str, tuple[Any, type[Exception], str]] = {
    "wrong password": ((401, {}, b"You are not authenticated."), ConfigError, "credentials"),
    "no permission": ((403, {}, b"Permission denied"), ConfigError, "Permission denied"),
    "host validation": (
        (403, {}, b"Invalid Host header - possible DNS rebinding attack detected"),
        ConfigError,
        "--allowed-hosts",
    ),
    "proxy": ((407, {}, b""), ConfigError, "proxy"),
    "wrong prefix": ((404, {}, b"<html>Not Found</html>"), ConfigError, "no MLflow"),
    "login page": (
        (200, {"Content-Type": "text/html"}, b"<html>Please log in</html>"),
        ConfigError,
        "login",
    ),
    "other service": ((200, {}, b'{"status": "fine"}'), ConfigError, "not MLflow"),
    "a list": ((200, {}, b"[]"), ConfigError, "not MLflow"),
    "overloaded": ((503, {"Retry-After": "7"}, b""), RetryableError, "503"),
    "broken": ((500, {}, b"oops"), RetryableError, "500"),
    "old MLflow without experiments": ((200, {}, b"{}"), Exception, ""),
}


@pytest.mark.parametrize("case", list(ANSWERS))
def test_what_answers_is_told_apart(case: str, mlflow_server: Server, tmp_path: Path) -> None:
    answer, expected, words = ANSWERS[case]
    way = FaultyWay(mlflow_server.url)
    try:
        with way.broken(answer):
            if expected is Exception:
                check(tmp_path, way.url)
                return
            with pytest.raises(expected, match=words):
                check(tmp_path, way.url)
    finally:
        way.close()


def test_a_redirect_to_a_login_page(mlflow_server: Server, tmp_path: Path) -> None:
    login, way = FaultyWay(mlflow_server.url), FaultyWay(mlflow_server.url)
    try:
        page = (200, {"Content-Type": "text/html"}, b"<html>Who are you?</html>")
        moved = (302, {"Location": f"{login.url}/login"}, b"")
        refused = pytest.raises(ConfigError, match="login")
        with login.broken(page), way.broken(moved), refused:
            check(tmp_path, way.url)
    finally:
        login.close()
        way.close()


def test_a_wrong_path_at_a_real_server(mlflow_server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no MLflow|not MLflow"):
        check(tmp_path, f"{mlflow_server.url}/team/mlflow")


def test_https_at_a_server_without(mlflow_server: Server, tmp_path: Path) -> None:
    """An old server says nothing at all to what is no HTTP."""
    with pytest.raises((ConfigError, RetryableError), match=r"http://|TLS|in time"):
        check(tmp_path, mlflow_server.url.replace("http:", "https:"))


def test_the_real_host_validation(mlflow_server: Server, tmp_path: Path) -> None:
    """From 3.5 on; before, any name will do."""
    way = FaultyWay(mlflow_server.url, host="mlflow-server:5000")
    try:
        if versions.mlflow() >= (3, 5, 0):
            with pytest.raises(ConfigError, match="--allowed-hosts"):
                check(tmp_path, way.url)
        else:
            check(tmp_path, way.url)
    finally:
        way.close()


def test_a_secret_that_cannot_be_sent_is_not_shown(mlflow_server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check(tmp_path, mlflow_server.url, api_key="hunter2\nX-Evil: 1")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


# -- on this machine --------------------------------------------------------------------------


def test_local_stores_that_can_be_made(tmp_path: Path) -> None:
    check(tmp_path, "sqlite:///not/there/yet/mlflow.db")
    check(tmp_path, "./not/there/yet/mlruns")
    assert list(tmp_path.iterdir()) == []


def test_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is a text and no database")
    with pytest.raises(ConfigError, match="no SQLite database"):
        check(tmp_path, "sqlite:///mlflow.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(ConfigError, match="folder"):
        check(tmp_path, "sqlite:///folder.db")


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url in ("sqlite:///file/mlflow.db", (tmp_path / "file" / "mlruns").as_uri()):
        with pytest.raises(ConfigError, match="folder"):
            check(tmp_path, url)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("platform: no folder that even the superuser cannot write to")
    for url in ("sqlite:////proc/mlflow.db", "file:///proc/mlruns"):
        with pytest.raises(ConfigError, match="cannot be written"):
            check(tmp_path, url)


def test_a_database_server_that_is_away(tmp_path: Path) -> None:
    url = f"postgresql+pg8000://me:hunter2@127.0.0.1:{free_port()}/mlflow"
    with pytest.raises((RetryableError, MissingPackageError)) as caught:
        check(tmp_path, url)
    assert "hunter2" not in str(caught.value)


# -- packages ---------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in front of all others, for metadata of packages that are not installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    versions.installed.cache_clear()
    yield folder
    versions.installed.cache_clear()


def pretend(folder: Path, name: str, version: str) -> None:
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.parametrize(
    ("mlflow", "sqlalchemy", "works"),
    [
        ("3.1.1", "2.1.0", False),
        ("3.8.1", "2.1.9", False),
        ("3.8.1", "2.0.58", True),
        ("3.9.0", "2.1.9", True),
        ("3.17.2", "2.1.9", True),
    ],
)
def test_pairs_of_versions_that_fail(
    environment: Path, tmp_path: Path, mlflow: str, sqlalchemy: str, works: bool
) -> None:
    pretend(environment, "mlflow", mlflow)
    pretend(environment, "sqlalchemy", sqlalchemy)
    if works:
        check(tmp_path, "sqlite:///mlflow.db")
        return
    with pytest.raises(ConfigError, match=r"sqlalchemy<2\.1"):
        check(tmp_path, "sqlite:///mlflow.db")
    check(tmp_path, "./mlruns")  # the pair matters for databases only


def test_without_packages(tmp_path: Path) -> None:
    """In a process that has neither MLflow nor anything it brings."""
    script = (
        "import sys, json, importlib.metadata as m\n"
        "hidden = json.loads(sys.argv[1])\n"
        "for name in hidden['modules']: sys.modules[name] = None\n"
        "real = m.version\n"
        "def version(name):\n"
        "    if name in hidden['distributions']: raise m.PackageNotFoundError(name)\n"
        "    return real('mlflow' if name == 'mlflow-skinny' else name)\n"
        "m.version = version\n"
        "from pathlib import Path\n"
        "from tracelet.backends.mlflow import MlflowBackend\n"
        "options, _ = MlflowBackend.resolve({'url': sys.argv[2]}, {}, Path('.').resolve())\n"
        "try: MlflowBackend(options).preflight()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )

    def said(url: str, *modules: str, distributions: tuple[str, ...] = ()) -> str:
        hidden = json.dumps({"modules": modules, "distributions": distributions})
        return run_python(script, hidden, url, cwd=tmp_path)

    nothing = ("mlflow", "mlflow-skinny")
    missing = said("sqlite:///x.db", "mlflow", distributions=nothing)
    assert missing.startswith("MissingPackageError")
    assert "tracelet[mlflow]" in missing
    skinny = said("sqlite:///x.db", "sqlalchemy", distributions=("mlflow",))
    assert skinny.startswith("MissingPackageError")
    assert "skinny" in skinny
    server = said("http://127.0.0.1:1", "requests")
    assert server.startswith("MissingPackageError")
    assert "tracelet[mlflow-remote]" in server
    # A server needs no MLflow here at all: it is asked, and nobody is there.
    assert said("http://127.0.0.1:1", "mlflow", distributions=nothing).startswith("Retryable")


def test_nothing_of_mlflow_is_imported(mlflow_server: Server, tmp_path: Path) -> None:
    """Training pays for what it uses; `requests` is what asks the server."""
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from tracelet.backends.mlflow import MlflowBackend\n"
        "for url in sys.argv[1:]:\n"
        "    options, _ = MlflowBackend.resolve({'url': url}, {}, Path('.').resolve())\n"
        "    MlflowBackend(options).preflight()\n"
        "print(sorted({'mlflow', 'pandas', 'numpy', 'sqlalchemy'} & set(sys.modules)))\n"
    )
    urls = (mlflow_server.url, "sqlite:///x.db", "./mlruns")
    assert run_python(script, *urls, cwd=tmp_path).strip() == "[]"
