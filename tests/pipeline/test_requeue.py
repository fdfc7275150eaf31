"""A job that is killed and goes on from its checkpoint, on the way into MLflow."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from tests.pipeline.programs import Trainer, left_over, wait_for

from services.mlflow_reader import tracking
from services.mlflow_server import fresh_database

__all__ = ["fresh_database"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="platform: finds the sidecar through /proc"
    ),
]


def test_a_job_that_goes_back_to_its_checkpoint(tmp_path: Path, fresh_database: Path) -> None:
    """
    Killed three times at any moment, and each time 500 steps are done again: one run in MLflow.

    Every point that was acknowledged is there once. The steps that the program did twice are there
    twice, each with its own value and time: both happened.
    """
    (tmp_path / "mlflow.db").write_bytes(fresh_database.read_bytes())
    url = f"sqlite:///{tmp_path}/mlflow.db"
    config = {"backend_url": url, "resume": "auto", "silent": True, "collect": False}
    random.seed(tmp_path.name)
    first, sessions = 0, []
    for number in range(4):
        plan = {"backend": "mlflow", "config": config, "first": first, "shift": number * 1e6}
        if number == 3:
            trainer = Trainer(tmp_path, points=1000, **plan)
            assert trainer.end(timeout=240) == 0, trainer.errors()
            sessions.append((first, 1000))
            break
        trainer = Trainer(tmp_path, pause_s=0.0005, **plan)
        # (The file of acknowledgements still says what the former session had.)
        enough = first + random.randrange(600, 1500)
        wait_for(lambda: trainer.acknowledged >= enough, timeout=120.0)  # noqa: B023
        sidecar = trainer.sidecar()
        # The node goes, or the job alone.
        trainer.kill(sidecar=sidecar if number % 2 == 0 else None)
        sessions.append((first, trainer.acknowledged - first))
        first = trainer.acknowledged - 500
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [], timeout=120.0)

    with tracking(url) as client:
        experiment = client.get_experiment_by_name("kills")
        assert experiment is not None
        (found,) = client.search_runs([experiment.experiment_id])
        history = client.get_metric_history(found.info.run_id, "loss")
    assert found.info.status == "FINISHED"
    for number, (begin, acknowledged) in enumerate(sessions):
        low = number * 1e6
        points = sorted((p.step, p.value) for p in history if low <= p.value < low + 1e6)
        # The one on its way when the kill came may be there, too.
        assert 0 <= len(points) - acknowledged <= 1
        assert points == [(step, step / 7 + low) for step in range(begin, begin + len(points))]
    times = {
        number: [p.timestamp for p in history if p.value // 1e6 == number] for number in range(4)
    }
    assert all(max(times[number]) <= min(times[number + 1]) for number in range(3))
