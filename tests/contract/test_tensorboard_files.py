"""The tensorboard backend keeps the contract; its files are read with TensorBoard's own readers."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar, Mapping

import pytest

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing import event_file_loader, plugin_event_accumulator
from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.util import tensor_util

from contract.folders import FolderSuite
from services.mlflow_server import free_port
from tracelet.backends.base import Batch, RemoteRun, RunInfo
from tracelet.backends.tensorboard import TensorBoardBackend, TensorBoardOptions
from tracelet.backends.tensorboard.frames import EventsFile
from tracelet.errors import RejectedError
from tracelet.records import Artifact, Histogram, Media, Metric, Param, RunStatus, Table
from tracelet.testing import Item, Seen
from tracelet.testing.samples import EVENT_TYPE, SAMPLES, TIME, curve, image
from tracelet.testing.threads import soon


def events_in(folder: Path) -> list[Any]:
    """What TensorBoard's loader makes of a folder, file by file in its order."""
    return [
        event
        for path in sorted(folder.glob("*tfevents*"))
        for event in event_file_loader.LegacyEventFileLoader(str(path)).Load()
    ]


class TestTensorBoard(FolderSuite):
    kind = TensorBoardBackend
    grows = "*/*/*tfevents*"
    forms: ClassVar[Mapping[str, str]] = {"table": "converted", "raw": "file"}
    cannot: ClassVar[Mapping[str, str]] = {
        **FolderSuite.cannot,
        "fractional_step": "A step is a whole number in an event.",
    }

    def read_back(self, remote: RemoteRun) -> Seen:
        return seen(self.store, remote, self.precision)


def seen(store: Path, remote: RemoteRun, precision: str) -> Seen:
    folder = store / remote.id
    notes: dict[str, list[Any]] = defaultdict(list)
    metrics: dict[str, list[Metric]] = defaultdict(list)
    items: list[Item] = []
    pictures: dict[tuple[str, int], int] = defaultdict(int)
    status = ""
    for event in events_in(folder):
        if event.HasField("graph_def"):
            items.append(Item("graph", "graph", None, 0, _sample_as_is("graph", event)))
        meshes = [v for v in event.summary.value if v.metadata.plugin_data.plugin_name == "mesh"]
        if meshes:
            items.append(Item("mesh", "shape", event.step, 0, _sample_as_is("mesh", event)))
            continue
        for value in event.summary.value:
            plugin = value.metadata.plugin_data.plugin_name
            what = value.WhichOneof("value")
            if plugin == "tracelet":
                kind = value.tag.rpartition("/")[2]
                notes[kind].append(json.loads(tensor_util.make_ndarray(value.tensor).item()))
                if kind in ("run", "end"):
                    status = "RUNNING" if kind == "run" else notes[kind][-1]["status"]
            elif plugin == "scalars" or what == "simple_value":
                number = (
                    value.simple_value if what == "simple_value" else value.tensor.double_val[0]
                )
                metrics[value.tag].append(Metric(value.tag, number, event.step, event.wall_time))
            elif what == "histo":
                content = (list(value.histo.bucket_limit), list(value.histo.bucket)[1:])
                items.append(Item("histogram", value.tag, event.step, 0, content))
            elif what == "image":
                data = value.image.encoded_image_string
                kind = "video" if data.startswith(b"GIF") else "image"
                index = pictures[value.tag, event.step]
                pictures[value.tag, event.step] += 1
                items.append(Item(kind, value.tag, event.step, index, data))
            elif what == "audio":
                data = value.audio.encoded_audio_string
                items.append(Item("audio", value.tag, event.step, 0, data))
            elif plugin == "text":
                text = tensor_util.make_ndarray(value.tensor).item().decode()
                kind = "table" if value.tag == "confusion" else "text"
                items.append(Item(kind, value.tag, event.step, 0, text))
            elif plugin in ("pr_curves", "custom_scalars"):
                kind = {"pr_curves": "pr_curve"}.get(plugin, plugin)
                key = value.tag if kind == "pr_curve" else "layout"
                items.append(Item(kind, key, event.step, 0, _sample_as_is(kind, event)))
    for each in notes["media"]:
        content = (folder.parent / each["file"]).read_bytes()
        items.append(Item(each["kind"], each["key"], each["step"], each["index"], content))
    runs = notes["run"]
    return Seen(
        id=remote.id,
        project=runs[0]["project"] or folder.parent.name,
        name=runs[0]["name"] or folder.name,
        status=status,
        tags={
            **{key: value for run in runs for key, value in run["tags"].items()},
            **{each["key"]: each["value"] for each in notes["tag"]},
        },
        params={each["key"]: str(each["value"]) for each in notes["param"]},
        metrics=metrics,
        items=items,
        artifacts={
            each["path"]: (folder.parent / each["file"]).read_bytes() for each in notes["artifact"]
        },
        parent=runs[0]["parent"],
    )


def _sample_as_is(kind: str, event: Any) -> Any:
    """The bytes of the sample when the event says the same; TensorBoard's classes compare."""
    from tensorboard.compat.proto import event_pb2

    sample = SAMPLES[kind]
    assert isinstance(sample, Media)
    event.DiscardUnknownFields()
    expected = event_pb2.Event.FromString(sample.data)
    return sample.data if event == expected else event.SerializeToString()


# -- what TensorBoard shows ---------------------------------------------------------------


def info(run_id: str = "20260101-000000-aa", **changes: Any) -> RunInfo:
    who = {"project": "vision", "name": "baseline", "created": 1.0, "tags": {}, **changes}
    return RunInfo(run_id=run_id, backends=["tensorboard"], **who)


def opened(folder: Path, **options: Any) -> tuple[TensorBoardBackend, Path]:
    backend = TensorBoardBackend(TensorBoardOptions(logdir=str(folder), **options))
    remote = backend.open(info(), None, folder)
    return backend, folder / remote.id


def shown(folder: Path) -> Any:
    found = plugin_event_accumulator.EventAccumulator(
        str(folder), tensor_size_guidance={"scalars": 0}
    )
    found.Reload()
    return found


def test_tensorboard_shows_every_kind_on_its_page(tmp_path: Path) -> None:
    backend, folder = opened(tmp_path)
    backend.write(Batch([*curve("loss", 50), Param("lr", 0.1, TIME), Param("layers", 2**70, TIME)]))
    backend.write(Batch([*SAMPLES.values(), image("batch", 1, index=1)], lane="heavy"))
    backend.close(RunStatus.FINISHED, TIME + 9)
    found = shown(folder)
    assert found.PluginTagToContent("scalars").keys() == {"loss"}
    points = found.Tensors("loss")
    assert [(p.step, p.tensor_proto.double_val[0], p.wall_time) for p in points] == [
        (step, (step + 1) / 3, TIME + step / 1000) for step in range(50)
    ]
    assert [tensor_util.make_ndarray(p.tensor_proto) for p in points] == [
        tensor_util.make_ndarray(tensor_util.make_tensor_proto((step + 1) / 3, "float32"))
        for step in range(50)
    ]
    assert found.PluginTagToContent("histograms").keys() == {"weights/fc1"}
    assert found.PluginTagToContent("images").keys() == {"predictions", "rollout", "batch"}
    assert found.PluginTagToContent("audio").keys() == {"speech"}
    assert found.PluginTagToContent("text").keys() == {"notes", "confusion"}
    assert found.PluginTagToContent("pr_curves").keys() == {"eval/pr"}
    assert found.PluginTagToContent("mesh").keys() == {"shape_VERTEX", "shape_FACE"}
    assert "custom_scalars__config__" in found.PluginTagToContent("custom_scalars")
    assert found.Graph().node[1].name == "net/relu"
    [buckets] = found.Tensors("weights/fc1")
    assert tensor_util.make_ndarray(buckets.tensor_proto)[:, 2].tolist() == [1, 4, 2, 3]
    hparams = found.PluginTagToContent("hparams")
    start = hparams_metadata.parse_session_start_info_plugin_data(
        hparams["_hparams_/session_start_info"]
    )
    assert start.hparams["lr"].number_value == 0.1
    assert start.hparams["layers"].number_value == 2.0**70
    end = hparams_metadata.parse_session_end_info_plugin_data(hparams["_hparams_/session_end_info"])
    assert (end.status, end.end_time_secs) == (1, TIME + 9)


def test_a_scalar_is_of_32_bits_only_where_that_is_asked_for(tmp_path: Path) -> None:
    backend, folder = opened(tmp_path, precision="single")
    backend.write(Batch([Metric("loss", 0.1, 1, 2.5), Metric("loss", 1e300, 2, 2.5)]))
    backend.close(RunStatus.FINISHED)
    values = [v for event in events_in(folder) for v in event.summary.value if v.tag == "loss"]
    assert [value.simple_value for value in values] == [0.10000000149011612, float("inf")]
    assert values[0] == summary_pb2.Summary.Value(tag="loss", simple_value=0.1)


def test_what_had_another_tag_is_shown_under_the_key_of_the_run(tmp_path: Path) -> None:
    """Keys have the stream before them where a run had several."""
    backend, folder = opened(tmp_path)
    renamed = []
    for kind in ("mesh", "pr_curve"):
        sample = SAMPLES[kind]
        assert isinstance(sample, Media)
        renamed.append(Media(kind, f"val/{sample.key}", sample.data, EVENT_TYPE, 3, TIME))
    backend.write(Batch(renamed, lane="heavy"))
    backend.close(RunStatus.FINISHED)
    found = shown(folder)
    assert found.PluginTagToContent("pr_curves").keys() == {"val/eval/pr"}
    meshes = found.PluginTagToContent("mesh")
    assert meshes.keys() == {"val/shape_VERTEX", "val/shape_FACE"}
    from tensorboard.plugins.mesh import metadata as mesh_metadata

    parsed = mesh_metadata.parse_plugin_metadata(meshes["val/shape_VERTEX"])
    assert parsed.name == "val/shape"


def test_an_embedding_opens_in_the_projector(tmp_path: Path) -> None:
    from google.protobuf import text_format
    from tensorboard.plugins.projector import projector_config_pb2

    sent = []
    for path, content in {
        "tensorboard/embeddings/00001/a/tensors.tsv": b"0.5\t1\n",
        "tensorboard/embeddings/projector_config.pbtxt": (
            b'embeddings {\n  tensor_name: "a:1"\n  tensor_path: "00001/a/tensors.tsv"\n}\n'
        ),
    }.items():
        source = tmp_path / path.replace("/", "_")
        source.write_bytes(content)
        sent.append(Artifact(path, str(source), len(content), TIME))
    backend, folder = opened(tmp_path / "runs")
    backend.write(Batch(sent, lane="heavy"))
    backend.close(RunStatus.FINISHED)
    config = text_format.Parse(
        (folder / "projector_config.pbtxt").read_text(), projector_config_pb2.ProjectorConfig()
    )
    [embedding] = config.embeddings
    assert embedding.tensor_name == "a:1"
    assert (folder / embedding.tensor_path).read_bytes() == b"0.5\t1\n"


def test_a_torn_frame_is_cut_when_the_file_is_opened(tmp_path: Path) -> None:
    backend, folder = opened(tmp_path)
    backend.write(Batch(curve("loss", 10)))
    backend.close(RunStatus.RUNNING)
    [path] = folder.glob("*.tracelet")
    whole = path.read_bytes()
    for length in range(len(whole) - 250, len(whole), 3):
        path.write_bytes(whole[:length])
        backend, _ = opened(tmp_path)
        backend.write(Batch(curve("loss", 10), resend=True))
        backend.close(RunStatus.RUNNING)
        steps = [e.step for e in events_in(folder) for v in e.summary.value if v.tag == "loss"]
        assert steps == list(range(10))


def test_a_step_that_an_event_cannot_hold_is_rejected_by_name(tmp_path: Path) -> None:
    backend, _ = opened(tmp_path)
    odd = [Metric("a", 1.0, 0.5, TIME), Metric("b", 1.0, 2**63, TIME), Metric("c", 1.0, 2.0, TIME)]
    with pytest.raises(RejectedError, match="a: TensorBoard has no step") as caught:
        backend.write(Batch(odd))
    assert caught.value.indexes == (0, 1)
    backend.close(RunStatus.RUNNING)


def test_a_table_is_markdown_and_no_cell_breaks_it(tmp_path: Path) -> None:
    backend, folder = opened(tmp_path)
    backend.write(Batch([Table("t", ("a|b", "c"), (("1\n2", 3),), 0, TIME)], lane="heavy"))
    backend.close(RunStatus.FINISHED)
    [value] = [v for e in events_in(folder) for v in e.summary.value if v.tag == "t"]
    text = tensor_util.make_ndarray(value.tensor).item().decode()
    assert text == "| a\\|b | c |\n| --- | --- |\n| 1<br>2 | 3 |\n"


def test_an_empty_histogram_is_no_obstacle(tmp_path: Path) -> None:
    backend, folder = opened(tmp_path)
    record = Histogram("h", (0.0, 0.0), (0.0,), 0.0, 0.0, 0.0, 0.0, 1, TIME)
    backend.write(Batch([record], lane="heavy"))
    backend.close(RunStatus.FINISHED)
    assert shown(folder).PluginTagToContent("histograms").keys() == {"h"}


def test_a_block_that_ends_within_a_frame_is_read_on(tmp_path: Path) -> None:
    """The file is read in blocks; an event may be longer than one."""
    backend, folder = opened(tmp_path)
    large = Media("image", "large", b"\x89PNG\r\n\x1a\n" + bytes(3 << 20), "image/png", 1, TIME)
    backend.write(Batch([large], lane="heavy"))
    backend.write(Batch(curve("loss", 20_000)))
    backend.close(RunStatus.RUNNING)
    [path] = folder.glob("*.tracelet")
    events = EventsFile.reading(path)
    places = [entry.place for entry in events if entry.letter == "l"]
    events.close()
    assert places == list(range(20_000))


@pytest.mark.parametrize("fast", ["true", "false"])
def test_tensorboard_itself_serves_the_run(tmp_path: Path, fast: str) -> None:
    """With each of its two loaders: the faster one knows no tensor of doubles."""
    if fast == "true":
        pytest.importorskip("tensorboard_data_server")
    backend, _ = opened(tmp_path)
    backend.write(Batch([*curve("loss", 20), Param("lr", 0.1, TIME)]))
    backend.write(Batch(list(SAMPLES.values()), lane="heavy"))
    backend.close(RunStatus.FINISHED, TIME + 9)
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path)]
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port), "--load_fast", fast], stdout=log, stderr=log
        )

    def asked(path: str) -> Any:
        address = f"http://127.0.0.1:{port}/data/{path}"
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            return None

    try:
        points = "plugin/scalars/scalars?run=vision/baseline&tag=loss"
        assert soon(lambda: len(asked(points) or ()) == 20, 120), (tmp_path / "log").read_text()
        assert [(step, value) for _, step, value in asked(points)] == [
            (step, pytest.approx((step + 1) / 3)) for step in range(20)
        ]
        shown = ("histograms", "images", "audio", "text", "pr_curves", "mesh")
        assert {
            page: sorted(asked(f"plugin/{page}/tags")["vision/baseline"]) for page in shown
        } == {
            "histograms": ["weights/fc1"],
            "images": ["predictions", "rollout"],
            "audio": ["speech"],
            "text": ["confusion", "notes"],
            "pr_curves": ["eval/pr"],
            "mesh": ["shape"],
        }
        assert asked("plugin/graphs/info")["vision/baseline"]["run_graph"]
    finally:
        server.terminate()
        server.wait(30)
