"""Points per second over HTTP into PostgreSQL, against one client and against bare requests."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Callable, Sequence

import psutil

from benchmarks.measure import Pairs, spread
from benchmarks.peer import BATCH, KEYS, check, log_batch, new_run
from benchmarks.postgres import postgres
from benchmarks.report import run, table
from benchmarks.stores import PROJECT, client, server, shipping, tracked
from tracelet.backends.mlflow.rest import RestStore

WORKERS = 2
#: As many as our own shipper opens.
CONNECTIONS = RestStore.at_once


@dataclass
class _Round:
    """The seconds that each way took, and the processor time of our sidecar."""

    client: float
    raw: float
    ours: float
    sidecar: float


def measure(quick: bool) -> None:
    """Deliver the same points three ways, in turn, into the same server."""
    points, rounds = (40_000, 2) if quick else (200_000, 5)
    with postgres("mlflow") as database, server(database.url(), workers=WORKERS) as address:
        client(address).create_experiment(PROJECT)
        # One round goes before the others: it fills caches and opens files.
        found = [_round(address, points, number) for number in range(-1, rounds)][1:]
    ours = [points / each.ours for each in found]
    rows = []
    for what, speeds, limit in (
        ("MlflowClient.log_batch", [points / each.client for each in found], 1.5),
        (f"requests, {CONNECTIONS} connections", [points / each.raw for each in found], 0.9),
    ):
        ratio = Pairs(speeds, ours).ratio.text(2)
        rows.append([what, spread(speeds).text(0), spread(ours).text(0), ratio, f">= {limit}"])
    table(["against", "its points/s", "ours, points/s", "times", "limit"], rows)
    cost = spread([each.sidecar / points * 1e6 for each in found]).text(2)
    print(
        f"\nThe sidecar takes {cost} ms of processor time per 1,000 points (limit 5)."
        f"\n{points:,} points of {KEYS} keys in turn, {rounds} rounds; a server with {WORKERS} "
        f"\nworkers, {BATCH} points in each request of the others."
    )


def _round(address: str, points: int, number: int) -> _Round:
    result = _Round(0.0, 0.0, 0.0, 0.0)

    def ours() -> None:
        result.ours, result.sidecar = _ours(address, points)

    def peer() -> None:
        result.client = log_batch(address, points)

    def raw() -> None:
        result.raw = _raw(address, points)

    sides: list[Callable[[], None]] = [ours, peer, raw]
    for place in range(len(sides)):
        sides[(place + number) % len(sides)]()
    return result


def _ours(address: str, points: int) -> tuple[float, float]:
    with tracked(address, keep_tensorboard=False) as active:
        sidecar = shipping()
        before, begin = _busy(sidecar), time.perf_counter()
        for index in range(points):
            active.log_metric(f"key{index % KEYS}", index * 0.5, index // KEYS)
        if not active.flush(timeout=600.0):
            raise RuntimeError("not everything was delivered in ten minutes")
        seconds = time.perf_counter() - begin
        busy = _busy(sidecar) - before
        check(address, active.remote("mlflow").id, points)
        return seconds, busy


def _raw(address: str, points: int) -> float:
    """Send everything from several connections, each with keys of its own."""
    run_id = new_run(address)
    shares = [range(share, KEYS, CONNECTIONS) for share in range(CONNECTIONS)]
    threads = [
        threading.Thread(target=_send, args=(address, run_id, points, share)) for share in shares
    ]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    check(address, run_id, points)
    return seconds


def _send(address: str, run_id: str, points: int, share: Sequence[int]) -> None:
    import requests

    session, mine = requests.Session(), points * len(share) // KEYS
    for first in range(0, mine, BATCH):
        now = int(time.time() * 1000)
        metrics = [
            {
                "key": f"key{share[index % len(share)]}",
                "value": index * 0.5,
                "timestamp": now,
                "step": index // len(share),
            }
            for index in range(first, min(first + BATCH, mine))
        ]
        answer = session.post(
            f"{address}/api/2.0/mlflow/runs/log-batch",
            json={"run_id": run_id, "metrics": metrics},
            timeout=60,
        )
        answer.raise_for_status()
    session.close()


def _busy(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    run("Figure 4: delivered points per second over HTTP into PostgreSQL", measure)
