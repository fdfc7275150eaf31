"""What stands behind a run goes away in the middle of a delivery, and comes back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from tests.pipeline.programs import wait_for

import tracelet
from services.mlflow_reader import tracking
from services.mlflow_server import FaultyWay
from services.stack import Stack, in_front_of, storing

pytestmark = [pytest.mark.slow, pytest.mark.figure(3)]

KEYS = 10
AWAY_S = 3.0


@pytest.fixture(scope="module")
def shaken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, FaultyWay]]:
    """A stack that no other module relies on, and the way from the server to S3."""
    folder = tmp_path_factory.mktemp("shaken")
    with storing(folder) as storage:
        way = FaultyWay(storage.objects.url)
        try:
            with in_front_of(storage, folder / "server", s3_url=way.url) as stack:
                yield stack, way
        finally:
            way.close()


def server_killed(stack: Stack, way: FaultyWay) -> None:
    """SIGKILL of the server and of both workers."""
    stack.process.kill()
    time.sleep(AWAY_S)
    stack.process.start()


def database_stopped(stack: Stack, way: FaultyWay) -> None:
    """Every transaction under way is broken off."""
    stack.database.stop()
    time.sleep(AWAY_S)
    stack.database.start()


def endpoint_away(stack: Stack, way: FaultyWay) -> None:
    """Nobody listens where the server keeps artifacts."""
    with way.broken("down"):
        time.sleep(AWAY_S)


def test_nothing_is_lost_and_nothing_doubled(
    shaken: tuple[Stack, FaultyWay], tmp_path: Path
) -> None:
    """One test for all: what a test has started, such as a server again, ends with it."""
    for happens in (server_killed, database_stopped, endpoint_away):
        a_run_while(happens, shaken, tmp_path)


def a_run_while(
    happens: Callable[[Stack, FaultyWay], None],
    shaken: tuple[Stack, FaultyWay],
    tmp_path: Path,
) -> None:
    stack, _ = shaken
    run = tracelet.start_logging(
        project="restarts",
        exp_name=happens.__name__,
        backend="mlflow",
        backend_url=stack.server.url,
        config={"silent": True},
    )
    remote = run.remote("mlflow")
    log(run, range(600), tmp_path)
    with tracking(stack.server.url) as client:
        # Some have arrived, and more are on their way.
        wait_for(lambda: client.get_run(remote.id).data.metrics, timeout=60.0)
    log(run, range(600, 1200), tmp_path)
    happens(*shaken)
    log(run, range(1200, 1500), tmp_path)
    assert run.flush(timeout=120.0)
    report = run.stop(timeout=60.0)

    assert report.check() == []
    assert report.complete, str(report)
    with tracking(stack.server.url) as client:
        assert client.get_run(remote.id).info.status == "FINISHED"
        for key in range(KEYS):
            points = client.get_metric_history(remote.id, f"key{key}")
            found = sorted((point.step, point.value) for point in points)
            assert found == [(step, step + key / 8) for step in range(1500)]
        folder = client.get_run(remote.id).info.artifact_uri.partition(":/")[2]
    for number in range(0, 1500, 300):
        # Where the server keeps them, past the server.
        note = stack.objects.read(f"artifacts/{folder}/notes/{number}.txt")
        assert note.decode() == f"note {number}"


def log(run: Any, steps: range, folder: Path) -> None:
    """Log keys in turn, and a file now and then."""
    for step in steps:
        for key in range(KEYS):
            run.log_metric(f"key{key}", step + key / 8, step)
        if step % 300 == 0:
            note = folder / f"{step}.txt"
            note.write_text(f"note {step}")
            run.log_artifact(note, "notes")
