"""What the names of a run are in MLflow, read back through MLflow's own client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tracelet

mlflow = pytest.importorskip("mlflow")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def run_in(url: str, config: dict[str, Any], **arguments: Any) -> str:
    """Record one point; return the id that MLflow gave the run."""
    config = {"silent": True, **config}
    run = tracelet.start_logging(backend="mlflow", backend_url=url, config=config, **arguments)
    run.log_metric("loss", 0.1, 1)
    remote = run.remote()
    report = run.stop(timeout=60)
    assert report.complete, str(report)
    return remote.id


def test_the_names_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'mlflow.db'}"
    plain = run_in(url, {"tags": {"seed": 7}}, exp_name="baseline", project="vision")
    stronger = run_in(
        url, {"experiment_name": "E", "run_name": "R"}, exp_name="weaker", project="weaker"
    )
    nameless = run_in(url, {})
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from MLflow's own")
    own = run_in(url, {})

    client = mlflow.MlflowClient(tracking_uri=url)

    def names(run_id: str) -> tuple[str, str]:
        found = client.get_run(run_id)
        return client.get_experiment(found.info.experiment_id).name, found.info.run_name

    assert names(plain) == ("vision", "baseline")
    assert client.get_run(plain).data.tags["seed"] == "7"
    assert names(stronger) == ("E", "R")
    assert names(nameless)[0] == "Default"
    assert names(nameless)[1]
    assert names(own)[0] == "from MLflow's own"
    assert {client.get_run(each).info.status for each in (plain, stronger, nameless)} == {
        "FINISHED"
    }


def test_a_run_is_continued_by_its_id(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'mlflow.db'}"
    first = run_in(url, {}, exp_name="baseline", project="vision")
    client = mlflow.MlflowClient(tracking_uri=url)
    run = tracelet.start_logging(
        backend="mlflow", backend_url=url, config={"silent": True, "run_id": first}
    )
    assert run.remote().id == first
    assert client.get_run(first).info.status == "RUNNING"
    run.log_metric("loss", 0.2, 2)
    assert run.stop(timeout=60).complete
    assert client.get_run(first).info.status == "FINISHED"
    history = client.get_metric_history(first, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.2)]
