"""How long after the end of a program, of whatever kind, the tracker shows the true status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple, Optional

from benchmarks.measure import spread
from benchmarks.report import run, table
from benchmarks.stores import PROJECT, client, server, sqlite

LIMIT_S = 5.0
#: Nobody is waited for longer.
PATIENCE_S = 60.0
LOOK_S = 0.02

# Says which run it is once that is open over there, logs a little, and ends when it is told to.
SCRIPT = """
import os, signal, sys, time
# Whoever is started in the background may have been told to ignore these.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(getattr(signal, "SIGHUP", signal.SIGTERM), signal.SIG_DFL)
from torch.utils.tensorboard import SummaryWriter
import tracelet
run = tracelet.start_logging(
    project=sys.argv[2], backend="mlflow", backend_url=sys.argv[1], config={"silent": True}
)
writer = SummaryWriter("runs/end")
print(run.remote("mlflow").id, flush=True)
for step in range(1000):
    writer.add_scalar("loss", step / 7, step)
    time.sleep(0.001)
print("ready", flush=True)
if sys.argv[3] == "wait":
    while True:
        time.sleep(0.01)
sys.stdin.readline()
exec(sys.argv[3])
"""


class End(NamedTuple):
    """A way to end: what the program does, or the signal that it is sent; and what that means."""

    code: str
    status: str
    signal: Optional[int] = None


ENDS = {
    "return": End("pass", "FINISHED"),
    "exception": End("raise ValueError('mine')", "FAILED"),
    "sys.exit(3)": End("sys.exit(3)", "FAILED"),
    "Ctrl-C": End("wait", "KILLED", signal.SIGINT),
    "SIGTERM": End("wait", "KILLED", signal.SIGTERM),
    "SIGHUP": End("wait", "KILLED", getattr(signal, "SIGHUP", signal.SIGTERM)),
    "SIGKILL": End("wait", "KILLED", getattr(signal, "SIGKILL", signal.SIGTERM)),
    "os._exit(5)": End("os._exit(5)", "KILLED"),
}


def measure(quick: bool) -> None:
    """End programs in every way, with a local database and with a server."""
    times = 1 if quick else 5
    local = sqlite("local.db")
    with server(sqlite("behind.db")) as address:
        stores = {"SQLite": client(local), "server": client(address)}
        uris = {"SQLite": local, "server": address}
        rows = []
        for name, end in ENDS.items():
            cells, right = [], True
            for store, uri in uris.items():
                seen = [_ended(end, uri, stores[store]) for _ in range(times)]
                cells += [spread([seconds for seconds, _ in seen]).text(2)]
                cells += [f"{max(seconds for seconds, _ in seen):.2f}"]
                right = right and {status for _, status in seen} == {end.status}
            rows.append([name, end.status, *cells, "yes" if right else "NO"])
            print(f"{name}: {', '.join(cells)}", flush=True)
    print()
    head = ["end", "status", "SQLite, s", "most", "server, s", "most", "right"]
    table(head, rows)
    print(
        f"\n{times} programs each. Seconds from when the system has the program's exit code to when"
        f"\nMlflowClient.get_run shows the status with an end time. Limit: {LIMIT_S:g} s."
    )


def _ended(end: End, uri: str, there: Any) -> tuple[float, str]:
    """Run a program to its end; return how long the status took, and which it is."""
    folder = tempfile.mkdtemp(dir=".")  # vanishes with what is around it
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, uri, PROJECT, end.code],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    assert process.stdout.readline() == "ready\n"
    if end.signal is None:
        process.stdin.write("\n")
        process.stdin.close()
    else:
        os.kill(process.pid, end.signal)
    process.wait(PATIENCE_S)
    began = time.monotonic()
    while True:
        info = there.get_run(run_id).info
        seconds = time.monotonic() - began
        if info.end_time is not None or seconds > PATIENCE_S:
            break
        time.sleep(LOOK_S)
    # What the sidecar does after that is not part of it, but is in the way of the next program.
    time.sleep(1.5)
    process.stdout.close()
    return seconds, info.status


if __name__ == "__main__":
    run("The true status, after every kind of end", measure)
