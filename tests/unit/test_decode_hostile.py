"""Bytes that nobody vouches for: no crash, no lie, no bomb."""

from __future__ import annotations

import math
import time
import tracemalloc
from typing import Any, Optional

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracelet.records import Histogram, Media, Metric, Param, Record, Tag, Text
from tracelet.tfevents import Decoder, decode, is_light
from tracelet.tfevents.wire import MAX_FIELDS, Wire, WireError, field, signed, varint

event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")
summary_pb2 = pytest.importorskip("tensorboard.compat.proto.summary_pb2")
plugin_pb2 = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
message = pytest.importorskip("google.protobuf.message")

LIGHT = (Metric, Param, Tag)


def tensor_value(tag: str, plugin: str, content: bytes = b"", **tensor: Any) -> Any:
    value = summary_pb2.Summary.Value(tag=tag)
    value.metadata.plugin_data.plugin_name = plugin
    value.metadata.plugin_data.content = content
    shape = tensor.pop("shape", ())
    for name, given_values in tensor.items():
        if isinstance(given_values, list):
            getattr(value.tensor, name).extend(given_values)
        else:
            setattr(value.tensor, name, given_values)
    for size in shape:
        value.tensor.tensor_shape.dim.add(size=size)
    return value


def summary(*values: Any) -> bytes:
    event = event_pb2.Event(wall_time=1.5, step=-7)
    event.summary.value.extend(values)
    data: bytes = event.SerializeToString()
    return data


def plain(tag: str, **member: Any) -> Any:
    return summary_pb2.Summary.Value(tag=tag, **member)


HISTOGRAM = summary_pb2.HistogramProto(
    min=0, max=9, num=10, sum=45, sum_squares=285, bucket_limit=[1, 5, 9], bucket=[1, 4, 5]
)
IMAGE = summary_pb2.Summary.Image(width=2, height=3, encoded_image_string=b"\x89PNG\r\n\x1a\n...")
AUDIO = summary_pb2.Summary.Audio(
    sample_rate=8000, encoded_audio_string=b"RIFF....WAVEfmt ....", content_type="audio/wav"
)
START = plugin_pb2.SessionStartInfo()
START.hparams["lr"].number_value = 0.5
START.hparams["name"].string_value = "ab"
START.hparams["list"].list_value.extend([1.0, [True]])
HPARAMS = plugin_pb2.HParamsPluginData(session_start_info=START).SerializeToString()

#: Real events of every kind, as their serializer made them.
EVENTS = [
    summary(plain("loss", simple_value=0.5)),
    summary(*(plain(f"m/{number}", simple_value=number) for number in range(5))),
    summary(plain("h", histo=HISTOGRAM)),
    summary(plain("i", image=IMAGE), plain("i", image=IMAGE)),
    summary(plain("a", audio=AUDIO)),
    summary(tensor_value("s", "scalars", dtype=1, float_val=[0.25])),
    summary(tensor_value("s", "scalars", dtype=9, int64_val=[-5])),
    summary(tensor_value("s", "scalars", dtype=19, half_val=[15360])),
    summary(tensor_value("t/text_summary", "text", dtype=7, string_val=[b"hello"], shape=[1])),
    summary(tensor_value("t", "text", dtype=7, string_val=[b"a", b"b", b"c", b"d"], shape=[2, 2])),
    summary(tensor_value("g", "images", dtype=7, string_val=[b"1", b"2", b"GIF89a"], shape=[3])),
    summary(tensor_value("w", "audio", dtype=7, string_val=[b"RIFF", b"x"], shape=[1, 2])),
    summary(
        tensor_value("h", "histograms", dtype=2, double_val=[0, 1, 5.0, 1, 2, 6], shape=[2, 3])
    ),
    summary(tensor_value("p", "pr_curves", dtype=1, float_val=[0.5] * 12, shape=[6, 2])),
    summary(
        tensor_value(
            "b_1", "mesh", b"\x12\x01b\x18\x01", dtype=1, float_val=[0.5], shape=[1, 4, 3]
        ),
        tensor_value(
            "b_2", "mesh", b"\x12\x01b\x18\x02", dtype=1, float_val=[0.5], shape=[1, 2, 3]
        ),
    ),
    summary(
        tensor_value(
            "custom_scalars__config__",
            "custom_scalars",
            dtype=7,
            string_val=[b"\x12\x10\n\x01c\x12\x0b\n\x01t\x12\x06\n\x01a\n\x01b"],
        )
    ),
    summary(tensor_value("hp", "hparams", HPARAMS)),
    summary(tensor_value("u", "unknown", dtype=1, float_val=[1, 2], shape=[2])),
    event_pb2.Event(wall_time=1.5, graph_def=b"\n\x03abc").SerializeToString(),
    event_pb2.Event(
        tagged_run_metadata=event_pb2.TaggedRunMetadata(tag="step1", run_metadata=b"xyz")
    ).SerializeToString(),
    event_pb2.Event(file_version="brain.Event:2").SerializeToString(),
]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
HINTS = st.none() | st.dictionaries(
    st.sampled_from(["tag", "no_step", "step", "value", "hparams", "other"]), JSON, max_size=6
)


@st.composite
def broken_events(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(EVENTS)))
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["flip", "cut", "put", "drop", "join"]))
        place = draw(st.integers(0, len(data)))
        if kind == "flip" and place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[place:]
        elif kind == "put":
            data[place:place] = draw(st.binary(max_size=12))
        elif kind == "drop":
            del data[place : place + draw(st.integers(1, 4))]
        elif kind == "join":
            data += draw(st.sampled_from(EVENTS))
    return bytes(data)


def check(data: bytes, hint: Optional[dict[str, Any]] = None) -> list[Record]:
    """What must hold of any bytes."""
    records = decode(data, "s", hint)
    assert decode(data, "s", hint) == records or any(map(has_nan, records))
    assert is_light(data, hint) == all(isinstance(record, LIGHT) for record in records)
    for record in records:
        if isinstance(record, Histogram):
            assert len(record.edges) == len(record.counts) + 1
            assert list(record.edges) == sorted(record.edges)
            assert all(map(math.isfinite, record.edges))
        if not isinstance(record, Tag):
            assert record.stream == "s"
        assert math.isfinite(record.time)
        if isinstance(record, Media) and record.kind == "raw":
            assert len(record.data) <= len(data) + 8
    return records


def has_nan(record: Record) -> bool:
    return "nan" in repr(record)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200), HINTS)
def test_any_bytes(data: bytes, hint: Optional[dict[str, Any]]) -> None:
    check(data, hint)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(broken_events(), HINTS)
def test_broken_events(data: bytes, hint: Optional[dict[str, Any]]) -> None:
    check(data, hint)
    decoder = Decoder()
    for event in (data, *EVENTS, data):
        decoder.decode(event, "s", hint)


def reference(data: bytes) -> Optional[Any]:
    try:
        return event_pb2.Event.FromString(data)
    except message.DecodeError:
        return None


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(broken_events())
def test_nothing_is_read_that_protobuf_reads_otherwise(data: bytes) -> None:
    event = reference(data)
    records = check(data)
    if event is None:
        return  # what protobuf refuses altogether may still be whole in the parts that we read
    values = {field: [] for field in ("simple_value", "image", "audio", "histo")}  # type: ignore[var-annotated]
    for value in event.summary.value:
        member = value.WhichOneof("value")
        plugin = value.metadata.plugin_data.plugin_name
        if member in values and plugin != "hparams":
            values[member].append(value)
    tags = {value.tag for value in event.summary.value}
    old = [float(value.simple_value) for value in values["simple_value"]]
    seen = [record.value for record in records if isinstance(record, Metric)]
    new = [
        value
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "scalars"
    ]
    if not new and not is_raw(records):
        assert list(map(repr, seen)) == list(map(repr, old))
    for record in records:
        if isinstance(record, (Metric, Histogram, Media, Text)) and not is_raw([record]):
            assert record.step == event.step
            assert record.time == (event.wall_time if math.isfinite(event.wall_time) else 0.0)
        if isinstance(record, Metric):
            assert record.key in tags
        if isinstance(record, Media) and record.kind in {"image", "video", "audio"}:
            blobs = [value.image.encoded_image_string for value in values["image"]]
            blobs += [value.audio.encoded_audio_string for value in values["audio"]]
            blobs += [text for value in event.summary.value for text in value.tensor.string_val]
            assert record.data in blobs
        if isinstance(record, Histogram) and values["histo"] and len(event.summary.value) == 1:
            proto = values["histo"][0].histo
            assert sum(record.counts) == pytest.approx(sum(proto.bucket))
            assert repr(record.min) == repr(proto.min)


def is_raw(records: list[Record]) -> bool:
    return any(isinstance(record, Media) and record.kind == "raw" for record in records)


@pytest.mark.parametrize("data", EVENTS, ids=range(len(EVENTS)))
def test_a_cut_event_is_kept_as_it_is(data: bytes) -> None:
    for end in range(len(data)):
        (media,) = check(data[:end])
        assert isinstance(media, Media)
        assert (media.kind, media.key, media.data) == ("raw", "tfevent", data[:end])
        assert media.meta["reason"]


@pytest.mark.parametrize("data", EVENTS, ids=range(len(EVENTS)))
def test_whole_events_are_understood(data: bytes) -> None:
    records = check(data)

    assert reference(data) is not None
    if b"unknown" not in data:
        assert not is_raw(records)


@settings(max_examples=300, deadline=None)
@given(st.integers(-(2**63), 2**64 - 1))
def test_numbers_on_the_wire(number: int) -> None:
    raw = varint(number)
    value, end = Wire(raw).varint(0, len(raw))

    assert end == len(raw)
    assert value == number % 2**64
    assert signed(value) == number or number >= 2**63


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a length of 2**63
        b"\x0a" + b"\x80" * 11,  # a length that does not end
        b"\x00\x00",  # field 0
        b"\x0b\x0c",  # a group
        b"\x0d\x00",  # four bytes, one there
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a field number of 60 bits
    ],
)
def test_lengths_that_lie(data: bytes) -> None:
    with pytest.raises(WireError):
        list(Wire(data).fields())
    check(data)


def nested(depth: int) -> bytes:
    """A hyperparameter that is a list in a list in a list …"""
    value = b""
    for _ in range(depth):
        value = field(6, field(1, value))
    return field(3, field(1, field(1, b"deep") + field(2, value)))


MILLION = 1_000_000
BOMBS = {
    "fields": b"\x50\x01" * (2 * MILLION),
    "values": field(5, b"\x0a\x00" * MILLION),
    "shape": summary(tensor_value("s", "scalars", dtype=1, float_val=[1.0], shape=[1 << 40])),
    "shapes": summary(
        *[
            tensor_value("h", "histograms", dtype=2, double_val=[1.0], shape=[200_000, 3])
            for _ in range(300)
        ]
    ),
    "dimensions": summary(tensor_value("s", "scalars", dtype=1, float_val=[1.0], shape=[3] * 5000)),
    "depth": summary(tensor_value("hp", "hparams", nested(5000))),
    "numbers": summary(tensor_value("s", "scalars", dtype=9, int64_val=[1] * 2 * MILLION)),
    "strings": summary(tensor_value("t", "text", dtype=7, string_val=[b""] * MILLION, shape=[1])),
    "buckets": summary(
        plain(
            "h",
            histo=summary_pb2.HistogramProto(bucket=[1.0] * MILLION, bucket_limit=[1.0] * MILLION),
        )
    ),
    "curves": summary(
        *[
            tensor_value(f"p{number}", "pr_curves", dtype=1, float_val=[1.0], shape=[6, 9])
            for number in range(9000)
        ]
    ),
    "metadata": summary(
        *[
            tensor_value("m", "mesh", b"\x08\x00" * 5000, dtype=1, float_val=[1.0])
            for _ in range(400)
        ]
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_little_time_and_memory(name: str) -> None:
    data = BOMBS[name]
    decoder = Decoder()
    start = time.process_time()
    decoder.decode(data, "s")
    decoder.decode(data, "s")
    is_light(data)
    assert time.process_time() - start < 20  # three times a second or two, on a busy machine

    if len(data) < 100_000 or name == "shapes":  # measuring memory is slow
        tracemalloc.start()
        records = decode(data, "s")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 150_000_000
        assert sum(len(record.data) for record in records if isinstance(record, Media)) < 2 * len(
            data
        )


def test_what_a_file_makes_the_decoder_remember_is_not_read_again_and_again() -> None:
    decoder = Decoder()
    decoder.decode(summary(tensor_value("m", "mesh", b"\x08\x00" * 30_000, dtype=1)), "s")
    short = summary(*[plain("m", tensor={"dtype": 1}) for _ in range(20_000)])

    start = time.process_time()
    decoder.decode(short, "s")

    assert time.process_time() - start < 20


def test_kept_events_share_their_bytes() -> None:
    data = BOMBS["curves"]

    kept = sum(len(record.data) for record in decode(data, "s") if isinstance(record, Media))

    assert kept < 2 * len(data)


def test_the_limit_of_fields_is_far_from_real_events() -> None:
    many = summary(*(plain(f"m/{number}", simple_value=number) for number in range(20_000)))

    assert MAX_FIELDS >= MILLION
    assert len(decode(many, "")) == 20_000


@settings(max_examples=200, deadline=None)
@given(HINTS)
def test_any_hint(hint: Optional[dict[str, Any]]) -> None:
    for data in EVENTS:
        check(data, hint)
