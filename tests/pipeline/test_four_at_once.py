"""
MLflow, W&B, ClearML and Aim at once: all complete, and nobody waits for another.

What arrived is read by each one's own means: every point, every histogram and every image.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping

import pytest
from tests.pipeline.programs import SOURCE

from services.aim_server import aim_server
from services.mlflow_server import Server, mlflow_server
from services.trackers import NAMES, Trackers, fresh_aim, fresh_database, fresh_folder
from tracelet.testing import Seen

__all__ = ["aim_server", "fresh_aim", "fresh_database", "fresh_folder", "mlflow_server"]

pytestmark = pytest.mark.figure(6)

KEYS = 10
#: The longest that the program waits at its end.
STOP_S = 220

#: Logs scalars, histograms and images in two halves. Between them it waits until all have the first
#: one, but for who is named in ``pause``. Says in the end what start and end took, and the account.
PROGRAM = """
import json, sys, time
import numpy as np
import tracelet
from tracelet.ship import state
from tensorboardX import SummaryWriter

names, project, pause, counts, patience_s, stop_s = json.loads(sys.argv[1])
patience = {name: {"timeout_s": patience_s} for name in names}
began = time.monotonic()
run = tracelet.start_logging("name", project, names, config=patience)
said = {"started": time.monotonic() - began}
with SummaryWriter("runs/exp") as writer:
    for half in (0, 1):
        if half and pause:
            run._host.wake()
            logged = sum(count // 2 for count in counts)
            while any(each.answered < logged for name, each in state.read(run._run_dir).items()
                      if name != pause):
                time.sleep(0.05)
            print("half", flush=True)
            sys.stdin.readline()
        scalars, histograms, images = (
            range(half * count // 2, (half + 1) * count // 2) for count in counts
        )
        for index in scalars:
            writer.add_scalar(f"key{index % 10}", index / 7, index // 10)
        for step in histograms:
            writer.add_histogram("weights", np.linspace(-1, 1, 20 + step), step)
        for step in images:
            writer.add_image("picture", np.full((3, 4, 5), step, dtype=np.uint8), step)
began = time.monotonic()
report = run.stop(timeout=stop_s)
said["stopped"] = time.monotonic() - began
said.update(line=str(report), spooled=report.spooled, problems=report.check(), backends={
    name: [each.delivered, each.pending, each.waiting] for name, each in report.backends.items()})
print(json.dumps(said), flush=True)
"""


@contextmanager
def program(
    folder: Path,
    trackers: Trackers,
    *counts: int,
    project: str = "project",
    pause: str = "",
    patience_s: float = 30.0,
) -> Iterator[subprocess.Popen[str]]:
    given = json.dumps([NAMES, project, pause, counts, patience_s, STOP_S])
    with open(folder / "stderr", "w") as errors:
        running = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, given],
            cwd=folder,
            env=environ(trackers),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def end(running: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    said, _ = running.communicate("\n", timeout=STOP_S + 60)
    errors = (folder / "stderr").read_text()
    assert running.returncode == 0, errors
    return {**json.loads(said.splitlines()[-1]), "stderr": errors}


def environ(trackers: Trackers) -> dict[str, str]:
    # Nobody is left who would deliver what a tracker does not have at the end.
    more = {"PYTHONPATH": str(SOURCE), "TRACELET_SIDECAR_LIFETIME_S": "0"}
    return {**os.environ, **trackers.variables(), **more}


def check(found: Seen, scalars: int, histograms: int, images: int) -> None:
    """See that everything is there, each once, with its own content."""
    assert found.status == "FINISHED"
    for key in range(KEYS):
        wanted = [(step, (step * KEYS + key) / 7) for step in range(scalars // KEYS)]
        assert found.curve(f"key{key}") == wanted, key
    weights = found.find("histogram", "weights")
    assert len(weights) == histograms
    totals = {item.step: sum(item.content[1]) for item in weights}
    assert totals == {step: 20 + step for step in range(histograms)}
    pictures = found.find("image", "picture")
    assert sorted(item.step for item in pictures) == list(range(images))  # type: ignore[type-var]
    assert all(shade(item.content) == item.step for item in pictures)


def shade(image: bytes) -> int:
    from PIL import Image

    with Image.open(io.BytesIO(image)) as picture:
        [(count, pixel)] = picture.getcolors()
    assert count == 20
    return int(pixel[0])


@pytest.mark.parametrize(
    "counts", [(600, 20, 10), pytest.param((20_000, 200, 100), marks=pytest.mark.slow)]
)
def test_all_four_have_everything(
    counts: tuple[int, int, int], tmp_path: Path, fresh_folder: Path
) -> None:
    folder = tmp_path / "program"
    shutil.copytree(fresh_folder, folder)
    trackers = Trackers(folder)
    try:
        with program(folder, trackers, *counts) as running:
            said = end(running, folder)
        assert said["problems"] == []
        whole = [said["spooled"], 0, False]
        assert said["backends"] == dict.fromkeys(NAMES, whole), said["line"]
        for name in NAMES:
            check(trackers.seen(name), *counts)
    finally:
        trackers.close()


COUNTS = (200, 10, 6)


@pytest.fixture(scope="module")
def servers(
    fresh_folder: Path, mlflow_server: Server, request: pytest.FixtureRequest
) -> Mapping[str, Any]:
    """What stands before a database and a repository that are to be cut off."""
    found: dict[str, Any] = {"mlflow": mlflow_server.url}
    if "aim" in NAMES:
        found["aim"] = request.getfixturevalue("aim_server")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dead", "how", "dying"),
    [
        ("mlflow", "down", "aim"),
        ("wandb", "hang", "clearml"),
        ("clearml", "down", "wandb"),
        ("aim", "hang", "mlflow"),
    ],
)
def test_nobody_waits_for_a_dead_one_and_sync_brings_the_rest(
    dead: str,
    how: str,
    dying: str,
    tmp_path: Path,
    fresh_folder: Path,
    servers: Mapping[str, Any],
    request: pytest.FixtureRequest,
) -> None:
    """One is dead from the start on (its port refuses, or is silent), one falls silent later."""
    if not {dead, dying} <= set(NAMES):
        pytest.skip("platform: Aim has no build for this Python")
    folder, project = tmp_path / "program", request.node.name
    shutil.copytree(fresh_folder, folder)
    broken = {name: server for name, server in servers.items() if name in (dead, dying)}
    trackers = Trackers(folder, **broken)
    whole, half = sum(COUNTS), sum(COUNTS) // 2
    try:
        with trackers.ways[dead].broken(how):
            # Nothing that waits for a silent one comes to an end by itself.
            settings: Any = {"project": project, "pause": dead, "patience_s": 900.0}
            with program(folder, trackers, *COUNTS, **settings) as running:
                assert running.stdout is not None
                assert running.stdout.readline() == "half\n"
                with trackers.ways[dying].broken("hang"):
                    said = end(running, folder)
        assert f"{dead} is away" in said["stderr"]
        assert said["started"] < 30
        assert said["stopped"] < STOP_S - 20, said
        assert said["problems"] == []
        account = {name: [whole, 0, False] for name in NAMES}
        account[dead], account[dying] = [0, whole, True], [half, whole - half, True]
        assert said["backends"] == account
        assert said["line"].endswith("tracelet sync")
        for name in set(NAMES) - {dead, dying}:
            check(trackers.seen(name, project), *COUNTS)
        synced = subprocess.run(
            [sys.executable, "-m", "tracelet", "sync"],
            cwd=folder,
            env=environ(trackers),
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert synced.returncode == 0, synced.stdout + synced.stderr
        for name in NAMES:
            check(trackers.seen(name, project), *COUNTS)
    finally:
        trackers.close()
