"""Events as TensorFlow 2 and other programs write them: tensors whose plugin says what they are."""

from __future__ import annotations

import io
import math
import struct
import wave
from typing import Any

import numpy as np
import pytest

from tracelet.records import Histogram, Media, Metric, Param, Record, Tag, Text
from tracelet.tfevents import Decoder, decode, is_light

event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")
summary_pb2 = pytest.importorskip("tensorboard.compat.proto.summary_pb2")
types_pb2 = pytest.importorskip("tensorboard.compat.proto.types_pb2")

from tensorboard.plugins.histogram import summary_v2 as histogram_v2  # noqa: E402
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2, summary_v2  # noqa: E402
from tensorboard.plugins.scalar import summary_v2 as scalar_v2  # noqa: E402
from tensorboard.plugins.text import summary_v2 as text_v2  # noqa: E402
from tensorboard.util import tensor_util  # noqa: E402

PNG = b"\x89PNG\r\n\x1a\n and so on"
GIF = b"GIF89a and so on"


def event(*values: Any, **fields: Any) -> bytes:
    made = event_pb2.Event(wall_time=1.5, step=3, **fields)
    if values:
        made.summary.value.extend(values)
    data: bytes = made.SerializeToString()
    return data


def value(tag: str, plugin: str = "", tensor: Any = None, content: bytes = b"", **rest: Any) -> Any:
    made = summary_pb2.Summary.Value(tag=tag, **rest)
    if plugin:
        made.metadata.plugin_data.plugin_name = plugin
        made.metadata.plugin_data.content = content
    if tensor is not None:
        made.tensor.CopyFrom(tensor)
    return made


def pack(array: Any, **kwargs: Any) -> Any:
    return tensor_util.make_tensor_proto(array, **kwargs)


def only(records: list[Record], kind: type) -> Any:
    (record,) = records
    assert type(record) is kind, record
    return record


@pytest.mark.parametrize(
    ("dtype", "number"),
    [
        ("float64", 0.1),
        ("float32", float(np.float32(0.1))),
        ("float16", float(np.float16(0.1))),
        ("int8", -7.0),
        ("uint8", 200.0),
        ("int16", -300.0),
        ("uint16", 65535.0),
        ("int32", -(2.0**31)),
        ("int64", -(2.0**40)),
        ("uint32", 2.0**32 - 1),
        ("uint64", 2.0**63),
        ("bool", 1.0),
    ],
)
@pytest.mark.parametrize("form", ["field", "content"])
def test_scalars_of_every_type_in_either_form(dtype: str, number: float, form: str) -> None:
    array = np.array(number).astype(dtype)
    tensor = pack(array)
    if form == "content":
        raw = type(tensor)(dtype=tensor.dtype, tensor_content=array.tobytes())
        tensor = raw

    data = event(value("loss", "scalars", tensor))

    assert decode(data, "s") == [Metric("loss", number, 3, 1.5, "s")]
    assert is_light(data)


@pytest.mark.parametrize("number", [1.0, -0.25, 3.0e38])
def test_scalars_of_bfloat16(number: float) -> None:
    bits = struct.unpack("<I", struct.pack("<f", number))[0] >> 16
    expected = struct.unpack("<f", struct.pack("<I", bits << 16))[0]
    for form in ({"half_val": [bits]}, {"tensor_content": struct.pack("<H", bits)}):
        made = value("b", "scalars")
        for name, content in form.items():
            if name == "half_val":
                made.tensor.half_val.extend(content)
            else:
                made.tensor.tensor_content = content
        made.tensor.dtype = types_pb2.DT_BFLOAT16

        assert only(decode(event(made), ""), Metric).value == expected


def test_scalars_as_tensorboard_makes_them() -> None:
    made = scalar_v2.scalar_pb("loss", 0.1).value[0]

    assert decode(event(made), "") == [Metric("loss", float(np.float32(0.1)), 3, 1.5)]


@pytest.mark.parametrize(
    "tensor",
    [
        pack(np.zeros(2)),
        pack(np.zeros((0,))),
        pack(np.array("word")),
        summary_pb2.Summary.Value().tensor,
    ],
    ids=["two", "none", "text", "empty"],
)
def test_a_scalar_that_is_none_stays_an_event(tensor: Any) -> None:
    data = event(value("loss", "scalars", tensor))

    media = only(decode(data, ""), Media)

    assert (media.kind, media.key, media.data, media.step) == ("raw", "loss", data, 3)
    assert not is_light(data)


def test_histograms_as_tensorboard_makes_them() -> None:
    numbers = np.random.RandomState(3).randn(1000)
    counts, edges = np.histogram(numbers, bins=12)
    made = histogram_v2.histogram_pb("weights", numbers, buckets=12).value[0]

    histogram = only(decode(event(made), ""), Histogram)

    assert histogram.counts == tuple(counts)
    assert histogram.edges == pytest.approx(edges)
    assert (histogram.min, histogram.max) == (numbers.min(), numbers.max())
    assert math.isnan(histogram.sum)
    assert math.isnan(histogram.sum_squares)


def test_histograms_of_one_value_and_of_none() -> None:
    one = histogram_v2.histogram_pb("one", [2.5, 2.5], buckets=5).value[0]
    none = histogram_v2.histogram_pb("none", [], buckets=5).value[0]
    no_rows = histogram_v2.histogram_pb("none", [1.0], buckets=0).value[0]

    histograms = [only(decode(event(made), ""), Histogram) for made in (one, none, no_rows)]

    assert [(found.edges, found.counts) for found in histograms] == [
        ((2.5, 2.5), (2.0,)),
        ((0.0, 0.0), (0.0,)),
        ((0.0, 0.0), (0.0,)),
    ]


def test_a_gap_between_buckets_is_an_empty_bucket() -> None:
    rows = np.array([[0.0, 1.0, 5.0], [2.0, 3.0, 6.0]])

    histogram = only(decode(event(value("h", "histograms", pack(rows))), ""), Histogram)

    assert (histogram.edges, histogram.counts) == ((0.0, 1.0, 2.0, 3.0), (5.0, 0.0, 6.0))


@pytest.mark.parametrize(
    "rows",
    [
        [[0.0, 1.0, 5.0], [0.5, 3.0, 6.0]],
        [[0.0, math.nan, 5.0]],
        [[0.0, 1.0, -5.0]],
        [[0.0, 1.0]],
        [0.0, 1.0, 2.0],
    ],
)
def test_buckets_that_make_no_sense_stay_events(rows: Any) -> None:
    data = event(value("h", "histograms", pack(np.array(rows))))

    assert only(decode(data, ""), Media).data == data


def histogram_of(**fields: Any) -> Any:
    made = value("h")
    made.histo.SetInParent()
    for name, content in fields.items():
        if isinstance(content, list):
            getattr(made.histo, name).extend(content)
        else:
            setattr(made.histo, name, content)
    return made


HUGE = 1.7976931348623157e308


def test_edges_that_tensorflow_leaves_open_end_at_the_extremes() -> None:
    made = histogram_of(
        min=-5.0, max=7.0, num=6, bucket_limit=[-HUGE, 0.0, 1.0, HUGE], bucket=[0, 1, 2, 3]
    )

    histogram = only(decode(event(made), ""), Histogram)

    assert (histogram.edges, histogram.counts) == ((-5.0, 0.0, 1.0, 7.0), (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("fields", "edges", "counts"),
    [
        # All in one bucket that is open on both sides.
        ({"min": 1.0, "max": 2.0, "bucket_limit": [HUGE], "bucket": [4]}, (1.0, 2.0), (4.0,)),
        # A minimum that lies in another bucket than it should.
        ({"min": 5.0, "max": 6.0, "bucket_limit": [2.0], "bucket": [4]}, (2.0, 2.0), (4.0,)),
        # Not a number, because one of the values was none.
        (
            {"min": math.nan, "max": math.nan, "bucket_limit": [1.0, HUGE], "bucket": [1, 1]},
            (1.0, 1.0, 1.0),
            (1.0, 1.0),
        ),
        # Nothing was counted.
        ({"min": HUGE, "max": -HUGE, "bucket_limit": [HUGE], "bucket": [0]}, (0.0, 0.0), (0.0,)),
        ({"min": 1.0, "max": 2.0}, (1.0, 2.0), (0.0,)),
    ],
)
def test_awkward_ends(fields: Any, edges: Any, counts: Any) -> None:
    histogram = only(decode(event(histogram_of(**fields)), ""), Histogram)

    assert (histogram.edges, histogram.counts) == (edges, counts)


def test_images_of_a_batch_share_the_key() -> None:
    tensor = pack(np.array([b"640", b"480", PNG, GIF, PNG + b"2"]))
    first, film, second = decode(event(value("faces", "images", tensor)), "")

    assert first == Media(
        "image", "faces", PNG, "image/png", 3, 1.5, index=0, meta={"width": 640, "height": 480}
    )
    assert isinstance(film, Media)
    assert isinstance(second, Media)
    assert (film.kind, film.mime, film.index) == ("video", "image/gif", 0)
    assert (second.kind, second.data, second.index) == ("image", PNG + b"2", 1)


def test_values_of_one_tag_count_on() -> None:
    image = {"encoded_image_string": PNG, "width": 1, "height": 2, "colorspace": 3}
    made = [value("a", image=summary_pb2.Summary.Image(**image)) for _ in range(3)]

    records = decode(event(*made), "")

    assert [record.index for record in records if isinstance(record, Media)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (b"\xff\xd8\xff\xe0 jpeg", "image/jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"who knows", "application/octet-stream"),
    ],
)
def test_pictures_that_are_no_png(data: bytes, mime: str) -> None:
    made = value("a", image=summary_pb2.Summary.Image(encoded_image_string=data))

    media = only(decode(event(made), ""), Media)

    assert (media.kind, media.mime, media.data, media.meta) == ("image", mime, data, {})


def wav() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(22050)
        file.writeframes(b"\0" * 40)
    return out.getvalue()


def strings(*items: bytes, shape: tuple[int, ...]) -> Any:
    """A tensor of strings; numpy would cut zeros at their ends."""
    tensor = summary_pb2.Summary.Value().tensor
    tensor.dtype = types_pb2.DT_STRING
    tensor.string_val.extend(items)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


@pytest.mark.parametrize("shape", [(2,), (2, 2)])
def test_sounds_say_their_rate_themselves(shape: tuple[int, ...]) -> None:
    labelled = len(shape) == 2
    items = [wav(), b"one", wav(), b""] if labelled else [wav(), wav()]
    records = decode(event(value("beep", "audio", strings(*items, shape=shape))), "")

    for index, record in enumerate(records):
        assert isinstance(record, Media)
        assert (record.kind, record.mime, record.index) == ("audio", "audio/wav", index)
        assert record.data == wav()
        label = {"label": "one"} if labelled and index == 0 else {}
        assert record.meta == {"sample_rate": 22050, "channels": 2, **label}
    assert len(records) == 2


def test_texts_as_tensorboard_makes_them() -> None:
    made = text_v2.text_pb("notes", "hello").value[0]

    assert decode(event(made), "") == [Text("notes", "hello", 3, 1.5)]


def test_lists_and_tables_of_texts_are_markdown() -> None:
    words = text_v2.text_pb("words", np.array(["a", "b|c"])).value[0]
    table = text_v2.text_pb("table", np.array([["a", "b"], ["c\nd", "e"]])).value[0]

    assert [only(decode(event(made), ""), Text).text for made in (words, table)] == [
        "|  |\n| --- |\n| a |\n| b\\|c |\n",
        "|  |  |\n| --- | --- |\n| a | b |\n| c<br>d | e |\n",
    ]


@pytest.mark.parametrize(
    "array", [np.full((2, 2, 2), "x"), np.zeros((0, 2), dtype="U1"), np.zeros(2)]
)
def test_texts_that_are_no_table_stay_events(array: Any) -> None:
    data = event(value("notes", "text", pack(array)))

    assert only(decode(data, ""), Media).data == data


def test_a_text_that_is_no_text_stays_an_event() -> None:
    data = event(value("notes", "text", pack(np.array(b"\xff\xfe"))))

    assert only(decode(data, ""), Media).data == data


def test_a_file_says_the_plugin_of_a_tag_once() -> None:
    decoder = Decoder()
    first = event(value("loss", "scalars", pack(np.float32(1.0))))
    later = event(value("loss", "", pack(np.float32(2.0))))

    found = [only(decoder.decode(data, "s"), Metric).value for data in (first, later)]

    assert found == [1.0, 2.0]
    assert only(decoder.decode(later, "another stream"), Media).kind == "raw"
    assert only(decode(later, "s"), Media).kind == "raw"


def hparams(**fields: Any) -> Any:
    content = plugin_data_pb2.HParamsPluginData(**fields).SerializeToString()
    return value("_hparams_/x", "hparams", content=content)


def test_hparams_as_tensorboard_makes_them() -> None:
    made = summary_v2.hparams_pb({"lr": 0.1, "units": 8, "name": "x", "on": True}, trial_id="t")

    *params, label = decode(event(made.value[0]), "s")

    assert {record.key: record.value for record in params if isinstance(record, Param)} == {
        "lr": 0.1,
        "units": 8.0,
        "name": "x",
        "on": True,
    }
    assert len(params) == 4
    assert label == Tag("hparams.group", "t", 1.5)
    assert is_light(event(made.value[0]))


def test_hparams_of_every_json_type() -> None:
    start = plugin_data_pb2.SessionStartInfo()
    start.hparams["none"].null_value = 0
    start.hparams["list"].list_value.extend([1.0, "a", None, [True]])
    start.hparams["map"].struct_value.update({"b": {"c": 2.0}})
    start.hparams["empty"].SetInParent()

    records = decode(event(hparams(session_start_info=start)), "")

    assert {record.key: record.value for record in records if isinstance(record, Param)} == {
        "none": None,
        "list": '[1.0, "a", null, [true]]',
        "map": '{"b": {"c": 2.0}}',
        "empty": None,
    }


@pytest.mark.parametrize(
    ("status", "tags"),
    [
        (api_pb2.STATUS_SUCCESS, []),
        (api_pb2.STATUS_UNKNOWN, []),
        (api_pb2.STATUS_FAILURE, [Tag("hparams.status", "FAILURE", 1.5)]),
        (api_pb2.STATUS_RUNNING, [Tag("hparams.status", "RUNNING", 1.5)]),
    ],
)
def test_the_end_of_a_session_is_news_only_when_it_is_bad(status: int, tags: list[Tag]) -> None:
    data = event(hparams(session_end_info=plugin_data_pb2.SessionEndInfo(status=status)))

    assert decode(data, "") == tags
    assert is_light(data)


def test_an_experiment_with_a_description_is_kept() -> None:
    data = event(hparams(experiment=api_pb2.Experiment(description="why")))

    assert only(decode(data, ""), Media).data == data
    assert not is_light(data)


def test_what_is_not_understood_does_not_take_the_rest_with_it() -> None:
    odd = [value("odd", "my_plugin", pack(np.zeros(2))), value("bare")]
    data = event(value("loss", simple_value=1.0), odd[0], value("acc", simple_value=2.0), odd[1])

    loss, acc, rest = decode(data, "")

    assert [loss, acc] == [Metric("loss", 1.0, 3, 1.5), Metric("acc", 2.0, 3, 1.5)]
    assert isinstance(rest, Media)
    assert (rest.kind, rest.key, rest.step, rest.time) == ("raw", "odd", 3, 1.5)
    assert (rest.meta["plugin"], rest.meta["values"]) == ("my_plugin", 2)
    assert event_pb2.Event.FromString(rest.data) == event_pb2.Event.FromString(event(*odd))
    assert not is_light(data)


def test_kept_values_take_only_themselves_along() -> None:
    curve = value("pr", "pr_curves", pack(np.zeros((6, 3))))
    data = event(value("loss", simple_value=1.0), curve)

    media = decode(data, "")[1]

    assert isinstance(media, Media)
    assert media.kind == "pr_curve"
    assert event_pb2.Event.FromString(media.data) == event_pb2.Event.FromString(event(curve))


def test_one_hint_does_not_rename_two_tags() -> None:
    data = event(value("a", simple_value=1.0), value("b", simple_value=1.0))

    records = decode(data, "", {"tag": "c", "value": 1.0000001, "no_step": True})

    assert records == [Metric("a", 1.0, None, 1.5), Metric("b", 1.0, None, 1.5)]


@pytest.mark.parametrize(
    ("fields", "part", "key"),
    [
        ({"graph_def": b"graph"}, "graph_def", "graph"),
        ({"meta_graph_def": b"meta"}, "meta_graph_def", "meta_graph"),
    ],
)
def test_graphs_of_either_kind(fields: Any, part: str, key: str) -> None:
    data = event(**fields)

    media = only(decode(data, ""), Media)

    assert (media.kind, media.key, media.meta["part"], media.data) == ("graph", key, part, data)
    assert data[media.meta["start"] : media.meta["stop"]] in fields.values()


def test_a_keras_model_is_a_graph() -> None:
    data = event(value("keras", "graph_keras_model", pack(np.array("{}"))))

    media = only(decode(data, ""), Media)

    assert (media.kind, media.key, media.meta) == ("graph", "keras", {"part": "graph_keras_model"})


@pytest.mark.parametrize(
    "fields",
    [
        {"file_version": "brain.Event:2"},
        {"session_log": event_pb2.SessionLog(status=1)},
        {"log_message": event_pb2.LogMessage(message="x")},
        {"summary": summary_pb2.Summary()},
    ],
)
def test_bookkeeping_is_nothing(fields: Any) -> None:
    data = event(**fields)

    assert decode(data, "") == []
    assert is_light(data)


@pytest.mark.parametrize("time", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_none(time: float) -> None:
    made = event_pb2.Event(wall_time=time, step=3)
    made.summary.value.extend([value("a", simple_value=1.0)])

    assert decode(made.SerializeToString(), "") == [Metric("a", 1.0, 3, 0.0)]
