"""Keys of streams and tags: one fixed rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelet.naming import Names, artifact_path, flatten

TORCH = "runs/Nov23_05-41-00_myhost"
LATER = "runs/Nov23_05-41-07_myhost"


def keys(*streams: str, tag: str = "loss", names: Any = None) -> list[str]:
    names = names or Names()
    return [names.key("metric", stream, tag) for stream in streams]


@pytest.mark.parametrize(
    ("streams", "expected"),
    [
        # The first one is the plain one.
        (["runs/exp1"], ["loss"]),
        ([TORCH], ["loss"]),
        (["runs/exp1", "runs/exp1"], ["loss", "loss"]),
        # A known split always prefixes, the first one too, and keeps its spelling.
        (["runs/exp1/val"], ["val/loss"]),
        (["runs/exp1/train", "runs/exp1/val"], ["train/loss", "val/loss"]),
        (["runs/exp1/Train", "runs/exp1"], ["Train/loss", "loss"]),
        (
            ["logs/validation", "logs/test", "logs/eval"],
            ["validation/loss", "test/loss", "eval/loss"],
        ),
        ([TORCH + "/val", TORCH], ["val/loss", "loss"]),
        # Others are relative to the plain one, or to the parent that they share.
        (["runs/exp1", "runs/exp1/gan/d"], ["loss", "gan/d/loss"]),
        (["runs/exp1", "runs/exp2"], ["loss", "exp2/loss"]),
        (["runs/a/b", "runs/c/d"], ["loss", "c/d/loss"]),
        (["runs/exp1/head", "runs/exp1"], ["loss", "exp1/loss"]),
        (["lightning_logs/version_0", "lightning_logs/version_1"], ["loss", "version_1/loss"]),
        # Without a plain one: to the directory above the first split.
        (["runs/exp1/train", "runs/exp1/extra"], ["train/loss", "loss"]),
        # Time stamps never enter a key.
        ([TORCH, LATER], ["loss", "writer2/loss"]),
        (
            [TORCH, LATER + "LR_0.1", "runs/Nov24_00-00-00_h"],
            ["loss", "writer2/loss", "writer3/loss"],
        ),
        (["runs/exp1", TORCH, LATER], ["loss", "writer2/loss", "writer3/loss"]),
        ([TORCH, LATER + "/gan", LATER + "/enc"], ["loss", "writer2/gan/loss", "writer2/enc/loss"]),
        ([TORCH + "/gan", TORCH + "/enc"], ["loss", "enc/loss"]),
        ([TORCH + "/val", LATER + "/val"], ["val/loss", "writer2/val/loss"]),
        ([TORCH, TORCH + "/1700717260.5"], ["loss", "writer2/loss"]),
        (["logs/20231123-054100", "logs/20231123-054200"], ["loss", "writer2/loss"]),
        (["o/2023-11-23/05-41-00", "o/2023-11-24/07-00-00"], ["loss", "writer2/loss"]),
        (["o/2023-11-23/05-41-00", "o/2023-11-23/07-00-00"], ["loss", "writer2/loss"]),
        (["runs/main", "runs/10-20-30"], ["loss", "10-20-30/loss"]),
        # One prefix, two directories: the longer path, then a hash.
        (["k/1/train", "k/1/val", "k/2/train"], ["train/loss", "val/loss", "2/train/loss"]),
        # Spellings of one directory.
        (["runs/exp1", "./runs//exp1/", "runs/x/../exp1"], ["loss"] * 3),
        (["/data/runs/a", "/data/runs/b"], ["loss", "b/loss"]),
        (["s3://bucket/a", "s3://bucket/b"], ["loss", "b/loss"]),
        (["s3://bucket/a", "s3://other/b"], ["loss", "b/loss"]),
        (["C:\\runs\\a", "C:\\runs\\b\\val"], ["loss", "val/loss"]),
        (["../runs/a", "../runs/b"], ["loss", "b/loss"]),
        (["/", "/a"], ["loss", "a/loss"]),
        (["a", "/"], ["loss", "writer2/loss"]),
        ([".", "val"], ["loss", "val/loss"]),
    ],
)
def test_the_rule(streams: list[str], expected: list[str]) -> None:
    assert keys(*streams) == expected


@pytest.mark.parametrize(
    "name",
    [
        "Nov23_05-41-00_host",
        "Nov23_05-41-00_hostLR_0.1",
        "févr.23_05-41-00_hôte",
        "1700717260",
        "1700717260.4242",
        "1700717260123",
        "20231123",
        "2023-11-23",
        "2023.11.23",
        "20231123-054100",
        "20231123T054100Z",
        "2023-11-23_05-41-00",
        "2023-11-23T05:41:00.123+01:00",
        "2023_11_23_05_41",
        "20231123054100",
    ],
)
def test_names_that_are_only_a_time(name: str) -> None:
    assert keys("runs/main", f"runs/{name}") == ["loss", "writer2/loss"]


@pytest.mark.parametrize(
    "name",
    ["version_0", "exp_20231123", "run-12", "1234", "20", "20231399", "v1", "lr0.1", "99999999"],
)
def test_names_that_say_something(name: str) -> None:
    assert keys("runs/main", f"runs/{name}") == ["loss", f"{name}/loss"]


def test_a_prefix_that_is_taken_gets_a_hash() -> None:
    first, second, third = keys("a/exp", "a/exp/x", "a/x")

    assert (first, second) == ("loss", "x/loss")
    assert third.startswith("x~")
    assert keys("/other/exp", "/other/exp/x", "/other/x")[2] == third  # wherever the project lies


def test_explicit_calls_are_plain_and_are_no_stream() -> None:
    names = Names()

    assert names.key("metric", "", "loss") == "loss"
    assert names.key("metric", "runs/exp1", "acc") == "acc"
    assert names.key("metric", "runs/exp1", "loss") == "loss"  # the user gave both the same name
    assert names.key("metric", "runs/exp2", "loss") == "exp2/loss"


def test_children_follow() -> None:
    names = Names()
    names.stream("runs/exp1", main=True)
    names.stream("runs/exp1/worker", main=False)

    assert keys("runs/exp1/worker", "runs/exp1", names=names) == ["worker/loss", "loss"]


def test_a_child_takes_no_name_from_a_main_process_that_only_has_splits() -> None:
    names = Names()
    names.stream("runs/exp1/train")
    names.stream("runs/exp1/worker", main=False)
    names.stream("runs/exp1")

    assert keys("runs/exp1/worker", "runs/exp1", names=names) == ["worker/loss", "loss"]


def test_a_child_that_is_alone_is_plain() -> None:
    names = Names()
    names.stream("runs/exp1", main=False)
    names.stream("runs/exp2", main=True)

    assert keys("runs/exp1", "runs/exp2", names=names) == ["loss", "exp2/loss"]


def test_the_working_directory_makes_one_of_two_spellings() -> None:
    names = Names(cwd="/home/me/project")

    assert keys("runs/a", "/home/me/project/runs/a", "../project/runs/b", names=names) == [
        "loss",
        "loss",
        "b/loss",
    ]


def test_two_pairs_that_would_meet() -> None:
    names = Names()
    pairs = [
        ("runs/a", "val/loss"),
        ("runs/a/val", "loss"),
        ("runs/a", "loss"),
        ("runs/a/val", "x"),
    ]
    names.stream("runs/a")

    first, second, third, fourth = (names.key("metric", *pair) for pair in pairs)

    assert (first, third, fourth) == ("val/loss", "loss", "val/x")
    assert second.startswith("val/loss~")
    assert names.originals() == {second: ("runs/a/val", "loss"), "val/x": ("runs/a/val", "x")}


def test_a_tag_that_looks_like_a_hashed_key() -> None:
    names = Names()
    names.stream("runs/a")
    taken = names.key("metric", "runs/a", "val/loss")
    hashed = names.key("metric", "runs/a/val", "loss")

    assert names.key("metric", "runs/a", hashed) not in {taken, hashed}


def test_kinds_do_not_meet() -> None:
    names = Names()
    names.stream("runs/a")
    names.key("metric", "runs/a", "val/loss")

    assert names.key("media", "runs/a/val", "loss") == "val/loss"
    assert names.originals() == {"val/loss": ("runs/a/val", "loss")}


def test_one_key_of_two_kinds_keeps_both_originals() -> None:
    names = Names()
    names.stream("runs/a")
    names.stream("runs/a/x")
    names.stream("runs/a/x/y")
    names.key("metric", "runs/a/x", "y/z")
    names.key("media", "runs/a/x/y", "z")

    assert names.originals() == {"x/y/z": ("runs/a/x", "y/z"), "media:x/y/z": ("runs/a/x/y", "z")}


@pytest.mark.parametrize(
    "tag", ["", "/", "a//b", "../x", "loss (train)", "日本", "\ud800", "x" * 300]
)
def test_tags_pass_unchanged(tag: str) -> None:
    assert keys("runs/a", tag=tag) == [tag]
    assert keys("runs/val", tag=tag) == [f"val/{tag}"]


STREAMS = st.sampled_from(
    [
        "",
        "runs/a",
        "runs/a/",
        "runs/a/val",
        "runs/b/val",
        "runs/a/x",
        "runs/x",
        "x",
        "/x",
        "../x",
        TORCH,
        LATER,
        TORCH + "/val",
        LATER + "/val",
        LATER + "/x",
        "writer2",
        "runs/writer2",
        "/",
        ".",
    ]
)
TAGS = st.sampled_from(["loss", "val/loss", "x/loss", "a/val/loss", "writer2/loss", "", "/loss"])
CALLS = st.lists(st.tuples(st.sampled_from(["metric", "media"]), STREAMS, TAGS), max_size=40)


@settings(max_examples=300, deadline=None)
@given(CALLS, st.booleans())
def test_no_two_pairs_share_a_key_and_every_order_gives_the_same(calls: Any, main: bool) -> None:
    names, again = Names(), Names()
    for _, stream, _ in calls[::2]:
        names.stream(stream, main=main)
        again.stream(stream, main=main)
    found = [names.key(*call) for call in calls]

    assert found == [again.key(*call) for call in calls]
    assert found == [names.key(*call) for call in calls]
    owners: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for (kind, stream, tag), key in zip(calls, found):
        owners.setdefault((kind, key), set()).add((stream, tag))
        assert "Nov23" not in key
    plain = {
        stream
        for stream in ["", *(call[1] for call in calls)]
        if names.key("k", stream, "q") == "q"
    }
    for pairs in owners.values():
        same = {
            (("plain" if stream in plain else stream.rstrip("/")), tag) for stream, tag in pairs
        }
        assert len(same) == 1, pairs
    for (_, stream, tag), key in zip(calls, found):
        assert (key == tag) or key in names.originals()
        del stream


@settings(max_examples=200, deadline=None)
@given(CALLS, st.integers(0, 40))
def test_what_was_decided_is_restored(calls: Any, cut: int) -> None:
    whole, first = Names(), Names()
    journal: list[Any] = []
    expected = [whole.key(*call) for call in calls]
    for number, call in enumerate(calls[:cut]):
        first.key(*call)
        if number % 3 == 0:
            journal += first.journal()
    journal += first.journal()
    assert first.journal() == []
    journal = json.loads(json.dumps(journal))
    second = Names()
    second.restore(journal)
    third = Names(json.loads(json.dumps(first.dump())))

    for names in (first, second, third):
        assert [names.key(*call) for call in calls] == expected
        assert names.originals() == whole.originals()
        assert names.dump() == whole.dump()
    assert journal + second.journal() == whole.dump()["entries"]


@pytest.mark.parametrize(
    "entry",
    [
        [],
        ["key", "a"],
        ["stream", 1, 2],
        "stream",
        ["else", "a", "b"],
        [{}],
        ["key", "metric", "runs/a", "t", "t"],
        ["writer", "", ["a"], "2"],
    ],
)
def test_a_journal_of_somebody_else(entry: Any) -> None:
    with pytest.raises(ValueError, match="journal"):
        Names().restore([entry])


def test_parameters_are_flattened() -> None:
    assert flatten(
        {
            "lr": 0.1,
            "model": {"layers": [1, 2], "act": "relu", "opt": {"name": None, "on": True}},
            "empty": {},
            3: "three",
            "sizes": (1, (2, "x")),
            "set": {3, 1},
            "path": object,
        }
    ) == {
        "lr": 0.1,
        "model.layers": "[1, 2]",
        "model.act": "relu",
        "model.opt.name": None,
        "model.opt.on": True,
        "empty": "{}",
        "3": "three",
        "sizes": '[1, [2, "x"]]',
        "set": "[1, 3]",
        "path": "<class 'object'>",
    }


def test_numbers_of_numpy_become_numbers() -> None:
    np = pytest.importorskip("numpy")
    flat = flatten(
        {
            "f": np.float32(0.5),
            "d": np.float64(0.1),
            "i": np.int64(3),
            "b": np.bool_(True),
            "s": np.str_("x"),
            "zero": np.array(2),
            "array": np.arange(3),
            "huge": np.zeros(5000),
        }
    )

    assert flat == {
        "f": 0.5,
        "d": 0.1,
        "i": 3,
        "b": True,
        "s": "x",
        "zero": 2,
        "array": "[0, 1, 2]",
        "huge": str(np.zeros(5000)),
    }
    assert [type(value) for value in flat.values()] == [float, float, int, bool, str, int, str, str]


def test_numbers_of_torch_become_numbers() -> None:
    torch = pytest.importorskip("torch")

    assert flatten({"a": torch.tensor(2), "b": torch.tensor([0.5, 1.0])}) == {
        "a": 2,
        "b": "[0.5, 1.0]",
    }


def test_enums_are_their_values() -> None:
    from enum import Enum, IntEnum

    class Color(str, Enum):
        RED = "red"

    class Size(IntEnum):
        BIG = 3

    flat = flatten({"color": Color.RED, "size": Size.BIG})

    assert flat == {"color": "red", "size": 3}
    assert [type(value) for value in flat.values()] == [str, int]


def test_parameters_that_meet_are_both_kept() -> None:
    flat = flatten({"a": {"b": 1}, "a.b": 2, "c": 3})

    assert flat["a.b"] == 1
    assert sorted(map(str, flat.values())) == ["1", "2", "3"]
    assert flat == flatten({"a": {"b": 1}, "a.b": 2, "c": 3})


def test_parameters_without_end() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    knot: list[Any] = []
    knot.append(knot)

    assert len(flatten({"loop": loop, "knot": knot})) == 2


@pytest.mark.parametrize("params", [None, [("a", 1)], "a=1", 3])
def test_parameters_are_a_mapping(params: Any) -> None:
    with pytest.raises(TypeError, match="dictionary"):
        flatten(params)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=5))
def test_flat_parameters_stay_as_they_are(params: dict[str, Any]) -> None:
    flat = flatten(params)

    assert repr(flatten(flat)) == repr(flat)
    assert all(isinstance(value, (str, int, float, bool, type(None))) for value in flat.values())


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("models/", "models"),
        ("models", "models"),
        ("a//b/./c/", "a/b/c"),
        ("", ""),
        (".", ""),
        ("a b/ü.txt", "a b/ü.txt"),
        ("a..b/...", "a..b/..."),
        ("👩‍💻", "👩‍💻"),
    ],
)
def test_artifact_paths(path: str, clean: str) -> None:
    assert artifact_path(path) == clean


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "..",
        "a/../b",
        "a\\b",
        "C:x",
        "c:/x",
        "a\0b",
        "a\nb",
        "a\x7fb",
        "a\u202eb",
        "a\u2028b",
        "a\ud800b",
        "x" * 1025,
        "ü" * 513,
    ],
)
def test_artifact_paths_that_lead_elsewhere(path: str) -> None:
    with pytest.raises(ValueError, match="artifact path"):
        artifact_path(path)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab./\\:\0\u202e ~", max_size=12))
def test_artifact_paths_are_safe_or_refused(path: str) -> None:
    try:
        clean = artifact_path(path)
    except ValueError:
        return
    assert artifact_path(clean) == clean
    assert not clean.startswith("/")
    assert ".." not in clean.split("/")
    assert "" not in clean.split("/") or not clean
