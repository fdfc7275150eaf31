from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from spooling import new_run

from tracelet.records import RemoteRun
from tracelet.spool import cursor as module
from tracelet.spool.cursor import LANES, Cursor
from tracelet.spool.reader import Position
from tracelet.spool.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return new_run(tmp_path)


def _filled(run: RunDir) -> Cursor:
    cursor = Cursor(run, "memory")
    cursor.remote = RemoteRun("id", "name", "url", "look", {"any": [1, None]})
    cursor.closed = "FINISHED"
    cursor.session = "m0001_aa"
    cursor.damaged = {"torn": 1}
    cursor.warnings = {"changed": 2}
    light, heavy = (cursor.lanes[lane] for lane in LANES)
    light.at = {"m0001_aa": Position(3, 400, 50)}
    light.sending = [{"m0001_aa": Position(3, 500, 60)}, {"m0001_aa": Position(3, 600, 70)}]
    light.offset, light.delivered, light.rejected, light.unsupported = 50, 47, 2, 1
    light.steps = {"metric:loss \ud800": 12}
    heavy.at = {"m0001_aa": Position(1, 0, 0)}
    return cursor


def test_a_cursor_comes_back_as_it_was(run: RunDir) -> None:
    cursor = _filled(run)
    cursor.save()
    again = Cursor(run, "memory")
    assert again.lanes == cursor.lanes
    assert isinstance(again.lanes["light"].at["m0001_aa"], Position)
    for name in ("remote", "closed", "session", "damaged", "warnings"):
        assert getattr(again, name) == getattr(cursor, name)
    assert not again.doubtful
    assert Cursor(run, "jsonl").lanes == {lane: module.LaneState() for lane in LANES}
    assert not Cursor(run, "jsonl").doubtful


def test_what_every_lane_is_done_with(run: RunDir) -> None:
    cursor = _filled(run)
    assert cursor.passed("m0001_aa") == Position(1, 0, 0)
    cursor.lanes["heavy"].at["m0001_aa"] = Position(3, 500, 60)
    assert cursor.passed("m0001_aa") == Position(3, 400, 50)
    assert cursor.passed("c5_bb") == Position()


def test_the_file_is_always_one_state_or_the_next(run: RunDir) -> None:
    cursor = _filled(run)
    cursor.save()
    stop = threading.Event()
    bad: list[Any] = []

    def look() -> None:
        while not stop.is_set():
            seen = Cursor(run, "memory")
            state = seen.lanes["light"]
            if seen.doubtful or state.offset != 50 + state.delivered - 47:
                bad.append(seen)

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(200):
        with cursor.lock:
            cursor.lanes["light"].delivered += 1
            cursor.lanes["light"].offset += 1
            cursor.save()
    stop.set()
    thread.join(10)
    assert bad == []
    assert [path.name for path in run.cursors.iterdir()] == ["memory.json"]


def test_it_is_forced_to_disk_once_a_second_and_when_asked(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    now = [100.0]
    monkeypatch.setattr(module, "write_private", lambda _path, _data, *, sync: synced.append(sync))
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    cursor = Cursor(run, "memory")
    for seconds, force in ((0, False), (0.5, False), (0.5, True), (0.9, False), (0.2, False)):
        now[0] += seconds
        cursor.save(sync=force)
    assert synced == [True, False, True, False, True]


@pytest.mark.parametrize(
    "change",
    [
        {"lanes": None},
        {"lanes": {"light": {}}},
        {"lanes": []},
        {"damaged": 5},
        {"damaged": {"torn": "many"}},
        {"damaged": {"torn": float("inf")}},
        {"warnings": None},
    ],
)
def test_one_that_cannot_be_read_sends_all_again_and_says_so(
    run: RunDir, change: dict[str, Any]
) -> None:
    cursor = _filled(run)
    cursor.save()
    content = json.loads(cursor.path.read_bytes())
    cursor.path.write_text(json.dumps({**content, **change}))
    again = Cursor(run, "memory")
    assert again.lanes == {lane: module.LaneState() for lane in LANES}
    assert (again.damaged, again.warnings, again.closed) == ({}, {}, None)
    assert again.doubtful
    assert again.remote == cursor.remote  # the same remote run all the same


@pytest.mark.parametrize("place", [[1], [1, 2], ["x", 0, 0], [-1, 0, 0], [1, -5, 0], 7, None])
def test_a_position_that_cannot_be(run: RunDir, place: Any) -> None:
    cursor = _filled(run)
    cursor.save()
    content = json.loads(cursor.path.read_bytes())
    content["lanes"]["light"]["at"] = {"m0001_aa": place}
    cursor.path.write_text(json.dumps(content))
    again = Cursor(run, "memory")
    if place in ([1], [1, 2]):
        assert again.lanes["light"].at["m0001_aa"] == Position(*place)
    else:
        assert again.doubtful


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xff", b"[" * 200_000])
def test_bytes_that_are_no_cursor(run: RunDir, content: bytes) -> None:
    (run.cursors / "memory.json").write_bytes(content)
    cursor = Cursor(run, "memory")
    assert cursor.doubtful
    assert cursor.remote is None
    cursor.save()
    assert not Cursor(run, "memory").doubtful


def test_what_a_later_version_adds_is_read_over(run: RunDir) -> None:
    cursor = _filled(run)
    cursor.save()
    content = json.loads(cursor.path.read_bytes())
    content["new"] = content["remote"]["new"] = content["lanes"]["light"]["new"] = 1
    content["lanes"]["new"] = {}
    cursor.path.write_text(json.dumps(content))
    again = Cursor(run, "memory")
    assert not again.doubtful
    assert again.remote == cursor.remote
    assert again.lanes == cursor.lanes


def test_a_remote_run_that_is_none(run: RunDir) -> None:
    cursor = _filled(run)
    cursor.save()
    for remote in (None, "id", {}, {"url": "u"}):
        content = json.loads(cursor.path.read_bytes())
        content["remote"] = remote
        cursor.path.write_text(json.dumps(content))
        assert Cursor(run, "memory").remote is None
