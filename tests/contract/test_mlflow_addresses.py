"""Which store an address means, what MLflow would choose, and one sentence for every mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Optional

import mlflow
import pytest

from tracelet.backends.mlflow import uri, versions
from tracelet.backends.mlflow.look import command
from tracelet.backends.mlflow.uri import StoreKind
from tracelet.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "complete"),
    [
        ("http://localhost:5000", "http://localhost:5000"),
        ("https://mlflow.example.com/team/", "https://mlflow.example.com/team"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("  http://localhost:5000/ ", "http://localhost:5000"),
        ("http://localhost:5000/#/experiments/3/runs", "http://localhost:5000"),
        ("HTTP://localhost:5000", "http://localhost:5000"),
        ("sqlite:///mlflow.db", "sqlite:///{cwd}/mlflow.db"),
        ("sqlite:///sub/../other.db?timeout=3", "sqlite:///{cwd}/other.db?timeout=3"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("./mlruns", "file://{cwd}/mlruns"),
        ("mlruns", "file://{cwd}/mlruns"),
        ("/data/my runs", "file:///data/my%20runs"),
        ("file:./mlruns", "file://{cwd}/mlruns"),
        ("file:///data/mlruns", "file:///data/mlruns"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("mysql+pymysql://u:p@host:3306/db?a=b", "mysql+pymysql://u:p@host:3306/db?a=b"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_an_address_is_made_complete(given: str, complete: str, tmp_path: Path) -> None:
    assert uri.absolute(given, tmp_path) == complete.format(cwd=tmp_path)


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("", "http://host:5000"),
        ("   ", "http://host:5000"),
        ("localhost:5000", "write 'http://localhost:5000'"),
        ("mlflow.example.com:8080/team", "write 'http://mlflow.example.com:8080/team'"),
        ("mlflow.example.com", "https://mlflow.example.com"),
        ("localhost", "https://localhost"),
        ("htp://localhost:5000", "write 'http://localhost:5000'"),
        ("htps://host", "write 'https://host'"),
        ("http//localhost:5000", "write 'http://localhost:5000'"),
        ("http:/localhost:5000", "write 'http://localhost:5000'"),
        ("http://", "no host"),
        ("http://host:99999", "port"),
        ("http://host:", "no port"),
        ("http://host:5000/?a=b", "write 'http://host:5000'"),
        ("sqlite://mlflow.db", "write 'sqlite:///mlflow.db'"),
        ("sqlite:mlflow.db", "write 'sqlite:///mlflow.db'"),
        ("sqlite:///", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("mlflow.db", "write 'sqlite:///mlflow.db'"),
        ("postgres://host/db", "write 'postgresql://host/db'"),
        ("postgresql:host/db", "write 'postgresql://host/db'"),
        ("file://mlruns", "mlruns"),
        ("bananas://host", "none of http, https"),
    ],
)
def test_a_wrong_address_is_one_sentence_with_the_right_one(
    given: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        uri.absolute(given, tmp_path)
    text = str(caught.value)
    assert remedy in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "given",
    [
        "htp://me:hunter2@host",
        "me:hunter2@localhost:5000",
        "http://me:hunter2@host:99999",
        "postgres://me:hunter2@host/db",
        "bananas://me:hunter2@host",
    ],
)
def test_no_sentence_shows_a_password(given: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        uri.absolute(given, tmp_path)
    assert "hunter2" not in str(caught.value)


def test_a_folder_called_like_a_host_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "exp.data").mkdir()
    assert uri.absolute("exp.data", tmp_path) == (tmp_path / "exp.data").as_uri()


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://host", StoreKind.SERVER),
        ("sqlite:////a.db", StoreKind.SQLITE),
        ("sqlite+pysqlite:////a.db", StoreKind.SQLITE),
        ("postgresql+psycopg2://h/d", StoreKind.DATABASE),
        ("file:///a", StoreKind.FOLDER),
        ("databricks", StoreKind.PLUG_IN),
    ],
)
def test_kinds(url: str, kind: StoreKind) -> None:
    assert uri.kind_of(url) is kind


@pytest.mark.parametrize(
    ("url", "bare", "user", "password"),
    [
        ("http://me:p%40ss@host:5000/x", "http://host:5000/x", "me", "p@ss"),
        ("http://token@host", "http://host", "token", None),
        ("postgresql://u:p@h/db?sslmode=require", "postgresql://h/db?sslmode=require", "u", "p"),
        ("http://host", "http://host", None, None),
        ("file:///a@b/c", "file:///a@b/c", None, None),
        ("sqlite:////a@b.db", "sqlite:////a@b.db", None, None),
    ],
)
def test_userinfo_is_taken_out_and_put_back(
    url: str, bare: str, user: Optional[str], password: Optional[str]
) -> None:
    assert uri.without_userinfo(url) == (bare, user, password)
    assert uri.with_userinfo(bare, user, password) == url


@pytest.mark.parametrize("awkward", ["per%cent", "quest?ion", "with space"])
def test_the_default_database_lies_in_the_folder(tmp_path: Path, awkward: str) -> None:
    if versions.sqlalchemy() < (2, 1, 0) and "?" in awkward:
        return  # no address means this folder there
    url = uri.default(tmp_path / awkward, (3, 17, 2))
    assert uri.database_path(url) == tmp_path / awkward / "mlflow.db"


ASK = """
import os, mlflow
before = set(os.listdir("."))
client = mlflow.MlflowClient()
client.create_run("0")
print(*sorted(set(os.listdir(".")) - before))
"""


@pytest.mark.parametrize("awkward", ["with space", "ünïcode"])
def test_the_default_is_what_mlflow_itself_opens(tmp_path: Path, awkward: str) -> None:
    """MLflow is asked in a process of its own."""
    folder = tmp_path / awkward
    folder.mkdir()
    asked = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            ASK,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "MLFLOW_ALLOW_FILE_STORE": "true"},
    )
    made = asked.stdout.split("\n")[0].split()
    url = uri.default(folder)
    if uri.kind_of(url) is StoreKind.FOLDER:
        assert uri.folder(url) == folder / "mlruns"
        assert "mlruns" in made
    else:
        assert uri.database_path(url) == folder / "mlflow.db"
        assert "mlflow.db" in made, asked.stderr


@pytest.mark.parametrize(
    ("version", "old_files", "expected"),
    [
        ((3, 1, 1), False, "mlruns"),
        ((3, 6, 0), False, "mlruns"),
        ((3, 7, 0), False, "mlflow.db"),
        ((3, 17, 2), False, "mlflow.db"),
        ((3, 1, 1), True, "mlruns"),
        ((3, 7, 0), True, "mlruns"),
        ((3, 17, 2), True, "mlruns"),
    ],
)
def test_the_default_by_version(
    tmp_path: Path, version: versions.Version, old_files: bool, expected: str
) -> None:
    # Artifact folders of the time of databases have no such file, and are no old store.
    (tmp_path / "mlruns" / "1").mkdir(parents=True)
    if old_files:
        (tmp_path / "mlruns" / "0").mkdir()
        (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("")
    assert uri.default(tmp_path, version).endswith(f"/{expected}")


def test_the_command_is_plain_in_the_folder_of_the_default_store(tmp_path: Path) -> None:
    url = uri.default(tmp_path)
    prefix = ""
    if uri.kind_of(url) is StoreKind.FOLDER and versions.mlflow() >= (3, 13, 0):
        prefix = "MLFLOW_ALLOW_FILE_STORE=true "
    assert command(url, tmp_path, {}) == f"{prefix}mlflow ui"
    elsewhere = command(url, tmp_path / "elsewhere", {})
    assert elsewhere == f"{prefix}mlflow ui --backend-store-uri {url}"
    named = command(url, tmp_path, {"MLFLOW_BACKEND_STORE_URI": "sqlite:///other.db"})
    assert named == elsewhere


def test_the_command_for_an_old_folder_says_how_to_open_it(tmp_path: Path) -> None:
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("")
    refused = versions.mlflow() >= (3, 13, 0)
    prefix = "MLFLOW_ALLOW_FILE_STORE=true " if refused else ""
    assert command(uri.default(tmp_path), tmp_path, {}) == f"{prefix}mlflow ui"


def test_the_command_quotes_for_the_shell(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    assert command((folder / "mlruns").as_uri(), tmp_path, {}).count("%20") == 1
    line = command(f"sqlite:///{folder}/x.db", tmp_path, {})
    assert line.startswith("mlflow ui --backend-store-uri '")


def test_versions_are_asked_without_importing() -> None:
    expected = tuple(int(part) for part in mlflow.__version__.split(".")[:3])
    assert versions.mlflow() == expected
    assert versions.installed("no-such-distribution") is None
