"""
Figure 10: what trainer and sidecar grow by while the tracker is away.

``OUTAGE_MINUTES`` says how long each outage is: 10, or 1 with ``--quick``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import run, table

MB = 1_000_000

# Logs at a rate, whatever that takes; says so every second; then ends without waiting.
SCRIPT = """
import sys, time
import numpy as np
from torch.utils.tensorboard import SummaryWriter
import tracelet
url, rate, seconds, most = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
tracelet.start_logging(
    project="outage", backend="mlflow", backend_url=url,
    config={"silent": True, "max_run_bytes": most, "keep_tensorboard": False},
)
writer = SummaryWriter("runs/outage")
image = np.random.default_rng(0).random((3, 128, 128))
began, count, told = time.monotonic(), 0, 0
while True:
    elapsed = time.monotonic() - began
    if elapsed > seconds:
        break
    while count < rate * elapsed:
        writer.add_scalar(f"key{count % 10}", count * 0.5, count // 10)
        count += 1
    if int(elapsed) > told:
        told = int(elapsed)
        writer.add_image("card", image, told)
        print(count, flush=True)
    time.sleep(0.005)
print("over", flush=True)
sys.stdin.readline()
"""


def measure(quick: bool) -> None:
    """Watch a run at 1 kHz, and one that grows so fast that it is thinned all the time."""
    seconds = 60.0 * float(os.environ.get("OUTAGE_MINUTES", "1" if quick else "10"))
    rows = [
        _row("1,000 points a second", 1000, seconds, 2 << 30),
        _row("5,000 a second, thinned to 30 MB", 5_000, seconds, 30_000_000),
    ]
    table(
        ["run", "points", "on disk, MB", "process", "MB", "grows by", "descriptors", "threads"],
        [row for pair in rows for row in pair],
    )
    print(
        f"\nOutages of {seconds / 60:g} min. Growth is from the sixth second on, the largest; "
        "descriptors and threads are\nthe fewest and the most from then on. Limit: 50 MB, and flat."
    )


class _Process:
    def __init__(self, process: psutil.Process) -> None:
        self.process = process
        self.samples: list[tuple[float, int, int]] = []

    def sample(self) -> None:
        with self.process.oneshot():
            rss = self.process.memory_info().rss / MB
            self.samples.append((rss, self.process.num_fds(), self.process.num_threads()))

    def cells(self) -> list[str]:
        settled = self.samples[5:]
        sizes, descriptors, threads = zip(*settled)
        return [
            f"{max(sizes):.0f}",
            f"{max(sizes) - sizes[0]:+.1f}",
            f"{min(descriptors)}-{max(descriptors)}",
            f"{min(threads)}-{max(threads)}",
        ]


def _row(name: str, rate: int, seconds: float, most: int) -> list[list[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    arguments = [url, str(rate), str(seconds), str(most)]
    environ = {**os.environ, "TRACELET_SIDECAR_LIFETIME_S": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    seen = [_Process(psutil.Process(process.pid))]
    count = "0"
    for line in process.stdout:
        word = line.strip()
        if word == "over":
            break
        count = word
        if len(seen) == 1:
            seen += [_Process(each) for each in _sidecars(seen[0].process)]
        for each in seen:
            each.sample()
    (folder,) = Path(".tracelet").glob("*/run.json")
    held = sum(each.stat().st_size for each in folder.parent.rglob("*") if each.is_file())
    process.stdin.close()
    process.wait()
    time.sleep(1.0)
    shutil.rmtree(".tracelet")
    told = [name, f"{int(count):,}", f"{held / MB:.0f}"]
    return [
        [*(told if who == "trainer" else [""] * 3), who, *each.cells()]
        for who, each in zip(("trainer", "sidecar"), seen)
    ]


def _sidecars(trainer: Any) -> list[Any]:
    return [
        child
        for child in trainer.children(recursive=True)
        if "tracelet.ship.sidecar" in " ".join(child.cmdline())
    ]


if __name__ == "__main__":
    run("Figure 10: an outage", measure)
