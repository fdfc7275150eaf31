"""Points per second until an Aim repository has them, against Aim's own ``Run.track``."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import tracelet
from benchmarks.measure import Pairs, interleaved, spread
from benchmarks.report import run, table

KEYS = 10
PROJECT = "benchmark"


def measure(quick: bool) -> None:
    """Write the same points both ways into one repository on this machine."""
    points, rounds = (10_000, 2) if quick else (40_000, 5)
    folder = Path.cwd() / "aim"
    folder.mkdir()
    code = "import sys; from aim.sdk.repo import Repo; Repo(sys.argv[1], init=True)"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    rows = []
    for what, log in (("run.log_metric", _log_metric), ("writer.add_scalar", _add_scalar)):
        peer, ours = interleaved(rounds, lambda: _track(folder, points), _side(folder, points, log))
        # Speeds are the inverse of times: the pair's ratio is speed by speed.
        pairs = Pairs([1 / seconds for seconds in peer], [1 / seconds for seconds in ours])
        speeds = [spread(side).scaled(points).text(0) for side in (pairs.ours, pairs.plain)]
        rows.append([what, *speeds, pairs.ratio.text(2), ">= 1.0"])
        print(f"{what}: {speeds[0]} points/s", flush=True)
    table(["what", "points/s", "aim.Run.track, points/s", "times", "limit"], rows)
    print(
        f"\n{points:,} points of {KEYS} keys in turn, {rounds} pairs, one repository. The run is"
        "\nopen before the clock starts; it stops when every point is in the repository."
    )


def _track(folder: Path, points: int) -> float:
    from aim import Run

    peer = Run(
        repo=str(folder),
        experiment=PROJECT,
        system_tracking_interval=None,
        capture_terminal_logs=False,
    )
    begin = time.perf_counter()
    for index in range(points):
        peer.track(index * 0.5, name=f"key{index % KEYS}", step=index // KEYS)
    seconds = time.perf_counter() - begin
    _check(peer, points)
    peer.close()
    return seconds


def _side(folder: Path, points: int, log: Callable[[Any, int], None]) -> Callable[[], float]:
    def side() -> float:
        from aim import Run
        from aim.sdk.repo import Repo

        active = tracelet.start_logging(
            project=PROJECT,
            backend="aim",
            backend_url=str(folder),
            config={"silent": True, "keep_tensorboard": False},
        )
        try:
            remote = active.remote("aim")
            begin = time.perf_counter()
            log(active, points)
            if not active.flush(timeout=600.0):
                raise RuntimeError("not everything was delivered in ten minutes")
            seconds = time.perf_counter() - begin
        finally:
            active.stop(timeout=60.0)
        _check(Run(remote.id, repo=Repo(str(folder)), read_only=True), points)
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


def _check(found: Any, points: int) -> None:
    from aim.storage.context import Context

    for key in range(KEYS):
        steps, _ = found.get_metric(f"key{key}", Context({})).data.numpy()
        if len(steps) != points // KEYS:
            raise RuntimeError(f"{len(steps)} of {points // KEYS} points of key{key} are there")


if __name__ == "__main__":
    run("Figure 5 (Aim): delivered points per second", measure)
