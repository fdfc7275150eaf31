"""The ClearML backend beside the vendor's own client, each in front of the same server."""

from __future__ import annotations

import json
import math
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Iterator, Mapping

import pytest

from services.clearml_reader import seen
from services.clearml_server import Clearml
from services.elsewhere import run_python
from tracelet.backends.base import Backend, Batch, RemoteRun, RunInfo, RunStatus
from tracelet.backends.clearml import ClearmlBackend
from tracelet.errors import RunGoneError
from tracelet.records import Artifact, Metric, Param, Record, Tag
from tracelet.testing.delivery import Delivery
from tracelet.testing.samples import SAMPLES, TIME, curve, image, metric

pytestmark = pytest.mark.skipif(find_spec("clearml") is None, reason="clearml is not installed")

DOUBLES = (0.1, 1 / 3, -0.0, 1e-300, 5e-324, sys.float_info.max, 2.0**53 + 2, 16_777_217.0)

#: The client's own exit takes ten seconds, and the process that it forked outlives it.
LEAVE = """
import os, psutil
sys.stdout.flush()
for child in psutil.Process().children(recursive=True):
    child.kill()
os._exit(0)
"""

#: The same data, sent once by the vendor's client: through `Logger`, which users call, and through
#: the API below it, where times can be given. Then what that client reads of a task of ours.
VENDOR = (
    """
import json, sys
from clearml import Task
from clearml.backend_api.services import events
from clearml.backend_api.session.client import APIClient

points, histogram, ours = json.loads(sys.argv[1])
task = Task.init(
    "vendor", "through Logger", auto_connect_frameworks=False, auto_connect_streams=False,
    auto_resource_monitoring=False, auto_connect_arg_parser=False, reuse_last_task_id=False,
)
logger = task.get_logger()
for title, series, step, _, value in points:
    logger.report_scalar(title, series, float(value), step)
task.connect({"lr": 0.1, "name": "adam", "layers": 3})
task.add_tags(["team: ml"])
with open("model.bin", "wb") as file:
    file.write(bytes(range(256)) * 10)
task.upload_artifact("model.bin", "model.bin", wait_on_upload=True)
task.flush(wait_for_uploads=True)
task.mark_completed()

session = task.session
below = Task.create("vendor", "through the API")
batch = [
    events.AddRequest(event=events.MetricsScalarEvent(
        task=below.id, timestamp=ms, iter=step, metric=title, variant=series, value=float(value)))
    for title, series, step, ms, value in points if float(value) - float(value) == 0
]
batch.append(events.AddRequest(event=events.MetricsPlotEvent(
    task=below.id, timestamp=points[0][3], iter=3, metric="weights", variant="fc1",
    plot_str=histogram)))
answer = session.send(events.AddBatchRequest(requests=batch))
assert answer.ok() and answer.response.errors == 0

client = APIClient(session=session)
read = client.tasks.get_by_id(task=ours)
print(json.dumps({
    "logger": task.id, "api": below.id, "status": str(read.status), "name": read.name,
    "comment": read.comment, "tags": list(read.tags), "parent": read.parent,
    "params": {name: item.value for name, item in read.hyperparams["General"].items()},
    "artifacts": {item.key: [item.hash, item.content_size] for item in read.execution.artifacts},
    "branch": read.script.branch, "pip": read.script.requirements["pip"],
}))
"""
    + LEAVE
)

IMPORT = (
    """
import sys
from clearml import Task
print("imported", Task.import_offline_session(sys.argv[1]))
"""
    + LEAVE
)


@pytest.fixture(scope="module")
def clearml() -> Iterator[Clearml]:
    running = Clearml()
    yield running
    running.stop()


@pytest.fixture
def _client(clearml: Clearml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that both clients read."""
    for name, value in clearml.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "cache"))


def run_info(**more: Any) -> RunInfo:
    fields: dict[str, Any] = {
        "run_id": f"run-{os.urandom(6).hex()}",
        "project": "ours",
        "name": "the same",
        "created": TIME,
        "tags": {"team": "ml"},
        "backends": (),
        **more,
    }
    return RunInfo(**fields)


def backend(place: Path, **options: Any) -> Backend:
    given = {"timeout_s": 5, "comment": "a note", **options}
    return ClearmlBackend(ClearmlBackend.resolve(given, os.environ, place)[0])


def delivered(
    place: Path, records: list[Record], info: RunInfo, **options: Any
) -> tuple[RemoteRun, list[Record]]:
    """Send records into a finished run; return it and what was refused."""
    to = backend(place, **options)
    workdir = place / "work" / info.run_id
    workdir.mkdir(parents=True)
    remote = to.open(info, None, workdir)
    refused = Delivery(to).settle(*records)
    to.close(RunStatus.FINISHED)
    return remote, refused


#: What the client tells the server besides: how to take an event, not what it is.
HOW = ("allow_locked", "method", "model_event")


def plain(store: Clearml, task: str, kind: str = "training_stats_scalar") -> list[str]:
    """Return the events of a task without what differs from task to task."""
    found = []
    for event in store.of(task, kind):
        said = {name: value for name, value in event.items() if name not in ("task", *HOW)}
        if "plot_str" in said:
            said["plot_str"] = json.loads(said["plot_str"])
        found.append(json.dumps(said, sort_keys=True))
    return sorted(found)


@pytest.mark.usefixtures("_client")
def test_what_the_vendors_client_sends_is_what_we_send(clearml: Clearml, tmp_path: Path) -> None:
    """Equal, but for what that client distorts: NaN becomes 0.0, and the times are its own."""
    sent = [
        *(metric(f"doubles/v{index}", value, 7) for index, value in enumerate(DOUBLES)),
        *curve("train/loss", 50),
        *(metric("val/top-1", step / 7, step) for step in (9, 3, 0, -3, 2**40)),
        metric("spoilt/nan", math.nan, 1),
        metric("spoilt/inf", math.inf, 1),
    ]
    (tmp_path / "model").write_bytes(bytes(range(256)) * 10)
    model = Artifact("model.bin", str(tmp_path / "model"), 2560, TIME)
    histogram = SAMPLES["histogram"]
    params = [Param("lr", 0.1, TIME), Param("name", "adam", TIME), Param("layers", 3, TIME)]
    context = {"git": {"branch": "main"}, "packages": {"numpy": "2.0"}}
    ours, refused = delivered(
        tmp_path, [*sent, *params, model, histogram], run_info(context=context)
    )
    assert [each.key for each in refused if isinstance(each, Metric)] == [
        "spoilt/nan",
        "spoilt/inf",
    ]

    [plot] = clearml.of(ours.id, "plot")
    points = [
        [*each.key.split("/"), each.step, round(each.time * 1000), repr(each.value)]
        for each in sent
    ]
    said = run_python(
        VENDOR, json.dumps([points, plot["plot_str"], ours.id]), cwd=tmp_path, timeout_s=60
    )
    theirs = json.loads(said.strip().splitlines()[-1])

    # The API layer: event for event the same, times included.
    assert plain(clearml, theirs["api"]) == plain(clearml, ours.id)
    assert plain(clearml, theirs["api"], "plot") == plain(clearml, ours.id, "plot")

    # The calls that users know: the same values at the same places, the spoilt ones aside.
    def values(task: str) -> Mapping[Any, Any]:
        return {
            (each["metric"], each["variant"], each["iter"]): each["value"]
            for each in clearml.of(task)
        }

    logged = values(theirs["logger"])
    assert logged.pop(("spoilt", "nan", 1)) == logged.pop(("spoilt", "inf", 1)) == 0.0
    assert logged == values(ours.id)
    one, other = clearml.tasks[theirs["logger"]], clearml.tasks[ours.id]
    found = [
        {name: item["value"] for name, item in task["hyperparams"]["General"].items()}
        for task in (one, other)
    ]
    assert found[0] == found[1]
    assert one["tags"] == other["tags"] == ["team: ml"]
    assert one["status"] == other["status"] == "completed"
    files = [
        [
            (
                each["key"],
                each["hash"],
                each["content_size"],
                each["mode"],
                clearml.file(each["uri"]),
            )
            for each in task["execution"]["artifacts"]
        ]
        for task in (one, other)
    ]
    assert files[0] == files[1]

    # And the vendor's client reads our task as one of its own: its types are checked on the way.
    assert theirs["name"] == "the same"
    assert (theirs["status"], theirs["comment"]) == ("completed", "a note")
    assert theirs["params"] == {"lr": "0.1", "name": "adam", "layers": "3"}
    assert theirs["artifacts"] == {"model.bin": [files[1][0][1], 2560]}
    assert (theirs["branch"], theirs["pip"]) == ("main", "numpy==2.0")


@pytest.mark.usefixtures("_client")
def test_the_vendors_import_takes_our_offline_session(clearml: Clearml, tmp_path: Path) -> None:
    """What it uploads is what we would have sent; a resend and a torn line change nothing."""
    (tmp_path / "weights").write_bytes(b"weights" * 1000)
    records: list[Record] = [
        *curve("train/loss", 300),
        metric("a-b/c", 1.0, 1),
        metric("a/b-c", 2.0, 1),
        metric("lr", 0.5, 0.25),
        metric("spoilt", math.nan, 1),
        Param("optimizer.lr", 0.1, TIME),
        Param("config", "x = 1\n" * 2000, TIME),
        Tag("stage", "end", TIME),
        *(image("pictures/one", step, step) for step in range(3)),
        *(record for kind, record in SAMPLES.items() if kind != "image"),
        Artifact("models/a b#1.pth", str(tmp_path / "weights"), 7000, TIME),
    ]
    info = run_info()
    online, _ = delivered(tmp_path / "online", records, info)
    before = len(clearml.tasks)

    offline = {"offline": True, "folder": str(tmp_path / "sessions")}
    folder = tmp_path / "offline"
    remote, refused = delivered(folder, records, info, **offline)
    assert [each.key for each in refused if isinstance(each, Metric)] == ["spoilt"]
    session = tmp_path / "sessions" / remote.id
    assert remote.look == str(session)
    assert session.with_name(session.name + ".zip").is_file()

    # Whoever came before died over a line; the same batch comes again.
    with open(session / "metrics.jsonl", "ab") as file:
        file.write(b'[{"type": "training_stats_')
    again = backend(folder, **offline)
    assert again.open(info, None, folder / "work" / info.run_id).id == remote.id
    again.write(Batch(tuple(records[:300]), resend=True))
    again.close(RunStatus.FAILED)
    with pytest.raises(RunGoneError):
        again.open(info, RemoteRun(id="offline-" + "0" * 32), folder / "work" / info.run_id)
    assert len(clearml.tasks) == before, "an offline run asked the server"

    archive = f"{session}.zip"
    said = run_python(IMPORT, archive, cwd=tmp_path)
    imported = next(line.split()[1] for line in said.splitlines() if line.startswith("imported"))
    assert imported not in (online.id, "None")

    # Its import calls everything completed.
    theirs, ours = (seen(clearml, each, "FINISHED") for each in (imported, online.id))
    assert clearml.tasks[imported]["hyperparams"]["properties"]["tracelet_status"]["value"] == (
        "failed"
    )
    assert (theirs.project, theirs.name) == (ours.project, ours.name)
    assert theirs.params == ours.params
    assert {**theirs.tags, "tracelet_status": ""} == {**ours.tags, "tracelet_status": ""}
    assert theirs.metrics == ours.metrics
    assert theirs.artifacts == ours.artifacts
    assert sorted(map(repr, theirs.items)) == sorted(map(repr, ours.items))
    assert len(ours.items) == len(SAMPLES) - 1 + 3
