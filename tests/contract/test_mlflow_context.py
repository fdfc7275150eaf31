"""Where a run comes from, in MLflow: beside what ``mlflow.start_run`` itself says of the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional

import pytest
from tests.pipeline.programs import SOURCE

from services.mlflow_reader import tracking
from services.mlflow_server import Server
from tracelet.backends.mlflow.artifacts import FolderArtifacts
from tracelet.backends.mlflow.context import ContextFile
from tracelet.errors import ConfigError, RetryableError
from tracelet.records import RunInfo

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

#: Logs a run of MLflow's own and one of ours; prints the ids.
PROGRAM = """
import json, os, sys, time, warnings
warnings.simplefilter("ignore")
url, config, wait = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
import mlflow
mlflow.set_tracking_uri(url)
mlflow.set_experiment("both")
if wait:
    mlflow.set_system_metrics_sampling_interval(1)
with mlflow.start_run(log_system_metrics=bool(wait)) as theirs:
    mlflow.log_metric("loss", 0.5)
    time.sleep(wait)
import tracelet
from tracelet.collect import gather
gather.BUDGET_S = 20.0  # a busy machine is no part of this
config = {"silent": True, "system_interval_s": 0.5, **config}
run = tracelet.start_logging("ours", "both", "mlflow", backend_url=url, config=config)
run.log_metric("loss", 0.5)
ours = run.remote().id
time.sleep(wait)
report = run.stop(timeout=60)
assert report.complete and report.recorded == 1, str(report)
print(json.dumps([theirs.info.run_id, ours]))
"""


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@y"]
    subprocess.run(["git", *who, "-C", str(folder), *arguments], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with the program in it, and a remote that has a password."""
    folder = tmp_path / "project"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "train.py").write_text(PROGRAM)
    (folder / ".gitignore").write_text(".tracelet\n")
    git(folder, "init", "-q", "-b", "trunk")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    git(folder, "remote", "add", "origin", "https://me:hunter2@example.org/a/b.git")
    return folder


@pytest.fixture
def database(tmp_path: Path, fresh_database: Path) -> str:
    (tmp_path / "mlflow.db").write_bytes(fresh_database.read_bytes())
    return f"sqlite:///{tmp_path}/mlflow.db"


def both(
    project: Path,
    url: str,
    config: Optional[dict[str, Any]] = None,
    wait_s: float = 0.0,
    **environment: str,
) -> tuple[Any, Any]:
    """Run the program; return MLflow's own run and ours, as MLflow's client reads them."""
    environ = {**os.environ, "PYTHONPATH": str(SOURCE), "MLFLOW_ALLOW_FILE_STORE": "true"}
    environ.update(environment)
    done = subprocess.run(
        [sys.executable, "code/train.py", url, json.dumps(config or {}), str(wait_s)],
        cwd=project,
        env=environ,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs, ours = json.loads(done.stdout.splitlines()[-1])
    with tracking(url) as client:
        return client.get_run(theirs), client.get_run(ours)


def artifacts(url: str, run_id: str, folder: Optional[str] = None) -> dict[str, bytes]:
    """Return the files of a run, read with MLflow's own client."""
    found: dict[str, bytes] = {}
    with tracking(url) as client:
        for each in client.list_artifacts(run_id, folder):
            if each.is_dir:
                found.update(artifacts(url, run_id, each.path))
            else:
                found[each.path] = Path(client.download_artifacts(run_id, each.path)).read_bytes()
    return found


OWN_NAME = ("mlflow.runName", "mlflow.log-model.history")


def test_a_run_says_what_mlflow_itself_would(project: Path, database: str) -> None:
    with open(project / "code" / "train.py", "a") as file:
        file.write("# changed\n")
    theirs, ours = both(project, database)
    expected = {
        key: value
        for key, value in theirs.data.tags.items()
        if key.startswith("mlflow.") and key not in OWN_NAME
    }
    assert {"mlflow.user", "mlflow.source.name", "mlflow.source.git.commit"} <= set(expected)
    assert {key: ours.data.tags.get(key) for key in expected} == expected
    assert ours.info.status == theirs.info.status == "FINISHED"
    assert ours.info.user_id == theirs.info.user_id
    assert ours.info.lifecycle_stage == theirs.info.lifecycle_stage
    # MLflow 3.1 leaves these two out; later ones are compared above.
    assert ours.data.tags["mlflow.source.git.branch"] == "trunk"
    assert ours.data.tags["mlflow.source.git.repoURL"] == "https://example.org/a/b.git"
    assert ours.data.tags["mlflow.source.git.dirty"] == "true"
    assert ours.data.tags["tracelet.python"] == ".".join(map(str, sys.version_info[:3]))
    assert "code/train.py" in ours.data.tags["tracelet.command"]
    assert theirs.data.params == ours.data.params == {}
    (path,) = files = artifacts(database, ours.info.run_id)
    assert path == "tracelet/context.json"
    context = json.loads(files[path])
    assert context["git"]["branch"] == "trunk"
    assert context["command"]["folder"] == str(project)
    assert any(line.startswith("mlflow==") for line in context["packages"])
    assert b"hunter2" not in files[path]


def test_the_user_is_the_one_that_the_server_knows(project: Path, mlflow_server: Server) -> None:
    login = {"MLFLOW_TRACKING_USERNAME": "alice", "MLFLOW_TRACKING_PASSWORD": "opensesame"}
    theirs, ours = both(project, mlflow_server.url, **login)
    assert ours.data.tags["mlflow.user"] == theirs.data.tags["mlflow.user"] == "alice"
    assert ours.info.user_id == theirs.info.user_id
    # A token in its place is nobody's name.
    login["MLFLOW_TRACKING_USERNAME"] = "dapi0123456789abcdef0123456789abcdef"
    _, ours = both(project, mlflow_server.url, **login)
    assert ours.data.tags["mlflow.user"] not in (*login.values(), "alice")
    assert set(artifacts(mlflow_server.url, ours.info.run_id)) == {"tracelet/context.json"}


def test_nothing_is_collected_where_nothing_is_wanted(project: Path, database: str) -> None:
    _, ours = both(project, database, {"collect": False})
    assert set(ours.data.tags) == {
        "mlflow.runName", "mlflow.source.name", "mlflow.source.type", "mlflow.user",
        "tracelet.run_id",
    }  # fmt: skip
    assert artifacts(database, ours.info.run_id) == {}


@pytest.mark.slow
def test_the_machine_is_measured_as_mlflow_does(project: Path, database: str) -> None:
    pytest.importorskip("psutil")
    theirs, ours = both(project, database, wait_s=2.5)

    def measured(run: Any) -> set[str]:
        return {key for key in run.data.metrics if key.startswith("system/")}

    assert measured(ours) == measured(theirs) != set()
    with tracking(database) as client:
        for key in measured(ours):
            steps = [point.step for point in client.get_metric_history(ours.info.run_id, key)]
            assert steps == list(range(len(steps)))
    _, ours = both(project, database, wait_s=1.2, MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING="true")
    assert measured(ours) == set(), "MLflow was told to do it"


CONTINUES = """
import sys, tracelet
from tracelet.collect import gather
gather.BUDGET_S = 20.0  # a busy machine is no part of this
url, run_id, path = sys.argv[1:]
config = {"silent": True, "run_id": run_id}
run = tracelet.start_logging(backend="mlflow", backend_url=url, config=config)
run.log_artifact(path, "tracelet")
assert run.stop(timeout=60).complete
print(run.info.run_id)
"""


def test_a_run_that_is_continued_keeps_what_it_said_of_its_beginning(
    project: Path, database: str
) -> None:
    _, ours = both(project, database)
    before = artifacts(database, ours.info.run_id)["tracelet/context.json"]
    git(project, "commit", "-q", "--allow-empty", "-m", "second")
    (project / "context.json").write_text("mine")
    run_id = ours.info.run_id
    arguments = [sys.executable, "-c", CONTINUES, database, run_id, "context.json"]
    environ = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        arguments, cwd=project, env=environ, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    found = artifacts(database, run_id)
    own = f"tracelet/context/{done.stdout.strip()}.json"
    assert json.loads(found[own])["git"]["commit"] != ours.data.tags["mlflow.source.git.commit"]
    # What the user puts there is put beside ours.
    assert found["files/tracelet/context.json"] == b"mine"
    with tracking(database) as client:
        assert client.get_run(run_id).data.tags == ours.data.tags
    assert found["tracelet/context.json"] == before


def test_a_store_that_takes_no_artifacts_hurts_nothing_else(
    project: Path, tmp_path: Path, database: str
) -> None:
    # Beside a database that is where the artifacts of a server would be.
    (tmp_path / "mlartifacts").write_text("no folder can be here")
    location = {"mlflow": {"artifact_location": "mlflow-artifacts:/elsewhere"}}
    arguments = {"project": "elsewhere", "config": {"silent": True, **location}}
    program = f"""
import tracelet
run = tracelet.start_logging(backend="mlflow", backend_url={database!r}, **{arguments!r})
run.log_metric("loss", 0.5)
run.log_params({{"lr": 0.1}})
report = run.stop(timeout=60)
assert report.complete, str(report)
print(run.remote().id)
"""
    environ = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    with tracking(database) as client:
        run = client.get_run(done.stdout.strip())
    assert run.info.status == "FINISHED"
    assert (run.data.metrics["loss"], run.data.params["lr"]) == (0.5, "0.1")
    assert run.data.tags["mlflow.source.git.branch"] == "trunk"


# -- the file by itself -----------------------------------------------------------------------


class Moody(FolderArtifacts):
    """A folder that is not always there."""

    def __init__(self, root: Path, *errors: Exception) -> None:
        super().__init__(root)
        self.errors = list(errors)
        self.asked = 0

    def put(self, path: str, source: Any) -> None:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        super().put(path, source)


@pytest.fixture
def info() -> RunInfo:
    return RunInfo("1", "p", "n", 0.0, {}, ["mlflow"], context={"git": {"commit": "abc"}})


def test_it_is_uploaded_once(tmp_path: Path, info: RunInfo) -> None:
    store = Moody(tmp_path / "store")
    for _ in range(2):
        file = ContextFile(info, tmp_path, continued=False)
        file.upload(store, last=False)
        file.upload(store, last=True)
    assert store.asked == 1
    assert json.loads((tmp_path / "store" / "tracelet" / "context.json").read_text()) == {
        "git": {"commit": "abc"}
    }
    empty = RunInfo("2", "p", "n", 0.0, {}, ["mlflow"])
    ContextFile(empty, tmp_path / "other", continued=False).upload(store, last=True)
    assert store.asked == 1


def test_it_is_tried_again_and_not_for_ever(tmp_path: Path, info: RunInfo) -> None:
    away = RetryableError("away")
    store = Moody(tmp_path / "store", away)
    file = ContextFile(info, tmp_path, continued=False)
    file.upload(store, last=False)
    file.upload(store, last=False)
    assert store.asked == 1, "it is left alone for a while"
    file.upload(store, last=True)
    assert (tmp_path / "store" / "tracelet" / "context.json").exists()

    for errors, raised in (([away] * 9, 2), ([ConfigError("no")], 0)):
        store = Moody(tmp_path / "never", *errors)
        file = ContextFile(info, tmp_path / "second", continued=False)
        for _ in range(raised):
            with pytest.raises(RetryableError):
                file.upload(store, last=True)
        file.upload(store, last=True)
        asked = store.asked
        file.upload(store, last=True)
        assert store.asked == asked, "it is given up"
