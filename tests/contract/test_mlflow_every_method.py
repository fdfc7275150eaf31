"""
Every ``add_*`` method of both families of writers, through a whole run, into MLflow's own store.

What arrived is read with ``MlflowClient`` and nothing of ours, and opened with the program that it
is meant for: Pillow, NumPy, TensorBoard's own readers.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import wave
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import numpy as np
import pytest
from PIL import Image as Pillow

import tracelet
from frameworks.every_method import calls, onnx
from services.mlflow_reader import tracking
from tracelet.testing.samples import gif

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

GRID = re.compile(r"images/(.+)\+step\+(-?\d+)\+timestamp\+(\d+)\+[0-9a-f-]{36}\.png")


class Found(NamedTuple):
    """What MLflow's client says of a run."""

    metrics: Mapping[str, Sequence[tuple[int, float]]]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    files: Mapping[str, bytes]
    runs: int

    def one(self, pattern: str) -> bytes:
        """Return the only file whose whole path has this form."""
        [path] = [path for path in self.files if re.fullmatch(pattern, path)]
        return self.files[path]

    def picture(self, key: str, step: int) -> Any:
        """Return what the image grid shows under a key at a step, and that its card is whole."""
        shown = {}
        for path, data in self.files.items():
            found = GRID.fullmatch(path)
            if found and (found[1].replace("~", "/"), int(found[2])) == (key, step):
                stem = path[: -len(".png")]
                assert {f"{stem}+compressed.png", f"{stem}+compressed.webp"} & set(self.files)
                shown[path] = data
        [data] = shown.values()
        assert self.tags["mlflow.loggedImages"] == "true"
        with Pillow.open(io.BytesIO(data)) as picture:
            picture.load()
            return picture.copy() if not getattr(picture, "is_animated", False) else picture


def found(url: str, run_id: str, folder: Path) -> Found:
    with tracking(url) as client:
        run = client.get_run(run_id)
        place = Path(client.download_artifacts(run_id, "", str(folder)))
        listed: list[str] = []
        folders = [""]
        while folders:
            for item in client.list_artifacts(run_id, folders.pop()):
                (folders if item.is_dir else listed).append(item.path)
        metrics = {
            key: [(point.step, point.value) for point in client.get_metric_history(run_id, key)]
            for key in run.data.metrics
        }
        runs = len(client.search_runs([run.info.experiment_id]))
    files = {path: (place / path).read_bytes() for path in sorted(listed)}
    return Found(metrics, run.data.params, run.data.tags, files, runs)


# -- what each call leaves --------------------------------------------------------------------


def events(data: bytes) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event

    return Event.FromString(data)


def scalar(run: Found) -> None:
    assert run.metrics["a loss"] == [(1, 0.1)]


def scalars(run: Found) -> None:
    assert run.metrics["many/x y"] == [(2, 0.1)]
    assert run.metrics["many/z"] == [(2, 0.2)]


BUCKETS = "tensorboard/data/histograms-0001.jsonl.gz"


def histogram(run: Found) -> None:
    assert b'"a hist"' in run.files["tensorboard/histograms.html"]
    lines = gzip.decompress(run.files[BUCKETS]).splitlines()
    assert {"a hist", "raw hist"} <= {json.loads(line)["key"] for line in lines}
    assert run.picture("histograms/a hist", 0).size == (480, 480)


def raw_histogram(run: Found) -> None:
    lines = gzip.decompress(run.files[BUCKETS]).splitlines()
    [bucket] = [one for one in map(json.loads, lines) if one["key"] == "raw hist"]
    assert bucket["counts"] == [1, 2, 3]


def image(run: Found) -> None:
    assert run.picture("an image", 4).size == (8, 8)


def images(run: Found) -> None:
    assert run.picture("the images", 4).size == (16, 8)


def boxes(run: Found) -> None:
    assert run.picture("boxes", 4).size == (8, 8)


def figure(run: Found) -> None:
    assert run.picture("a figure", 4).size == (20, 20)


def video(run: Found) -> None:
    """moviepy 2 is more than the writers understand: the value that they write has no image."""
    path = [path for path in run.files if path.startswith("tensorboard/video/a video/")]
    if path:
        assert run.files[path[0]][:4] == b"GIF8"
        assert run.picture("a video", 5).format == "GIF"
    else:
        assert run.one(r"tensorboard/raw/raw/a video/step_000005_\w+\.pb")


def audio(run: Found) -> None:
    with wave.open(io.BytesIO(run.one(r"tensorboard/audio/a sound/step_000006_\w+\.wav"))) as file:
        assert file.getnframes() == 100


def text(run: Found) -> None:
    page = run.files["tensorboard/text/a text.md"].decode()
    assert page.startswith("# a text\n")
    assert "### Step 7 · " in page
    assert page.endswith("\n\n*hello*\n")


def tensor(run: Found) -> None:
    data = run.one(r"tensorboard/tensors/a tensor/step_000009_\w+\.npy")
    assert np.load(io.BytesIO(data)).tolist() == [0.0, 1.0, 2.0]
    shown = json.loads(run.one(r"tensorboard/tensors/a tensor/step_000009_\w+\.json"))
    assert (shown["shape"], shown["values"], shown["mean"]) == ([3], [0.0, 1.0, 2.0], 1.0)


def curve(run: Found) -> None:
    assert run.picture("a curve", 8).size == (512, 256)
    raw = events(run.one(r"tensorboard/raw/pr_curve/a curve/step_000008_\w+\.pb"))
    rows = np.array(raw.summary.value[0].tensor.float_val).reshape(6, -1)
    shown = json.loads(run.one(r"tensorboard/pr_curves/a curve/step_000008_\w+\.json"))
    assert [shown["precision"], shown["recall"]] == rows[4:].tolist()
    assert shown["true_positives"] == rows[0].tolist()
    assert shown["thresholds"] == pytest.approx(np.linspace(0, 1, rows.shape[1]).tolist())


def raw_curve(run: Found) -> None:
    shown = json.loads(run.one(r"tensorboard/pr_curves/a raw curve/step_000008_\w+\.json"))
    assert shown["true_negatives"] == [1, 2, 3]
    assert shown["recall"] == pytest.approx([0.1, 0.2, 0.3])
    assert run.picture("a raw curve", 8).size == (512, 256)


def mesh(run: Found) -> None:
    data = run.one(r"tensorboard/meshes/a mesh/step_000010_\w+\.ply")
    assert b"element vertex 4\n" in data
    assert b"element face 2\n" in data
    assert b"a mesh" in run.one(r"tensorboard/meshes/a mesh/step_000010_\w+\.html")
    assert run.picture("a mesh", 10).size == (512, 256)
    raw = events(run.one(r"tensorboard/raw/mesh/a mesh/step_000010_\w+\.pb"))
    vertices, faces = (value.tensor for value in raw.summary.value)
    body = data[data.index(b"end_header\n") + 11 :]
    points = np.frombuffer(body[: 4 * 12], "<f4")
    assert points.tolist() == list(vertices.float_val)
    corners = np.frombuffer(body[4 * 12 :], [("n", "u1"), ("corners", "<u4", 3)])
    assert corners["corners"].ravel().tolist() == list(faces.float_val)


def layouts(run: Found) -> None:
    categories = json.loads(run.files["tensorboard/custom_scalars.json"])["categories"]
    shown = {one["title"]: one["charts"] for one in categories}
    assert shown["multi"][0]["kind"] == "multiline"
    assert shown["margin"][0]["kind"] == "margin"
    assert shown["all"] == [
        {"title": "one", "kind": "multiline", "tags": ["a", "b"], "metrics": ["a loss", "accuracy"]}
    ]
    raw = [path for path in run.files if path.startswith("tensorboard/raw/custom_scalars/")]
    assert len(raw) == 4


def graphs(run: Found) -> None:
    from google.protobuf import text_format
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    pages = [path for path in run.files if re.fullmatch(r"tensorboard/graphs/.+\.html", path)]
    for page in pages:
        stem = page[: -len(".html")]
        raw = events(run.files[stem.replace("/graphs/", "/raw/graph/") + ".pb"])
        graph = GraphDef.FromString(raw.graph_def)
        said = text_format.Parse(run.files[stem + ".pbtxt.txt"].decode(), GraphDef())
        assert said == graph
        for node in graph.node:
            assert json.dumps(node.name).encode() in run.files[page]
    operations = b"".join(run.files[page] for page in pages)
    assert b"aten::linear" in operations
    assert b"Relu" in operations


def embedding(run: Found) -> None:
    assert run.one(r"tensorboard/embeddings/00000/e~2Fx/tensors\.tsv").count(b"\n") == 4
    assert run.one(r"tensorboard/embeddings/00000/e~2Fx/metadata\.tsv") == b"a\nb\nc\nd\n"
    assert b"e/x:00000" in run.one(r"tensorboard/embeddings/00000/e~2Fx/scatter\.html")


def hparams(run: Found) -> None:
    assert run.params["lr"] == "0.1"
    assert run.params["layers"] == "3"
    assert run.params["name"] == "x"
    assert [value for _, value in run.metrics["accuracy"]] == [0.75]
    assert run.runs == 1


LANDS: Mapping[str, Callable[[Found], None]] = {
    "add_scalar": scalar,
    "add_scalars": scalars,
    "add_histogram": histogram,
    "add_histogram_raw": raw_histogram,
    "add_image": image,
    "add_images": images,
    "add_image_with_boxes": boxes,
    "add_figure": figure,
    "add_video": video,
    "add_audio": audio,
    "add_text": text,
    "add_tensor": tensor,
    "add_pr_curve": curve,
    "add_pr_curve_raw": raw_curve,
    "add_mesh": mesh,
    "add_custom_scalars": layouts,
    "add_custom_scalars_multilinechart": layouts,
    "add_custom_scalars_marginchart": layouts,
    "add_graph": graphs,
    "add_onnx_graph": graphs,
    "add_openvino_graph": graphs,
    "add_embedding": embedding,
    "add_hparams": hparams,
}


@pytest.fixture
def url(tmp_path: Path, fresh_database: Path) -> str:
    (tmp_path / "mlflow.db").write_bytes(fresh_database.read_bytes())
    return f"sqlite:///{tmp_path}/mlflow.db"


def writer_of(family: str, folder: Path) -> Any:
    if family == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter
    else:
        from tensorboardX import SummaryWriter
    return SummaryWriter(str(folder))


def recorded(url: str, family: str, folder: Path, write: Callable[[Any], None]) -> Found:
    run = tracelet.start_logging(backend="mlflow", backend_url=url, config={"silent": True})
    writer = writer_of(family, folder / "logs")
    write(writer)
    writer.close()
    remote = run.remote()
    report = run.stop(timeout=90)
    assert report.complete, str(report)
    return found(url, remote.id, folder)


# -- the same call in all its forms -----------------------------------------------------------


def boxed(picture: Any) -> Any:
    """Return one colour for each quarter, so that a turned or mirrored picture is seen."""
    high, wide = picture.shape[1:]
    picture[0, : high // 2, : wide // 2] = 1.0
    picture[1, high // 2 :, : wide // 2] = 1.0
    picture[2, : high // 2, wide // 2 :] = 1.0
    return picture


def quarters(picture: Any) -> list[Any]:
    """Return the colours in the middle of the four quarters."""
    shown, (wide, high) = picture.convert("RGB"), picture.size
    places = [(1, 1), (3, 1), (1, 3), (3, 3)]
    return [shown.getpixel((wide * x // 4, high * y // 4)) for x, y in places]


WHOLE = [(255, 0, 0), (0, 0, 255), (0, 255, 0), (0, 0, 0)]


def write_pictures(writer: Any) -> None:
    from matplotlib.figure import Figure

    chw = boxed(np.zeros((3, 16, 24), "float32"))
    writer.add_image("chw", chw, 1)
    writer.add_image("hwc", chw.transpose(1, 2, 0), 1, dataformats="HWC")
    writer.add_image("hw", chw[0], 1, dataformats="HW")
    writer.add_image("bytes", (chw * 255).astype("uint8"), 1)
    writer.add_images("nchw", np.stack([chw] * 4), 1)
    writer.add_images("nhwc", np.stack([chw.transpose(1, 2, 0)] * 4), 1, dataformats="NHWC")
    writer.add_image_with_boxes("boxed", chw, np.array([[2, 2, 20, 12]]), 1, labels=["cat"])
    figures = []
    for height in (1, 2):
        figure = Figure((2, 2), dpi=40)
        figure.subplots().bar([1], [height])
        figures.append(figure)
    writer.add_figure("figure", figures[0], 1, close=False)
    writer.add_figure("figures", figures, 1, close=False)
    for step in range(3):
        writer.add_image("steps/of one", chw * step / 2, step * 10)
    write_film(writer)


def write_film(writer: Any) -> None:
    """Write what ``add_video`` does where moviepy is as old as the writers want it."""
    if "torch" in type(writer).__module__:
        from tensorboard.compat.proto.summary_pb2 import Summary
    else:
        from tensorboardX.proto.summary_pb2 import Summary
    image = Summary.Image(height=1, width=1, colorspace=3, encoded_image_string=gif())
    film = Summary(value=[Summary.Value(tag="film", image=image)])
    writer._get_file_writer().add_summary(film, 1)


def check_pictures(run: Found) -> None:
    for key in ("chw", "hwc", "bytes"):
        assert quarters(run.picture(key, 1)) == WHOLE
        assert run.picture(key, 1).size == (24, 16)
    assert quarters(run.picture("hw", 1)) == [(255,) * 3, *[(0,) * 3] * 3]
    for key in ("nchw", "nhwc"):
        picture = run.picture(key, 1)
        assert (picture.width * picture.height) == 4 * 24 * 16
        assert quarters(picture.crop((0, 0, 24, 16))) == WHOLE
    box = run.picture("boxed", 1).convert("RGB")
    assert box.size == (24, 16)
    assert box.getpixel((10, 2)) == (255, 0, 0)
    assert run.picture("figure", 1).size == (80, 80)
    assert run.picture("figures", 1).width * run.picture("figures", 1).height >= 2 * 80 * 80
    slider = [run.picture("steps/of one", step).convert("L") for step in (0, 10, 20)]
    lightness = [picture.getpixel((3, 3)) for picture in slider]
    assert run.one(r"tensorboard/video/film/step_000001_\w+\.gif") == gif()
    film = run.picture("film", 1)
    assert (film.format, film.n_frames) == ("GIF", 2)
    assert lightness == sorted(lightness)
    assert lightness[0] == 0


DOMAINS = {"lr": [0.1, 0.01], "opt": ["adam", "sgd"]}


def write_words(writer: Any) -> None:
    writer.add_text("table", "| a | b |\n|---|---|\n| 1 | **2** |", 1)
    writer.add_text("table", "second", 2)
    # tensorboardX has no argument for the domains.
    more = {"hparam_domain_discrete": DOMAINS} if "torch" in type(writer).__module__ else {}
    writer.add_hparams({"lr": 0.1, "opt": "adam"}, {"hp/accuracy": 0.5}, **more)
    writer.add_custom_scalars({"Loss": {"both": ["Multiline", [r"loss/.*"]]}})
    writer.add_scalar("loss/train", 1.0, 1)
    writer.add_scalar("loss/val", 2.0, 1)


def check_words(run: Found, family: str) -> None:
    page = run.files["tensorboard/text/table.md"].decode()
    assert "\n\n| a | b |\n|---|---|\n| 1 | **2** |\n" in page
    assert page.index("### Step 1 ") < page.index("### Step 2 ")
    assert (run.params["lr"], run.params["opt"]) == ("0.1", "adam")
    assert [value for _, value in run.metrics["hp/accuracy"]] == [0.5]
    assert run.runs == 1
    described = [path for path in run.files if path.startswith("tensorboard/hparams/")]
    assert len(described) == (family == "tensorboard")
    for path in described:
        said = json.loads(run.files[path])["hparams"]
        assert {one["name"]: one["domain_discrete"] for one in said} == DOMAINS
    categories = json.loads(run.files["tensorboard/custom_scalars.json"])["categories"]
    [category] = [one for one in categories if one["title"] == "Loss"]
    assert category["charts"][0]["metrics"] == ["loss/train", "loss/val"]


def write_embeddings(writer: Any) -> None:
    import torch

    matrix = np.arange(12.0).reshape(4, 3)
    pictures = torch.rand(4, 3, 8, 8)
    writer.add_embedding(matrix, ["a", "b", "c", "d"], pictures, 1, tag="in/put")
    writer.add_embedding(matrix * 2, global_step=2, tag="in/put")
    rows = [["a", "1"], ["b", "2"], ["c", "3"], ["</script>", "4"]]
    writer.add_embedding(matrix, rows, metadata_header=["name", "id"], tag="ü" * 20)


def check_embeddings(run: Found, folder: Path) -> None:
    """Open the downloaded folder with the code of TensorBoard's projector."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
    from werkzeug.test import Client

    logdir = str(folder / "tensorboard" / "embeddings")
    multiplexer = EventMultiplexer().AddRunsFromDirectory(logdir)
    plugin = ProjectorPlugin(
        TBContext(logdir=logdir, data_provider=MultiplexerDataProvider(multiplexer, logdir))
    )
    pages = plugin.get_plugin_apps()

    def get(page: str, **query: str) -> Any:
        answer = Client(pages[page]).get("/", query_string={"run": ".", **query})
        assert answer.status_code == 200, answer.text
        return answer

    assert get("/runs").json == ["."]
    known = {one["tensorName"]: one for one in get("/info").json["embeddings"]}
    names = ["in/put:00001", "in/put:00002", "ü" * 20 + ":00000"]
    assert list(known) == ["e/x:00000", *names]
    numbers = np.frombuffer(get("/tensor", name=names[1]).data, "float32")
    assert numbers.tolist() == (np.arange(12) * 2).tolist()
    assert get("/metadata", name=names[0]).text == "a\nb\nc\nd\n"
    assert get("/metadata", name=names[2]).text.startswith("name\tid\na\t1\n")
    assert get("/sprite_image", name=names[0]).data.startswith(b"\x89PNG")
    scatters = [path for path in run.files if path.endswith("/scatter.html")]
    assert len(scatters) == 4
    assert all(run.files[path].count(b"</script") == 2 for path in scatters)


# -- all of it ----------------------------------------------------------------------------------


@pytest.mark.figure(2)
@pytest.mark.parametrize("family", ["tensorboard", "tensorboardx"])
def test_every_method_lands_where_the_table_says(
    family: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    if family == "tensorboardx":
        pytest.importorskip("soundfile")
    monkeypatch.setitem(sys.modules, "onnx", onnx())
    given = calls(family, tmp_path)
    names = set(given)

    def write(writer: Any) -> None:
        assert names == {name for name in dir(writer) if name.startswith("add_")}
        assert len(names) == 22
        for name, (args, kwargs) in given.items():
            getattr(writer, name)(*args, **kwargs)
        write_pictures(writer)
        write_words(writer)
        write_embeddings(writer)

    run = recorded(url, family, tmp_path, write)
    for name in sorted(names):
        LANDS[name](run)
    check_pictures(run)
    check_words(run, family)
    check_embeddings(run, tmp_path)
    # Nothing is written that this table does not know.
    known = re.compile(
        r"images/.+|tensorboard/(audio|data|embeddings|graphs|hparams|meshes|pr_curves|raw|tensors"
        r"|text|video)/.+|tensorboard/(histograms\.html|custom_scalars\.json)"
        r"|tracelet/context\.json"
    )
    assert [path for path in run.files if not known.fullmatch(path)] == []
