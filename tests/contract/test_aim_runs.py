"""Whole runs into Aim: through the process beside the training, killed, restarted, seen anew."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.aim_reader import close, fresh_repository, seen
from services.aim_server import AimProcess
from tracelet.backends.aim import AimBackend, AimOptions
from tracelet.backends.base import Batch, RunInfo, RunStatus
from tracelet.errors import ConfigError, MissingPackageError, RetryableError, RunGoneError
from tracelet.records import Histogram
from tracelet.registry import backend_class
from tracelet.testing.elsewhere import Visit, in_another_process
from tracelet.testing.samples import TIME, curve, image, metric

if sys.version_info >= (3, 13):
    pytest.skip("platform: Aim has no build for this Python", allow_module_level=True)
pytest.importorskip("aim")

PROGRAM = """
import sys
import numpy as np
import tracelet
from torch.utils.tensorboard import SummaryWriter

config = {"tags": {"team": "ml"}}
run = tracelet.start_logging("first", project="demo", backend="aim", config=config)
run.log_params({"optimizer": {"name": "adam", "lr": 0.1}})
writer = SummaryWriter("runs/a")
for step in range(500):
    writer.add_scalar("loss", 0.1 * step, step, walltime=1.7e9 + step)
writer.add_scalar("loss", 7.5, 3)
writer.add_histogram("weights", np.arange(1000.0) ** 2, 1)
writer.add_text("notes", "**good**", 2)
writer.add_image("picture", np.zeros((3, 8, 8)), 4)
writer.add_images("pictures", np.zeros((5, 3, 8, 8)), 4)
writer.add_pr_curve("pr", np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.6, 0.4]), 1)
val = SummaryWriter("runs/a/val")
val.add_scalar("loss", 0.25, 1)
writer.close()
val.close()
remote = run.remote("aim")
print(run.stop(timeout=120).complete, remote.id)
"""


@pytest.fixture
def store(tmp_path: Path, fresh_aim: Path) -> Path:
    shutil.copytree(fresh_aim, tmp_path / "store")
    return tmp_path / "store"


def info(name: str = "run") -> RunInfo:
    return RunInfo(f"20231114-221320-{name}", "project", name, TIME, {}, ["aim"])


def test_a_program_logs_through_the_sidecar_into_the_repository_of_its_folder(store: Path) -> None:
    folder = store / "below"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env={**os.environ, "XDG_STATE_HOME": str(store / "state")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    complete, run_hash = done.stdout.split()[-2:]
    assert complete == "True", done.stderr
    # A repository that nobody has looked at, and nothing indexed by the test.
    repo = fresh_repository(store)
    [run] = list(repo.iter_runs())
    assert (run.hash, run.experiment, run.name) == (run_hash, "demo", "first")
    assert [each.run.hash for each in repo.query_metrics("metric.name == 'loss'")] != []
    assert run["hparams"] == {"optimizer.name": "adam", "optimizer.lr": 0.1}
    assert run["__system_params"]["executable"] == sys.executable
    contexts = [context.to_dict() for name, context, _ in run.iter_metrics_info() if name == "loss"]
    assert sorted(map(str, contexts)) == ["{'repeat': 1}", "{}"]
    subset = [context.to_dict() for name, context, _ in run.iter_metrics_info() if "val" in name]
    assert subset == [{"subset": "val"}]
    close(repo)
    found = seen(store, run_hash)
    assert found.status == "FINISHED"
    assert found.tags["team"] == "ml"
    points = {point.step: point for point in found.metrics["loss"] if point.time < 1.7e9 + 501}
    assert [points[step].value for step in range(500)] == [0.1 * step for step in range(500)]
    assert points[499].time == 1.7e9 + 499
    assert len(found.metrics["loss"]) == 501
    assert len(found.find("image", "pictures")) == 1  # torch makes one picture of them
    kinds = {item.kind for item in found.items}
    assert kinds == {"histogram", "text", "image", "pr_curve"}


def test_points_of_one_step_are_all_kept_and_come_again_as_they_were(store: Path) -> None:
    """Falling steps, the same value at another time, a resend in between and from elsewhere."""
    backend = AimBackend(AimOptions(url=str(store)))
    run = info()
    remote = backend.open(run, None, store / "work")
    sent = [
        metric("loss", float(n % 3), step, TIME + n) for n, step in enumerate([5, 5, 2, 5, -1, -1])
    ]
    pictures = [image("p", 1, shade, index) for shade, index in enumerate([0, 1, 0, 1])]
    batches = [Batch(sent), Batch(pictures, lane="heavy")]
    for batch in batches:
        backend.write(batch)
        backend.write(replace(batch, resend=True))
    backend.close(RunStatus.RUNNING)
    again = AimBackend(AimOptions(url=str(store)))
    again.open(run, remote, store / "work")
    for batch in batches:
        again.write(replace(batch, resend=True))
    again.close(RunStatus.FINISHED)
    found = seen(store, remote.id)
    key = [(point.step, point.value, point.time) for point in sent]
    assert sorted((p.step, p.value, p.time) for p in found.metrics["loss"]) == sorted(key)
    assert sorted(item.content for item in found.items) == sorted(p.data for p in pictures)


def test_kinds_of_one_name_are_kept_apart(store: Path) -> None:
    """A sequence of Aim has one type for ever."""
    backend = AimBackend(AimOptions(url=str(store)))
    remote = backend.open(info(), None, store / "work")
    backend.write(Batch([metric("x", 1.0)]))
    backend.write(Batch([image("x")], lane="heavy"))
    backend.write(Batch([metric("x", 2.0, 1)]))
    backend.close(RunStatus.FINISHED)
    found = seen(store, remote.id)
    assert found.curve("x") == [(0, 1.0), (1, 2.0)]
    assert [item.key for item in found.items] == ["x"]


def test_a_histogram_keeps_its_total_in_equal_bins_and_its_buckets_beside(store: Path) -> None:
    edges = tuple(-(1.1**n) for n in range(300, 0, -1)) + tuple(1.1**n for n in range(300))
    counts = tuple(float(n % 7) for n in range(len(edges) - 1))
    record = Histogram("w", edges, counts, -1e300, 1e300, 0.0, 0.0, 1, TIME)
    backend = AimBackend(AimOptions(url=str(store)))
    remote = backend.open(info(), None, store / "work")
    backend.write(Batch([record], lane="heavy"))
    backend.close(RunStatus.FINISHED, TIME + 60)
    [run] = fresh_repository(store).iter_runs()
    assert (run.creation_time, run.duration) == (TIME, 60.0)
    [item] = seen(store, remote.id).items  # the reader compares the totals
    assert item.content == (list(edges), list(counts))


def test_a_run_that_was_deleted_is_gone(store: Path) -> None:
    backend = AimBackend(AimOptions(url=str(store)))
    remote = backend.open(info(), None, store / "work")
    backend.write(Batch([metric("loss", 1.0)]))
    shutil.rmtree(store / ".aim" / "meta" / "chunks" / remote.id)
    with pytest.raises(RunGoneError):
        backend.write(Batch([metric("loss", 2.0, 1)], offset=1))
    backend.close(RunStatus.RUNNING)


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_gets_everything_once(
    tmp_path: Path, fresh_aim: Path
) -> None:
    shutil.copytree(fresh_aim, tmp_path / "store")
    server = AimProcess(tmp_path / "store")
    backend = AimBackend(AimOptions(url=server.url, timeout_s=10))
    with pytest.raises(RetryableError, match="no Aim server answers"):
        backend.preflight()
    server.start()
    try:
        remote = backend.open(info(), None, tmp_path / "work")
        backend.write(Batch(curve("loss", 100)))
        server.kill()
        with pytest.raises(RetryableError):
            backend.write(Batch(curve("loss", 100, 100), offset=100))
        began = time.monotonic()
        backend.close(RunStatus.RUNNING)
        assert time.monotonic() - began < 30  # Aim's own close never comes back
        server.start()
        backend.open(info(), remote, tmp_path / "work")
        backend.write(Batch(curve("loss", 100, 100), offset=100, resend=True))
        backend.close(RunStatus.FINISHED)
        found = seen(server.folder, remote.id)
    finally:
        server.kill()
    assert found.status == "FINISHED"
    assert [(p.step, p.value) for p in found.metrics["loss"]] == [
        (p.step, p.value) for p in curve("loss", 200)
    ]


@pytest.mark.slow
def test_a_shipper_that_is_killed_leaves_the_server_a_whole_run(aim_server: AimProcess) -> None:
    run, points = info("killed"), curve("loss", 600)
    batches = [Batch(points[at : at + 100], offset=at) for at in range(0, 600, 100)]
    options = AimOptions(url=aim_server.url, timeout_s=60)
    outcome = in_another_process(
        Visit(AimBackend, options, run, None, aim_server.folder, batches, die_after=4)
    )
    assert outcome.exit_code != 0
    backend = AimBackend(options)
    backend.open(run, outcome.remote, aim_server.folder)
    for batch in batches[outcome.delivered :]:
        backend.write(replace(batch, resend=True))
    backend.close(RunStatus.KILLED)
    found = seen(aim_server.folder, outcome.remote.id)
    assert [(p.step, p.value) for p in found.metrics["loss"]] == [(p.step, p.value) for p in points]
    assert found.status == "KILLED"


def test_preflight_says_no_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sentence(url: str, error: type[Exception]) -> str:
        options, _ = AimBackend.resolve({"url": url}, {}, tmp_path)
        began = time.monotonic()
        with pytest.raises(error) as caught:
            AimBackend(options).preflight()
        assert time.monotonic() - began < 10
        return str(caught.value)

    (tmp_path / "file").write_text("")
    assert "Nothing can be written" in sentence("file/deeper", ConfigError)
    (tmp_path / ".aim").write_text("")
    assert "no Aim repository but a file" in sentence(".", ConfigError)
    assert "no Aim server answers" in sentence("aim://127.0.0.1:9", RetryableError)
    for url in ("http://127.0.0.1:53800", "ssh://host/x", "aim://"):
        with pytest.raises(ConfigError):
            AimBackend.resolve({"url": url}, {}, tmp_path)
    with pytest.raises(ConfigError):
        AimBackend.resolve({"artifacts_uri": "gs://x"}, {}, tmp_path)
    monkeypatch.setitem(sys.modules, "aim", None)
    with pytest.raises(MissingPackageError, match="pip install"):
        backend_class("aim")
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(MissingPackageError, match=r"Python 3\.12 and older only, and this is"):
        backend_class("aim")


def test_a_place_is_found_as_aim_finds_it(tmp_path: Path) -> None:
    def where(given: dict[str, Any], cwd: Path, **environ: str) -> Any:
        return AimBackend.resolve(given, environ, cwd)[0].url  # type: ignore[attr-defined]

    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert where({}, below) == str(below)
    (tmp_path / ".aim").mkdir()
    assert where({}, below) == str(tmp_path)
    assert where({"url": "x/.aim"}, below) == str(below / "x")
    assert where({"url": "aim://h:1/"}, below) == "aim://h:1"
    (below / "mine").mkdir()
    assert where({}, below, __AIM_REPO_NAME__="mine") == str(below)


def test_a_server_needs_a_place_for_artifacts(tmp_path: Path) -> None:
    [finding] = AimBackend(AimOptions(url="aim://127.0.0.1:9")).doubts(None)
    assert "artifacts_uri" in str(finding)
    assert AimBackend(AimOptions(url=str(tmp_path))).doubts(None) == ()
