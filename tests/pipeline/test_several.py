"""
Several backends at once, and one program that is switched from one to another by its name alone.

What arrived is read by the means of whoever it was meant for, and compared key by key.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

import pytest
from click.testing import CliRunner
from tests.pipeline.depot import Depot, plugged_in
from tests.pipeline.programs import SOURCE, wait_for

import tracelet
from services.mlflow_server import free_port
from services.trackers import NAMES, Trackers, fresh_aim, fresh_database, fresh_folder
from tracelet.cli.commands import tracelet as command_line
from tracelet.errors import ConfigError, SettingsError

__all__ = ["fresh_aim", "fresh_database", "fresh_folder"]

#: Steps and values of a curve, in order.
Curves = dict[str, list[tuple[int, float]]]

PROGRAM = """
import os, sys
import tracelet
from tensorboardX import SummaryWriter

tracelet.start_logging("name", "project", config={"silent": True})
with SummaryWriter("runs/exp") as train, SummaryWriter("runs/exp/val") as val:
    for step in range(0, 300, 3):
        train.add_scalar("loss", step / 7, step)
        val.add_scalar("loss", 0.1 * step, step)
    for step in (5, 2, 2**40, 0):
        train.add_scalar("odd [steps]/ü", step / 3, step)
    train.add_scalars("both", {"a": 1 / 3, "b": 1e-300}, 1)
    train.add_text("note", "hello", 1)
    train.add_histogram("weights", [1.0, 2.0, 2.0], 2)
run = tracelet.get_active_experiment()
run.log_params({"lr": 0.1, "model": {"layers": 3}})
report = tracelet.stop_logging()
sys.exit(0 if report.complete else str(report))
"""


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Depot]:
    with plugged_in(tmp_path, monkeypatch) as found:
        yield found


def of_jsonl(folder: Path, where: str = "tracelet-jsonl") -> tuple[Curves, dict[str, str]]:
    curves: Curves = defaultdict(list)
    params = {}
    for line in (folder / where / "project" / "name.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["type"] == "metric":
            curves[entry["key"]].append((entry["step"], entry["value"]))
        elif entry["type"] == "param":
            params[entry["key"]] = str(entry["value"])
    return curves, params


def of_tensorboard(folder: Path) -> tuple[Curves, dict[str, str]]:
    from tensorboard.backend.event_processing import plugin_event_accumulator
    from tensorboard.plugins.hparams import metadata

    found = plugin_event_accumulator.EventAccumulator(
        str(folder / "tracelet-tensorboard" / "project" / "name"),
        tensor_size_guidance={"scalars": 0},
    )
    found.Reload()
    curves: Curves = {
        key: [(event.step, event.tensor_proto.double_val[0]) for event in found.Tensors(key)]
        for key in found.PluginTagToContent("scalars")
    }
    content = found.PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
    params = {
        key: str(value.string_value or value.number_value)
        for key, value in metadata.parse_session_start_info_plugin_data(content).hparams.items()
    }
    return curves, {**params, "model.layers": str(int(float(params["model.layers"])))}


def of_parquet(folder: Path) -> tuple[Curves, dict[str, str]]:
    import pyarrow.parquet as pq

    curves: Curves = defaultdict(list)
    place = folder / "tracelet-parquet" / "project" / "name"
    for row in pq.read_table(place / "metrics.parquet").to_pylist():
        curves[row["key"]].append((row["step"], row["value"]))
    rows = pq.read_table(place / "params.parquet").to_pylist()
    return curves, {row["key"]: row["value"] for row in rows}


READERS: Mapping[str, Callable[[Path], tuple[Curves, dict[str, str]]]] = {
    "jsonl": of_jsonl,
    "parquet": of_parquet,
    "tensorboard": of_tensorboard,
}


def read(name: str, folder: Path, trackers: Trackers) -> tuple[Curves, dict[str, str]]:
    if name in READERS:
        return READERS[name](folder)
    found = trackers.seen(name)
    assert (found.project, found.name, found.status) == ("project", "name", "FINISHED")
    return {key: found.curve(key) for key in found.metrics}, dict(found.params)  # type: ignore[misc]


def comparable(curves: Curves) -> Mapping[str, list[tuple[int, float]]]:
    """Curves without those that the machine wrote itself; a store may list points by step."""
    return {key: sorted(curve) for key, curve in curves.items() if not key.startswith("system/")}


@pytest.mark.slow
@pytest.mark.figure(7)
def test_the_same_program_switched_by_the_variable_alone(
    tmp_path: Path, fresh_folder: Path
) -> None:
    """The same keys, steps and values in each, exactly; and in all of them at once."""
    for package in ("pyarrow", "tensorboard"):
        pytest.importorskip(package)
    names = (*READERS, *NAMES)
    choices = (*names, ",".join(names))
    far_ends: dict[str, Trackers] = {}
    with ExitStack() as stack:
        for choice in choices:
            folder = tmp_path / choice
            shutil.copytree(fresh_folder, folder)
            (folder / "program.py").write_text(PROGRAM)
            far_ends[choice] = trackers = Trackers(folder)
            stack.callback(trackers.close)
        for some in (choices[:3], choices[3:5], choices[5:7], choices[7:]):
            run_each({tmp_path / choice: far_ends[choice].variables() for choice in some})
        wanted = {
            "loss": [(step, step / 7) for step in range(0, 300, 3)],
            "val/loss": [(step, 0.1 * step) for step in range(0, 300, 3)],
            "odd [steps]/ü": [(step, step / 3) for step in (0, 2, 5, 2**40)],
            "both/a": [(1, 1 / 3)],
            "both/b": [(1, 1e-300)],
        }
        for choice in choices:
            for name in choice.split(","):
                curves, params = read(name, tmp_path / choice, far_ends[choice])
                assert comparable(curves) == wanted, (choice, name)
                logged = {key: params[key] for key in ("lr", "model.layers")}
                assert logged == {"lr": "0.1", "model.layers": "3"}, (choice, name)


def run_each(programs: Mapping[Path, Mapping[str, str]]) -> None:
    """Run the program of each folder, named like the choice, at the same time."""
    running = {}
    for folder, variables in programs.items():
        environ = {**os.environ, **variables, "PYTHONPATH": str(SOURCE)}
        running[folder.name] = subprocess.Popen(
            [sys.executable, "program.py"],
            cwd=folder,
            env={**environ, "TRACELET_BACKEND": folder.name},
            stderr=subprocess.PIPE,
            text=True,
        )
    for choice, program in running.items():
        _, errors = program.communicate(timeout=240)
        assert program.returncode == 0, f"{choice}: {errors}"


def test_a_dead_one_is_behind_and_the_others_have_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow")
    dead = f"http://127.0.0.1:{free_port()}"
    run = tracelet.start_logging(
        "name", "project", ["mlflow", "jsonl", "tensorboard"], config={"mlflow": {"url": dead}}
    )
    assert "mlflow is away" in capsys.readouterr().err
    for step in range(2_000):
        run.log_metric("loss", step / 7, step)
    wanted = [(step, step / 7) for step in range(2_000)]
    path = tmp_path / "tracelet-jsonl" / "project" / "name.jsonl"
    # While the training goes on: nobody waits for the dead one.
    wait_for(lambda: path.exists() and of_jsonl(tmp_path)[0]["loss"] == wanted)
    report = tracelet.stop_logging()
    assert report is not None
    assert report.check() == []
    assert [name for name, each in report.backends.items() if each.waiting] == ["mlflow"]
    assert report.backends["mlflow"].pending == report.spooled
    assert report.backends["jsonl"].delivered == report.spooled
    assert report.backends["tensorboard"].delivered == report.spooled
    line = capsys.readouterr().err
    assert f"jsonl {report.spooled:,} delivered" in line
    assert f"{report.spooled:,} pending" in line
    assert of_tensorboard_curve(tmp_path) == wanted


def of_tensorboard_curve(folder: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    [path] = (folder / "tracelet-tensorboard/project/name").glob("*.tracelet")
    return [
        (event.step, value.tensor.double_val[0])
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == "loss"
    ]


def test_a_slow_one_delays_neither_the_other_nor_the_training(tmp_path: Path, depot: Depot) -> None:
    """It takes as long as it likes for a batch; the other one is done meanwhile."""
    depot.order(write=("hang", ""))
    config = {"silent": True, "depot": {"folder": str(depot.folder)}}
    run = tracelet.start_logging("name", "project", ["depot", "jsonl"], config=config)
    longest = 0.0
    for step in range(3_000):
        before = time.monotonic()
        run.log_metric("loss", float(step), step)
        longest = max(longest, time.monotonic() - before)
    wanted = [(step, float(step)) for step in range(3_000)]
    path = tmp_path / "tracelet-jsonl" / "project" / "name.jsonl"
    wait_for(lambda: path.exists() and of_jsonl(tmp_path)[0]["loss"] == wanted)
    assert depot.values(run.info.run_id) == []
    assert longest < 10, "a call waited for a tracker"
    depot.order()
    wait_for(lambda: len(depot.values(run.info.run_id)) == 3_000)
    report = tracelet.stop_logging()
    assert report is not None
    assert (report.complete, report.check()) == (True, [])
    assert depot.values(run.info.run_id) == [value for _, value in wanted]


def test_one_that_refuses_at_the_start_is_named_and_nothing_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = {"tensorboard": {"logdir": "file/runs"}}
    with pytest.raises(ConfigError, match="file/runs"):
        tracelet.start_logging("name", "project", ["jsonl", "tensorboard"], config=config)
    assert tracelet.get_active_experiment() is None
    assert not list(tmp_path.glob(".tracelet/*/run.json"))


def test_one_that_refuses_later_keeps_its_part_and_is_named(tmp_path: Path, depot: Depot) -> None:
    depot.order(open=("config", "the password has expired"))
    config = {"silent": True, "depot": {"folder": str(depot.folder)}}
    run = tracelet.start_logging("name", "project", ["depot", "jsonl"], config=config)
    for step in range(500):
        run.log_metric("loss", float(step), step)
    report = tracelet.stop_logging()
    assert report is not None
    assert report.backends["jsonl"].delivered == report.spooled == 500
    assert report.backends["depot"].pending == 500
    assert "depot 500 pending (the password has expired)" in str(report)
    assert of_jsonl(tmp_path)[0]["loss"] == [(step, float(step)) for step in range(500)]


def test_each_has_its_own_options_and_one_address_is_for_one(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "silent": True,
        "jsonl": {"path": "lines"},
        "tensorboard": {"logdir": "events"},
    }
    with tracelet.start_logging("name", "project", ["jsonl", "tensorboard"], config=config) as run:
        run.log_metric("loss", 0.5, 1)
    assert of_jsonl(tmp_path, "lines")[0] == {"loss": [(1, 0.5)]}
    assert list(tmp_path.glob("events/project/name/*.tracelet"))
    with pytest.raises(SettingsError, match="backend_url"):
        tracelet.start_logging("name", backend=["jsonl", "tensorboard"], backend_url="one")


def test_a_kept_run_goes_to_another_backend_later(tmp_path: Path) -> None:
    config = {"silent": True, "keep_runs": 1}
    with tracelet.start_logging("name", "project", "jsonl", config=config) as run:
        for step in range(200):
            run.log_metric("loss", step / 7, step)
    wanted = of_jsonl(tmp_path)[0]["loss"]
    for backend in ("tensorboard", "parquet"):
        done = CliRunner().invoke(command_line, ["sync", "--backend", backend, run.info.run_id])
        assert done.exit_code == 0, done.output
    assert of_tensorboard_curve(tmp_path) == wanted
    assert of_parquet(tmp_path)[0]["loss"] == wanted
