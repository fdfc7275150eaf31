"""MLflow's own bulk call, which ours is measured against, and whether everything has arrived."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.stores import PROJECT, client

__all__ = ["BATCH", "KEYS", "check", "log_batch", "new_run"]

KEYS = 10
BATCH = 1000


def new_run(uri: str) -> str:
    """Make a run with MLflow's own client; return its id."""
    peer = client(uri)
    made = peer.create_run(peer.get_experiment_by_name(PROJECT).experiment_id)
    return str(made.info.run_id)


def log_batch(uri: str, points: int) -> float:
    """Send everything in calls of 1,000 points; return the seconds it took."""
    from mlflow.entities import Metric

    peer, run_id = client(uri), new_run(uri)
    begin = time.perf_counter()
    for first in range(0, points, BATCH):
        now = int(time.time() * 1000)
        batch = [
            Metric(f"key{index % KEYS}", index * 0.5, now, index // KEYS)
            for index in range(first, first + BATCH)
        ]
        peer.log_batch(run_id, metrics=batch, synchronous=True)
    seconds = time.perf_counter() - begin
    check(uri, run_id, points)
    peer.set_terminated(run_id)
    return seconds


def check(uri: str, run_id: str, points: int) -> None:
    """Raise RuntimeError unless every point of every key is there."""
    peer: Any = client(uri)
    for key in range(KEYS):
        found = len(peer.get_metric_history(run_id, f"key{key}"))
        if found != points // KEYS:
            raise RuntimeError(f"{found} of {points // KEYS} points of key{key} are there")
