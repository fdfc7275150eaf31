"""
MLflow's own calls beside ours: one run, and everything as before afterwards.

Each program has an interpreter of its own, because MLflow keeps its state in modules. What arrived
is read by the program through MLflow's client, when the run has been stopped.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.programs import SOURCE, wait_for
from services.elsewhere import run_python
from services.mlflow_server import fresh_database

__all__ = ["fresh_database"]

pytest.importorskip("mlflow")

#: How often two threads start in a fresh folder; 20 takes minutes.
FRESH = int(os.environ.get("TRACELET_FRESH", "2"))

BEGIN = """
import json, os, sys, threading
import tracelet
from tensorboardX import SummaryWriter

def start(**given):
    # What is measured of the machine is no matter of these tests.
    config = {"silent": True, "system_interval_s": 600, **given.pop("config", {})}
    return tracelet.start_logging(backend="mlflow", config=config, **given)

def stop():
    report = tracelet.get_active_experiment().stop(timeout=120)
    assert report.complete, str(report)

def runs():
    '''Every run of the store: by name, what MLflow's own client says.'''
    client = mlflow.MlflowClient()
    found = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            assert run.info.run_name not in found
            found[run.info.run_name] = {
                "id": run.info.run_id,
                "experiment": experiment.name,
                "status": run.info.status,
                "metrics": run.data.metrics,
                "params": run.data.params,
                "parent": run.data.tags.get("mlflow.parentRunId"),
                "tags": {k: v for k, v in run.data.tags.items() if "." not in k},
            }
    return found

def end(**more):
    print(json.dumps({"runs": runs(), **more}))
"""


def program(script: str, folder: Path) -> dict[str, Any]:
    """Run a program and return what it printed last."""
    said = run_python(BEGIN + script, cwd=folder, timeout_s=180)
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


@pytest.fixture
def folder(tmp_path: Path, fresh_database: Path) -> Path:
    """A working directory with MLflow's default store, its tables made."""
    (tmp_path / "mlflow.db").write_bytes(fresh_database.read_bytes())
    return tmp_path


def test_calls_of_every_thread_land_in_the_run(folder: Path) -> None:
    said = program(
        """
start(project="p", exp_name="ours")
without = "mlflow" in sys.modules
import mlflow
names = ("active_run", "start_run")
inside = [getattr(mlflow, name) for name in names]
mlflow.log_metric("direct", 0.1, step=3)
mlflow.set_tag("label", "blue")
thread = threading.Thread(target=lambda: mlflow.log_param("threaded", 5))
thread.start()
thread.join()
pid = os.fork()
if not pid:
    mlflow.log_param("forked", 6)
    os._exit(0)
os.waitpid(pid, 0)
with mlflow.start_run(run_name="child", nested=True):
    mlflow.log_metric("below", 1)
with mlflow.start_run(run_name="own"):
    mlflow.log_metric("beside", 2)
mlflow.end_run()
with SummaryWriter("tb") as writer:
    writer.add_scalar("loss", 0.7, 1)
stop()
from mlflow.tracking import fluent
same = [getattr(mlflow, name) is getattr(fluent, name) for name in names]
same += [getattr(mlflow, name) is not tap for name, tap in zip(names, inside)]
end(without=without, same=same, uri=os.environ.get("MLFLOW_TRACKING_URI"),
    left=str(mlflow.active_run()))
""",
        folder,
    )
    runs = said["runs"]
    assert not said["without"], "MLflow was imported in the training process by us"
    assert set(runs) == {"ours", "child", "own"}
    assert runs["ours"]["metrics"] == {"direct": 0.1, "loss": 0.7}
    assert runs["ours"]["params"] == {"threaded": "5", "forked": "6"}
    assert runs["ours"]["tags"]["label"] == "blue"
    assert (runs["child"]["parent"], runs["child"]["experiment"]) == (runs["ours"]["id"], "p")
    assert (runs["own"]["parent"], runs["own"]["experiment"]) == (None, "Default")
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    assert all(said["same"])
    assert (said["uri"], said["left"]) == (None, "None")


def test_an_open_run_is_adopted_or_becomes_the_parent(folder: Path) -> None:
    said = program(
        """
import mlflow
client = mlflow.MlflowClient()
during = []
mlflow.set_experiment("sweep")
with mlflow.start_run(run_name="parent"):
    for number in (1, 2):
        with mlflow.start_run(run_name=f"child{number}", nested=True) as child:
            run = start(project="elsewhere", config={"tags": {"number": number}})
            during.append(run.remote().id == child.info.run_id)
            with SummaryWriter(f"tb{number}") as writer:
                writer.add_scalar("loss", number, 1)
            stop()
            during.append(client.get_run(child.info.run_id).info.status == "RUNNING")
            during.append(mlflow.active_run().info.run_id == child.info.run_id)
            mlflow.log_metric("after", number)
    start(exp_name="named")
    stop()
    start(exp_name="moved", project="other")
    stop()
end(during=during)
""",
        folder,
    )
    runs = said["runs"]
    assert all(said["during"])
    assert set(runs) == {"parent", "child1", "child2", "named", "moved"}
    assert runs["child2"]["metrics"] == {"loss": 2.0, "after": 2.0}
    assert runs["child2"]["tags"]["number"] == "2"
    assert {runs[name]["experiment"] for name in ("child1", "named")} == {"sweep"}
    assert {runs[name]["parent"] for name in runs if name != "parent"} == {runs["parent"]["id"]}
    assert runs["moved"]["experiment"] == "other"
    assert {run["status"] for run in runs.values()} == {"FINISHED"}


@pytest.mark.slow
def test_the_start_line_says_which(folder: Path) -> None:
    script = """
import mlflow, tracelet
with mlflow.start_run(run_name="mine"):
    tracelet.start_logging(backend="mlflow").stop(timeout=120)
    tracelet.start_logging(backend="mlflow", exp_name="below").stop(timeout=120)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("tracelet: recording")]
    assert "into the mlflow run 'mine', which is open here" in lines[0]
    assert "'below' (below the mlflow run 'mine', which is open here)" in lines[1]


@pytest.mark.slow
def test_variables_and_address_are_as_before(folder: Path, tmp_path: Path) -> None:
    said = program(
        """
import mlflow
mlflow.set_tracking_uri("sqlite:///mlflow.db")
with mlflow.start_run(run_name="told") as told:
    pass
with mlflow.start_run(run_name="elsewhere, open") as run:
    os.mkdir("b")
    before = dict(os.environ), mlflow.get_tracking_uri()
    start(exp_name="other store", config={"backend_url": "./b/mlruns"})
    mlflow.log_metric("theirs", 1)       # the run that is open here wins, and its store is away
    stop()
    mlflow.log_metric("back", 2)
after = dict(os.environ), mlflow.get_tracking_uri()
start(exp_name="first", config={"backend_url": "./b/mlruns"})
start(exp_name="second")                 # while the first is active, which has another address
mlflow.log_metric("second", 2)
os.mkdir("c")
os.chdir("c")
mlflow.log_metric("from elsewhere", 3)
stop()
os.chdir("..")
os.environ["MLFLOW_RUN_ID"] = told.info.run_id
os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "true"
start()
used_up = "MLFLOW_RUN_ID" not in os.environ
with SummaryWriter("tb") as writer:
    for step in range(500):
        writer.add_scalar("loss", step, step)
stop()
del os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"]
client = mlflow.MlflowClient()
count = len(client.get_metric_history(told.info.run_id, "loss"))
end(unchanged=before == after, used_up=used_up, count=count)
""",
        folder,
    )
    runs = said["runs"]
    assert said["unchanged"]
    assert said["used_up"]
    assert said["count"] == 500
    assert set(runs) == {"told", "elsewhere, open", "second"}
    assert runs["elsewhere, open"]["metrics"]["back"] == 2.0
    assert runs["second"]["metrics"] == {"second": 2.0, "from elsewhere": 3.0}
    assert runs["told"]["status"] == "FINISHED"


@pytest.mark.slow
def test_mlflow_is_never_imported_for_a_program_that_does_not(folder: Path) -> None:
    said = run_python(
        BEGIN
        + """
start(exp_name="ours")
with SummaryWriter("tb") as writer:
    writer.add_scalar("loss", 1.0, 1)
stop()
print([name for name in sys.modules if name.split(".")[0] == "mlflow"])
""",
        cwd=folder,
    )
    assert said.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_switched_off_nothing_is_changed(folder: Path) -> None:
    said = program(
        """
import mlflow
with mlflow.start_run(run_name="open"):
    before = mlflow.active_run, dict(os.environ)
    start(config={"mlflow": {"attach": False}, "run_name": "ours"})
    # For children that are started anew; it is not MLflow's.
    os.environ.pop("TRACELET_RUN_DIR")
    same = before == (mlflow.active_run, dict(os.environ))
    stop()
end(same=same)
""",
        folder,
    )
    assert said["same"]
    assert said["runs"]["ours"]["parent"] is None


@pytest.mark.parametrize("word", [True, False], ids=["stopped", "without a word"])
@pytest.mark.slow
def test_an_adopted_run_is_ended_only_for_a_dead_program(folder: Path, word: bool) -> None:
    script = f"""
import os, signal, mlflow, tracelet
mlflow.set_experiment("kept")
mlflow.start_run(run_name="mine")
config = {{"silent": True, "system_interval_s": 600}}
run = tracelet.start_logging(backend="mlflow", config=config)
run.log_metric("loss", 1.0, 1)
run.remote()
if {word}:
    run.stop(timeout=120)
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        timeout=120,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    wait_for(lambda: not list((folder / ".tracelet").glob("*/run.json")), 60)
    said = program("import mlflow\nend()", folder)
    assert said["runs"]["mine"]["metrics"] == {"loss": 1.0}
    assert said["runs"]["mine"]["status"] == ("RUNNING" if word else "KILLED")


@pytest.mark.slow
def test_an_adopted_run_is_not_continued_by_another_program(folder: Path) -> None:
    script = """
import os, signal, mlflow, tracelet
mlflow.set_experiment("kept")
mlflow.start_run(run_name="mine")
config = {"silent": True, "mode": "offline", "resume": "auto"}
run = tracelet.start_logging(backend="mlflow", config=config)
run.log_metric("loss", 1.0, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environ = {**os.environ, "PYTHONPATH": str(SOURCE)}
    killed = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environ, timeout=120, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    said = program(
        """
import mlflow
run = start(config={"resume": "auto"})
id = run.remote().id
stop()
end(id=id)
""",
        folder,
    )
    assert said["id"] != said["runs"]["mine"]["id"]
    # What was left behind is delivered to where it belongs, and the dead program's run is ended.
    sync = [sys.executable, "-m", "tracelet", "sync", ".tracelet"]
    subprocess.run(sync, cwd=folder, env=environ, timeout=120, check=True)
    mine = program("import mlflow\nend()", folder)["runs"]["mine"]
    assert (mine["metrics"], mine["status"]) == ({"loss": 1.0}, "KILLED")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="platform: no torch here")
@pytest.mark.slow
def test_autolog_sends_nothing_twice_and_models_are_logged(folder: Path) -> None:
    said = program(
        """
import torch
from torch.utils.tensorboard import SummaryWriter as TorchWriter
import mlflow
import mlflow.pytorch
mlflow.pytorch.autolog(log_every_n_step=1)
start(exp_name="ours")
with TorchWriter("tb") as writer:
    for step in range(3):
        writer.add_scalar("loss", 0.1 * step, step)
    writer.add_hparams({"lr": 0.1}, {"score": 0.3})
mlflow.pytorch.log_model(torch.nn.Linear(2, 1), "model", registered_model_name="MyModel")
stop()
with mlflow.start_run(run_name="after") as after:
    with TorchWriter("tb2") as writer:
        for step in range(3):            # the hook sends a point when the next one comes
            writer.add_scalar("loss", 5.0, step)
client = mlflow.MlflowClient()
found = {run["id"]: name for name, run in runs().items()}
counts = {
    name: {key: len(client.get_metric_history(id, key)) for key in ("loss", "score")}
    for id, name in found.items()
}
version = client.get_model_version("MyModel", "1")
end(counts=counts, model=found.get(version.run_id))
""",
        folder,
    )
    assert said["counts"]["ours"] == {"loss": 3, "score": 1}
    assert said["runs"]["ours"]["metrics"] == {"loss": 0.2, "score": 0.3}
    assert said["counts"]["after"]["loss"] >= 2, "MLflow's own hook is not back"
    assert said["model"] == "ours"


@pytest.mark.slow
def test_a_tracker_that_is_away_gives_one_sentence_and_no_stray_run(folder: Path) -> None:
    said = program(
        """
import mlflow
from tracelet import run as module
module._PATIENCE_S = 1.5
config = {"backend_url": "http://127.0.0.1:9", "silent": True}
run = tracelet.start_logging(backend="mlflow", exp_name="ours", config=config)
said = []
for _ in range(2):
    try:
        mlflow.log_metric("loss", 1.0)
    except tracelet.TraceletError as error:
        said.append(str(error))
run.stop(timeout=0)
end(said=said)
""",
        folder,
    )
    assert len(said["said"]) == 2
    assert "mlflow has not opened the run in time" in said["said"][0]
    assert said["runs"] == {}


@pytest.mark.parametrize("attempt", range(FRESH))
def test_two_threads_at_once_in_a_fresh_folder(tmp_path: Path, attempt: int) -> None:
    said = program(
        """
import mlflow
start(exp_name="ours", project="p")
def work(number):
    if number:
        mlflow.set_experiment("p")       # opens the store at once, whatever the shipper does
    mlflow.log_metric(f"thread{number}", number)
threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
stop()
end()
""",
        tmp_path,
    )
    assert set(said["runs"]) == {"ours"}
    assert said["runs"]["ours"]["metrics"] == {"thread0": 0.0, "thread1": 1.0}
