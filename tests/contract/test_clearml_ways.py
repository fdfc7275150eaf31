"""The ways to ClearML and back: keys, addresses, refusals, names, the program's own task."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Iterator

import pytest

from services.clearml_reader import seen
from services.clearml_server import KEY, SECRET, Clearml
from services.elsewhere import run_python
from tracelet import tfevents
from tracelet.backends.base import Backend, Batch, RemoteRun, RunInfo, RunStatus
from tracelet.backends.clearml import ClearmlBackend, conf
from tracelet.backends.clearml.events import requests_of
from tracelet.backends.clearml.names import Names, key_of, parameter, segment
from tracelet.errors import ConfigError, RejectedError, RetryableError
from tracelet.records import Media, Param, Table
from tracelet.testing.clauses.keys import AWKWARD_KEYS
from tracelet.testing.samples import SAMPLES, TIME, curve, image, metric, tag
from tracelet.testing.threads import soon

#: Reaches nobody: port 1 of this machine.
NOBODY = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def clearml() -> Iterator[Clearml]:
    running = Clearml()
    yield running
    running.stop()


@pytest.fixture
def _variables(clearml: Clearml, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in clearml.variables().items():
        monkeypatch.setenv(name, value)


def made(folder: Path, **given: Any) -> Backend:
    options, _ = ClearmlBackend.resolve({"timeout_s": 5, **given}, os.environ, folder)
    return ClearmlBackend(options)


def opened(folder: Path, **given: Any) -> tuple[Backend, RemoteRun]:
    backend = made(folder, **given)
    info = RunInfo(f"run-{time.monotonic_ns()}", "ways", "a run", TIME, {}, ())
    return backend, backend.open(info, None, folder / info.run_id)


# -- keys and addresses ---------------------------------------------------------------------


def test_keys_come_from_the_call_the_variables_and_the_file(tmp_path: Path) -> None:
    """In this order; what stands in the file is not copied anywhere else."""
    home = Path.home() / "clearml.conf"
    home.write_text(
        """
        # ClearML SDK configuration file
        api {
            web_server: https://app.lab.example   // the page
            api_server: "https://api.lab.example/"
            "files_server" = https://files.lab.example
            verify_certificate: False
            credentials {"access_key" = "FROMFILE", secret_key: ${SECRET_HALF}"-rest"}
        }
        sdk { development { default_output_uri: "s3://bucket:9000/x", list = [1, {a: 2}, "]"] } }
        api.http.retries.total = 3
        """
    )
    try:
        environ = {"SECRET_HALF": "hush"}
        found = conf.find(None, environ, Path.home())
        assert found["api.credentials.secret_key"] == "hush-rest"
        assert found["api.http.retries.total"] == "3"
        assert found["sdk.development.default_output_uri"] == "s3://bucket:9000/x"
        options, sources = ClearmlBackend.resolve({}, environ, tmp_path)
        shown = options.model_dump_json()
        assert '"url":"https://api.lab.example/"' in shown
        assert '"verify_certificate":false' in shown
        assert "FROMFILE" not in shown
        assert "hush" not in shown
        assert sources["url"] == "clearml.conf"
        backend = ClearmlBackend(options)
        assert isinstance(backend, ClearmlBackend)
        assert backend.look(RunInfo("r", None, None, TIME, {}, ())) == "https://app.lab.example"
        environ["CLEARML_API_ACCESS_KEY"] = "FROMVARIABLE"
        environ["CLEARML_API_HOST"] = "https://api.other.example"
        options, sources = ClearmlBackend.resolve({}, environ, tmp_path)
        assert sources["access_key"] == "env:CLEARML_API_ACCESS_KEY"
        both = ClearmlBackend.resolve({}, {**environ, "CLEARML_AUTH_TOKEN": "t"}, tmp_path)
        assert "auth_token" not in both[1]
        alone = ClearmlBackend.resolve(
            {"config_file": "none.conf"}, {"CLEARML_AUTH_TOKEN": "t"}, tmp_path
        )
        assert alone[1]["auth_token"] == "env:CLEARML_AUTH_TOKEN"
        assert "FROMVARIABLE" not in f"{options} {options.model_dump_json()}"
        given = {"api_key": "FROM:CALL", "url": "http://h:8008"}
        options, sources = ClearmlBackend.resolve(given, environ, tmp_path)
        assert (sources["api_key"], options.url) == ("argument", "http://h:8008")
        assert options.web_url is None, "the page of another server"
        options, _ = ClearmlBackend.resolve(
            {"url": "https://api.third.example", "config_file": "elsewhere.conf"},
            {"CLEARML_FILES_HOST": "https://files.third.example"},
            tmp_path,
        )
        assert options.files_url == "https://files.third.example"
        assert options.config_file == str(tmp_path / "elsewhere.conf")
        assert "CALL" not in f"{options} {options.model_dump_json()}"
    finally:
        home.unlink()


def test_start_is_refused_in_a_sentence(clearml: Clearml, tmp_path: Path) -> None:
    """Not configured, half a key, a wrong key, the page instead of the API; each at once."""
    keys = {"access_key": KEY, "secret_key": SECRET}
    wrong = {**keys, "secret_key": "guessed-wrong"}
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"not configured here.*clearml-init"):
        made(tmp_path, url=clearml.url).preflight()
    with pytest.raises(ConfigError, match="access_key:secret_key"):
        made(tmp_path, url=clearml.url, api_key="only-half").preflight()
    with pytest.raises(ConfigError, match="refuses the keys") as refused:
        made(tmp_path, url=clearml.url, **wrong).preflight()
    assert "guessed-wrong" not in str(refused.value)
    with pytest.raises(ConfigError, match="not ClearML's API server"):
        made(tmp_path, url=f"{clearml.url}/login", **keys).preflight()
    with pytest.raises(ConfigError, match="s3:// is none"):
        made(tmp_path, url=clearml.url, files_url="s3://bucket", **keys)
    with pytest.raises(RetryableError, match="cannot be reached"):
        made(tmp_path, url=NOBODY, **keys).preflight()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(RetryableError, match="in time"):
            made(tmp_path, url=f"http://127.0.0.1:{silent.getsockname()[1]}", **keys).preflight()
    assert time.monotonic() - began < 30
    right = made(tmp_path, url=clearml.url, api_key=f"{KEY}:{SECRET}", files_url=NOBODY)
    right.preflight()
    [doubt] = right.doubts(None)
    assert (doubt.level, doubt.subject) == ("problem", "files")
    assert "CLEARML_FILES_HOST" in doubt.remedy
    said = list(right.examine(None, {"api_key": "argument", "url": "argument"}, 0.0))
    assert [(each.level, each.subject) for each in said] == [
        ("ok", "address"),
        ("ok", "server"),
        ("problem", "files"),
    ]
    [address, refusal] = made(tmp_path, url=clearml.url, **wrong).examine(None, {}, 0.0)
    assert clearml.url in address.text
    assert "refuses the keys" in refusal.text


# -- names ----------------------------------------------------------------------------------


def test_no_two_keys_are_one_for_the_server(tmp_path: Path) -> None:
    """Its name for a point is a joined text; ours tell apart what that would make one."""
    names = Names(tmp_path / "names.jsonl")
    keys = [*AWKWARD_KEYS, "a-b/c", "a/b-c", "x", "x/x", "é\udc80", "q\x00r", "q_r", "k" * 2000]
    places = {key: names.place(key) for key in keys}
    places |= {f"{key} fraction": names.place(key, fraction=True) for key in keys}
    assert len({f"{place.title}-{place.series}" for place in places.values()}) == len(places)
    assert places["a-b/c"][:2] == ("a-b", "c")
    assert places["a/b-c"].title == "a"
    assert places["a/b-c"].series.startswith("b-c~")
    listed = {each["title"] + "\n" + each["series"]: each["key"] for each in names.renamed()}
    for key in keys:
        title, series, _ = places[key]
        assert listed.get(f"{title}\n{series}", key_of(title, series)) == key
    # A restart, also over a torn line; and somebody who goes on elsewhere.
    with open(tmp_path / "names.jsonl", "a") as file:
        file.write('["torn", fal')
    again = Names(tmp_path / "names.jsonl")
    assert {key: again.place(key) for key in keys} == {key: places[key] for key in keys}
    elsewhere = Names(tmp_path / "elsewhere" / "names.jsonl")
    elsewhere.adopt([places["a-b/c"][:2]], names.renamed())
    assert elsewhere.place("a/b-c") == places["a/b-c"]
    assert elsewhere.place("a-b/c") == places["a-b/c"]
    assert len({segment(key) for key in keys}) == len(keys)
    assert len({parameter(key)[0] for key in keys}) == len(keys)


def test_a_request_is_never_larger_than_a_server_takes() -> None:
    lines = [f'{{"n":{number}, "pad":"{"x" * 900_000}"}}' for number in range(20)]
    bodies = requests_of(lines)
    assert max(map(len, bodies)) <= 8_000_000
    assert b"\n".join(bodies).decode().split("\n") == lines
    assert requests_of([]) == []


# -- the run --------------------------------------------------------------------------------


@pytest.mark.usefixtures("_variables")
def test_fractions_get_a_series_of_their_own(clearml: Clearml, tmp_path: Path) -> None:
    """Iterations are whole: 0.25 and 0.5 would be one, and 1.25 would replace 1."""
    backend, remote = opened(tmp_path)
    steps = [0, 0.25, 0.5, 0.75, 1, 1.25, 1e-6, -0.5]
    points = [metric("epoch/loss", step / 3, step) for step in steps]
    backend.write(Batch(tuple(points)))
    with pytest.raises(RejectedError, match="64 bits") as refused:
        backend.write(Batch((points[0], metric("a", 1.0, 2**63), metric("a", 1.0, 1e18 + 0.5))))
    assert refused.value.indexes == (1,)
    backend.close(RunStatus.FINISHED)
    found = seen(clearml, remote.id).curve("epoch/loss")
    assert sorted(found) == sorted((step, step / 3) for step in steps)


@pytest.mark.usefixtures("_variables")
def test_odd_names_of_runs_and_projects(clearml: Clearml, tmp_path: Path) -> None:
    """The server strips them, and a project has three letters at least."""
    for project, name, shown in [
        ("ml", "  padded ", ("ml_", "padded")),
        ("team/vision: #1 (größer)", '50% of "all" \\ 2.', None),
    ]:
        backend = made(tmp_path)
        ids = []
        for run_id in ("one", "two"):
            info = RunInfo(f"{run_id}-{project}", project, name, TIME, {"team": "ml"}, ())
            remote = backend.open(info, None, tmp_path / f"{run_id}{len(project)}")
            backend.write(Batch((image("a/b", 3),), lane="heavy"))
            ids.append(remote.id)
            backend.close(RunStatus.FINISHED)
        both = [seen(clearml, each) for each in ids]
        assert {(each.project, each.name) for each in both} == {shown or (project, name)}
        assert len({clearml.tasks[each]["project"] for each in ids}) == 1
        assert [len(each.find("image", "a/b")) for each in both] == [1, 1]


@pytest.mark.usefixtures("_variables")
def test_other_peoples_tags_stay(clearml: Clearml, tmp_path: Path) -> None:
    """A tag of ours is a property and a chip; one that changes takes its old chip with it."""
    backend, remote = opened(tmp_path)
    backend.write(Batch((tag("stage", "start"), tag("plain", ""))))
    task = clearml.tasks[remote.id]
    assert task["tags"] == ["stage: start", "plain"]
    task["tags"].append("a colleague's")
    backend.write(Batch((tag("stage", "end"),)))
    assert sorted(task["tags"]) == ["a colleague's", "plain", "stage: end"]
    assert seen(clearml, remote.id).tags == {"stage": "end", "plain": ""}
    backend.close(RunStatus.KILLED)


@pytest.mark.usefixtures("_variables")
def test_a_silent_run_says_that_it_lives(clearml: Clearml, tmp_path: Path) -> None:
    """The server stops tasks that say nothing for two hours."""
    backend, remote = opened(tmp_path, ping_interval_s=0.05)
    assert soon(lambda: "pinged" in clearml.tasks[remote.id], 20)
    backend.close(RunStatus.RUNNING)
    assert soon(
        lambda: not any(each.name == "tracelet-clearml-ping" for each in threading.enumerate()), 20
    )


@pytest.mark.usefixtures("_variables")
def test_an_event_that_is_refused_is_found_one_that_waits_is_not(
    clearml: Clearml, tmp_path: Path
) -> None:
    """The server says how many events it did not take, not which; a busy store is no refusal."""
    backend, _ = opened(tmp_path)
    points = curve("loss", 4)
    clearml.choking = "es_rejected_execution_exception: queue capacity"
    with pytest.raises(RetryableError, match="queue capacity"):
        backend.write(Batch(tuple(points)))
    clearml.choking = "mapper_parsing_exception"
    with pytest.raises(RejectedError, match="mapper_parsing") as refused:
        backend.write(Batch(tuple(points)))
    assert refused.value.indexes == ()
    with pytest.raises(RejectedError) as refused:
        backend.write(Batch(tuple(points[:1])))
    assert refused.value.indexes == (0,)
    clearml.choking = ""
    backend.write(Batch(tuple(points)))
    backend.close(RunStatus.FINISHED)


@pytest.mark.usefixtures("_variables")
def test_charts_have_the_numbers_that_were_logged(clearml: Clearml, tmp_path: Path) -> None:
    """Exact buckets, the curve with its counts, a body to turn; Plotly's own names for them."""
    backend, remote = opened(tmp_path)
    records = []
    for kind in ("pr_curve", "mesh"):
        sample = SAMPLES[kind]
        assert isinstance(sample, Media)
        [decoded] = tfevents.decode(sample.data, "", None)
        assert isinstance(decoded, Media)
        records.append(replace(decoded, step=3))
    odd = Table("odd", ("a",), ((math.nan,), (None,)), 3, TIME)
    broken = Media("mesh", "broken", b"no event", "application/x-tfevent", 3, TIME)
    whole = (*records, SAMPLES["histogram"], odd, broken)
    backend.write(Batch(whole, lane="heavy"))
    with pytest.raises(RejectedError) as refused:
        backend.write(Batch((odd, Table("t", ("a",), ((object(),),), 3, TIME)), lane="heavy"))
    assert refused.value.indexes == (1,)
    backend.close(RunStatus.FINISHED)
    found = {}
    for event in clearml.of(remote.id, "plot"):
        figure = json.loads(event["plot_str"])
        assert set(figure) == {"data", "layout"}
        found[key_of(event["metric"], event["variant"])] = figure["data"][0]
    curve_ = found["eval/pr"]
    meta = records[0].meta
    assert (curve_["x"], curve_["y"]) == (list(meta["recall"]), list(meta["precision"]))
    assert [each[1] for each in curve_["customdata"]] == list(meta["true_positives"])
    body = found[records[1].key]
    assert body["type"] == "mesh3d"
    points = list(zip(body["x"], body["y"], body["z"]))
    assert points == [(0, 0, 0), (1, 0, 0), (0, 1, 0)]
    assert [body[corner] for corner in "ijk"] == [[0], [1], [2]]
    bars = found["weights/fc1"]
    assert bars["x"] == [-0.75, -0.25, 0.25, 0.75]
    assert bars["width"] == [0.5] * 4
    assert bars["y"] == [1, 4, 2, 3]
    assert bars["meta"] == {"min": -0.75, "max": 0.875, "sum": 0.5, "sum_squares": 2.25}
    assert found["odd"]["cells"]["values"] == [["nan", None]]
    assert "broken" not in found
    artifacts = seen(clearml, remote.id).find("mesh", "broken")
    assert [each.content for each in artifacts] == [b"no event"]


@pytest.mark.usefixtures("_variables")
def test_a_task_that_was_deleted_or_published_is_a_matter_for_a_person(
    clearml: Clearml, tmp_path: Path
) -> None:
    """Nothing is thrown away for it: the shipper keeps what it has, and says what to do."""
    backend, remote = opened(tmp_path)
    clearml.tasks[remote.id]["status"] = "published"
    with pytest.raises(ConfigError, match="published"):
        backend.write(Batch(tuple(curve("loss", 3))))
    clearml.tasks[remote.id]["status"] = "in_progress"
    backend.write(Batch(tuple(curve("loss", 3))))
    del clearml.tasks[remote.id]
    for batch in (Batch(tuple(curve("loss", 3))), Batch((Param("lr", 1, TIME),))):
        with pytest.raises(ConfigError, match="no task"):
            backend.write(batch)
    backend.close(RunStatus.RUNNING)


# -- whole programs -------------------------------------------------------------------------

TRAINING = """
import os, signal, sys, time
import psutil, tracelet
from tensorboardX import SummaryWriter

run = tracelet.start_logging(
    "line", project="whole", backend="clearml", config={"tags": {"team": "ml"}, "collect": ["git"]}
)
run.log_params({"optimizer": {"lr": 0.1}})
writer = SummaryWriter("runs/one")
for step in range(3000):
    writer.add_scalar("train/loss", step / 3, step)
    if step == 1000:
        run.flush(timeout=5)
        for child in psutil.Process().children(recursive=True):
            child.kill()   # the process that delivers
    if step % 500 == 0:
        time.sleep(0.3)
writer.add_scalar("train/spoilt", float("nan"), 1)
writer.add_text("notes", "hello", 1)
writer.close()
with open("model.pth", "wb") as file:
    file.write(b"weights")
run.log_artifact("model.pth")
run.stop(timeout=60)
print(run.remote("clearml").id, run.remote("clearml").url)
"""


@pytest.mark.usefixtures("_variables")
def test_a_whole_training_arrives_once(clearml: Clearml, tmp_path: Path) -> None:
    """Who delivers is killed, and answers get lost: nothing is lost, nothing doubled."""
    ended = threading.Event()

    def lose_answers() -> None:
        while not ended.wait(0.4):
            clearml.fault = "lost_answer"
            ended.wait(0.1)
            clearml.fault = ""

    before = clearml.received
    losing = threading.Thread(target=lose_answers)
    losing.start()
    try:
        said = run_python(TRAINING, cwd=tmp_path, timeout_s=120)
    finally:
        ended.set()
        losing.join()
        clearml.fault = ""
    number, url = said.split()[-2:]
    assert url.endswith(f"/experiments/{number}/output/log")
    assert [each["name"] for each in clearml.tasks.values()].count("line") == 1
    # The process that delivers goes on when the training is over.
    assert soon(lambda: clearml.tasks[number]["status"] == "completed", 60)
    found = seen(clearml, number)
    assert sorted(found.curve("train/loss")) == [(step, step / 3) for step in range(3000)]
    assert set(found.metrics) == {"train/loss"}
    assert found.params == {"optimizer.lr": "0.1"}
    assert found.tags["team"] == "ml"
    assert found.artifacts["model.pth"] == b"weights"
    assert [item.content for item in found.find("text", "notes")] == ["hello"]
    assert found.status == "FINISHED"
    assert clearml.received - before >= 3001
    [rejects] = (tmp_path / ".tracelet").glob("*/rejects/clearml.jsonl")
    assert "train/spoilt: ClearML has no number for nan" in rejects.read_text()
    everything = "".join(
        path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()
    )
    assert SECRET not in everything + said


OWN_TASK = """
import os, sys
from clearml import Task
task = Task.init("own", "the program's", auto_connect_streams=False,
    auto_connect_arg_parser=False, reuse_last_task_id=False)
from torch.utils.tensorboard import SummaryWriter
import tracelet
writer = SummaryWriter("runs/one")
run = tracelet.start_logging(backend="clearml", config={"collect": []})
writer.add_scalar("a/train/loss", 0.1, 1)
writer.add_scalar("a/train/spoilt", float("nan"), 1)
task.get_logger().report_scalar("mine", "beside", 0.5, 2)
run.stop(timeout=60)
ours = run.remote("clearml").id
writer.add_scalar("a/later/loss", 0.1, 2)
writer.close()
below = tracelet.start_logging("below it", backend="clearml", config={"collect": []})
below.stop(timeout=60)
print(task.id, ours, below.remote("clearml").id)
task.flush()
sys.stdout.flush()
import time; time.sleep(7)
import psutil
for child in psutil.Process().children(recursive=True):
    child.kill()
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("clearml") is None or find_spec("torch") is None, reason="needs clearml and torch"
)
@pytest.mark.usefixtures("_variables")
def test_the_programs_own_task_is_adopted_and_nothing_arrives_twice(
    clearml: Clearml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own capture rests while we are at it, and goes on afterwards."""
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "cache"))
    said = run_python(OWN_TASK, cwd=tmp_path)
    theirs, ours, below = said.strip().splitlines()[-1].split()
    assert ours == theirs
    assert clearml.tasks[below]["parent"] == theirs
    assert clearml.tasks[theirs]["status"] == "in_progress", "not ours to end"
    found = {(each["metric"], each["variant"]): each["value"] for each in clearml.of(theirs)}
    # The client's capture calls a chart `a_train`, and makes 0.0 of NaN.
    assert found == {("a/train", "loss"): 0.1, ("mine", "beside"): 0.5, ("a_later", "loss"): 0.1}
    assert clearml.tasks[below]["status"] == "completed"


def test_a_server_that_breaks_in_between_costs_nothing_but_time(
    clearml: Clearml, tmp_path: Path
) -> None:
    """A token that the server no longer knows is asked for anew; an invalid task is a sentence."""
    keys = {"url": clearml.url, "files_url": clearml.url, "api_key": f"{KEY}:{SECRET}"}
    backend, remote = opened(tmp_path, **keys)
    token, clearml.token = clearml.token, "another"
    backend.write(Batch(tuple(curve("loss", 3))))
    backend.write(Batch((image("picture", 1),), lane="heavy"))
    clearml.token = token
    backend.write(Batch((Param("lr", 1, TIME),)))
    found = seen(clearml, remote.id)
    assert len(found.curve("loss")) == 3
    assert found.params == {"lr": "1"}
    [item] = found.find("image", "picture")
    assert item.content == image("picture", 1).data
    backend.close(RunStatus.FINISHED)
    # An agent may hand down a token in place of keys; it is exchanged for the next one.
    bearer = {**keys, "api_key": None, "auth_token": token}
    made(tmp_path, **bearer).preflight()
    with pytest.raises(ConfigError, match="refuses the keys"):
        made(tmp_path, **{**bearer, "auth_token": "old"}).preflight()
    child, below = opened(tmp_path, parent=remote.id, comment="a note", **keys)
    assert seen(clearml, below.id).parent == remote.id
    assert clearml.tasks[below.id]["comment"] == "a note"
    child.close(RunStatus.FINISHED)
    orphan = made(tmp_path, parent="nobody", **keys)
    with pytest.raises(ConfigError, match="does not take this run"):
        orphan.open(RunInfo("orphan", "ways", None, TIME, {}, ()), None, tmp_path / "orphan")


def test_a_task_of_the_program_is_found_without_an_import(
    clearml: Clearml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent names one; without keys, or with ``attach`` off, there is none; nothing raises."""
    assert made(tmp_path, url=clearml.url).program_run() is None
    monkeypatch.setenv("CLEARML_TASK_ID", "of-the-agent")
    found = made(tmp_path, url=clearml.url).program_run()
    assert found is not None
    assert (found.id, found.held) == ("of-the-agent", False)
    assert made(tmp_path, url=clearml.url, attach=False).program_run() is None
    assert made(tmp_path, offline=True).program_run() is None
