"""Delivered points per second into a local ClearML server, against the vendor's bulk call."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import tracelet
from benchmarks.measure import Pairs, interleaved, spread
from benchmarks.peer import BATCH, KEYS
from benchmarks.report import run, table

PROJECT = "benchmark"
#: The server that the tests use, too: the vendor's rules over a dictionary. The real one needs
#: MongoDB and Elasticsearch.
_SERVER = Path(__file__).parents[1] / "tests" / "services" / "clearml_server.py"


def measure(quick: bool) -> None:
    """Deliver the same points both ways into the same server, in turn."""
    points, rounds = (20_000, 2) if quick else (100_000, 5)
    with _server():
        session = _session()
        rows = []
        for what, log in (("run.log_metric", _log_metric), ("writer.add_scalar", _add_scalar)):
            peer, ours = interleaved(
                rounds, lambda: _batches(session, points), _side(session, points, log)
            )
            pairs = Pairs([1 / seconds for seconds in peer], [1 / seconds for seconds in ours])
            speeds = [spread(side).scaled(points).text(0) for side in (pairs.ours, pairs.plain)]
            rows.append([what, *speeds, pairs.ratio.text(2), ">= 1.0"])
    table(["what", "points/s", "AddBatchRequest of 1,000, points/s", "times", "limit"], rows)
    print(
        f"\n{points:,} points of {KEYS} keys in turn, {rounds} pairs, a server of one process on"
        "\nthis machine. Sessions and runs are open before the clock starts; it stops when the"
        "\nserver has answered for every point."
    )


@contextmanager
def _server() -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, str(_SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    os.environ.update(
        CLEARML_API_HOST=address,
        CLEARML_WEB_HOST=address,
        CLEARML_FILES_HOST=address,
        CLEARML_API_ACCESS_KEY="KEY0123456789",
        CLEARML_API_SECRET_KEY="secret-of-the-test",
        CLEARML_CACHE_DIR=str(Path.cwd() / "clearml-cache"),
    )
    try:
        yield
    finally:
        process.communicate("")


def _session() -> Any:
    from clearml.backend_api import Session

    return Session()


def _batches(session: Any, points: int) -> float:
    """Send everything as the vendor's API layer does it at its fastest; return the seconds."""
    from clearml.backend_api.services import events
    from clearml.backend_api.session.client import APIClient

    task = APIClient(session=session).tasks.create(name="vendor", type="training").id
    begin = time.perf_counter()
    for first in range(0, points, BATCH):
        now = int(time.time() * 1000)
        batch = [
            events.AddRequest(
                event=events.MetricsScalarEvent(
                    task=task,
                    timestamp=now,
                    iter=index // KEYS,
                    metric=f"key{index % KEYS}",
                    variant=f"key{index % KEYS}",
                    value=index * 0.5,
                )
            )
            for index in range(first, first + BATCH)
        ]
        answer = session.send(events.AddBatchRequest(requests=batch))
        if not answer.ok() or answer.response.errors:
            raise RuntimeError("a batch was refused")
    seconds = time.perf_counter() - begin
    _check(session, task, points)
    return seconds


def _side(session: Any, points: int, log: Callable[[Any, int], None]) -> Callable[[], float]:
    def side() -> float:
        active = tracelet.start_logging(
            project=PROJECT,
            backend="clearml",
            config={"silent": True, "keep_tensorboard": False, "collect": []},
        )
        remote = active.remote("clearml")
        begin = time.perf_counter()
        log(active, points)
        if not active.flush(timeout=600.0):
            raise RuntimeError("not everything was delivered in ten minutes")
        seconds = time.perf_counter() - begin
        _check(session, remote.id, points)
        tracelet.stop_logging()
        return seconds

    return side


def _check(session: Any, task: str, points: int) -> None:
    """Raise RuntimeError unless every point is there."""
    answer = session.send_request("test", "count", method="post", json={"task": task}).json()
    if answer["data"]["points"] != points:
        raise RuntimeError(f"{answer['data']['points']} of {points} points are there")


def _log_metric(active: Any, points: int) -> None:
    for index in range(points):
        active.log_metric(f"key{index % KEYS}", index * 0.5, index // KEYS)


def _add_scalar(_: Any, points: int) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter("runs/throughput")
    for index in range(points):
        writer.add_scalar(f"key{index % KEYS}", index * 0.5, index // KEYS)
    writer.close()


if __name__ == "__main__":
    run("Figure 5: delivered points per second into ClearML", measure)
