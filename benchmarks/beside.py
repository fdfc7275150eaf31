"""The user's own `mlflow.log_metric` into SQLite, alone and while a run delivers 1,000 points/s."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

from benchmarks.measure import percentile, spread
from benchmarks.report import run, table
from benchmarks.stores import sqlite

# Both halves in one process and one store, in turn: the machine is the same for both.
SCRIPT = """
import json, sys, threading, time
import mlflow
import tracelet
url, calls, turns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
mlflow.set_tracking_uri(url)

def own():
    times = []
    for step in range(calls):
        begin = time.perf_counter()
        mlflow.log_metric("own", step, step=step)
        times.append(time.perf_counter() - begin)
        time.sleep(0.005)
    return times

def kilohertz(run, over):
    number = 0
    while not over.is_set():
        for _ in range(10):
            run.log_metric(f"key{number % 10}", number, number // 10)
            number += 1
        time.sleep(0.01)

found = {"alone": [], "beside": []}
for turn in range(turns):
    with mlflow.start_run():
        mlflow.log_metric("warm", 1.0)
        found["alone"] += own()
    run = tracelet.start_logging(backend="mlflow", config={"silent": True})
    run.remote()
    over = threading.Event()
    logging = threading.Thread(target=kilohertz, args=(run, over))
    logging.start()
    mlflow.log_metric("warm", 1.0)
    found["beside"] += own()
    over.set()
    logging.join()
    run.stop(timeout=60)
print(json.dumps(found))
"""


def measure(quick: bool) -> None:
    """Time the same call with and without our delivery, in turn."""
    calls, turns = (100, 3) if quick else (400, 6)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, sqlite(), str(calls), str(turns)],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found = json.loads(done.stdout.splitlines()[-1])
    tails = {name: percentile(times, 0.99) * 1000 for name, times in found.items()}
    rows = [
        [name, spread(times).scaled(1000).text(1), f"{tails[name]:.1f}"]
        for name, times in found.items()
    ]
    table(["mlflow.log_metric", "median, ms", "p99, ms"], rows)
    ratio = tails["beside"] / tails["alone"]
    print(f"\np99: {ratio:.2f} x; limit 2 x. {calls * turns:,} calls each, in turn.")


if __name__ == "__main__":
    run("Beside the user's own calls", measure)
