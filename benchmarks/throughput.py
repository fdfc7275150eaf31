"""Figure 6: points per second until the tracker has them, against MLflow's own bulk call."""

from __future__ import annotations

import time
from typing import Any, Callable

from benchmarks.measure import Pairs, interleaved, spread
from benchmarks.peer import KEYS, check, log_batch
from benchmarks.report import run, table
from benchmarks.stores import server, sqlite, tracked


def measure(quick: bool) -> None:
    """Deliver the same points both ways into a SQLite store and through a server to another."""
    points, rounds = (40_000, 2) if quick else (200_000, 5)
    rows = _rows("SQLite", sqlite("direct.db"), points, rounds, 0.8)
    with server(sqlite("behind.db")) as address:
        rows += _rows("HTTP, server + SQLite", address, points, rounds, 0.9)
    head = ["store", "what", "points/s", "MlflowClient.log_batch, points/s", "times", "limit"]
    table(head, rows)
    print(
        f"\n{points:,} points of {KEYS} keys in turn, {rounds} pairs. The store exists and the run"
        "\nis open before the clock starts; it stops when every point is in the store. Cold start"
        "\nis figure 8."
    )


def _rows(store: str, uri: str, points: int, rounds: int, limit: float) -> list[list[str]]:
    rows = []
    for what, log in (("run.log_metric", _log_metric), ("writer.add_scalar", _add_scalar)):
        peer, ours = interleaved(rounds, lambda: log_batch(uri, points), _side(uri, points, log))
        # Speeds are the inverse of times: the pair's ratio is speed by speed.
        pairs = Pairs([1 / seconds for seconds in peer], [1 / seconds for seconds in ours])
        speeds = [spread(side).scaled(points).text(0) for side in (pairs.ours, pairs.plain)]
        rows.append([store, what, *speeds, pairs.ratio.text(2), f">= {limit}"])
        print(f"{store} {what}: {speeds[0]} points/s", flush=True)
    return rows


def _side(uri: str, points: int, log: Callable[[Any, int], None]) -> Callable[[], float]:
    def side() -> float:
        with tracked(uri, keep_tensorboard=False) as active:
            begin = time.perf_counter()
            log(active, points)
            if not active.flush(timeout=600.0):
                raise RuntimeError("not everything was delivered in ten minutes")
            seconds = time.perf_counter() - begin
            check(uri, active.remote("mlflow").id, points)
            return seconds

    return side


def _log_metric(active: Any, points: int) -> None:
    for index in range(points):
        active.log_metric(f"key{index % KEYS}", index * 0.5, index // KEYS)


def _add_scalar(_: Any, points: int) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter("runs/throughput")
    for index in range(points):
        writer.add_scalar(f"key{index % KEYS}", index * 0.5, index // KEYS)
    writer.close()


if __name__ == "__main__":
    run("Figure 6: delivered points per second", measure)
