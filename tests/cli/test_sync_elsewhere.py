"""
``tracelet sync`` to another backend, into a new run, and of what was refused.

Everything is read back with the trackers' own means: MLflow's client, or the lines of a file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Iterator

import mlflow
import pytest
from click.testing import CliRunner, Result
from tests.pipeline.depot import Depot, options, plugged_in
from tests.pipeline.programs import left_over, wait_for

import tracelet
from services.mlflow_reader import tracking
from services.mlflow_server import fresh_database
from tracelet.cli import sync as sync_command
from tracelet.cli.commands import tracelet as command_line
from tracelet.ship.drain import drain
from tracelet.spool.rundir import RunDir

__all__ = ["fresh_database"]

POINTS = 30_000


def command(*arguments: str) -> Result:
    return CliRunner().invoke(command_line, list(arguments), catch_exceptions=False)


def account(*arguments: str) -> Any:
    """What the installed command says of the runs, and that its numbers add up."""
    content = json.loads(command("status", "--json", *arguments).output)
    for run in content["runs"]:
        assert run["recorded"] == run["spooled"] + sum(run["lost"].values())
        for each in run["backends"].values():
            answered = each["delivered"] + each["rejected"] + each["unsupported"]
            assert answered + each["pending"] + each["damaged"] == run["spooled"]
    return content


def recorded(backend: str, points: int, **config: Any) -> str:
    """A run that waits in the spool; returns its id."""
    config = {"mode": "offline", "silent": True, **config}
    with tracelet.start_logging("name", "project", backend, config=config) as run:
        for step in range(points):
            run.log_metric("loss", step / 7, step)
        run.log_params({"lr": 0.1})
        run.log_text("note", "hello", 0)
    return run.info.run_id


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def curve(path: Path) -> list[tuple[int, float]]:
    """The points of a run's file, which must be there once each, and its end."""
    content = lines(path)
    places = Counter((line["lane"], line["n"]) for line in content if "n" in line)
    assert not places or max(places.values()) == 1
    return [(line["step"], line["value"]) for line in content if line.get("key") == "loss"]


def expected(count: int) -> list[tuple[int, float]]:
    return [(step, step / 7) for step in range(count)]


def mlflow_runs(url: str, *, deleted: bool = False) -> list[Any]:
    view = mlflow.entities.ViewType.DELETED_ONLY if deleted else mlflow.entities.ViewType.ALL
    with tracking(url) as client:
        experiments = [each.experiment_id for each in client.search_experiments(view_type=3)]
        found = client.search_runs(experiments, run_view_type=view)
    return [each for each in found if deleted or each.info.lifecycle_stage == "active"]


def mlflow_curve(url: str, run_id: str) -> list[tuple[int, float]]:
    with tracking(url) as client:
        return sorted((each.step, each.value) for each in client.get_metric_history(run_id, "loss"))


@pytest.fixture
def store(tmp_path: Path, fresh_database: Path) -> str:
    shutil.copy(fresh_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Depot]:
    with plugged_in(tmp_path, monkeypatch) as found:
        yield found


# -- elsewhere --------------------------------------------------------------------------------


def test_a_kept_run_goes_to_another_backend_and_to_another_address(
    tmp_path: Path, store: str, fresh_database: Path
) -> None:
    """From its beginning, with the same names, each with an account of its own."""
    config = {"mode": "offline", "silent": True, "keep_runs": "all"}
    arguments: dict[str, Any] = {"backend_url": store, "config": config}
    with tracelet.start_logging("name", "project", "mlflow", **arguments) as run:
        for step in range(50):
            run.log_metric("loss", step / 7, step)
        # Two that would meet in one name: which one has it was decided once, for everybody.
        run._writer.scalar("logs/val", "loss", 0.5, 1, None)
        run.log_metric("val/loss", 0.25, 1)
    run_id = run.info.run_id
    assert command("sync").exit_code == 0
    assert command("sync").output == "Nothing is left to deliver.\n"

    result = command("sync", "--backend", "jsonl", run_id)
    file = tmp_path / "tracelet-jsonl" / "project" / "name.jsonl"
    assert (result.exit_code, result.output) == (
        0,
        f"{run_id} name: jsonl 52 delivered, FINISHED → {file}\n",
    )
    before = file.read_bytes()
    shutil.copy(fresh_database, tmp_path / "second.db")
    second = f"sqlite:///{tmp_path}/second.db"
    where = ["--backend", "mlflow", "--backend-url", second, "--project", "other"]
    result = command("sync", *where, run_id)
    assert result.exit_code == 0, result.output
    assert f"{run_id} name: mlflow@2 52 delivered, FINISHED → " in result.output
    # Once more changes nothing.
    assert command("sync", "--backend", "jsonl", run_id).exit_code == 0
    assert command("sync", *where, run_id).exit_code == 0
    assert file.read_bytes() == before

    assert curve(file) == expected(50)
    assert lines(file)[-1]["status"] == "FINISHED"
    names = {line["key"] for line in lines(file) if line.get("type") == "metric"}
    for url, project in ((store, "project"), (second, "other")):
        (found,) = mlflow_runs(url)
        assert found.info.status == "FINISHED"
        assert mlflow_curve(url, found.info.run_id) == expected(50)
        # MLflow takes no "~".
        assert set(found.data.metrics) == {name.replace("~", "_") for name in names}
        with tracking(url) as client:
            assert client.get_experiment(found.info.experiment_id).name == project
    (seen,) = account()["runs"]
    assert {name: each["delivered"] for name, each in seen["backends"].items()} == {
        "mlflow": 52,
        "jsonl": 52,
        "mlflow@2": 52,
    }


def test_a_run_that_was_not_delivered_goes_elsewhere_meanwhile(
    tmp_path: Path, depot: Depot
) -> None:
    """Its own backend is not asked, and has it later; then the run is gone from the spool."""
    run_id = recorded("depot", 20, **options(depot, token="never-on-disk"))
    result = command("sync", "--backend", "jsonl", run_id)
    assert result.exit_code == 0, result.output
    assert "depot" not in result.output
    assert curve(tmp_path / "tracelet-jsonl" / "project" / "name.jsonl") == expected(20)
    assert {call["call"] for call in depot.calls()} == {"make"}  # by the start of the run
    (seen,) = account()["runs"]
    assert seen["backends"]["depot"]["pending"] == seen["backends"]["jsonl"]["delivered"] == 22
    # Secrets of the new place are not kept either: they are asked for again.
    where = ["--backend", "depot", "--project", "third"]
    environ = {"TRACELET_DEPOT__FOLDER": str(depot.folder), "TRACELET_DEPOT__TOKEN": "sesame-2"}
    depot.order(write=("retry", "away"))
    tried = CliRunner().invoke(
        command_line, ["sync", *where, "--timeout", "1", run_id], env=environ
    )
    assert tried.exit_code == 1
    assert "depot@2 0 delivered, 22 pending (away)" in tried.output
    for path in (tmp_path / ".tracelet").rglob("*"):
        assert path.is_dir() or b"sesame-2" not in path.read_bytes(), path
    depot.order()
    left = CliRunner().invoke(command_line, ["sync"], env={"TRACELET_DEPOT__TOKEN": "sesame-2"})
    assert left.exit_code == 0, left.output
    assert left_over(tmp_path / ".tracelet") == []
    assert {call["token"] for call in depot.calls("open")} == {"sesame-2"}


def test_a_place_that_cannot_be_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, depot: Depot
) -> None:
    run_id = recorded("jsonl", 3, keep_runs="all")
    assert command("sync").exit_code == 0
    for arguments, text in (
        (["--backend", "nonsense", run_id], "There is no backend 'nonsense'"),
        (["--backend", "memory", run_id], "memory keeps nothing beyond this command"),
        (["--backend", "jsonl"], "name the run that is to go there"),
        (["--backend-url", "x", run_id], "is the address of a --backend"),
    ):
        result = command("sync", *arguments)
        assert result.exit_code in (1, 2)
        assert text in result.output
    # It was typed wrong, and is not tried for ever.
    depot.order(open=("retry", "nobody there"))
    environ = {"TRACELET_DEPOT__FOLDER": str(depot.folder)}
    arguments = ["sync", "--backend", "depot", "--timeout", "0.5", run_id]
    result = CliRunner().invoke(command_line, arguments, env=environ)
    assert result.exit_code == 1
    assert "nobody there" in result.output
    (seen,) = account()["runs"]
    assert list(seen["backends"]) == ["jsonl"]
    assert command("sync").output == "Nothing is left to deliver.\n"


def test_a_run_whose_records_are_deleted_says_so(depot: Depot) -> None:
    """Delivered and not kept: only what was refused is left of it."""
    depot.order(write_heavy=("reject", "no texts here"))
    (Path.cwd() / "weights").write_bytes(b"w" * 1000)
    config = {"mode": "offline", "silent": True, **options(depot)}
    with tracelet.start_logging("name", "project", "depot", config=config) as run:
        run.log_metric("loss", 1.0, 1)
        run.log_artifact("weights")
        run.log_text("note", "x" * 200_000, 0)
    assert command("sync").exit_code == 0
    folder = RunDir.open(Path.cwd() / ".tracelet" / run.info.run_id)
    for blob in folder.blobs.iterdir():
        blob.unlink()  # as if these had been taken
    result = command("sync", "--backend", "jsonl", run.info.run_id)
    assert result.exit_code == 1
    assert "what was delivered has been deleted, which the setting keep_runs prevents" in (
        result.output
    )


@pytest.mark.parametrize("how", ["killed elsewhere", "interrupted"])
def test_a_sync_that_is_cut_short_goes_on_where_it_was(tmp_path: Path, how: str) -> None:
    """SIGKILL in the middle of --backend, Ctrl-C in the middle of a sync: once each, all of it."""
    elsewhere = how == "killed elsewhere"
    if elsewhere:
        run_id = recorded("memory", POINTS, keep_runs="all", shipper="thread")
        arguments = ["sync", "--backend", "jsonl", run_id]
    else:
        run_id = recorded("jsonl", POINTS)
        arguments = ["sync"]
    file = tmp_path / "tracelet-jsonl" / "project" / "name.jsonl"
    cut = 0
    for size in (50_000, 1_000_000):
        child = subprocess.Popen(
            [sys.executable, "-m", "tracelet", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(
            lambda child=child, size=size: (
                child.poll() is not None  # type: ignore[misc]
                or (file.exists() and file.stat().st_size > size)
            ),
            timeout=120,
        )
        if child.poll() is None:
            child.send_signal(signal.SIGKILL if elsewhere else signal.SIGINT)
        _, said = child.communicate(timeout=120)
        cut += child.returncode == (-signal.SIGKILL if elsewhere else 130)
        if child.returncode == 130:
            assert "what is left stays in the spool → tracelet sync" in said
            assert "Traceback" not in said
    assert cut, "it was never in the middle"
    assert len(curve(file)) < POINTS or cut < 2
    done = subprocess.run(
        [sys.executable, "-m", "tracelet", *arguments], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert curve(file) == expected(POINTS)
    assert lines(file)[-1]["status"] == "FINISHED"
    if elsewhere:
        (seen,) = account()["runs"]
        assert seen["backends"]["jsonl"]["delivered"] == POINTS + 2
        assert seen["backends"]["memory"]["pending"] == POINTS + 2


# -- a new run --------------------------------------------------------------------------------


def test_a_run_that_was_deleted_over_there_is_kept_and_begun_again(
    tmp_path: Path, store: str
) -> None:
    config = {"mode": "offline", "silent": True}
    run = tracelet.start_logging("name", "project", "mlflow", backend_url=store, config=config)
    for step in range(10):
        run.log_metric("loss", step / 7, step)
    drain(RunDir.open(tmp_path / ".tracelet" / run.info.run_id))
    (first,) = mlflow_runs(store)
    with tracking(store) as client:
        client.delete_run(first.info.run_id)
    for step in range(10, 20):
        run.log_metric("loss", step / 7, step)
    run.stop()

    for _ in range(2):
        result = command("sync")
        assert result.exit_code == 1
        assert "10 delivered, 10 pending (" in result.output
        assert "deleted" in result.output
        assert f"or: tracelet sync --new-run {run.info.run_id}" in result.output
    content = account()
    assert content["runs"][0]["backends"]["mlflow"]["gone"] is True
    assert f"tracelet sync --new-run {run.info.run_id}" in command("status").output

    result = command("sync", "--new-run")
    assert result.exit_code == 0, result.output
    assert "20 delivered, FINISHED" in result.output
    (second,) = mlflow_runs(store)
    assert second.info.run_id != first.info.run_id
    assert (second.info.status, second.info.run_name) == ("FINISHED", "name")
    assert mlflow_curve(store, second.info.run_id) == expected(20)
    assert left_over(tmp_path / ".tracelet") == []
    assert command("sync", "--new-run").output == "Nothing is left to deliver.\n"


def test_a_run_whose_experiment_was_deleted_goes_into_another(tmp_path: Path, store: str) -> None:
    """Also one that was delivered and kept, if it is named; one that is there stays there."""
    run_id = recorded(
        "mlflow", 10, keep_runs="all", backend_url=store, mlflow={"restore_experiment": False}
    )
    assert command("sync").exit_code == 0
    (first,) = mlflow_runs(store)
    assert command("sync", "--new-run", run_id).exit_code == 0
    (same,) = mlflow_runs(store)
    assert (same.info.run_id, same.info.status) == (first.info.run_id, "FINISHED")
    with tracking(store) as client:
        client.delete_experiment(first.info.experiment_id)
    result = command("sync", "--new-run", run_id)
    assert result.exit_code == 1
    assert "experiment 'project' was deleted" in result.output
    result = command("sync", "--new-run", "--project", "another", run_id)
    assert result.exit_code == 0, result.output
    (second,) = mlflow_runs(store)
    assert second.info.run_id != first.info.run_id
    with tracking(store) as client:
        assert client.get_experiment(second.info.experiment_id).name == "another"
    assert mlflow_curve(store, second.info.run_id) == expected(10)
    account()


# -- what was refused -------------------------------------------------------------------------


def test_what_was_refused_is_sent_once_more(tmp_path: Path, depot: Depot) -> None:
    """What is taken now is counted as delivered; when nothing is left, the run is put away."""
    depot.order(write_light=("reject", "no numbers"), write_heavy=("reject", "no texts"))
    (tmp_path / "weights").write_bytes(b"w" * 1000)
    config = {"mode": "offline", "silent": True, **options(depot)}
    with tracelet.start_logging("name", "project", "depot", config=config) as run:
        for step in range(10):
            run.log_metric("loss", step / 7, step)
        run.log_metric("strange", float("nan"), 1)
        run.log_text("note", "hello \udc80", 0)
        run.log_artifact("weights")
        run.log_params({"a": {"b": 1}, "c": None})
    assert command("sync").exit_code == 0
    (before,) = account()["runs"]
    (counts,) = before["backends"].values()
    assert (counts["delivered"], counts["rejected"]) == (0, before["spooled"])

    depot.order(write_heavy=("reject", "still no texts"))
    result = command("sync", "--rejected")
    assert result.exit_code == 1
    assert "2 rejected, FINISHED (refused again: still no texts)" in result.output
    (after,) = account()["runs"]
    (counts,) = after["backends"].values()
    assert (counts["delivered"], counts["rejected"]) == (after["spooled"] - 2, 2)
    depot.order(open=("retry", "gone for lunch"))
    assert "gone for lunch" in command("sync", "--rejected").output
    depot.order()
    result = command("sync", "--rejected")
    assert result.exit_code == 0, result.output
    assert f"{after['spooled']} delivered, FINISHED" in result.output
    assert left_over(tmp_path / ".tracelet") == []
    assert command("sync", "--rejected").output == "Nothing is left to deliver.\n"

    stored = depot.stored()[run.info.run_id]
    assert [each["value"] for each in stored if each.get("key") == "loss"] == [
        step / 7 for step in range(10)
    ]
    (strange,) = [each for each in stored if each.get("key") == "strange"]
    assert strange["value"] != strange["value"]
    assert [each["text"] for each in stored if each["type"] == "Text"] == ["hello \udc80"]
    assert [each["content"] for each in stored if each["type"] == "Artifact"] == ["w" * 100]
    assert {each["key"]: each["value"] for each in stored if each["type"] == "Param"} == {
        "a.b": 1,
        "c": None,
    }
    assert depot.status() == "FINISHED"


# -- a server that is away --------------------------------------------------------------------


def test_a_server_that_is_away_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by every run that goes there, and a run that goes elsewhere arrives."""
    monkeypatch.setattr(sync_command, "_AWAY_S", 1.0)
    for points in (3, 0, 3):
        config = {"mode": "offline", "silent": True, "backend_url": "http://127.0.0.1:9"}
        with tracelet.start_logging("away", "project", "mlflow", config=config) as run:
            for step in range(points):
                run.log_metric("loss", 1.0, step)
    time.sleep(0.01)
    recorded("jsonl", 3)
    result = command("sync")
    assert result.exit_code == 1
    first, second, third, there = result.output.splitlines()
    assert "mlflow 0 delivered, 3 pending (" in first
    assert "mlflow not there yet (" in second
    assert "mlflow 0 delivered, 3 pending (" in third
    assert "jsonl 5 delivered, FINISHED" in there
    tried = [(path / "ship.json").exists() for path in left_over(Path.cwd() / ".tracelet")]
    assert tried == [True, False, False]
    # Not even one try was made for them, and what was found out is told.
    assert first.partition("(")[2].split()[:3] == third.partition("(")[2].split()[:3]
    assert os.environ.get("MLFLOW_TRACKING_URI") is None
