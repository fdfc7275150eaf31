"""Points per second until they are in the file of an offline W&B run, against ``run.log``."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path

from benchmarks.measure import Pairs, interleaved, spread
from benchmarks.report import run, table

#: Keys of one step: the vendor's call costs a row, ours a point.
_KEYS = (1, 4, 10)


def measure(quick: bool) -> None:
    """Write the same points both ways into offline runs."""
    points, rounds = (20_000, 2) if quick else (100_000, 5)
    rows = []
    for keys in _KEYS:
        peer, ours = interleaved(
            rounds, partial(_vendor, points, keys), partial(_ours, points, keys)
        )
        pairs = Pairs([1 / seconds for seconds in peer], [1 / seconds for seconds in ours])
        speeds = [spread(side).scaled(points).text(0) for side in (pairs.ours, pairs.plain)]
        rows.append([str(keys), *speeds, pairs.ratio.text(2), ">= 1.0"])
        print(f"{keys} keys of a step: {speeds[0]} points/s", flush=True)
    table(["keys of a step", "run.log_metric, points/s", "wandb, points/s", "times", "limit"], rows)
    print(
        f"\n{points:,} points, {rounds} pairs. The vendor's side is one run.log for all keys of a"
        "\nstep. The run is open before the clock starts; it stops when every point is in the file."
    )


def _vendor(points: int, keys: int) -> float:
    import wandb

    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True)
    active = wandb.init(mode="offline", dir=_fresh(), project="bench", settings=settings)
    active.define_metric("*", step_metric="global_step")
    begin = time.perf_counter()
    for step in range(points // keys):
        values: dict[str, float] = {f"key{key}": step * 0.5 for key in range(keys)}
        active.log({**values, "global_step": step})
    active.finish()
    seconds = time.perf_counter() - begin
    _check(points // keys)
    return seconds


def _ours(points: int, keys: int) -> float:
    import tracelet

    config = {"silent": True, "collect": False, "wandb": {"mode": "offline", "dir": _fresh()}}
    active = tracelet.start_logging("bench", "bench", "wandb", config=config)
    active.remote("wandb")
    begin = time.perf_counter()
    for index in range(points):
        active.log_metric(f"key{index % keys}", index // keys * 0.5, index // keys)
    if not active.flush(timeout=600.0):
        raise RuntimeError("not everything was delivered in ten minutes")
    seconds = time.perf_counter() - begin
    tracelet.stop_logging()
    _check(points // keys)
    return seconds


def _fresh() -> str:
    folder = Path("wandb-files").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return str(folder)


def _check(rows: int) -> None:
    """See whether every row is there: the log is read as the vendor's own reader does."""
    from tracelet.backends.wandb.session import last_row

    [log] = Path("wandb-files").glob("wandb/offline-run-*/*.wandb")
    found = last_row(log)
    if found < rows:
        raise RuntimeError(f"{found} of {rows} rows are in the file")


if __name__ == "__main__":
    run("Delivered points per second into an offline W&B run", measure)
