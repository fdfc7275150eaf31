"""From an event to something to look at, without a store: what is drawn is what was logged."""

from __future__ import annotations

import io
import json
import math
import re
import struct
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from tracelet.backends.mlflow.embeddings import Embeddings
from tracelet.backends.mlflow.layouts import Layouts
from tracelet.backends.mlflow.render import FOLDERS, Rendering, render
from tracelet.backends.mlflow.render.thinning import thinned
from tracelet.records import Media
from tracelet.testing.samples import SAMPLES, TIME
from tracelet.tfevents.decode import decode
from tracelet.tfevents.meshes import read_meshes

pytest.importorskip("tensorboard")

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "]]>",
    "'\"\\`${x}",
    "\u2028\u2029",
    "&lt;img src=x onerror=alert(1)>",
    "\x00\x1f",
    "\ud800",
    "@DATA@",
    "x" * 5000,
]


def media_of(event: bytes, name: Optional[str] = None) -> Media:
    [media] = decode(event, "", None if name is None else {"tag": name})
    assert isinstance(media, Media)
    return media


def summary(value: Any, step: int = 3) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event

    data: bytes = Event(wall_time=TIME, step=step, summary=value).SerializeToString()
    return data


def file(rendering: Rendering, ending: str) -> bytes:
    [data] = [one.data for one in rendering.files if one.ending == ending]
    return data


def pixels(data: Optional[bytes]) -> Any:
    with Pillow.open(io.BytesIO(data or b"")) as picture:
        picture.load()
        assert (picture.format, picture.size) == ("PNG", (512, 256))
        return np.asarray(picture.convert("RGB")).astype(int)


def data_of(page: bytes) -> Any:
    """Return what a page draws, after a look that no text of the run got out of its place."""
    text = page.decode()
    assert text.count("<script") == 2
    assert text.count("</script") == 2
    assert "<!--" not in text
    before, found, after = re.split(
        r'<script type="application/json" id="data">(.*?)</script>',
        text,
        maxsplit=1,
        flags=re.DOTALL,
    )
    assert not re.search(r"https?://|\b(src|href)=|@import|localStorage|fetch\(", before + after)
    return json.loads(found)


# -- precision-recall curves ------------------------------------------------------------------


def curve(**rows: Sequence[float]) -> Media:
    return Media("pr_curve", "eval/pr", b"", "", 3, TIME, meta=rows)


def flat(precision: Sequence[float], recall: Sequence[float]) -> Media:
    ones = [1.0] * len(recall)
    return curve(
        true_positives=ones,
        false_positives=ones,
        true_negatives=ones,
        false_negatives=ones,
        precision=precision,
        recall=recall,
    )


def test_a_curve_is_drawn_where_its_numbers_are() -> None:
    drawn = pixels(render(flat([0.75] * 11, [n / 10 for n in range(11)])).picture)
    blue = (drawn[:, :, 0] < 60) & (drawn[:, :, 2] > 120)
    rows, columns = np.nonzero(blue)
    # The frame goes from (84, 16) to (480, 212).
    assert abs(rows.mean() - (16 + 0.25 * 196)) < 1.5
    assert columns.min() == pytest.approx(84, abs=3)
    assert columns.max() == pytest.approx(480, abs=3)


def test_a_curve_ends_where_nothing_is_called_positive() -> None:
    found = curve(
        true_positives=[4.0, 2.0, 0.0],
        false_positives=[4.0, 0.0, 0.0],
        true_negatives=[0.0, 4.0, 4.0],
        false_negatives=[0.0, 2.0, 4.0],
        precision=[0.5, 1.0, 0.0],
        recall=[1.0, 0.5, 0.0],
    )
    numbers = json.loads(file(render(found), ".json"))
    assert numbers["thresholds"] == [0.0, 0.5, 1.0]
    assert numbers["precision"] == [0.5, 1, 0]
    # As scikit-learn counts it: 0.5 * 1.0 + 0.5 * 0.5.
    assert numbers["average_precision"] == 0.75


def test_the_numbers_of_a_curve_are_exact() -> None:
    pytest.importorskip("torch")
    from torch.utils.tensorboard.summary import pr_curve_raw

    rng = np.random.default_rng(0)
    rows = [rng.random(7).astype("float32") * 1000 for _ in range(6)]
    event = summary(pr_curve_raw("c", *rows, num_thresholds=7))
    numbers = json.loads(file(render(media_of(event)), ".json"))
    names = "true_positives false_positives true_negatives false_negatives precision recall"
    for name, row in zip(names.split(), rows):
        assert np.array(numbers[name], dtype="float32").tolist() == row.tolist()


@pytest.mark.parametrize(
    "found",
    [
        flat([], []),
        flat([math.nan, math.inf], [math.nan, -math.inf]),
        curve(precision=[1.0], recall=[1.0]),
        Media("pr_curve", "c", b"", "", None, TIME, meta={}),
        Media("pr_curve", "c", b"\xff", "", None, TIME, meta={"precision": "x", "recall": 7}),
    ],
)
def test_a_curve_without_points_is_not_drawn(found: Media) -> None:
    made = render(found)
    assert made.picture is None
    for one in made.files:
        json.loads(one.data, parse_constant=pytest.fail)


@pytest.mark.parametrize("number", [-5.0, 0.0, 1.0, 7.0])
def test_a_curve_of_one_point(number: float) -> None:
    assert pixels(render(flat([number], [number])).picture).shape == (256, 512, 3)


# -- meshes -----------------------------------------------------------------------------------


def mesh_event(
    vertices: Any, faces: Any = None, colours: Any = None, config: Any = None, name: str = "body"
) -> bytes:
    torch = pytest.importorskip("torch")
    from torch.utils.tensorboard import summary as torchs

    def tensor(found: Any) -> Any:
        return None if found is None else torch.as_tensor(np.asarray(found, dtype="float32"))

    return summary(torchs.mesh(name, tensor(vertices), tensor(colours), tensor(faces), config))


def sphere(rings: int) -> tuple[Any, Any]:
    """Return vertices and faces of a closed ball of radius 3 around (10, 0, 0)."""
    low, turn = np.meshgrid(
        np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, rings * 2), indexing="ij"
    )
    points = np.stack([np.sin(low) * np.cos(turn), np.cos(low), np.sin(low) * np.sin(turn)], -1)
    wide = rings * 2
    i, j = np.meshgrid(np.arange(rings), np.arange(wide - 1), indexing="ij")
    a, b, c, d = i * wide + j, (i + 1) * wide + j, (i + 1) * wide + j + 1, i * wide + j + 1
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]).reshape(1, -1, 3)
    return points.reshape(1, -1, 3) * 3 + [10, 0, 0], faces


def read_ply(data: bytes) -> tuple[Any, Any]:
    """Read a PLY file by its own header."""
    head, _, body = data.partition(b"end_header\n")
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    elements: dict[str, tuple[int, list[Any]]] = {}
    for line in lines[2:]:
        words = line.split()
        if words[0] == "element":
            name = words[1]
            elements[name] = (int(words[2]), [])
        elif words[1] == "list":
            elements[name][1].extend([("n", "u1"), ("corners", "<u4", 3)])
        else:
            elements[name][1].append((words[2], {"float": "<f4", "uchar": "u1"}[words[1]]))
    found = {}
    for name, (count, kind) in elements.items():
        size = np.dtype(kind).itemsize * count
        found[name] = np.frombuffer(body[:size], kind)
        body = body[size:]
    assert body == b""
    return found["vertex"], found.get("face")


def test_a_mesh_is_whole_in_its_file_and_in_its_page() -> None:
    points, faces = sphere(8)
    colours = np.random.default_rng(0).integers(0, 256, points.shape)
    made = render(media_of(mesh_event(points, faces, colours, {"camera": {"fov": 75}})))
    vertices, triangles = read_ply(file(made, ".ply"))
    assert np.stack([vertices[a] for a in "xyz"], -1).tolist() == points[0].astype("f4").tolist()
    assert np.stack([vertices[c] for c in ("red", "green", "blue")], -1).tolist() == (
        colours[0].tolist()
    )
    assert set(triangles["n"]) == {3}
    assert triangles["corners"].tolist() == faces[0].tolist()
    shown = data_of(file(made, ".html"))
    assert (shown["key"], shown["step"], shown["fov"]) == ("body", 3, 75)
    [body] = shown["bodies"]
    assert np.frombuffer(b64decode(body["faces"]), "<u4").tolist() == faces.ravel().tolist()
    drawn = np.frombuffer(b64decode(body["points"]), "<i2").reshape(-1, 3) / 32767
    low, high = points[0].min(0), points[0].max(0)
    wanted = (points[0] - (low + high) / 2) / (high - low).max() * 2
    assert drawn == pytest.approx(wanted, abs=1e-4)
    assert body["low"] == pytest.approx(low.tolist(), abs=1e-6)


def test_the_picture_of_a_mesh_shows_it() -> None:
    points, faces = sphere(24)
    red = np.broadcast_to([200, 10, 10], points.shape)
    drawn = pixels(render(media_of(mesh_event(points, faces, red))).picture)
    painted = (drawn != 250).any(-1)
    # A ball is a disc from everywhere, 116 pixels in radius.
    assert painted.sum() == pytest.approx(math.pi * 116**2, rel=0.05)
    assert (drawn[painted][:, 0] > 3 * drawn[painted][:, 1]).all()
    # In the light, and whole: no holes.
    assert painted[128, 256 - 100 : 256 + 100].all()
    assert drawn[90, 240, 0] > drawn[200, 300, 0] + 30


def test_the_nearer_thing_hides_the_farther_one() -> None:
    plate = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    far = np.column_stack([plate * 0.8, [-1] * 4])
    near = np.column_stack([plate * 0.8, [1] * 4])
    colours = [[0, 0, 255]] * 4 + [[255, 0, 0]] * 4
    faces = [[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]]
    for order in (faces, faces[::-1]):
        event = mesh_event([np.concatenate([far, near])], [order], [colours])
        drawn = pixels(render(media_of(event)).picture)
        red, blue = (drawn[:, :, 0] > 120).sum(), (drawn[:, :, 2] > 120).sum()
        middle = drawn[128, 256]
        assert red > 0
        assert blue > 0
        assert middle[0] > 100 > middle[2]


def test_a_batch_has_one_page_and_a_file_for_each_member() -> None:
    clouds = np.random.default_rng(1).normal(size=(3, 50, 3))
    made = render(media_of(mesh_event(clouds)))
    for number in range(3):
        vertices, triangles = read_ply(file(made, f"_{number}.ply"))
        assert triangles is None
        assert vertices["x"].tolist() == clouds[number, :, 0].astype("f4").tolist()
    assert data_of(file(made, ".html"))["members"] == 3
    assert (pixels(made.picture) != 250).any(-1).sum() > 100


def test_a_large_batch_has_a_bounded_number_of_files() -> None:
    clouds = np.arange(300 * 6.0).reshape(300, 2, 3)
    made = render(media_of(mesh_event(clouds)))
    shown = data_of(file(made, ".html"))
    assert (shown["members"], len(shown["bodies"])) == (300, 32)
    assert [one.ending for one in made.files[1:]] == [f"_{number}.ply" for number in range(256)]
    vertices, _ = read_ply(file(made, "_255.ply"))
    assert vertices["x"].tolist() == clouds[255, :, 0].tolist()


@pytest.mark.parametrize("shape", [(2**40, 0, 3), (2**40, 2**20, 3), (0, 2**60, 3)])
def test_a_mesh_that_claims_more_than_it_has_costs_nothing(shape: Sequence[int]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event

    event = Event.FromString(mesh_event(np.zeros((1, 1, 3))))
    tensor = event.summary.value[0].tensor
    for dim, size in zip(tensor.tensor_shape.dim, shape):
        dim.size = size
    del tensor.float_val[:]
    assert render(Media("mesh", "m", event.SerializeToString(), "", 3, TIME)).files == []


def test_a_large_surface_is_thinned_without_holes() -> None:
    points, faces = sphere(200)
    event = mesh_event(points, faces)
    made = render(media_of(event))
    assert len(file(made, ".html")) < 1_500_000
    vertices, triangles = read_ply(file(made, ".ply"))
    assert (len(vertices), len(triangles)) == (points.shape[1], faces.shape[1])
    [body] = data_of(file(made, ".html"))["bodies"]
    assert (body["vertices"], body["triangles"]) == (points.shape[1], faces.shape[1])
    shown = np.frombuffer(b64decode(body["faces"]), "<u4")
    assert 10_000 < len(shown) / 3 <= 60_000
    drawn = np.frombuffer(b64decode(body["points"]), "<i2").reshape(-1, 3) / 32767
    assert np.hypot(drawn[:, 0], np.hypot(drawn[:, 1], drawn[:, 2])) == pytest.approx(1, abs=0.03)
    painted = (pixels(made.picture) != 250).any(-1)
    assert painted[128, 256 - 110 : 256 + 110].all()
    _, [mesh] = read_meshes(event, 1)
    assert len(thinned(mesh, 1000).faces) <= 1000


def test_a_large_cloud_is_thinned_over_its_whole_length() -> None:
    line = np.zeros((1, 200_000, 3))
    line[0, :, 0] = np.arange(200_000)
    made = render(media_of(mesh_event(line)))
    [body] = data_of(file(made, ".html"))["bodies"]
    drawn = np.frombuffer(b64decode(body["points"]), "<i2").reshape(-1, 3) / 32767
    assert 20_000 < len(drawn) <= 60_000
    assert (drawn[0, 0], drawn[-1, 0]) == (-1, 1)
    assert len(read_ply(file(made, ".ply"))[0]) == 200_000


def test_more_numbers_than_a_record_may_have_fields() -> None:
    """The limit of the decoder is on fields; what lies side by side is no field each."""
    cloud = np.random.default_rng(2).random((1, 400_000, 3))
    assert len(read_ply(file(render(media_of(mesh_event(cloud))), ".ply"))[0]) == 400_000


def test_what_is_no_number_is_not_drawn_and_not_lost() -> None:
    points = [[[0, 0, 0], [1, 0, 0], [0, 1, 0], [math.nan, 0, 0], [math.inf, 1, 1]]]
    faces = [[[0, 1, 2], [0, 1, 3], [1, 2, 4], [0, 1, 9], [-1, 0, 1], [math.nan, 0, 1]]]
    made = render(media_of(mesh_event(points, faces, np.full((1, 5, 3), 90.0))))
    vertices, triangles = read_ply(file(made, ".ply"))
    assert np.isnan(vertices["x"][3])
    assert triangles["corners"].tolist() == [[0, 1, 2], [0, 1, 3], [1, 2, 4]]
    [body] = data_of(file(made, ".html"))["bodies"]
    assert len(b64decode(body["points"])) == 3 * 6
    assert np.frombuffer(b64decode(body["faces"]), "<u4").tolist() == [0, 1, 2]
    assert made.picture is not None


@pytest.mark.parametrize(
    "points",
    [
        np.full((1, 3, 3), np.nan),
        np.zeros((1, 1, 3)),
        np.zeros((1, 0, 3)),
        np.zeros((0, 3, 3)),
        np.full((1, 4, 3), 3e38) * np.array([[1], [-1], [1], [-1]]),
        np.full((1, 2, 3), 1e-45),
    ],
    ids=range(6),
)
def test_odd_meshes(points: Any) -> None:
    made = render(media_of(mesh_event(points, np.zeros((1, 2, 3)))))
    for one in made.files:
        if one.ending == ".html":
            data_of(one.data)


@pytest.mark.parametrize("config", ["no json", [], {"camera": 7}, {"camera": {"fov": "x"}}, None])
def test_a_configuration_that_says_nothing_changes_nothing(config: Any) -> None:
    made = render(media_of(mesh_event(np.zeros((1, 3, 3)), config=config)))
    assert data_of(file(made, ".html"))["fov"] == 40


def test_a_mesh_of_tensorflow_is_read_too() -> None:
    """Its tensors are raw arrays of their own types."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.mesh import metadata
    from tensorboard.plugins.mesh.plugin_data_pb2 import MeshPluginData
    from tensorboard.util.tensor_util import make_tensor_proto

    parts = {
        MeshPluginData.VERTEX: np.arange(9, dtype="float32").reshape(1, 3, 3),
        MeshPluginData.FACE: np.array([[[2, 1, 0]]], dtype="int32"),
        MeshPluginData.COLOR: np.array([[[1, 2, 3], [4, 5, 6], [7, 8, 255]]], dtype="uint8"),
    }
    values = []
    for kind, numbers in parts.items():
        meta = metadata.create_summary_metadata("m", None, kind, 14, numbers.shape, None, "{}")
        values.append(
            Summary.Value(
                tag=metadata.get_instance_name("m", kind),
                tensor=make_tensor_proto(numbers),
                metadata=meta,
            )
        )
    vertices, triangles = read_ply(file(render(media_of(summary(Summary(value=values)))), ".ply"))
    assert vertices["x"].tolist() == [0, 3, 6]
    assert vertices["blue"].tolist() == [3, 6, 255]
    assert triangles["corners"].tolist() == [[2, 1, 0]]


# -- graphs -----------------------------------------------------------------------------------


def graph_event(graph: Any) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event

    data: bytes = Event(wall_time=TIME, graph_def=graph.SerializeToString()).SerializeToString()
    return data


def full_graph() -> Any:
    """Return a graph with every kind of attribute, a function, and names that are hard to quote."""
    from google.protobuf import text_format
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    return text_format.Parse(
        r"""
        node {
          name: "net/a \"quoted\"\n\\ name" op: "Conv" device: "/gpu:0"
          input: "x:0" input: "^control"
          attr { key: "b" value { b: true } }
          attr { key: "f" value { f: 0.1 } }
          attr { key: "i" value { i: -7 } }
          attr { key: "nan" value { f: nan } }
          attr { key: "s" value { s: "\377\000\303\244" } }
          attr { key: "type" value { type: DT_FLOAT_REF } }
          attr { key: "shape" value { shape { dim { size: -1 } dim { size: 3 name: "c" } } } }
          attr { key: "none" value { shape { unknown_rank: true } } }
          attr { key: "held" value { placeholder: "T" } }
          attr { key: "call" value { func {
            name: "g" attr { key: "T" value { type: DT_INT8 } } } } }
          attr { key: "list" value { list {
            i: 1 i: -2 f: 1.5 f: -inf b: false type: DT_HALF s: "x" shape { dim { size: 2 } }
            tensor { dtype: DT_INT32 int_val: -1 } func { name: "h" } } } }
          attr { key: "tensor" value { tensor {
            dtype: DT_DOUBLE tensor_shape { dim { size: 2 } } double_val: 0.1 double_val: 1e300
            string_val: "\001" int64_val: -9 bool_val: true uint64_val: 18446744073709551615
            tensor_content: "\000\001" half_val: 3 float_val: 2 uint32_val: 7 } } }
        }
        node { name: "x" op: "Placeholder" }
        library { function { signature { name: "f" input_arg { name: "i" type: DT_BOOL } }
          node_def { name: "inner" op: "Neg" } ret { key: "o" value: "inner" } }
          gradient { function_name: "f" gradient_func: "df" } }
        versions { producer: 22 min_consumer: 3 bad_consumers: 4 }
        """,
        GraphDef(),
    )


def test_the_text_of_a_graph_is_read_back_as_the_same_graph() -> None:
    from google.protobuf import text_format
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    graph = full_graph()
    said = file(render(media_of(graph_event(graph))), ".pbtxt.txt").decode("ascii")
    again = text_format.Parse(said, GraphDef())
    assert again.SerializeToString(deterministic=True) == graph.SerializeToString(
        deterministic=True
    )


def test_the_page_of_a_graph_says_what_each_node_is() -> None:
    shown = data_of(file(render(media_of(graph_event(full_graph()))), ".html"))
    (name, op, shape, inputs, device, attributes), other = shown["nodes"]
    assert (name, op, device) == ('net/a "quoted"\n\\ name', "Conv", "/gpu:0")
    assert (shape, inputs) == ("?\u00d73", ["x:0", "^control"])
    said = dict(attributes)
    assert said["i"] == "i: -7"
    assert said["type"] == "type: DT_FLOAT_REF"
    assert said["shape"] == "?\u00d73"
    assert said["s"] == "\ufffd\x00\u00e4".replace("\x00", "\\x00")
    assert other[:2] == ["x", "Placeholder"]


def test_tensorboard_opens_the_event_file_of_a_graph(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    graph = full_graph()
    made = render(media_of(graph_event(graph)))
    (tmp_path / "step_000000_abcdef.tfevents").write_bytes(file(made, ".tfevents"))
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert found.Graph().SerializeToString(deterministic=True) == graph.SerializeToString(
        deterministic=True
    )


def test_ten_thousand_nodes_have_a_page_and_more_have_a_part_of_one() -> None:
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    graph = GraphDef()
    for number in range(10_000):
        node = graph.node.add(name=f"net/block{number // 100}/op{number}", op="Add")
        node.attr["T"].type = 1
    shown = data_of(file(render(media_of(graph_event(graph))), ".html"))
    assert (shown["total"], len(shown["nodes"])) == (10_000, 10_000)
    for number in range(10_001):
        graph.node.add(name=f"more{number}")
    page = file(render(media_of(graph_event(graph))), ".html")
    shown = data_of(page)
    assert (shown["total"], len(shown["nodes"])) == (20_001, 20_000)
    assert len(page) < 3_000_000


def test_a_graph_without_nodes_and_a_profile_are_kept_as_they_are() -> None:
    from tensorboard.compat.proto.event_pb2 import Event, TaggedRunMetadata
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    profile = TaggedRunMetadata(tag="step1", run_metadata=b"\n\0")
    assert render(media_of(graph_event(GraphDef(versions={"producer": 1})))).files == []
    assert render(media_of(Event(tagged_run_metadata=profile).SerializeToString())).files == []


# -- tensors and experiments ------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "float64",
        "float16",
        "bfloat16",
        "int8",
        "uint8",
        "int16",
        "int32",
        "int64",
        "bool",
    ],
)
def test_a_tensor_is_one_that_numpy_loads(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.tensorboard import summary as torchs

    numbers = torch.tensor([[0, 1, 5], [100, 2, 1]]).to(getattr(torch, dtype))
    made = render(media_of(summary(torchs.tensor_proto("t", numbers))))
    loaded = np.load(io.BytesIO(file(made, ".npy")))
    assert loaded.tolist() == numbers.double().tolist()
    shown = json.loads(file(made, ".json"))
    assert (shown["shape"], shown["elements"]) == ([2, 3], 6)
    assert shown["values"] == loaded.ravel().tolist()


def test_a_tensor_of_odd_numbers() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.tensorboard import summary as torchs

    for numbers in (torch.tensor([math.nan, math.inf]), torch.tensor(7.0), torch.arange(2000.0)):
        made = render(media_of(summary(torchs.tensor_proto("t", numbers))))
        shown = json.loads(file(made, ".json"), parse_constant=pytest.fail)
        assert len(shown["values"]) == min(1000, numbers.numel())
        assert np.load(io.BytesIO(file(made, ".npy"))).shape == tuple(numbers.shape)


def test_what_is_said_of_hyperparameters_is_kept() -> None:
    pytest.importorskip("torch")
    from torch.utils.tensorboard.summary import hparams

    experiment, _, _ = hparams(
        {"lr": 0.1, "opt": "adam", "on": True},
        {"accuracy": 0.5},
        hparam_domain_discrete={"lr": [0.1, 0.01], "opt": ["adam", "sgd"], "on": [True]},
    )
    shown = json.loads(file(render(media_of(summary(experiment))), ".json"))
    assert {one["name"]: one["domain_discrete"] for one in shown["hparams"]} == {
        "lr": [0.1, 0.01],
        "opt": ["adam", "sgd"],
        "on": [True],
    }
    assert shown["metrics"] == [{"tag": "accuracy"}]


def test_intervals_and_descriptions_of_an_experiment() -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

    said = api_pb2.Experiment(description="<b>what</b>", user="me", time_created_secs=7.5)
    said.hparam_infos.add(
        name="lr", description="rate", type=api_pb2.DATA_TYPE_FLOAT64
    ).domain_interval.max_value = 0.5
    said.metric_infos.add(
        name={"group": "val", "tag": "loss"}, dataset_type=api_pb2.DATASET_VALIDATION
    )
    value = Summary.Value(tag="_hparams_/experiment")
    value.metadata.plugin_data.plugin_name = "hparams"
    value.metadata.plugin_data.content = plugin_data_pb2.HParamsPluginData(
        experiment=said
    ).SerializeToString()
    made = render(media_of(summary(Summary(value=[value]))))
    assert json.loads(file(made, ".json")) == {
        "description": "<b>what</b>",
        "user": "me",
        "time_created_secs": 7.5,
        "hparams": [
            {
                "name": "lr",
                "description": "rate",
                "type": "float64",
                "domain_interval": {"max_value": 0.5},
            }
        ],
        "metrics": [{"group": "val", "tag": "loss", "dataset_type": "validation"}],
    }


# -- layouts ----------------------------------------------------------------------------------


class Files:
    """Artifacts in memory."""

    def __init__(self) -> None:
        self.puts: list[str] = []
        self.files: dict[str, bytes] = {}

    def put(self, path: str, source: Any) -> None:
        self.puts.append(path)
        self.files[path] = source

    def close(self) -> None:
        pass


def layout(found: Mapping[str, Any], key: str = "custom_scalars__config__") -> Media:
    return Media("custom_scalars", key, b"", "", None, TIME, meta={"layout": found})


def test_a_layout_names_the_metrics_of_the_run(tmp_path: Path) -> None:
    files, layouts = Files(), Layouts(tmp_path / "layouts.json")
    layouts.add(layout({"Loss": {"both": ["Multiline", ["loss/.*", "gone"]]}}))
    layouts.add(layout({"Band": {"band": ["Margin", ["m", "m/low", "m/high"]]}}))
    layouts.add(layout({"Loss": {"all": ["Multiline", ["loss"]]}}, "val/custom_scalars__config__"))
    layouts.upload(files, {})
    layouts.upload(files, {})
    assert files.puts == ["tensorboard/custom_scalars.json"]
    metrics = {
        "loss/a(b)": "loss/a_b_",
        "loss/c": "loss/c",
        "m": "m",
        "m/low": "m/low",
        "val/loss": "val/loss",
        "other/loss/x": "other/loss/x",
    }
    again = Layouts(tmp_path / "layouts.json")
    again.upload(files, metrics)
    shown = json.loads(files.files["tensorboard/custom_scalars.json"])["categories"]
    assert [(one["title"], one["charts"][0]["metrics"]) for one in shown] == [
        ("Loss", ["loss/a_b_", "loss/c"]),
        ("Band", ["m", "m/low", None]),
        ("val/Loss", ["val/loss"]),
    ]
    assert shown[0]["charts"][0]["tags"] == ["loss/.*", "gone"]


@pytest.mark.parametrize("tag", ["(a+)+$", "(", "x" * 1000, "a*a*a*a*a*b", "[", "\\", "(?P<"])
def test_a_pattern_that_is_none_or_takes_for_ever(tag: str, tmp_path: Path) -> None:
    files, layouts = Files(), Layouts(tmp_path / "layouts.json")
    layouts.add(layout({"c": {"t": ["Multiline", [tag]]}}))
    layouts.upload(files, {"a" * 250: "long", tag: "exact"})
    [chart] = json.loads(files.files["tensorboard/custom_scalars.json"])["categories"][0]["charts"]
    assert chart["metrics"] == ["exact"]


# -- embeddings -------------------------------------------------------------------------------


def arrive(
    folder: Path,
    tensors: str,
    metadata: Optional[str] = None,
    sprite: Optional[bytes] = None,
    name: str = "e",
) -> dict[str, bytes]:
    """Let the files of an embedding arrive one after the other, each in a new process."""
    parts: dict[str, bytes] = {"tensors.tsv": tensors.encode()}
    more = ""
    if metadata is not None:
        parts["metadata.tsv"] = metadata.encode("utf-8", "surrogatepass")
    if sprite is not None:
        parts["sprite.png"] = sprite
        more = '  sprite { image_path: "x" single_image_dim: 4 single_image_dim: 2 }\n'
    quoted = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\012")
    place = 'tensor_path: "00003/t/tensors.tsv"'
    config = f'embeddings {{\n  tensor_name: "{quoted}"\n  {place}\n{more}}}\n'
    source = folder / "source"
    for part, data in parts.items():
        source.write_bytes(data)
        path = f"tensorboard/embeddings/00003/t/{part}"
        assert list(Embeddings(folder / "kept").pages(path, source)) == []
    source.write_text(config, encoding="utf-8", errors="surrogatepass")
    path = "tensorboard/embeddings/projector_config.pbtxt"
    pages = dict(Embeddings(folder / "kept").pages(path, source))
    assert dict(Embeddings(folder / "kept").pages(path, source)) == {}
    return pages


def points(shown: Mapping[str, Any]) -> Any:
    return np.frombuffer(b64decode(shown["numbers"]), "<i2").reshape(-1, shown["width"])


def test_the_page_of_an_embedding_has_its_points_and_labels(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).normal(size=(30, 7)) + 1000
    rows = "".join("\t".join(map(str, row)) + "\n" for row in matrix.tolist())
    labels = "name\tclass\n" + "".join(f"n{n}\t{n % 3}\n" for n in range(30))
    pages = arrive(tmp_path, rows, labels, b"png", name='a "b"\n')
    [(path, page)] = pages.items()
    assert path == "tensorboard/embeddings/00003/t/scatter.html"
    shown = data_of(page)
    assert (shown["name"], shown["total"], shown["width"]) == ('a "b"\n', 30, 7)
    assert (shown["columns"], shown["labels"][4]) == (["name", "class"], ["n4", "1"])
    assert (shown["sides"], b64decode(shown["sprite"])) == ([4, 2], b"png")
    wanted = matrix - matrix.mean(0)
    assert points(shown) / 32767 == pytest.approx(wanted / abs(wanted).max(), abs=1e-4)


def test_labels_without_a_heading(tmp_path: Path) -> None:
    shown = data_of(*arrive(tmp_path, "1\t2\n3\t4\n", "a\nb\n").values())
    assert (shown["columns"], shown["labels"]) == (["label"], [["a"], ["b"]])
    shown = data_of(*arrive(tmp_path, "1\t2\n3\t4\n").values())
    assert (shown["columns"], shown["labels"]) == ([], [])


def test_a_large_embedding_is_thinned(tmp_path: Path) -> None:
    rows = "".join(f"{n}\t" + "\t".join(["0.5"] * 399) + "\n" for n in range(9_000))
    [page] = arrive(tmp_path, rows, "".join(f"l{n}\n" for n in range(9_000))).values()
    shown = data_of(page)
    assert len(page) < 2_500_000
    assert shown["total"] == 9_000
    assert 1_500 < len(shown["rows"]) <= 2_000
    assert [labels[0] for labels in shown["labels"]] == [f"l{row}" for row in shown["rows"]]


@pytest.mark.parametrize("rows", ["", "\n", "a\tb\n", "nan\tinf\n", "1e999\t0\n"])
def test_an_embedding_without_numbers_has_no_page(rows: str, tmp_path: Path) -> None:
    assert arrive(tmp_path, rows, "label\n") == {}


@pytest.mark.parametrize("rows", ["1\n", "1\t2\n3\n4\t5\t6\n", "7\t7\n7\t7\n", "-1e299\n1e299\n"])
def test_odd_embeddings_have_one(rows: str, tmp_path: Path) -> None:
    assert data_of(*arrive(tmp_path, rows, "label\tx\ty\n\n\n\n").values())["rows"]


def test_the_embeddings_of_two_streams_do_not_meet(tmp_path: Path) -> None:
    source, kept = tmp_path / "source", Embeddings(tmp_path / "kept")
    roots = ("tensorboard/embeddings", "tensorboard/embeddings~1a2b")
    for number, root in enumerate(roots):
        source.write_text(f"{number}\t0\n0\t1\n")
        assert list(kept.pages(f"{root}/00000/default/tensors.tsv", source)) == []
    source.write_text("")
    for root in roots:
        [(path, _)] = kept.pages(f"{root}/projector_config.pbtxt", source)
        assert path == f"{root}/00000/default/scatter.html"


def test_a_page_that_could_not_be_stored_is_made_again(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("1\t2\n3\t4\n")
    config = "tensorboard/embeddings/projector_config.pbtxt"
    list(Embeddings(tmp_path / "kept").pages("tensorboard/embeddings/00000/t/tensors.tsv", source))
    next(Embeddings(tmp_path / "kept").pages(config, source))  # and then the store was away
    assert len(list(Embeddings(tmp_path / "kept").pages(config, source))) == 1


def test_other_artifacts_are_passed_over(tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_bytes(b"\xff\xfe")
    kept = Embeddings(tmp_path / "kept")
    for path in ("model.pt", "tensorboard/embeddings/a/tensors.tsv", "embeddings/1/t/tensors.tsv"):
        assert list(kept.pages(path, source)) == []
    assert list((tmp_path / "kept").iterdir()) == []


# -- hostile names and bytes ------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_of_the_run_gets_out_of_its_place(text: str, tmp_path: Path) -> None:
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    named = Media("mesh", text, mesh_event(np.zeros((1, 3, 3))), "", 3, TIME)
    data_of(file(render(named), ".html"))
    graph = GraphDef()
    legal = text.encode("utf-8", "replace").decode()
    node = graph.node.add(name=legal, op=legal, input=[legal], device=legal)
    node.attr[legal].s = legal.encode()
    drawn = Media("graph", text, graph_event(graph), "", 3, TIME)
    shown = data_of(file(render(drawn), ".html"))
    assert shown["nodes"][0][1].replace("\\x00", "\x00") == legal
    label = re.sub(r"[\t\r\n]", " ", text)
    shown = data_of(*arrive(tmp_path, "1\t2\n", f"{label}\n", name=legal).values())
    assert shown["labels"]
    made = render(Media("pr_curve", text, b"", "", 3, TIME, meta=flat([1.0], [1.0]).meta))
    assert json.loads(file(made, ".json"))["step"] == 3


@pytest.mark.parametrize("kind", ["graph", "mesh", "pr_curve", "raw", "image", "custom_scalars"])
@given(data=st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_drawn_or_left_alone(kind: str, data: bytes) -> None:
    for plugin in ("", "tensor", "hparams"):
        check(Media(kind, "k", data, "", 1, TIME, meta={"plugin": plugin}))


def check(media: Media) -> None:
    made = render(media)
    for one in made.files:
        assert one.folder in FOLDERS
        if one.ending == ".html":
            data_of(one.data)
        elif one.ending == ".json":
            json.loads(one.data, parse_constant=pytest.fail)
    if made.picture is not None:
        pixels(made.picture)


@pytest.mark.parametrize("kind", ["graph", "mesh", "pr_curve"])
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_events_are_drawn_or_left_alone(kind: str, data: Any) -> None:
    sample = SAMPLES[kind]
    assert isinstance(sample, Media)
    event = bytearray(sample.data)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(event) - 1))
        event[place] = data.draw(st.integers(0, 255))
    cut = bytes(event[: data.draw(st.integers(1, len(event)))])
    check(Media(kind, "k", cut, "", 1, TIME))
    for record in decode(cut, ""):
        if isinstance(record, Media):
            check(record)


def test_a_tensor_that_claims_more_than_it_has_costs_nothing() -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary

    value = Summary.Value(tag="t")
    value.metadata.plugin_data.plugin_name = "tensor"
    value.tensor.dtype = 1
    for _ in range(3):
        value.tensor.tensor_shape.dim.add(size=2**40)
    value.tensor.float_val.append(1.0)
    assert render(media_of(summary(Summary(value=[value])))).files == []


def test_nothing_here_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    points, faces = sphere(4)
    event, graph = mesh_event(points, faces), graph_event(full_graph())
    for name in ("numpy", "PIL", "google.protobuf", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    assert render(media_of(event)).picture
    assert render(media_of(graph)).files
    assert render(flat([0.5, 1.0], [1.0, 0.5])).picture


def test_the_code_of_a_page_is_small() -> None:
    empty = render(media_of(mesh_event(np.zeros((1, 1, 3)))))
    assert len(file(empty, ".html")) < 15_000


def test_a_png_has_the_checksums_of_its_chunks() -> None:
    import zlib

    data = render(flat([0.5, 1.0], [1.0, 0.5])).picture or b""
    place = 8
    while place < len(data):
        (size,) = struct.unpack_from(">I", data, place)
        chunk = data[place + 4 : place + 8 + size]
        assert struct.unpack_from(">I", data, place + 8 + size) == (zlib.crc32(chunk),)
        place += 12 + size


def test_a_later_training_in_the_same_run_has_folders_of_its_own(tmp_path: Path) -> None:
    first, later = Embeddings(tmp_path / "a"), Embeddings(tmp_path / "b", "-1f0c2a")
    path = "tensorboard/embeddings~ab12/00000/points/tensors.tsv"
    assert first.place(path) == path
    assert later.place(path) == path.replace("~ab12", "~ab12-1f0c2a")
    assert later.place("models/tensors.tsv") == "models/tensors.tsv"
