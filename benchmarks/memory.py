"""Figure 9: the memory of the trainer and of the sidecar, and what the sidecar takes when idle."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import psutil

from benchmarks.report import run, table
from benchmarks.stores import server, sqlite

MB = 1_000_000

# Reports its own phases on stdout, one word a line; the parent watches from outside.
SCRIPT = """
import sys, time
from torch.utils.tensorboard import SummaryWriter
url, points = sys.argv[1], int(sys.argv[2])
if url:
    import tracelet
    run = tracelet.start_logging(
        project="memory", backend="mlflow", backend_url=url, config={"silent": True}
    )
    run.remote("mlflow")
writer = SummaryWriter("runs/memory")
print("started", flush=True)
for index in range(points):
    writer.add_scalar(f"key{index % 10}", index * 0.5, index // 10)
    if index % (points // 20) == 0:
        print("part", flush=True)
print("logged", flush=True)
if url:
    while not run.flush(timeout=60.0):
        print("part", flush=True)
    print("delivered", flush=True)
    time.sleep(12)
    tracelet.stop_logging()
writer.close()
print("stopped", flush=True)
"""


def measure(quick: bool) -> None:
    """Log many points once with plain TensorBoard, then with a run into SQLite and over HTTP."""
    points = 200_000 if quick else 2_000_000
    plain = _watch("", points)
    rows = [_row("plain TensorBoard", plain, plain)]
    rows.append(_row("SQLite", _watch(sqlite("direct.db"), points), plain))
    with server(sqlite("behind.db")) as address:
        rows.append(_row("HTTP", _watch(address, points), plain))
    head = ["run", "trainer, MB", "more than plain", "grows by", "sidecar, MB", "grows by"]
    table([*head, "sidecar idle, % of a core"], rows)
    print(
        f"\n{points:,} points. Limits: trainer + 40 MB and flat; sidecar over HTTP 80 MB, 1 % idle."
        "\nMB are the largest seen; growth is from a quarter of the points to the end."
    )


class _Seen:
    """Resident memory of the trainer and its sidecar, sampled at every word of the trainer."""

    def __init__(self) -> None:
        self.trainer: list[float] = []
        self.sidecar: list[float] = []
        self.idle_percent: float | None = None


def _watch(url: str, points: int) -> _Seen:
    seen = _Seen()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, url, str(points)], stdout=subprocess.PIPE, text=True
    )
    trainer = psutil.Process(process.pid)
    assert process.stdout is not None
    for line in process.stdout:
        word = line.strip()
        if word == "stopped":
            break
        seen.trainer.append(trainer.memory_info().rss / MB)
        sidecar = _sidecar(trainer)
        if sidecar is not None:
            seen.sidecar.append(sidecar.memory_info().rss / MB)
            if word == "delivered":
                seen.idle_percent = _idle(sidecar)
    if process.wait() != 0:
        raise RuntimeError(f"the trainer ended with {process.returncode}")
    return seen


def _sidecar(trainer: Any) -> Any:
    for child in trainer.children(recursive=True):
        if "tracelet.ship.sidecar" in " ".join(child.cmdline()):
            return child
    return None


def _idle(sidecar: Any) -> float:
    """Return the share of one core that the sidecar takes with nothing to do, in percent."""
    time.sleep(1.0)
    before, begin = sidecar.cpu_times(), time.monotonic()
    time.sleep(10.0)
    after, seconds = sidecar.cpu_times(), time.monotonic() - begin
    busy: float = after.user + after.system - before.user - before.system
    return busy / seconds * 100


def _row(name: str, seen: _Seen, plain: _Seen) -> list[str]:
    idle = "" if seen.idle_percent is None else f"{seen.idle_percent:.2f}"
    return [
        name,
        f"{max(seen.trainer):.0f}",
        f"{max(seen.trainer) - max(plain.trainer):+.0f}",
        _growth(seen.trainer),
        f"{max(seen.sidecar):.0f}" if seen.sidecar else "",
        _growth(seen.sidecar),
        idle,
    ]


def _growth(samples: list[float]) -> str:
    if len(samples) < 4:
        return ""
    return f"{samples[-1] - samples[len(samples) // 4]:+.1f}"


if __name__ == "__main__":
    run("Figure 9: memory", measure)
