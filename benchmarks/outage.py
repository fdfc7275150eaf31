"""What a server that is away, hangs or is sick costs a training: held, started, ended, behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator

import psutil
from tests.services.fault_proxy import Answer, Fault, FaultProxy

from benchmarks.measure import percentile
from benchmarks.report import run, table
from benchmarks.stores import server, sqlite

MB = 1_000_000
LOG = "runs/log-batch"

# A word when it logs and when it begins to end; then what it measured. A negative time: no end.
SCRIPT = """
import json, os, sys, time
from torch.utils.tensorboard import SummaryWriter
url, shipper, seconds, stop = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
started = 0.0
if url:
    import tracelet
    begin = time.perf_counter()
    tracelet.start_logging(
        project="outage", backend="mlflow", backend_url=url,
        config={"silent": True, "shipper": shipper},
    )
    started = time.perf_counter() - begin
writer = SummaryWriter("runs/outage")
print("logging", flush=True)
times, number, due = [], 0, time.perf_counter()
end = due + seconds
while not os.path.exists(stop) and (due < end or seconds < 0):
    due += 0.001
    begin = time.perf_counter()
    writer.add_scalar(f"key{number % 10}", number * 0.5, number // 10)
    times.append(time.perf_counter() - begin)
    number += 1
    rest = due - time.perf_counter()
    if rest > 0:
        time.sleep(rest)
    elif rest < -1.0:
        due = time.perf_counter()
print(json.dumps({"started": started, "times": times}), flush=True)
print("ending", time.time(), flush=True)
"""

Break = Callable[[FaultProxy], None]

BREAKS: dict[str, Break] = {
    "refused": lambda proxy: proxy.down(),
    "hangs": lambda proxy: proxy.set(Fault("hang")),
    "429, Retry-After: 1": lambda proxy: proxy.set(
        Fault("answer", answer=Answer(429, b"slow", (("Retry-After", "1"),)))
    ),
    "500": lambda proxy: proxy.set(Fault("answer", answer=Answer(500))),
    "503 with a page": lambda proxy: proxy.set(Fault("answer", answer=Answer(503, b"<html>"))),
    "answers by the byte": lambda proxy: proxy.set(Fault("drip", LOG, pause_s=0.5)),
    "answers cut": lambda proxy: proxy.set(Fault("cut", LOG)),
    "reset": lambda proxy: proxy.set(Fault("reset")),
}


def measure(quick: bool) -> None:
    """Go through every fault, one training each, against one real server."""
    outage_s = 6.0 if quick else 20.0
    names = ["refused", "hangs", "500"] if quick else list(BREAKS)
    with server(sqlite("behind.db")) as address, tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        _held(address, names, outage_s)
        _ends(address)
        _grows(address, 20.0 if quick else 180.0)


def _held(address: str, names: list[str], outage_s: float) -> None:
    rows = []
    for shipper in ("process", "thread"):
        for name in ["", "healthy", *names] if shipper == "process" else names[:2]:
            with _way(address) as proxy:
                training = _Training(proxy.url if name else "", shipper)
                training.says("logging")
                if name:
                    _wait(lambda: len(proxy.answered) > 10)
                lag: list[float] = []
                if name in BREAKS:
                    BREAKS[name](proxy)
                time.sleep(outage_s)
                if name == "healthy":
                    lag = _lags(proxy)
                first = ""
                if name in BREAKS:
                    back = time.monotonic()
                    proxy.up()
                    proxy.set()
                    _wait(partial(_since, proxy, back))
                    first = f"{_since(proxy, back)[0] - back:.1f}"
                found = training.end()
                times = found["times"]
                rows.append(
                    [
                        name or "plain TensorBoard",
                        shipper if name else "",
                        f"{max(times) * 1000:.1f}",
                        f"{percentile(times, 0.999) * 1000:.2f}",
                        f"{sum(each for each in times if each > 0.001) * 1000:.0f}",
                        first,
                        f"{percentile(lag, 0.5):.2f} / {percentile(lag, 0.99):.2f}" if lag else "",
                    ]
                )
                print(" | ".join(rows[-1]), flush=True)
    print()
    head = ["server", "shipper", "longest call, ms", "p99.9, ms", "held, ms"]
    table([*head, "first data after, s", "lag p50 / p99, s"], rows)
    print(
        f"\n1,000 points per second; an outage of {outage_s:.0f} s. Held: the sum of all calls of "
        "more than 1 ms, TensorBoard's own among them. Limits: 100 ms, 500 ms, 5 s, p99 < 2 s.\n"
    )


def _ends(address: str) -> None:
    rows = []
    for name in ("refused", "hangs"):
        for when in ("from the start", "for 4 s"):
            for shipper in ("process", "thread"):
                with _way(address) as proxy:
                    if when == "from the start":
                        BREAKS[name](proxy)
                    training = _Training(proxy.url, shipper, seconds=5.0 if "start" in when else -1)
                    training.says("logging")
                    if when != "from the start":
                        _wait(lambda: len(proxy.answered) > 10)
                        BREAKS[name](proxy)
                        time.sleep(4.0)
                    found = training.end()
                    rows.append(
                        [name, when, shipper, f"{found['started']:.2f}", f"{found['ended']:.2f}"]
                    )
                    training.forget()
                    print(" | ".join(rows[-1]), flush=True)
    print()
    table(["server", "since", "shipper", "start_logging, s", "exit, s"], rows)
    print("\nLimits: start 1 s; exit 1 s with the process beside, 10 s with the thread.\n")


def _grows(address: str, seconds: float) -> None:
    rows = []
    for name in ("refused", "hangs"):
        with _way(address) as proxy:
            training = _Training(proxy.url, "process")
            training.says("logging")
            _wait(lambda: len(proxy.answered) > 20)
            BREAKS[name](proxy)
            time.sleep(min(10.0, seconds / 3))
            before = training.sizes()
            time.sleep(seconds)
            after = training.sizes()
            training.end()
            training.forget()
            for who in before:
                change = [f"{b - a:+.1f}" for a, b in zip(before[who][:1], after[who][:1])]
                counts = [f"{a:.0f} → {b:.0f}" for a, b in zip(before[who][1:], after[who][1:])]
                rows.append([name, who, f"{after[who][0]:.0f}", *change, *counts])
    table(["server", "process", "MB", "grows by", "descriptors", "threads"], rows)
    print(f"\n{seconds:.0f} s of outage at 1,000 points per second. Limit: 50 MB, and flat.")


class _Training:
    """The script in a folder of its own."""

    def __init__(self, url: str, shipper: str, seconds: float = -1) -> None:
        folder = Path(tempfile.mkdtemp(dir=".")).resolve()
        self._stop = folder / "stop"
        command = [sys.executable, "-c", SCRIPT, url, shipper, str(seconds), str(self._stop)]
        self._process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        self._seconds = seconds
        self._beside: list[psutil.Process] = []

    def says(self, word: str) -> str:
        """Wait for a line that begins so, and return it."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line
        raise RuntimeError(f"the training ended with {self._process.wait()}")

    def end(self) -> dict[str, Any]:
        """Have it end; return what it measured."""
        if self._seconds < 0:
            self._stop.touch()
        found: dict[str, Any] = json.loads(self.says("{"))
        self._beside = psutil.Process(self._process.pid).children()
        began = float(self.says("ending").split()[1])
        if self._process.wait(120) != 0:
            raise RuntimeError(f"the training ended with {self._process.returncode}")
        found["ended"] = time.time() - began
        return found

    def forget(self) -> None:
        """End the process beside, which would wait for a server that is not coming back."""
        for each in self._beside:
            with contextlib.suppress(psutil.Error):
                each.kill()

    def sizes(self) -> dict[str, tuple[float, int, int]]:
        """Return memory, descriptors and threads of the trainer and its sidecar."""
        trainer = psutil.Process(self._process.pid)
        found = {"trainer": trainer}
        for child in trainer.children():
            if "tracelet.ship.sidecar" in " ".join(child.cmdline()):
                found["sidecar"] = child
        return {
            name: (each.memory_info().rss / MB, each.num_fds(), each.num_threads())
            for name, each in found.items()
        }


def _lags(proxy: FaultProxy) -> list[float]:
    """Return for each point how long after its call the server had it."""
    offset = time.time() - time.monotonic()
    return [
        at + offset - each["timestamp"] / 1000
        for request, at in list(proxy.answered)
        if request.path.endswith(LOG)
        for each in json.loads(request.body).get("metrics", ())
    ]


def _since(proxy: FaultProxy, moment: float) -> list[float]:
    answered = list(proxy.answered)
    return [at for request, at in answered if at > moment and b'"metrics"' in request.body]


def _wait(condition: Callable[[], object], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError("this did not happen in time")
        time.sleep(0.02)


@contextlib.contextmanager
def _way(address: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(address)
    try:
        yield proxy
    finally:
        proxy.close()


if __name__ == "__main__":
    run("Outages of a server", measure)
