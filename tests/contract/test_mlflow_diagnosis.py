"""Where artifacts of a run go, told from what the store has already."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from tracelet.backends.mlflow.diagnosis import artifacts
from tracelet.backends.mlflow.store import Experiment

SERVER = "http://mlflow-server:5000"


def made(number: str, location: str) -> Experiment:
    return Experiment(number, f"e{number}", location=location)


@pytest.mark.parametrize(
    ("wanted", "newest", "expected"),
    [
        (made("3", "s3://own/place"), (), "s3://own/place"),
        (made("3", ""), (made("3", ""),), None),
        (None, (), None),
        (None, (made("0", "mlflow-artifacts:/0"),), "mlflow-artifacts:/<id>"),
        # The root was changed since; and one experiment has a place of its own.
        (
            None,
            (made("9", "s3://own/place"), made("8", "mlflow-artifacts:/8"), made("0", "/old/0")),
            "mlflow-artifacts:/<id>",
        ),
        (None, (made("0", "/mlflow/artifacts/0"),), "/mlflow/artifacts/<id>"),
    ],
)
def test_where_artifacts_go(
    wanted: Optional[Experiment], newest: tuple[Experiment, ...], expected: Optional[str]
) -> None:
    assert artifacts.location_of(wanted, newest) == expected


def test_a_folder_that_a_server_names_and_that_is_not_here(tmp_path: Path) -> None:
    found = artifacts.doubt("/mlflow/artifacts/1", SERVER)
    assert found is not None
    assert found.level == "problem"
    assert "/mlflow/artifacts of this machine, which is not there" in found.text
    shared = artifacts.doubt(f"{tmp_path.as_uri()}/1", SERVER)
    assert shared is not None
    assert shared.level == "note"
    assert str(tmp_path) in shared.text


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("mlflow-artifacts:/1", SERVER),
        (f"{SERVER}/api/2.0/mlflow-artifacts/artifacts/1", SERVER),
        ("mlflow-artifacts:/1", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_places_without_a_doubt(location: str, url: str) -> None:
    assert artifacts.doubt(location, url) is None


def test_a_database_whose_experiments_belong_to_a_server() -> None:
    found = artifacts.doubt("mlflow-artifacts:/1", "postgresql://127.0.0.1/mlflow")
    assert found is not None
    assert "use the server's address" in found.remedy


def test_a_password_in_a_place_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    found = artifacts.doubt("ftp://me:hunter2@host/x", SERVER)
    assert found is not None
    assert "ftp://host/x" in found.text
    assert "hunter2" not in str(found)
