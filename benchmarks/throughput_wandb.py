"""Points per second until they are in the file of an offline W&B run, against ``run.log`` itself."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, Callable

from benchmarks.measure import Pairs, interleaved, spread
from benchmarks.report import run, table

#: Keys of one step, as in the benchmark of the other trackers.
_KEYS = 10


def measure(quick: bool) -> None:
    """Write the same points both ways into offline runs."""
    points, rounds = (40_000, 2) if quick else (100_000, 5)
    rows = []
    for what, log in (("run.log_metric", _log_metric), ("writer.add_scalar", _add_scalar)):
        peer, ours = interleaved(rounds, lambda: _vendor(points), _side(points, log))
        pairs = Pairs([1 / seconds for seconds in peer], [1 / seconds for seconds in ours])
        speeds = [spread(side).scaled(points).text(0) for side in (pairs.ours, pairs.plain)]
        rows.append([what, *speeds, pairs.ratio.text(2), ">= 1.0"])
        print(f"{what}: {speeds[0]} points/s", flush=True)
    table(["what", "points/s", f"run.log of {_KEYS} keys, points/s", "times", "limit"], rows)
    print(
        f"\n{points:,} points of {_KEYS} keys in turn, {rounds} pairs. The run is open before the"
        "\nclock starts; it stops when every point is in the file."
    )


def _vendor(points: int) -> float:
    import wandb

    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True)
    active = wandb.init(mode="offline", dir=_fresh(), project="bench", settings=settings)
    active.define_metric("*", step_metric="global_step")
    begin = time.perf_counter()
    for step in range(points // _KEYS):
        values: dict[str, float] = {f"key{key}": step * 0.5 for key in range(_KEYS)}
        active.log({**values, "global_step": step})
    active.finish()
    seconds = time.perf_counter() - begin
    _check(points // _KEYS)
    return seconds


def _side(points: int, log: Callable[[Any, int], None]) -> Callable[[], float]:
    def side() -> float:
        import tracelet

        config = {"silent": True, "collect": False, "wandb": {"mode": "offline", "dir": _fresh()}}
        active = tracelet.start_logging("bench", "bench", "wandb", config=config)
        active.remote("wandb")
        begin = time.perf_counter()
        log(active, points)
        if not active.flush(timeout=600.0):
            raise RuntimeError("not everything was delivered in ten minutes")
        seconds = time.perf_counter() - begin
        tracelet.stop_logging()
        _check(points // _KEYS)
        return seconds

    return side


def _log_metric(active: Any, points: int) -> None:
    for index in range(points):
        active.log_metric(f"key{index % _KEYS}", index // _KEYS * 0.5, index // _KEYS)


def _add_scalar(_: Any, points: int) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter("runs/throughput")
    for index in range(points):
        writer.add_scalar(f"key{index % _KEYS}", index // _KEYS * 0.5, index // _KEYS)
    writer.close()


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
