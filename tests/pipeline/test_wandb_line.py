"""From a SummaryWriter to W&B, with everything in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

import pytest
from tests.contract.test_wandb import seen

from services.wandb_server import KEY, WandbServer

pytest.importorskip("wandb.sdk")

PROGRAM = """
import sys
from tensorboardX import SummaryWriter
import numpy as np
import tracelet

run = tracelet.start_logging(exp_name="whole", project="line", backend="wandb", config={
    "tags": {"team": "vision"}, "wandb": {"notes": "a note", "job_type": "train"}})
writer = SummaryWriter("runs/whole")
for step in range(300):
    writer.add_scalar("loss", 0.1 + step, step)
writer.add_histogram("weights", np.linspace(-1, 1, 1000), 1)
writer.add_text("notes", "**good** & <small>", 1)
writer.add_image("picture", np.zeros((3, 4, 5), dtype=np.uint8), 1)
writer.add_hparams({"lr": 0.1}, {"acc": 0.5}, name="")
writer.add_pr_curve("curve", np.array([0, 1, 1, 0]), np.array([0.1, 0.8, 0.7, 0.3]), 1, 8)
writer.add_custom_scalars({"all": {"both": ["Multiline", ["loss"]]}})
assert "wandb" not in sys.modules
print(run.remote("wandb").url, flush=True)
if "kill" in sys.argv:
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
writer.close()
report = run.stop(timeout=60)
print(report, flush=True)
assert report.complete, report
assert "wandb" not in sys.modules
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    found = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", found.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield found
    found.stop()


def program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_program_logs_into_wandb(server: WandbServer, tmp_path: Path) -> None:
    done = program(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    [run] = server.runs.values()
    assert done.stdout.split()[0] == f"{server.url}/somebody/line/runs/{run.id}"
    found = seen(server, run.id)
    assert found.curve("loss") == [(step, 0.1 + step) for step in range(300)]
    assert (run.name, run.state, run.notes, run.job_type) == (
        "whole",
        "finished",
        "a note",
        "train",
    )
    assert run.tags == ["team:vision"]
    assert found.params["lr"] == "0.1"
    assert [item.content for item in found.find("text", "notes")] == ["**good** & <small>"]
    assert len(found.find("histogram", "weights")) == 1
    assert len(found.find("image", "picture")) == 1
    assert [item.key for item in found.items if item.kind == "pr_curve"] == ["curve"]
    assert "both" in json.dumps(run.config["_tracelet.custom_scalars"])
    assert run.config["_tracelet.context"]["command"]["kind"]
    assert json.loads(run.files["wandb-metadata.json"])["python"]
    assert KEY not in "".join(
        path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()
    )


def test_a_killed_program_is_killed_in_wandb_with_all_it_logged(
    server: WandbServer, tmp_path: Path
) -> None:
    done = program(tmp_path, "kill")
    assert done.returncode == -signal.SIGKILL, done.stderr
    [run] = server.runs.values()
    deadline = time.monotonic() + 60
    while run.state == "running" and time.monotonic() < deadline:
        time.sleep(0.1)
    found = seen(server, run.id)
    assert found.status == "KILLED"
    assert found.curve("loss") == [(step, 0.1 + step) for step in range(300)]


def test_an_offline_program_needs_no_server_and_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "WANDB_API_KEY" not in os.environ
    source = PROGRAM.replace('print(run.remote("wandb").url, flush=True)', "")
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    assert [path.suffix for path in folder.glob("*.wandb")] == [".wandb"]
