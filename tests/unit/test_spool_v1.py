"""
A run of format 1 stays readable for ever.

If this test fails, it is not the test that has to change.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import shutil
import stat
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from spooling import decoded, read

from tracelet.records import (
    Artifact,
    Histogram,
    Media,
    Metric,
    Param,
    RunEnd,
    RunStatus,
    Table,
    Tag,
    Text,
)
from tracelet.spool.cursor import Cursor
from tracelet.spool.reader import Position, last_word, unfinished, written
from tracelet.spool.rundir import RunDir, find_runs

FIXTURES = Path(__file__).parent.parent / "fixtures"
WHEN = 1_795_413_600.25
OWNER, CHILD = "m0001_11111111", "c4242_22222222"

EXPECTED: list[Any] = [
    ("runs/a", "loss", 0.1, 0, None),
    ("runs/a", "loss", 0.30000000000000004, 1, 5.5),
    ("runs/a", "loss", -0.0, None, None),
    ("runs/a", "accuracy", math.inf, 2.5, None),
    ("runs/a", {"tag": "a picture"}, b"\x08\x01 not a real event"),
    ("runs/b", None, b"a large event " * 3),
    ("runs/\ud800", "\0 é ☃ \U0001f600", 1e300, 2**63 - 1, None),
    ("runs/a", "loss", 0.5, -(2**63), None),
    Param("lr", math.nan, WHEN),
    Tag("label", "NaN", WHEN),
    Text("notes", "# text", 3, WHEN),
    Media(
        "image", "picture", b"\x89PNG and so on", "image/png", None, WHEN, index=1,
        meta={"width": 3, "float": -math.inf},
    ),
    Histogram("weights", [0.0, 1.0, 2.0], [3.0, 4.0], 0.25, 1.75, 7.5, 9.0, 1, WHEN),
    Table("table", ["a", "b"], [[1, "x"], [None, {"y": [True]}]], 1, WHEN),
    Metric("explicit", 1.5, 4, WHEN),
    Artifact("model/a.pt", f"blobs/{'a' * 32}", 24, WHEN),
    Artifact("b.pt", "/b.pt", 7, WHEN, (1, 2, 7, 9)),
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """The fixture, with the rights that a version control system does not keep."""
    root = tmp_path / "spool"
    shutil.copytree(FIXTURES / "spool-v1", root)
    for path in [root, *root.rglob("*")]:
        path.chmod(stat.S_IRWXU if path.is_dir() else stat.S_IRUSR | stat.S_IWUSR)
    (found,) = find_runs(root)
    return found


def test_who_the_run_is(run: RunDir) -> None:
    assert (run.info.project, run.info.name, run.info.keep) == ("fixtures", "version 1", "all")
    assert run.info.tags == {"kind": "fixture"}
    assert run.segment_numbers() == {OWNER: [1, 2], CHILD: [1]}
    assert not run.owner_alive()
    assert unfinished(run)


def test_what_was_logged(run: RunDir) -> None:
    items, reader = read(run, OWNER)
    assert repr([decoded(item) for item in items]) == repr(EXPECTED)
    assert reader.damaged == {}
    assert reader.lost == {"disk": 2}
    assert reader.sealed
    assert reader.end == last_word(run) == RunEnd(RunStatus.FAILED, WHEN, {"disk": 2})
    assert written(run, OWNER, 2) == len(EXPECTED)


def test_what_a_child_logged_until_it_was_killed(run: RunDir) -> None:
    items, reader = read(run, CHILD)
    assert [decoded(item) for item in items] == [
        ("runs/a", "loss", step / 4, step, None) for step in range(3)
    ]
    assert reader.damaged == {"torn": 1}
    assert written(run, CHILD, 1) == 4


def test_every_position_is_still_one(run: RunDir) -> None:
    items, _ = read(run, OWNER)
    for index, item in enumerate(items):
        rest, reader = read(run, OWNER, position=item.after)
        assert rest == items[index + 1 :]
        assert reader.damaged == {}


def test_how_far_the_backend_had_got(run: RunDir) -> None:
    cursor = Cursor(run, "memory")
    assert not cursor.doubtful
    assert cursor.remote is not None
    assert (cursor.remote.id, cursor.remote.facts) == ("r1", {"a": 1})
    assert cursor.warnings == {"changed": 1}
    light = cursor.lanes["light"]
    assert light.at == {OWNER: Position(1, 1400, 3)}
    assert light.sending == [{OWNER: Position(1, 1700, 4)}]
    assert (light.offset, light.delivered, light.steps) == (3, 3, {"metric:loss": 1})


def the_script() -> Any:
    spec = importlib.util.spec_from_file_location("make_v1", FIXTURES / "make_spool_v1.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_a_segment_of_which_something_was_given_up(run: RunDir) -> None:
    """Written from the format's page alone, as the fixture is; the third one of its owner."""
    script = the_script()
    three = script.Segment(OWNER, 3, 17, 0x0A0B0C0D)
    head = {
        "first": 17,
        "records": 6,
        "kinds": ["media", "histogram", "text", "scalar"],
        "rounds": 1,
        "blobs": ["a" * 32],
        "something new": 1,
    }
    text = json.dumps(head).encode()
    marks = zlib.compress(bytes([0, 4, 1, 0, 0, 3]))
    three.describe(18, struct.pack("<I", len(text)) + text + marks)
    three.scalar("runs/a", "loss", 17.0, 17)
    three.seq += 2
    three.scalar("runs/a", "loss", 20.0, 20)
    three.scalar("runs/a", "loss", 21.0, 21)
    three.seq += 1
    three.footer()
    path = run.segment_path(OWNER, 3)
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(three.data))

    items, reader = read(run, OWNER, position=Position(3, 0, 17))

    assert [decoded(item)[2] for item in items] == [17.0, 20.0, 21.0]
    assert [item.thinned for item in items] == [None, {"scalar": 1, "media": 1}, None]
    assert (reader.thinned, reader.damaged) == ({"text": 1}, {})
    assert written(run, OWNER, 3) == 23


def test_the_fixture_is_what_its_script_makes(tmp_path: Path) -> None:
    script = the_script()
    script.main(tmp_path / "made")
    made = {path.relative_to(tmp_path / "made"): path for path in (tmp_path / "made").rglob("*")}
    kept = {
        path.relative_to(FIXTURES / "spool-v1"): path for path in (FIXTURES / "spool-v1").rglob("*")
    }
    assert {name for name, path in made.items() if path.is_file()} == {
        name for name, path in kept.items() if path.is_file()
    }
    for name, path in made.items():
        assert path.is_dir() or path.read_bytes() == kept[name].read_bytes(), name
