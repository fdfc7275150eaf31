"""What is special about each store: fresh folders, old ones, servers, and who made what."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Optional

import pytest

from services.elsewhere import run_python
from services.mlflow_reader import seen, tracking
from services.mlflow_server import FaultyWay, Server
from tracelet._installed import is_installed
from tracelet.backends.base import Batch, RemoteRun, RunInfo, RunStatus
from tracelet.backends.bounded import Bounded
from tracelet.backends.mlflow import MlflowBackend, uri, versions
from tracelet.backends.mlflow.locks import alone
from tracelet.backends.mlflow.sqlite import PointTables
from tracelet.errors import BackendError, ConfigError, RejectedError, RetryableError
from tracelet.records import Artifact, Metric, Param, Tag
from tracelet.testing.samples import SAMPLES, TIME, curve, image, metric, param, tag

NAN = float("nan")


class Run:
    """A run in some store."""

    def __init__(self, folder: Path, url: Optional[str] = None, **given: Any) -> None:
        if url is not None:
            given["url"] = url
        run = {name: given.pop(name) for name in ("project", "resume", "run_id") if name in given}
        options, _ = MlflowBackend.resolve(given, {}, folder)
        self.url = options.url
        self.backend = MlflowBackend(options)
        self.info = RunInfo(
            run.get("run_id", f"20231114-221320-{os.urandom(4).hex()}"),
            run.get("project", "stores"),
            "one",
            TIME,
            {},
            ("mlflow",),
            cwd=str(folder),
        )
        self.workdir = folder / "work" / self.info.run_id
        self.remote: RemoteRun = self.backend.open(self.info, run.get("resume"), self.workdir)

    def send(self, *records: Any, resend: bool = False) -> None:
        self.backend.write(Batch(records, resend=resend))


@pytest.fixture
def database(tmp_path: Path, fresh_database: Path) -> str:
    (tmp_path / "mlflow.db").write_bytes(fresh_database.read_bytes())
    return f"sqlite:///{tmp_path}/mlflow.db"


# -- a fresh folder ---------------------------------------------------------------------------

_START = """
import sys, time
from pathlib import Path
from tracelet.backends.base import Batch
from tracelet.backends.mlflow import MlflowBackend
from tracelet.records import RunInfo, RunStatus
from tracelet.testing.samples import curve

cwd = Path.cwd()
backend = MlflowBackend(MlflowBackend.resolve({}, {}, cwd)[0])
info = RunInfo(sys.argv[1], "fresh", sys.argv[1], time.time(), {}, ("mlflow",), cwd=str(cwd))
remote = backend.open(info, None, cwd / "work" / sys.argv[1])
backend.write(Batch(tuple(curve("loss", 50))))
backend.close(RunStatus.FINISHED)
print("opened", remote.id, remote.look)
"""


def test_two_processes_in_a_fresh_folder_both_live(tmp_path: Path) -> None:
    """MLflow alone: one of them always crashes."""
    said: dict[str, str] = {}

    def start(name: str) -> None:
        said[name] = run_python(_START, name, cwd=tmp_path, timeout_s=150)

    threads = [threading.Thread(target=start, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(said) == {"first", "second"}
    for text in said.values():
        run_id = text.split("opened ")[1].split()[0]
        found = seen(uri.default(tmp_path), run_id)
        assert (found.status, len(found.metrics["loss"])) == ("FINISHED", 50)
        assert "mlflow ui" in text
    left = {path.name for path in tmp_path.iterdir()}
    assert not any("tracelet" in name for name in left)


def test_the_lock_is_one_at_a_time_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    order: list[str] = []

    def wait() -> None:
        with alone(path, 10):
            order.append("second")

    def hurry() -> None:
        with pytest.raises(RetryableError), alone(path, 0.1):
            pass
        order.append("not at all")

    with alone(path, 1):
        threads = [threading.Thread(target=each) for each in (wait, hurry)]
        for thread in threads:
            thread.start()
        threads[1].join()
        with alone(path, 0.1):
            order.append("first, again")
        assert path.exists()
    threads[0].join()
    assert order == ["not at all", "first, again", "second"]
    assert not path.exists()


def test_the_default_store_is_named_by_the_plain_command(tmp_path: Path) -> None:
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    run = Run(tmp_path, str(tmp_path / "mlruns"))  # a folder is quicker than a fresh database
    assert run.remote.url is None
    assert run.remote.look == run.backend.look(run.info)
    assert run.remote.look.endswith("mlflow ui --backend-store-uri " + run.url) or (
        run.remote.look.endswith("mlflow ui")
    )
    assert run.remote.facts["page"].startswith("#/experiments/")
    run.backend.close(RunStatus.FINISHED)


def test_artifacts_lie_where_the_training_ran(database: str, tmp_path: Path) -> None:
    """Not where the shipper runs: MLflow takes the working directory of whoever asks."""
    run = Run(tmp_path, database, project="new here")
    run.send(SAMPLES["audio"])
    run.backend.close(RunStatus.FINISHED)
    assert list((tmp_path / "mlruns").rglob("*.wav"))


def test_a_second_run_of_a_sweep_is_quick(database: str, tmp_path: Path) -> None:
    Run(tmp_path, database).backend.close(RunStatus.FINISHED)
    best = 10.0
    for _ in range(3):
        started = time.monotonic()
        run = Run(tmp_path, database)
        run.send(*curve("loss", 100))
        run.backend.close(RunStatus.FINISHED)
        best = min(best, time.monotonic() - started)
    assert best < 0.5  # 0.05 on a machine with nothing else to do


# -- SQLite -----------------------------------------------------------------------------------


def test_the_short_way_into_sqlite_is_known_for_this_mlflow(database: str, tmp_path: Path) -> None:
    run = Run(tmp_path, database)
    assert run.backend._run is not None
    store = run.backend._run._store
    assert isinstance(store._tables, PointTables)
    run.backend.close(RunStatus.FINISHED)


def test_both_ways_into_sqlite_leave_the_same_rows(database: str, tmp_path: Path) -> None:
    odd = [
        Metric("a", 1.0, 5, TIME),
        Metric("a", 2.0, 3, TIME + 1),  # an older step, logged later
        Metric("a", NAN, 7, TIME),
        Metric("b", float("inf"), 1, TIME),
        Metric("b", float("-inf"), 1, TIME),
        Metric("b", 5.0, 1, TIME),
        Metric("c", 1.0, 1, TIME),
        Metric("c", 1.0, 1, TIME),
    ]
    more = [Metric("a", 9.0, 7, TIME + 1), Metric("a", 9.0, 6, TIME + 1), Metric("c", 0.5, 1, TIME)]
    rows = []
    for short in (True, False):
        run = Run(tmp_path, database)
        assert run.backend._run is not None
        if not short:
            run.backend._run._store._tables = None
        run.send(*odd)
        run.send(*more)
        run.backend.close(RunStatus.FINISHED)
        with sqlite3.connect(tmp_path / "mlflow.db") as connection:
            rows.append(
                [
                    sorted(
                        connection.execute(
                            f"SELECT key, value, timestamp, step, is_nan FROM {table} "
                            "WHERE run_uuid = ?",
                            (run.remote.id,),
                        )
                    )
                    for table in ("metrics", "latest_metrics")
                ]
            )
        connection.close()
    assert rows[0] == rows[1]
    assert len(rows[0][0]) == 10


def test_tables_of_another_form_are_left_to_mlflow(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracelet.backends.mlflow.sqlite._COLUMNS", frozenset({"other"}))
    run = Run(tmp_path, database)
    run.send(*curve("loss", 10))
    run.backend.close(RunStatus.FINISHED)
    assert len(seen(database, run.remote.id).metrics["loss"]) == 10


@pytest.mark.slow
def test_a_locked_database_is_retryable(database: str, tmp_path: Path) -> None:
    """MLflow waits for 20 s; after that it is our turn to wait."""
    run = Run(tmp_path, database)
    blocker = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(RetryableError, match="locked"):
            run.send(*curve("loss", 3))
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()
    run.send(*curve("loss", 3), resend=True)
    assert len(seen(database, run.remote.id).metrics["loss"]) == 3
    run.backend.close(RunStatus.FINISHED)


def test_a_database_of_another_version_says_what_to_do(database: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    connection.close()
    with pytest.raises(ConfigError, match="mlflow db upgrade"):
        Run(tmp_path, database)


def test_an_experiment_that_a_server_made(database: str, tmp_path: Path) -> None:
    """Its artifacts have the server's address, which means nothing here; its page finds them."""
    with tracking(database) as client:
        made = client.create_experiment("served", artifact_location="mlflow-artifacts:/7")
    run = Run(tmp_path, database, project="served")
    run.send(SAMPLES["audio"], metric("loss", 1.0))
    run.backend.close(RunStatus.FINISHED)
    place = tmp_path / "mlartifacts" / "7" / run.remote.id / "artifacts"
    assert list(place.rglob("*.wav"))
    assert run.remote.facts["experiment_id"] == made


def test_artifacts_that_cannot_be_stored_cost_no_metric(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """S3 without boto3: a sentence, and a long parameter finds another place."""
    pytest.importorskip("mlflow")
    if is_installed("boto3"):
        pytest.skip("platform: boto3 is installed here")
    with tracking(database) as client:
        client.create_experiment("cloud", artifact_location="s3://bucket/x")
    run = Run(tmp_path, database, project="cloud")
    with pytest.raises(ConfigError, match="boto3"):
        run.send(SAMPLES["audio"])
    config = "".join(f"line {n}\n" for n in range(2000))
    run.send(metric("loss", 1.0), param("config", config), param("lr", 0.1))
    run.backend.close(RunStatus.FINISHED)
    found = seen_without_files(database, run.remote.id)
    assert found["params"]["lr"] == "0.1"
    assert "kept in tags" in caplog.text
    pieces = [found["tags"][f"tracelet/params/config.txt.{n}"] for n in range(1, 5)]
    assert "".join(pieces) == config


def seen_without_files(url: str, run_id: str) -> dict[str, Any]:
    with tracking(url) as client:
        data = client.get_run(run_id).data
    return {"params": data.params, "tags": data.tags, "metrics": data.metrics}


# -- parameters and tags ----------------------------------------------------------------------


def test_a_parameter_that_somebody_else_wrote(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The user's own autologging, for example; only the one that differs is set aside."""
    run = Run(tmp_path, database)
    with tracking(database) as client:
        client.log_param(run.remote.id, "lr", "theirs")
        client.log_param(run.remote.id, "same", "1")
    run.send(param("lr", "ours"), param("same", 1), param("new", "x"), metric("loss", 1.0))
    run.send(param("lr", "ours"))
    run.backend.close(RunStatus.FINISHED)
    found = seen(database, run.remote.id)
    assert found.params == {"lr": "theirs", "same": "1", "new": "x"}
    assert found.tags["tracelet.param_conflict.lr"] == "ours"
    assert found.curve("loss") == [(0, 1.0)]
    assert caplog.text.count("another value") == 1


def test_many_parameters_and_tags_at_once(database: str, tmp_path: Path) -> None:
    run = Run(tmp_path, database)
    run.send(*(param(f"p{n}", n) for n in range(350)), *(tag(f"t{n}", str(n)) for n in range(250)))
    run.backend.close(RunStatus.FINISHED)
    found = seen(database, run.remote.id)
    assert len(found.params) == 350
    assert found.tags["t249"] == "249"


@pytest.mark.parametrize("text", ["a\x00b", "half \ud800 pair", "", "x" * 6000, "x" * 6001])
def test_awkward_values(database: str, tmp_path: Path, text: str) -> None:
    run = Run(tmp_path, database)
    run.send(Param("p", text, TIME), Tag("t", text, TIME), Param("q", 1, TIME))
    run.backend.close(RunStatus.FINISHED)
    found = seen(database, run.remote.id)
    shown = text.replace("\x00", "\\x00").replace("\ud800", "\\ud800")
    assert found.tags["t"] == shown
    assert found.params["q"] == "1"
    if len(text) <= 6000:
        assert found.params["p"] == shown
    else:
        assert "tracelet/params/p.txt" in found.params["p"]
        assert found.artifacts["tracelet/params/p.txt"] == text.encode()


def test_a_long_tag_is_whole_somewhere(database: str, tmp_path: Path) -> None:
    text = "".join(f"{n} " for n in range(3000))
    run = Run(tmp_path, database)
    run.send(Tag("notes, long", text, TIME))
    run.backend.close(RunStatus.FINISHED)
    found = seen(database, run.remote.id)
    [path] = [path for path, data in found.artifacts.items() if data.decode() == text]
    assert path in found.tags["notes, long"]


def test_two_long_parameters_that_differ_at_the_end_are_a_change(
    database: str, tmp_path: Path
) -> None:
    run = Run(tmp_path, database)
    run.send(param("config", "x" * 9000 + "a"))
    run.send(param("config", "x" * 9000 + "a"))
    assert "tracelet.param_conflict.config" not in seen(database, run.remote.id).tags
    run.send(param("config", "x" * 9000 + "b"))
    run.backend.close(RunStatus.FINISHED)
    assert "tracelet.param_conflict.config" in seen(database, run.remote.id).tags


def test_originals_and_fractions_are_shown_as_tags(database: str, tmp_path: Path) -> None:
    run = Run(tmp_path, database)
    awkward = [f"layer[{n}]/(weight), {'x' * 200}" for n in range(60)]
    run.send(*(metric(key, 1.0) for key in awkward), Metric("epoch", 1.0, 0.5, TIME))
    run.send(Metric("epoch", 2.0, 1.5, TIME), metric("loss", 1.0))
    run.backend.close(RunStatus.FINISHED)
    tags = seen_without_files(database, run.remote.id)["tags"]
    found: dict[str, str] = {}
    for name, value in tags.items():
        if name.startswith("tracelet.renamed.metric"):
            assert len(value) <= 8000
            found.update(json.loads(value))
    assert set(found.values()) == set(awkward)
    assert json.loads(tags["tracelet.fractional_steps"]) == ["epoch"]
    assert seen(database, run.remote.id).curve("epoch") == [(0, 1.0), (1, 2.0)]


# -- folders of files -------------------------------------------------------------------------


def test_an_old_folder_keeps_working_and_is_named(tmp_path: Path) -> None:
    script = (
        "import mlflow; mlflow.set_tracking_uri('./mlruns')\n"
        "with mlflow.start_run(): mlflow.log_metric('loss', 1.0)\n"
    )
    environment = {**os.environ, "MLFLOW_ALLOW_FILE_STORE": "true"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
    )
    run = Run(tmp_path)  # nothing is named: MLflow's own choice
    assert run.url == (tmp_path / "mlruns").as_uri()
    refused = versions.mlflow() >= (3, 13, 0)
    assert run.remote.look == ("MLFLOW_ALLOW_FILE_STORE=true " if refused else "") + "mlflow ui"
    run.send(*curve("loss", 5))
    run.backend.close(RunStatus.FINISHED)
    assert len(seen(run.url, run.remote.id).metrics["loss"]) == 5
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ


def test_a_metric_that_is_a_folder_of_another(tmp_path: Path) -> None:
    run = Run(tmp_path, str(tmp_path / "mlruns"))
    keys = ("train", "train/loss", "val/loss", "val", "a/b/c", "a", "a/b")
    run.send(*(metric(key, float(n), 1) for n, key in enumerate(keys)))
    run.send(*(param(key, n) for n, key in enumerate(keys)))
    run.backend.close(RunStatus.FINISHED)
    found = seen(run.url, run.remote.id)
    assert {key: found.curve(key) for key in keys} == {
        key: [(1, float(n))] for n, key in enumerate(keys)
    }
    assert {key: found.params[key] for key in keys} == {key: str(n) for n, key in enumerate(keys)}


def test_a_line_that_a_full_disk_cut_is_mended(tmp_path: Path) -> None:
    run = Run(tmp_path, str(tmp_path / "mlruns"))
    run.send(*curve("loss", 5))
    [file] = (tmp_path / "mlruns").glob("*/*/metrics/loss")
    with open(file, "ab") as cut:
        cut.write(b"1700000000255 1.9")
    run.send(*curve("loss", 10), resend=True)
    run.backend.close(RunStatus.FINISHED)
    assert seen(run.url, run.remote.id).curve("loss") == [
        (point.step, point.value) for point in curve("loss", 10)
    ]


@pytest.mark.parametrize("left", [b"", b"17000", b"1700000000255 1.9", b"1700000000255 1.9 1\n17"])
def test_a_file_that_a_kill_left_half_written_is_mended(tmp_path: Path, left: bytes) -> None:
    """MLflow itself cannot read a run any more of which one metric has no point, or half of one."""
    run = Run(tmp_path, str(tmp_path / "mlruns"))
    run.send(metric("accuracy", 0.5, 1))
    [folder] = (tmp_path / "mlruns").glob("*/*/metrics")
    (folder / "train").mkdir()
    (folder / "train" / "loss").write_bytes(left)
    again = Run(tmp_path, run.url, resume=run.remote, run_id=run.info.run_id)
    again.send(metric("train/loss", 1.9, 1, 1700000000.255), resend=True)
    again.backend.close(RunStatus.FINISHED)
    found = seen(run.url, run.remote.id)
    assert (found.curve("train/loss"), found.curve("accuracy")) == ([(1, 1.9)], [(1, 0.5)])


def test_a_server_on_files_gets_no_point_twice(mlflow_file_server: Server, tmp_path: Path) -> None:
    """It does not say what it keeps its runs in; MLflow 3.1's server does so by default."""
    for project in ("named", "Default"):
        run = Run(tmp_path, mlflow_file_server.url, project=project)
        points = [*curve("loss", 30), Metric("loss", NAN, 99, TIME), metric("b c", 1.0)]
        run.send(*points[:20])
        run.send(*points, resend=True)
        run.send(*points, resend=True)
        run.backend.close(RunStatus.FINISHED)
        found = seen(run.url, run.remote.id)
        assert len(found.metrics["loss"]) == 31
        assert len(found.metrics["b c"]) == 1


# -- servers ----------------------------------------------------------------------------------


def test_a_shipper_before_a_server_imports_no_mlflow(mlflow_server: Server, tmp_path: Path) -> None:
    script = (
        _START.replace("resolve({}", "resolve({'url': sys.argv[2]}")
        + "print(sorted({'mlflow', 'pandas', 'numpy', 'sqlalchemy'} & set(sys.modules)))\n"
    )
    said = run_python(script, "r1", mlflow_server.url, cwd=tmp_path)
    assert said.strip().endswith("[]")
    run_id = said.split("opened ")[1].split()[0]
    assert len(seen(mlflow_server.url, run_id).metrics["loss"]) == 50


def test_a_server_is_asked_little(mlflow_server: Server, tmp_path: Path) -> None:
    way = FaultyWay(mlflow_server.url)
    Run(tmp_path, way.url).backend.close(RunStatus.FINISHED)
    way.requests.clear()
    run = Run(tmp_path, way.url)
    run.send(*curve("loss", 1000))
    run.backend.close(RunStatus.FINISHED)
    routes = [path.partition("?")[0].rpartition("/2.0/mlflow/")[2] for _, path in way.requests]
    assert routes == [
        "experiments/get-by-name",
        "runs/create",
        "runs/log-batch",  # tags
        "runs/log-batch",  # 1,000 points
        "runs/update",
    ]
    way.close()


def test_a_run_has_its_page(mlflow_server: Server, tmp_path: Path) -> None:
    run = Run(tmp_path, mlflow_server.url + "/")
    page = f"#/experiments/{run.remote.facts['experiment_id']}/runs/{run.remote.id}"
    assert run.remote.url == f"{mlflow_server.url}/{page}?workflowType=machine_learning"
    assert run.remote.look == run.remote.url
    assert run.backend.look(run.info) == mlflow_server.url
    run.backend.close(RunStatus.FINISHED)


def test_a_creation_whose_answer_was_lost_is_found(mlflow_server: Server, tmp_path: Path) -> None:
    way = FaultyWay(mlflow_server.url)
    Run(tmp_path, way.url, project="lost").backend.close(RunStatus.FINISHED)
    with tracking(mlflow_server.url) as client:
        place = client.get_experiment_by_name("lost").experiment_id
        before = len(client.search_runs([place]))
    answer = way.answer

    def losing(handler: Any) -> None:
        if handler.path.endswith("runs/create"):
            with way.broken("lost_answer"):
                answer(handler)
        else:
            answer(handler)

    way.answer = losing
    with pytest.raises(RetryableError):
        Run(tmp_path, way.url, project="lost", run_id="20231114-221320-00c0ffee")
    way.answer = answer
    run = Run(tmp_path, way.url, project="lost", run_id="20231114-221320-00c0ffee")
    with tracking(mlflow_server.url) as client:
        assert len(client.search_runs([place])) == before + 1
    # Its tags were not set the first time.
    assert seen(mlflow_server.url, run.remote.id).tags["mlflow.source.type"] == "LOCAL"
    run.backend.close(RunStatus.FINISHED)
    way.close()


def test_many_that_make_one_experiment(mlflow_server: Server, tmp_path: Path) -> None:
    runs: list[Run] = []
    errors: list[Exception] = []
    gate = threading.Barrier(6)
    project = f"race {os.urandom(4).hex()}"

    def start(number: int) -> None:
        gate.wait()
        try:
            runs.append(Run(tmp_path / str(number), mlflow_server.url, project=project))
        except BackendError as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len({run.remote.facts["experiment_id"] for run in runs}) == 1
    for run in runs:
        run.backend.close(RunStatus.FINISHED)


def test_a_large_file_leaves_memory_flat(mlflow_server: Server, tmp_path: Path) -> None:
    script = (
        _START.replace("resolve({}", "resolve({'url': sys.argv[2]}")
        .replace("backend.write(Batch(tuple(curve('loss', 50))))", "")
        .replace("backend.close(RunStatus.FINISHED)", "")
        + "import os, resource\n"
        "from tracelet.records import Artifact\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "def send(size):\n"
        "    path = Path(f'{size}.bin'); path.touch(); os.truncate(path, size)\n"
        "    sent = Artifact(path.name, str(path), size, 1.0)\n"
        "    backend.write(Batch((sent,), lane='heavy'))\n"
        "send(1000); before = peak(); send(150_000_000)\n"
        "print((peak() - before) // 1024)\n"
    )
    grown = int(run_python(script, "r1", mlflow_server.url, cwd=tmp_path).split()[-1])
    assert grown < 20


def test_a_server_without_artifacts_of_its_own(mlflow_server: Server, tmp_path: Path) -> None:
    """``--default-artifact-root /folder`` means a folder of the client."""
    with tracking(mlflow_server.url) as client:
        client.create_experiment(
            f"local {tmp_path.name}", artifact_location=(tmp_path / "root" / "1").as_uri()
        )
    run = Run(tmp_path, mlflow_server.url, project=f"local {tmp_path.name}")
    run.send(SAMPLES["audio"])  # server and client are on one machine: that is right
    assert list((tmp_path / "root").rglob("*.wav"))
    run.backend.close(RunStatus.FINISHED)


def test_a_folder_of_another_machine_is_refused(tmp_path: Path) -> None:
    from tracelet.backends.mlflow.artifacts import artifacts_at
    from tracelet.backends.mlflow.options import MlflowOptions

    address, options = "/mlflow/artifacts/1/abc/artifacts", MlflowOptions()
    # Opening is no trouble: points need no folder.
    refused = artifacts_at(address, "http://mlflow-server:5000", None, options)
    with pytest.raises(ConfigError, match="--artifacts-destination"):
        refused.put("x", b"1")
    shared = tmp_path / "1" / "abc" / "artifacts"
    artifacts_at(str(shared), "http://mlflow-server:5000", None, options).put("x", b"1")
    assert (shared / "x").read_bytes() == b"1"


def test_files_with_awkward_names_through_a_server(mlflow_server: Server, tmp_path: Path) -> None:
    run = Run(tmp_path, mlflow_server.url)
    source = tmp_path / "source"
    source.write_bytes(b"")
    names = ("a b.txt", "a+b.txt", "ünï.txt", "50% off?#1.txt", "[x](y);z.txt", " a/b .txt", "%41")
    run.send(*(Artifact(name, str(source), 0, TIME) for name in names))
    run.backend.close(RunStatus.FINISHED)
    found = seen(mlflow_server.url, run.remote.id)
    assert set(found.artifacts) == set(names)


def test_heavy_records_of_a_batch_that_failed_are_not_sent_twice(
    mlflow_server: Server, tmp_path: Path
) -> None:
    way = FaultyWay(mlflow_server.url)
    run = Run(tmp_path, way.url)
    batch = Batch(tuple(image(f"i{n}", 1) for n in range(4)), lane="heavy")
    way.requests.clear()
    answer = way.answer

    def failing(handler: Any) -> None:
        if "i2" in handler.path:
            with way.broken("unavailable"):
                answer(handler)
        else:
            answer(handler)

    way.answer = failing
    with pytest.raises(RetryableError):
        run.backend.write(batch)
    way.answer = answer
    run.backend.write(batch)
    run.backend.close(RunStatus.FINISHED)
    puts = [path for method, path in way.requests if method == "PUT"]
    assert sum("i0" in path for path in puts) == 2  # the image and its twin, once
    assert sum("i3" in path for path in puts) == 2
    way.close()


def test_a_call_into_a_client_without_limits_is_cut() -> None:
    call = Bounded(0.2, "tracelet-call")
    assert call("x", lambda number: number + 1, 1) == 2
    with pytest.raises(KeyError):
        call("x", {}.__getitem__, "missing")
    started = time.monotonic()
    with pytest.raises(RetryableError, match="waiting took longer"):
        call("waiting", time.sleep, 1.0)
    assert time.monotonic() - started < 0.9


def test_a_database_server_that_is_away_is_told_at_once(tmp_path: Path) -> None:
    """SQLAlchemy would try for almost two minutes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(RetryableError) as caught:
        Run(tmp_path, f"postgresql://me:hunter2@127.0.0.1:{port}/mlflow")
    assert time.monotonic() - started < 5
    assert "hunter2" not in str(caught.value)


def test_refused_records_are_named_and_the_rest_is_not_written(
    database: str, tmp_path: Path
) -> None:
    run = Run(tmp_path, database)
    with pytest.raises(RejectedError) as caught:
        run.send(metric("a", 1.0), Metric("b", 1.0, 2**63, TIME), metric("c", 1.0, NAN))
    assert caught.value.indexes == (1, 2)
    run.backend.close(RunStatus.FINISHED)
