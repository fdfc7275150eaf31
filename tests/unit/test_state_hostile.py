"""
The small files of a run, damaged: whatever stands in them, they are read or refused with a reason.

``TRACELET_FUZZ`` sets how many of each are tried. What once failed stays here as an example.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from spooling import decoded, new_run

from tracelet.records import RemoteRun
from tracelet.ship import put_away, state
from tracelet.ship.catalog import Catalog
from tracelet.spool.cursor import LANES, Cursor, LaneState
from tracelet.spool.reader import Position, SegmentReader, last_word, written
from tracelet.spool.rundir import RunDir, find_runs
from tracelet.spool.writer import SpoolWriter

fuzzed = settings(
    max_examples=int(os.environ.get("TRACELET_FUZZ", "100")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

numbers = st.one_of(
    st.integers(), st.floats(), st.sampled_from([2**63, -1, 10**400, float("inf"), 1e308])
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def run() -> Iterator[RunDir]:
    """A run that was being delivered."""
    with tempfile.TemporaryDirectory() as folder:
        run = new_run(Path(folder))
        log = SpoolWriter(run, name="m0001_aa")
        for number in range(50):
            log.scalar("/logs", f"loss{number % 3}", float(number), number, None)
        log.event("/logs", b"not an event", None)
        log.close()
        cursor = Cursor(run, "memory")
        cursor.remote = RemoteRun("id", "name", "url", "look", {"any": [1, None]})
        cursor.lanes["light"] = LaneState(
            {"m0001_aa": Position(1, 400, 5)}, [{"m0001_aa": Position(1, 500, 6)}], 5, 3, 1, 1
        )
        cursor.save()
        catalog = Catalog(run)
        catalog.seen("/logs", main=True)
        for number in range(3):
            catalog.key("metric", "/logs", f"loss{number}")
        catalog.save()
        state.publish(run, {"memory": state.of_cursor(cursor, 51, state="sending")})
        yield run


@st.composite
def changed(draw: st.DrawFn, content: Any) -> Any:
    """Return JSON in which something somewhere is something else, or gone."""
    if draw(st.integers(0, 3)) == 0 or not isinstance(content, (dict, list)) or not content:
        return draw(values)
    places = list(content) if isinstance(content, dict) else list(range(len(content)))
    place = draw(st.sampled_from(places))
    copy: Any = dict(content) if isinstance(content, dict) else list(content)
    if draw(st.integers(0, 4)) == 0:
        del copy[place]
    else:
        copy[place] = draw(changed(content[place]))
    return copy


@st.composite
def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
    """Return bytes of which some are others, more, or gone."""
    found = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(found)))
        kind = draw(st.sampled_from(["put", "cut", "flip", "drop"]))
        if kind == "put":
            found[at:at] = draw(st.binary(max_size=20))
        elif kind == "cut":
            del found[at:]
        elif kind == "drop":
            del found[at : at + draw(st.integers(1, 20))]
        elif at < len(found):
            found[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(found)


def _written(data: st.DataObject, path: Path) -> None:
    """Damage a file, as JSON or as bytes."""
    raw = path.read_bytes()
    if data.draw(st.booleans()):
        lines = raw.splitlines() if path.suffix == ".jsonl" else [raw]
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = json.dumps(data.draw(changed(json.loads(lines[at])))).encode()
        path.write_bytes(b"\n".join(lines) + b"\n")
    else:
        path.write_bytes(data.draw(damaged(raw)))


class _Kept:
    """Puts a file back as it was."""

    def __init__(self, path: Path) -> None:
        self._path, self._raw = path, path.read_bytes()

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        self._path.write_bytes(self._raw)


@fuzzed
@given(st.data())
def test_any_cursor(run: RunDir, data: st.DataObject) -> None:
    """It is one, or it is doubted; and can be replaced, and says something to whoever asks."""
    path = run.cursors / "memory.json"
    with _Kept(path):
        _written(data, path)
        cursor = Cursor(run, "memory")
        if cursor.doubtful:
            assert cursor.lanes == {lane: LaneState() for lane in LANES}
        numbers = run.segment_numbers()["m0001_aa"]
        for lane in cursor.lanes.values():
            for writer, place in lane.at.items():
                if writer == "m0001_aa":
                    SegmentReader(run, writer, place).read(numbers, dead=True)
        state.of_cursor(cursor, 51, state="sending")
        cursor.passed("m0001_aa")
        cursor.save()
        again = Cursor(run, "memory")
        assert not again.doubtful
        assert again.lanes == cursor.lanes


@fuzzed
@given(st.data())
def test_any_run_json(run: RunDir, data: st.DataObject) -> None:
    """It is refused with a sentence, or everything that is asked about a run can be asked."""
    path = run.path / "run.json"
    with _Kept(path):
        _written(data, path)
        found = find_runs(run.path.parent)
        try:
            again = RunDir.open(run.path)
        except (ValueError, OSError, TypeError) as error:
            refused = str(error)
        else:
            assert len(found) == 1
            state.read(again)
            put_away.removes(again)
            again.owner_alive()
            return
        assert refused
        assert found == []


@fuzzed
@given(st.data())
def test_any_names(run: RunDir, data: st.DataObject) -> None:
    """What can be read of them counts; names are made, and kept, in any case."""
    path = run.path / "names.jsonl"
    with _Kept(path):
        _written(data, path)
        catalog = Catalog(run)
        catalog.seen("/logs", main=True)
        key = catalog.key("metric", "/logs", "loss1")
        new = catalog.key("metric", "/logs", "never seen")
        catalog.save()
        again = Catalog(run)
        assert (again.key("metric", "/logs", "loss1"), key) == (key, key)
        assert again.key("metric", "/logs", "never seen") == new


@fuzzed
@given(st.data())
def test_any_published_state(run: RunDir, data: st.DataObject) -> None:
    """Whoever asks is answered."""
    path = run.path / "ship.json"
    with _Kept(path):
        _written(data, path)
        for each in state.read(run).values():
            assert each.answered + each.pending >= 0
            assert each.complete in (True, False)


@fuzzed
@given(st.data())
@example(None)
def test_any_segment(run: RunDir, data: Any) -> None:
    """Plain or compressed: nothing is raised, nothing invented, and reading comes to an end."""
    name = "m0001_aa"
    path = run.segment_path(name, 1)
    with _Kept(path):
        raw = path.read_bytes()
        whole = [
            decoded(item) for item in SegmentReader(run, name, Position()).read([1], dead=True)
        ]
        packed = path.with_name(f"{path.name}.gz")
        try:
            if data is not None and data.draw(st.booleans()):
                packed.write_bytes(data.draw(damaged(gzip.compress(raw))))
                path.unlink()
            else:
                path.write_bytes(data.draw(damaged(raw)) if data is not None else b"")
            reader = SegmentReader(run, name, Position())
            found = []
            for _ in range(100):
                items = reader.read([1], dead=True)
                if not items:
                    break
                found += [decoded(item) for item in items]
            else:
                raise AssertionError("reading does not come to an end")
            rest = iter(whole)
            assert all(what in rest for what in found)
            written(run, name, 1)
            last_word(run)
        finally:
            packed.unlink(missing_ok=True)


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_of_names_that_was_being_written_spoils_none_after_it(run: RunDir, cut: int) -> None:
    path = run.path / "names.jsonl"
    with _Kept(path):
        path.write_bytes(path.read_bytes() + b'["key", "metric", "/logs"'[:cut])
        catalog = Catalog(run)
        catalog.seen("/logs", main=True)
        new = [catalog.key("metric", "/logs", tag) for tag in ("a b", "A B")]
        catalog.save()
        assert all(isinstance(json.loads(line), list) for line in path.read_text().splitlines())
        again = Catalog(run)
        assert [again.key("metric", "/logs", tag) for tag in ("a b", "A B")] == new
