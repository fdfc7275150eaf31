from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelet.records import (
    Artifact,
    Histogram,
    Media,
    Metric,
    Param,
    Record,
    RunEnd,
    RunStatus,
    Table,
    Tag,
    Text,
)
from tracelet.spool import codec

#: Every string that Python has: with half surrogate pairs, NUL and all.
texts = st.text(st.characters(exclude_categories=[]), max_size=30)
floats = st.floats()
steps = st.one_of(st.none(), st.integers(), st.floats())
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), floats, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
records = st.one_of(
    st.builds(Metric, texts, floats, steps, floats, texts),
    st.builds(
        Histogram,
        texts,
        st.lists(floats, max_size=5),
        st.lists(floats, max_size=5),
        *[floats] * 4,
        steps,
        floats,
        texts,
    ),
    st.builds(Text, texts, texts, steps, floats, texts),
    st.builds(
        Media,
        texts,
        texts,
        st.binary(max_size=50),
        texts,
        steps,
        floats,
        texts,
        st.integers(0, 99),
        st.dictionaries(texts, json_values, max_size=3),
    ),
    st.builds(
        Table,
        texts,
        st.lists(texts, max_size=3),
        st.lists(st.lists(json_values, max_size=3), max_size=3),
        steps,
        floats,
        texts,
    ),
    st.builds(
        Param, texts, st.one_of(st.none(), st.booleans(), st.integers(), floats, texts), floats
    ),
    st.builds(Tag, texts, texts, floats),
    st.builds(
        Artifact,
        texts,
        texts,
        st.integers(0, 2**70),
        floats,
        st.one_of(st.none(), st.tuples(*[st.integers(0, 2**64)] * 4)),
    ),
    st.builds(
        RunEnd,
        st.sampled_from(RunStatus),
        floats,
        st.dictionaries(texts, st.integers(), max_size=3),
    ),
)


@settings(max_examples=400)
@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    found = codec.decode_record(codec.encode_record(record))
    assert type(found) is type(record)
    assert repr(found) == repr(record)  # which, unlike ==, knows NaN from NaN and 1 from True


def test_texts_that_look_like_our_marks_stay_texts() -> None:
    for value in ("NaN", "Infinity", '{"float":"NaN"}'):
        assert codec.decode_record(codec.encode_record(Tag("k", value, 1.0))) == Tag(
            "k", value, 1.0
        )
    meta = {"float": "NaN", "map": {"map": 1, "float": math.inf}}
    found = codec.decode_record(codec.encode_record(Media("raw", "k", b"", "x", 1, 1.0, meta=meta)))
    assert isinstance(found, Media)
    assert found.meta == meta


def test_what_json_has_no_form_for_becomes_its_text() -> None:
    found = codec.decode_record(codec.encode_record(Param("path", complex(1, 2), 1.0)))  # type: ignore[arg-type]
    assert found == Param("path", "(1+2j)", 1.0)


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(TypeError, match="no record"):
        codec.encode_record({"key": "k"})  # type: ignore[arg-type]


@settings(max_examples=400)
@given(st.binary(max_size=200))
def test_bytes_that_are_none_raise_value_error_and_nothing_else(data: bytes) -> None:
    for decode in (codec.decode_record, codec.decode_event, codec.decode_definition):
        try:
            decode(data)
        except ValueError:
            continue


@settings(max_examples=400)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "t",
                "key",
                "value",
                "time",
                "step",
                "status",
                "identity",
                "lost",
                "meta",
                "rows",
                "columns",
                "edges",
                "size",
            ]
        ),
        json_values,
        max_size=8,
    ),
    st.sampled_from(list(codec._TYPES)),
)
def test_a_head_that_somebody_made_up(head: dict[str, Any], kind: str) -> None:
    text = json.dumps({**head, "t": head.get("t", kind)}).encode()
    try:
        found = codec.decode_record(struct.pack("<I", len(text)) + text)
    except ValueError:
        return
    assert isinstance(found, tuple(codec._NAMES))


@pytest.mark.parametrize(
    "head",
    [
        {"t": "metric", "key": 5, "value": 1.0, "step": 1, "time": 1.0},
        {"t": "metric", "key": "k", "value": "1", "step": 1, "time": 1.0},
        {"t": "metric", "key": "k", "value": 1.0, "step": "1", "time": 1.0},
        {"t": "metric", "key": "k", "value": 1.0, "step": True, "time": 1.0},
        {"t": "metric", "key": "k", "value": 1.0, "step": 1},
        {"t": "tag", "key": "k", "value": 5, "time": 1.0},
        {"t": "tag", "key": "k", "value": {"float": "zero"}, "time": 1.0},
        {"t": "tag", "key": "k", "value": {"float": []}, "time": 1.0},
        {"t": "tag", "key": "k", "value": {"other": 1}, "time": 1.0},
        {"t": "param", "key": "k", "value": [1], "time": 1.0},
        {
            "t": "histogram",
            "key": "k",
            "edges": [1, "2"],
            "counts": [1],
            "min": 0,
            "max": 1,
            "sum": 1,
            "sum_squares": 1,
            "step": 1,
            "time": 1.0,
        },
        {"t": "table", "key": "k", "columns": ["a"], "rows": [1], "step": 1, "time": 1.0},
        {"t": "end", "status": "GONE", "time": 1.0},
        {"t": "artifact", "path": "p", "source": "s", "size": 1, "time": 1.0, "identity": ["a"]},
        {
            "t": "artifact",
            "path": "p",
            "source": "s",
            "size": 1,
            "time": 1.0,
            "identity": [{"float": "Infinity"}],
        },
        {"t": "nothing"},
        {"t": []},
        [],
    ],
)
def test_a_record_that_no_writer_of_ours_makes_is_none(head: Any) -> None:
    text = json.dumps(head).encode()
    with pytest.raises(ValueError, match=r".") as error:
        codec.decode_record(struct.pack("<I", len(text)) + text)
    assert type(error.value) in (ValueError, json.JSONDecodeError)


def test_deep_nesting_is_refused_not_followed() -> None:
    text = b'{"t":"param","key":"k","time":1,"value":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(ValueError, match="not a record"):
        codec.decode_record(struct.pack("<I", len(text)) + text)


@given(texts, st.one_of(st.none(), texts))
def test_a_definition_comes_back(stream: str, tag: str | None) -> None:
    key = codec.key_hash(stream, tag)
    assert codec.decode_definition(codec.encode_definition(key, stream, tag)) == (key, stream, tag)


def test_hashes_depend_on_everything() -> None:
    names = {
        codec.key_hash("a", "b"),
        codec.key_hash("a", ""),
        codec.key_hash("a", None),
        codec.key_hash("ab", None),
        codec.key_hash("b", "a"),
        codec.key_hash("a", "b", 1),
        codec.key_hash("a", "b", 2),
    }
    assert len(names) == 7
    # The hash is on disk: it must never change.
    assert codec.key_hash("runs/exp", "loss") == 0x9D74D797F9A5A16C
    assert codec.key_hash("runs/exp", None) == 0xFFB75EB3AA46A612


@given(floats, st.dictionaries(texts, json_values, max_size=3), st.binary(max_size=100))
def test_an_event_comes_back(time: float, hint: dict[str, Any], data: bytes) -> None:
    payload = struct.pack("<Q", 77) + codec.encode_event(time, codec.encode_hint(hint), data)
    stream, when, told, event = codec.decode_event(payload)
    assert (stream, event) == (77, data)
    assert repr(when) == repr(time)
    assert repr(told) == (repr(hint) if hint else "None")


def test_a_hint_that_json_cannot_hold_costs_no_event() -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless
    for hint in (endless, {("a", 1): 2}):
        assert codec.encode_hint(hint) == b""
    assert codec.encode_hint({"tag": object}) == b'{"tag": "<class \'object\'>"}'


def test_a_hint_that_cannot_be_read_costs_no_event() -> None:
    for hint in (b"{", b"[1]", b"\xff\xfe", b"[" * 100_000):
        payload = struct.pack("<QdI", 1, 2.0, len(hint)) + hint + b"event"
        assert codec.decode_event(payload) == (1, 2.0, None, b"event")
    with pytest.raises(ValueError, match="cut"):
        codec.decode_event(struct.pack("<QdI", 1, 2.0, 99) + b"short")
