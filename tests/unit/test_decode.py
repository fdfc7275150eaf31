"""Every add_* method of both writers, through a real file of the real writer, decoded."""

from __future__ import annotations

import io
import math
import struct
import wave
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import numpy as np
import pytest

from tracelet.records import Histogram, Media, Metric, Param, Record, Text
from tracelet.tfevents import EventFile, decode, is_light

RANDOM = np.random.RandomState(7)
#: 0.1 as the event holds it.
TENTH = struct.unpack("<f", struct.pack("<f", 0.1))[0]


class Family:
    """One library that writes events, and the logs it made."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        if name == "torch":
            module = pytest.importorskip("torch.utils.tensorboard")
        else:
            module = pytest.importorskip("tensorboardX")
        self.writer = module.SummaryWriter(str(root))

    def clean(self, tag: str) -> str:
        """What the library makes of a tag before it is in the event."""
        return tag.replace(" ", "_").replace("(", "_") if self.name == "tensorboardX" else tag

    def records(self, below: str = "", hint: Optional[dict[str, Any]] = None) -> list[Record]:
        self.writer.close()
        return [record for event in self.events(below) for record in decode(event, below, hint)]

    def events(self, below: str = "") -> list[bytes]:
        events = []
        for path in sorted((self.root / below).glob("*tfevents*")):
            file = EventFile(path)
            events += list(file.events())
            assert (file.damaged, file.tail()) == (0, 0)
        assert decode(events[0], below) == []  # the version of the file
        return events[1:]


@pytest.fixture(params=["torch", "tensorboardX"])
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Family]:
    made = Family(request.param, tmp_path / "logs")
    yield made
    made.writer.close()


def only(records: list[Record], kind: type) -> Any:
    (record,) = records
    assert type(record) is kind
    return record


def test_scalars_keep_value_step_and_time(family: Family) -> None:
    family.writer.add_scalar("loss", 0.1, 3, walltime=1000.25)
    family.writer.add_scalar("loss", -2.5, 2**40, walltime=1000.5)
    family.writer.add_scalar("loss", 7, -3, walltime=1001)
    family.writer.add_scalar("loss", True, walltime=1002)

    assert family.records() == [
        Metric("loss", TENTH, 3, 1000.25),
        Metric("loss", -2.5, 2**40, 1000.5),
        Metric("loss", 7.0, -3, 1001.0),
        Metric("loss", 1.0, 0, 1002.0),
    ]


def test_scalars_that_are_no_numbers(family: Family) -> None:
    for value in (math.nan, math.inf, -math.inf, 1e300):
        family.writer.add_scalar("odd", value, 1)

    values = [record.value for record in family.records() if isinstance(record, Metric)]

    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, math.inf]


def test_the_hint_says_what_the_event_forgot(family: Family) -> None:
    family.writer.add_scalar("loss (train)", 0.1, 3)
    hint = {"tag": "loss (train)", "value": 0.1, "step": 3.75}

    metric = only(family.records(hint=hint), Metric)

    assert (metric.key, metric.value, metric.step) == ("loss (train)", 0.1, 3.75)


def test_a_hint_of_another_event_is_not_believed(family: Family) -> None:
    family.writer.add_scalar("loss", 0.1, 3)

    metric = only(family.records(hint={"value": 0.2, "step": 4.5}), Metric)

    assert (metric.value, metric.step) == (TENTH, 3)


@pytest.mark.parametrize("precise", [False, True])
def test_scalars_of_the_new_style(tmp_path: Path, precise: bool) -> None:
    family = Family("torch", tmp_path)
    family.writer.add_scalar("loss", 0.1, 3, 1.5, new_style=True, double_precision=precise)

    assert family.records() == [Metric("loss", 0.1 if precise else TENTH, 3, 1.5)]
    assert is_light(family.events()[0])


def test_series_of_add_scalars_lie_in_their_own_directories(family: Family) -> None:
    family.writer.add_scalars("main", {"a": 1.0, "b": 2.0}, 7, walltime=5.0)
    below = "main_{}" if family.name == "torch" else "main/{}"

    for name, value in (("a", 1.0), ("b", 2.0)):
        stream = below.format(name)
        assert family.records(stream) == [Metric("main", value, 7, 5.0, stream)]


@pytest.mark.parametrize("bins", ["tensorflow", "auto", 7])
def test_histograms_have_the_edges_and_counts_of_numpy(family: Family, bins: Any) -> None:
    values = np.concatenate([RANDOM.randn(500), [0.0, -3.5, 4.25]])
    family.writer.add_histogram("weights", values, 4, bins=bins)
    if bins == "tensorflow":
        bins = family.writer.default_bins
    counts, edges = np.histogram(values, bins=bins)
    filled = np.flatnonzero(counts)

    histogram = only(family.records(), Histogram)

    assert histogram.counts == tuple(counts[filled[0] : filled[-1] + 1])
    assert histogram.edges == tuple(edges[filled[0] : filled[-1] + 2])
    assert sum(histogram.counts) == len(values)
    assert (histogram.min, histogram.max) == (-3.5, 4.25)
    assert histogram.sum == pytest.approx(values.sum())
    assert histogram.sum_squares == pytest.approx(values.dot(values))
    assert (histogram.key, histogram.step, histogram.stream) == ("weights", 4, "")


def test_histograms_of_one_value_and_of_few_bins(family: Family) -> None:
    family.writer.add_histogram("zeros", np.zeros(10), 1)
    family.writer.add_histogram("few", np.arange(100.0), 1, bins=10, max_bins=5)

    zeros, few = family.records()

    assert isinstance(zeros, Histogram)
    assert isinstance(few, Histogram)
    assert (zeros.edges, zeros.counts) == ((0.0, 1e-12), (10.0,))
    assert sum(few.counts) == 100
    assert (few.edges[0], few.edges[-1]) == (0.0, 99.0)


def test_raw_histograms_begin_with_their_minimum(family: Family) -> None:
    counts, edges = np.histogram(np.arange(30.0), bins=3)
    family.writer.add_histogram_raw(
        "raw", 0.0, 29.0, 30, 435.0, 8555.0, edges[1:].tolist(), counts.tolist(), 2
    )

    histogram = only(family.records(), Histogram)

    assert histogram.edges == tuple(edges)
    assert histogram.counts == (10, 10, 10)
    assert (histogram.sum, histogram.sum_squares) == (435.0, 8555.0)


def test_raw_histograms_that_make_no_sense_stay_events(family: Family) -> None:
    family.writer.add_histogram_raw("raw", 0.0, 3.0, 2, 1.0, 1.0, [3.0, 1.0], [1, 1], 2)

    media = only(family.records(), Media)

    assert (media.kind, media.key, media.step) == ("raw", "raw", 2)
    assert media.data == family.events()[0]
    assert "rise" in media.meta["reason"]


def png_size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def check_image(record: Record, key: str, width: int, height: int) -> None:
    assert isinstance(record, Media)
    assert (record.kind, record.key, record.mime, record.index) == ("image", key, "image/png", 0)
    assert record.meta == {"width": width, "height": height}
    assert png_size(record.data) == (width, height)


def test_images_of_every_kind(family: Family) -> None:
    pytest.importorskip("PIL")
    writer = family.writer
    writer.add_image("one", RANDOM.rand(3, 8, 10), 1)
    writer.add_image("gray", RANDOM.rand(8, 10), 1, dataformats="HW")
    writer.add_images("grid", RANDOM.rand(4, 3, 8, 8), 2)
    writer.add_image_with_boxes("boxes", RANDOM.rand(3, 20, 24), np.array([[1, 1, 5, 5]]), 3)

    one, gray, grid, boxes = family.records()

    check_image(one, "one", 10, 8)
    check_image(gray, "gray", 10, 8)
    check_image(grid, "grid", 32, 8)
    check_image(boxes, "boxes", 24, 20)
    assert isinstance(boxes, Media)
    assert boxes.step == 3
    assert not any(map(is_light, family.events()))


def test_the_raw_tag_of_a_picture(family: Family) -> None:
    pytest.importorskip("PIL")
    family.writer.add_image("a (b", RANDOM.rand(3, 4, 4), 1)

    assert only(family.records(), Media).key == family.clean("a (b")
    assert only(family.records(hint={"tag": "a (b"}), Media).key == "a (b"


def test_figures_are_images(family: Family) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    figure = pytest.importorskip("matplotlib.pyplot").figure(figsize=(2, 1), dpi=50)
    family.writer.add_figure("figure", figure, 4)

    check_image(family.records()[0], "figure", 100, 50)


def test_films_are_gif(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    family = Family("tensorboardX", tmp_path)
    family.writer.add_video("film", RANDOM.rand(1, 4, 3, 16, 24), 2, fps=4)

    media = only(family.records(), Media)

    assert (media.kind, media.key, media.mime, media.step) == ("video", "film", "image/gif", 2)
    assert media.data[:6] == b"GIF89a"
    assert media.meta == {"width": 24, "height": 16}


def test_sounds(family: Family) -> None:
    if family.name == "tensorboardX":
        pytest.importorskip("soundfile")
    sound = np.sin(np.arange(1000) / 10)
    sound = sound[:, None] if family.name == "tensorboardX" else sound[None, :]
    family.writer.add_audio("beep", sound, 5, sample_rate=8000)

    media = only(family.records(), Media)

    assert (media.kind, media.key, media.mime, media.step) == ("audio", "beep", "audio/wav", 5)
    assert media.meta == {"sample_rate": 8000, "channels": 1, "frames": 1000}
    with wave.open(io.BytesIO(media.data)) as file:
        assert (file.getframerate(), file.getnframes()) == (8000, 1000)


@pytest.mark.parametrize("text", ["hello *world*", "", "zwei\nZeilen | und ein Strich", "日本"])
def test_texts_are_whole_and_have_the_tag_of_the_user(family: Family, text: str) -> None:
    family.writer.add_text("notes [a]", text, 3, walltime=4.5)

    assert family.records() == [Text("notes [a]", text, 3, 4.5)]
    assert family.records(hint={"tag": "x"}) == [Text("x", text, 3, 4.5)]


def test_precision_recall_curves(family: Family) -> None:
    rows = [RANDOM.rand(5) for _ in range(6)]
    family.writer.add_pr_curve("drawn", RANDOM.randint(2, size=50), RANDOM.rand(50), 1)
    family.writer.add_pr_curve_raw("raw", *rows, 2, num_thresholds=5)

    drawn, raw = family.records()

    assert isinstance(drawn, Media)
    assert isinstance(raw, Media)
    assert (drawn.kind, drawn.key, drawn.step) == ("pr_curve", "drawn", 1)
    assert len(drawn.meta["precision"]) == 127
    names = "true_positives false_positives true_negatives false_negatives precision recall"
    assert list(raw.meta) == names.split()
    for name, row in zip(raw.meta, rows):
        assert raw.meta[name] == [float(np.float32(value)) for value in row]
    assert [drawn.data, raw.data] == family.events()


def test_a_mesh_is_one_record(family: Family) -> None:
    family.writer.add_mesh(
        "body",
        RANDOM.rand(1, 4, 3).astype("float32"),
        colors=RANDOM.randint(255, size=(1, 4, 3)),
        faces=RANDOM.randint(3, size=(1, 2, 3)),
        config_dict={"camera": 1},
        global_step=6,
    )

    media = only(family.records(), Media)

    assert (media.kind, media.key, media.step) == ("mesh", "body", 6)
    assert media.data == family.events()[0]
    shapes = {"vertices": [1, 4, 3], "faces": [1, 2, 3], "colors": [1, 4, 3]}
    assert {key: media.meta[key] for key in shapes} == shapes
    assert only(family.records(hint={"tag": "b o d y"}), Media).key == "b o d y"


def test_layouts_come_back_as_they_were_given(family: Family) -> None:
    layout = {
        "Losses": {
            "both": ["Multiline", ["train/.*", "val/.*"]],
            "band": ["Margin", ["m", "l", "u"]],
        },
        "Empty": {},
    }
    family.writer.add_custom_scalars(layout)
    family.writer.add_custom_scalars_multilinechart(["a", "b"], category="c", title="t")
    family.writer.add_custom_scalars_marginchart(["a", "b", "c"])

    records = family.records()

    assert [record.kind for record in records if isinstance(record, Media)] == [
        "custom_scalars"
    ] * 3
    assert [record.meta["layout"] for record in records if isinstance(record, Media)] == [
        layout,
        {"c": {"t": ["Multiline", ["a", "b"]]}},
        {"default": {"untitled": ["Margin", ["a", "b", "c"]]}},
    ]


def test_graphs_keep_the_event_and_say_where_the_graph_is(family: Family) -> None:
    torch = pytest.importorskip("torch")
    graph_pb2 = pytest.importorskip("tensorboard.compat.proto.graph_pb2")
    family.writer.add_graph(torch.nn.Linear(2, 3), torch.rand(1, 2))

    graph, profile = family.records()

    assert isinstance(graph, Media)
    assert isinstance(profile, Media)
    assert (graph.kind, graph.key, graph.meta["part"]) == ("graph", "graph", "graph_def")
    assert [graph.data, profile.data] == family.events()
    found = graph_pb2.GraphDef.FromString(graph.data[graph.meta["start"] : graph.meta["stop"]])
    assert any("Linear" in node.name for node in found.node)
    assert profile.kind == "graph"
    assert profile.key.startswith("run_metadata/")
    assert profile.meta["part"] == "run_metadata"


def test_tensors_stay_events(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    family = Family("torch", tmp_path)
    family.writer.add_tensor("tensor", torch.arange(6.0).reshape(2, 3), 1)

    media = only(family.records(), Media)

    assert (media.kind, media.key, media.step) == ("raw", "tensor", 1)
    assert media.meta["plugin"] == "tensor"
    assert "[2, 3]" in media.meta["reason"]


def hparams_of(family: Family) -> tuple[list[Record], list[bytes]]:
    (below,) = [path.name for path in family.root.iterdir() if path.is_dir()]
    return family.records(below), family.events(below)


def test_hparams_are_parameters_and_metrics(family: Family) -> None:
    given = {"lr": 0.1, "layers": 3, "bias": True, "name": "x"}
    family.writer.add_hparams(given, {"acc": 0.5})

    records, events = hparams_of(family)

    params = {record.key: record.value for record in records if isinstance(record, Param)}
    assert params == {"lr": 0.1, "layers": 3.0, "bias": True, "name": "x"}
    (metric,) = [record for record in records if isinstance(record, Metric)]
    assert (metric.key, metric.value) == ("acc", 0.5)
    assert len(params) + 1 == len(records)
    assert all(map(is_light, events))


def test_the_exact_hparams_win(family: Family) -> None:
    given = {"lr": 0.1, "layers": 3, "bias": True, "name": "x", "big": 2**60 + 1, "none": None}
    family.writer.add_hparams({key: value for key, value in given.items() if key != "none"}, {})
    (below,) = [path.name for path in family.root.iterdir() if path.is_dir()]

    found = family.records(below, hint={"hparams": given})

    params = {record.key: record.value for record in found if isinstance(record, Param)}
    assert params == given
    assert [type(params[key]) for key in ("layers", "bias", "big")] == [int, bool, int]
    assert len(found) == len(given)


def test_a_domain_of_hparams_is_not_lost(tmp_path: Path) -> None:
    family = Family("torch", tmp_path)
    family.writer.add_hparams({"lr": 0.1}, {}, hparam_domain_discrete={"lr": [0.1, 0.2]})

    records, events = hparams_of(family)

    kept = [record for record in records if isinstance(record, Media)]
    assert [(record.kind, record.key) for record in kept] == [("raw", "_hparams_/experiment")]
    assert [is_light(event) for event in events] == [False, True, True]


def test_purging_is_bookkeeping(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(tmp_path), purge_step=5)
    writer.close()
    (path,) = tmp_path.glob("*tfevents*")

    events = list(EventFile(path).events())

    assert len(events) == 3
    assert [decode(event, "") for event in events] == [[], [], []]
    assert all(map(is_light, events))


LIGHT = (Metric, Param)


@pytest.mark.parametrize(
    ("log", "light"),
    [
        (lambda writer: writer.add_scalar("a", 1.0, 1), True),
        (lambda writer: writer.add_text("a", "b", 1), False),
        (lambda writer: writer.add_histogram("a", np.arange(4.0), 1), False),
        (lambda writer: writer.add_custom_scalars({}), False),
    ],
)
def test_light_is_what_only_holds_light_records(
    family: Family, log: Callable[[Any], None], light: bool
) -> None:
    log(family.writer)
    records = family.records()

    assert [is_light(event) for event in family.events()] == [light]
    assert all(isinstance(record, LIGHT) for record in records) == light
