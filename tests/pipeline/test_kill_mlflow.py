"""SIGKILL of everything, at any moment, on the way into each kind of MLflow store."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from tests.pipeline.lives import Mother, Tally, kill
from tests.pipeline.programs import Trainer, left_over, wait_for

from services.mlflow_reader import seen, tracking
from services.mlflow_server import Server, fresh_database, mlflow_server
from tracelet.ship.drain import drain
from tracelet.spool.rundir import find_runs

__all__ = ["fresh_database", "mlflow_server"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.figure(10),
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="finds the sidecar through /proc"
    ),
]

KILLS = int(os.environ.get("TRACELET_KILLS", "2"))


@pytest.mark.parametrize("attempt", range(KILLS))
@pytest.mark.parametrize("store", ["sqlite", "files", "server"])
def test_nothing_is_lost_and_nothing_doubled(
    tmp_path: Path, store: str, attempt: int, mlflow_server: Server, fresh_database: Path
) -> None:
    """More than a thousand points per second; the file store only appends, and is not fooled."""
    (tmp_path / "mlflow.db").write_bytes(fresh_database.read_bytes())
    url = {
        "sqlite": f"sqlite:///{tmp_path}/mlflow.db",
        "files": str(tmp_path / "mlruns"),
        "server": mlflow_server.url,
    }[store]
    random.seed(f"{store}{attempt}")
    name = f"victim-{store}-{attempt}"
    trainer = Trainer(
        tmp_path, backend="mlflow", config={"backend_url": url}, pause_s=0.0003, name=name
    )
    trainer.logging()
    sidecar = trainer.sidecar()
    assert sidecar is not None
    # MLflow is opened, sent to, and sent to again, in these seconds.
    time.sleep(random.uniform(0.0, 8.0))
    trainer.kill(sidecar=sidecar)
    acknowledged = trainer.acknowledged

    (run,) = find_runs(tmp_path / ".tracelet")
    states = drain(run)

    assert states["mlflow"].pending == 0
    assert left_over(tmp_path / ".tracelet") == []
    with tracking(url) as client:
        experiment = client.get_experiment_by_name("kills")
        assert experiment is not None
        (found,) = client.search_runs([experiment.experiment_id], f"run_name = '{name}'")
        history = client.get_metric_history(found.info.run_id, "loss")
    points = sorted((point.step, point.value) for point in history)
    assert points == [(number, number / 7) for number in range(len(points))]
    assert len(points) >= acknowledged
    assert found.info.status == "KILLED"


@pytest.mark.timeout(300 + 30 * KILLS)
@pytest.mark.parametrize("store", ["sqlite", "files", "server"])
def test_recovery_itself_is_killed(
    tmp_path: Path, store: str, mlflow_server: Server, fresh_database: Path
) -> None:
    """Again and again, wherever it is on its way into the store; then one is left alone."""
    (tmp_path / "mlflow.db").write_bytes(fresh_database.read_bytes())
    url = {
        "sqlite": f"sqlite:///{tmp_path}/mlflow.db",
        "files": str(tmp_path / "mlruns"),
        "server": mlflow_server.url,
    }[store]
    chance = random.Random(f"{store} {KILLS}")
    tally = Tally(f"recovery into {store}")
    name = f"left-{store}"
    with Mother(["mlflow", "tracelet.backends.mlflow"]) as mother:
        config = {"backend_url": url, "mode": "offline"}
        trainer = mother.trainer(tmp_path, name, backend="mlflow", config=config)
        wait_for(lambda: trainer.acknowledged > 2000 + 20 * KILLS, timeout=120.0)
        tally.kills += kill(trainer.pid)
        while tally.kills <= KILLS and left_over(tmp_path / ".tracelet"):
            deliverer = mother.deliverer(tmp_path)
            time.sleep(chance.choice([0.3, 1.5, 3.0]) * chance.random())
            tally.kills += kill(deliverer.pid)
    for run in find_runs(tmp_path / ".tracelet"):
        assert drain(run)["mlflow"].pending == 0
    assert left_over(tmp_path / ".tracelet") == []
    with tracking(url) as client:
        experiment = client.get_experiment_by_name("kills")
        assert experiment is not None
        (found,) = client.search_runs([experiment.experiment_id], f"run_name = '{name}'")
        history = client.get_metric_history(found.info.run_id, "loss")
    points = sorted((point.step, point.value) for point in history)
    tally.count([step for step, _ in points], trainer.acknowledged)
    print(tally)
    assert (tally.lost, tally.doubled) == (0, 0), str(tally)
    assert points == [(number, number / 7) for number in range(len(points))]
    assert found.info.status == "KILLED"


@pytest.mark.parametrize("attempt", range((KILLS + 1) // 2))
def test_every_picture_and_histogram_is_there_once(
    tmp_path: Path, attempt: int, fresh_database: Path
) -> None:
    """In the grid or in an archive, with no hole and no twin."""
    (tmp_path / "mlflow.db").write_bytes(fresh_database.read_bytes())
    url = f"sqlite:///{tmp_path}/mlflow.db"
    random.seed(f"heavy{attempt}")
    config = {"backend_url": url}
    trainer = Trainer(tmp_path, backend="mlflow", config=config, pause_s=0.005, heavy=True)
    trainer.logging(at_least=200)
    sidecar = trainer.sidecar()
    assert sidecar is not None
    time.sleep(random.uniform(0.0, 8.0))
    # The next one takes over, while the training goes on; it goes the same way.
    os.kill(sidecar, signal.SIGKILL)
    time.sleep(random.uniform(0.0, 4.0))
    trainer.kill(sidecar=trainer.sidecar())
    acknowledged = trainer.acknowledged

    (run,) = find_runs(tmp_path / ".tracelet")
    assert drain(run)["mlflow"].pending == 0
    assert left_over(tmp_path / ".tracelet") == []
    with tracking(url) as client:
        experiment = client.get_experiment_by_name("kills")
        assert experiment is not None
        (found,) = client.search_runs([experiment.experiment_id])
    items = seen(url, found.info.run_id).items
    for kind in ("image", "histogram"):
        steps = sorted(item.step or 0 for item in items if item.kind == kind)
        assert steps == list(range(len(steps)))
        assert len(steps) >= acknowledged
