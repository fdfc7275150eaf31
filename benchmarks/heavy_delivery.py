"""Histograms and pictures until the tracker has them: how long, how many files, at what cost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks.measure import interleaved, spread
from benchmarks.report import run, table
from benchmarks.stores import client, server, sqlite

__all__ = ["check_files"]

MB = 1_000_000

# The training: the same calls with and without a run; tells what it took, as one line of JSON.
SCRIPT = """
import json, sys, time
import torch
from torch.utils.tensorboard import SummaryWriter
url, count = sys.argv[1], int(sys.argv[2])
torch.manual_seed(1)
weights = [torch.randn(100_000) * (1 + n / 20) for n in range(20)]
pictures = [torch.rand(3, 256, 256) for n in range(20)]
writer = SummaryWriter("runs/plain")
for n in range(20):
    writer.add_histogram("warm", weights[n], n)
    writer.add_image("warm", pictures[n], n)
writer.close()
if url:
    import tracelet
    run = tracelet.start_logging(
        project="benchmark", backend="mlflow", backend_url=url, config={"silent": True}
    )
    run.remote("mlflow")
writer = SummaryWriter("runs/heavy")
begin = time.perf_counter()
for step in range(count):
    writer.add_histogram("weights", weights[step % 20], step)
half = time.perf_counter()
for step in range(count):
    writer.add_image("picture", pictures[step % 20], step)
logged = time.perf_counter()
found = {"histograms": half - begin, "images": logged - half}
if url:
    found["run"] = run.remote("mlflow").id
    while not run.flush(timeout=60.0):
        pass
    found["delivered"] = time.perf_counter() - begin
    tracelet.stop_logging()
    found["stopped"] = time.perf_counter() - begin
writer.close()
print(json.dumps(found))
"""


class _Training(NamedTuple):
    """What a training told, and the largest memory of its sidecar, in MB."""

    said: dict[str, Any]
    sidecar_mb: float


def measure(quick: bool) -> None:
    """Log both into a SQLite store and through a server to another, and as plain TensorBoard."""
    count, rounds = (100, 1) if quick else (1000, 2)
    rows = _rows("SQLite", sqlite("direct.db"), count, rounds)
    with server(sqlite("behind.db")) as address:
        rows += _rows("HTTP, server + SQLite", address, count, rounds)
    head = ["store", "delivered after, s", "stopped after, s", "artifacts", "MB", "sidecar, MB"]
    table([*head, "add_histogram, times", "add_image, times"], rows)
    print(
        f"\n{count:,} histograms of 100,000 values and {count:,} images of 256 x 256, one key each,"
        f"\n{rounds} pairs with plain TensorBoard. The clock starts with the first call. Limit for"
        "\nthe calls, as in figure 5: <= 1.10 times."
    )


def _rows(store: str, uri: str, count: int, rounds: int) -> list[list[str]]:
    pairs = interleaved(rounds, lambda: _train("", count), lambda: _train(uri, count))
    plain, ours = pairs
    files = [check_files(uri, each.said["run"], count, count) for each in ours]
    times = [
        spread([b.said[what] / a.said[what] for a, b in zip(plain, ours)]).text(3)
        for what in ("histograms", "images")
    ]
    print(f"{store}: {[each.said for each in ours]}", flush=True)
    return [
        [
            store,
            *(
                spread([each.said[what] for each in ours]).text()
                for what in ("delivered", "stopped")
            ),
            f"{max(number for number, _ in files):,}",
            f"{max(size for _, size in files) / MB:,.0f}",
            f"{max(each.sidecar_mb for each in ours):.0f}",
            *times,
        ]
    ]


def _train(url: str, count: int) -> _Training:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, url, str(count)], stdout=subprocess.PIPE, text=True
    )
    largest, over = [0.0], threading.Event()
    watch = threading.Thread(target=_watch, args=(process.pid, largest, over))
    watch.start()
    try:
        told, _ = process.communicate(timeout=900)
    finally:
        over.set()
        watch.join()
    if process.returncode != 0:
        raise RuntimeError(f"the training ended with {process.returncode}")
    return _Training(json.loads(told.splitlines()[-1]), largest[0])


def _watch(pid: int, largest: list[float], over: threading.Event) -> None:
    while not over.wait(0.2):
        try:
            for child in psutil.Process(pid).children(recursive=True):
                if "tracelet.ship.sidecar" in " ".join(child.cmdline()):
                    largest[0] = max(largest[0], child.memory_info().rss / MB)
        except psutil.Error:
            continue


def check_files(uri: str, run_id: str, histograms: int, images: int) -> tuple[int, int]:
    """Return number and bytes of the run's artifacts, after a look that all of it is there."""
    found = client(uri).get_run(run_id).info
    if found.artifact_uri.startswith("mlflow-artifacts:"):
        root = Path.cwd() / "artifacts" / found.experiment_id / run_id / "artifacts"
    else:
        root = Path(found.artifact_uri)
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    _check(files, histograms, images)
    return len(files), sum(path.stat().st_size for path in files.values())


def _check(files: dict[str, Path], histograms: int, images: int) -> None:
    import gzip
    import zipfile

    lines = pictures = 0
    for name, path in files.items():
        if name.startswith("tensorboard/data/histograms"):
            with gzip.open(path) as packed:
                lines += sum(1 for _ in packed)
        elif name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                pictures += len(archive.namelist()) - 1
        elif name.startswith("images/picture+") and "+compressed" not in name:
            pictures += 1
    if (lines, pictures) != (histograms, images):
        raise RuntimeError(
            f"{lines} histograms of {histograms} and {pictures} images of {images} are there"
        )


if __name__ == "__main__":
    run("Heavy data, delivered", measure)
