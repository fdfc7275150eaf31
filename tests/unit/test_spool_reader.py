from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from spooling import Disk, decoded, logged, new_run, number, read

from tracelet.records import Param, RunEnd, RunStatus, Text
from tracelet.spool import frame, locks
from tracelet.spool import reader as module
from tracelet.spool import writer as writing
from tracelet.spool.reader import (
    Position,
    SegmentReader,
    alive,
    last_word,
    written,
)
from tracelet.spool.rundir import RunDir
from tracelet.spool.writer import SpoolWriter

SALT = 99


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return new_run(tmp_path)


def _log(log: SpoolWriter, index: int) -> Any:
    """Log the record of this number; return what will be read of it."""
    kind = index % 5
    if kind == 3:
        data, hint = b"event %d" % index * (index % 7 * 40), {"tag": f"tag{index}"}
        log.event(f"stream{index % 3}", data, hint)
        return f"stream{index % 3}", hint, data
    if kind == 4:
        record = Text(f"text{index % 2}", "x" * index, index, 1.0)
        log.record(record)
        return record
    point = (f"stream{index % 2}", f"key{index % 11}", index / 3, index, 5.0)
    log.scalar(*point)
    return point


@pytest.fixture
def long(run: RunDir) -> tuple[RunDir, list[Any]]:
    """A run of a dozen segments."""
    log = SpoolWriter(run, segment_bytes=6000)
    expected = [_log(log, index) for index in range(400)]
    log.record(RunEnd(RunStatus.FINISHED, 9.0))
    log.close()
    return run, expected


@pytest.mark.parametrize("chunk", [64, 333, 512 * 1024])
@pytest.mark.parametrize("limit", [1, 7, 2000])
def test_any_look_and_any_limit(
    long: tuple[RunDir, list[Any]], chunk: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, expected = long
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    items, reader = read(run, limit=limit)
    assert [decoded(item) for item in items] == expected
    assert reader.damaged == {}
    assert reader.sealed
    assert reader.end == RunEnd(RunStatus.FINISHED, 9.0)
    assert [item.after.seq for item in items] == list(range(1, 401))


@pytest.mark.parametrize("chunk", [200, 512 * 1024])
def test_every_position_is_a_beginning(
    long: tuple[RunDir, list[Any]], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = long
    items, _ = read(run)
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    for index in range(0, len(items), 3):
        # As a cursor gives it back, from JSON.
        position = Position(*json.loads(json.dumps(items[index].after)))
        rest, reader = read(run, position=position)
        assert rest == items[index + 1 :]
        assert reader.damaged == {}
        assert reader.sealed
        assert reader.end is not None


def test_the_end_behind_a_position_is_known_after_a_restart(run: RunDir) -> None:
    """Whoever ships may have read the last word, and been killed before it closed the run."""
    log = SpoolWriter(run)
    log.scalar("a", "b", 1.0, 1, None)
    log.record(RunEnd(RunStatus.FAILED, 1.0))
    log.close()
    _, first = read(run)
    numbers = run.segment_numbers()[log.name]
    # A position behind the footer, as far as a reader of the living has got.
    size = run.segment_path(log.name, 1).stat().st_size
    reader = SegmentReader(run, log.name, Position(1, size, 1))
    assert reader.read(numbers, dead=False) == []
    assert reader.sealed
    assert reader.end == first.end == RunEnd(RunStatus.FAILED, 1.0)


def test_reading_keeps_up_with_writing(run: RunDir) -> None:
    log = SpoolWriter(run, segment_bytes=4000)
    reader = SegmentReader(run, log.name, Position())
    expected, found = [], []
    for index in range(300):
        expected.append(_log(log, index))
        if index % 7 == 0:
            found += reader.read(run.segment_numbers()[log.name], dead=False)
    assert reader.damaged == {}
    rest, _ = read(run, reader=reader, dead=False)
    found += rest
    assert [decoded(item) for item in found] == expected
    assert not reader.exhausted(run.segment_numbers()[log.name])
    assert reader.read(run.segment_numbers()[log.name], dead=True) == []
    assert reader.exhausted(run.segment_numbers()[log.name])


def test_what_has_been_consumed_is_not_missed(long: tuple[RunDir, list[Any]]) -> None:
    run, expected = long
    ((writer, numbers),) = run.segment_numbers().items()
    items, _ = read(run)
    position = next(item.after for item in items if item.after.segment == numbers[3])
    for each in numbers[:3]:
        run.segment_path(writer, each).unlink()
    rest, reader = read(run, position=position)
    assert [decoded(item) for item in rest] == expected[position.seq :]
    assert reader.damaged == {}
    # Even the very segment of the position may be gone, if the position is behind its last one.
    last = [item.after for item in items if item.after.segment == numbers[3]][-1]
    run.segment_path(writer, numbers[3]).unlink()
    rest, reader = read(run, position=last)
    assert [decoded(item) for item in rest] == expected[last.seq :]
    assert reader.damaged == {}


# -- kept runs ------------------------------------------------------------------------------


def _pack(run: RunDir) -> list[Path]:
    packed = []
    for path in sorted(run.segments.iterdir()):
        target = path.with_name(path.name + ".gz")
        with gzip.open(target, "wb") as file:
            file.write(path.read_bytes())
        path.unlink()
        packed.append(target)
    return packed


def test_compressed_segments_are_read_as_they_are(long: tuple[RunDir, list[Any]]) -> None:
    run, expected = long
    items, _ = read(run)
    _pack(run)
    ((writer, numbers),) = run.segment_numbers().items()
    assert logged(run) == expected
    assert written(run, writer, numbers[-1]) == 400
    assert last_word(run) is not None
    again, _ = read(run, position=items[100].after)
    assert [decoded(item) for item in again] == expected[101:]


def test_a_compressed_segment_that_is_damaged_gives_what_it_can(
    long: tuple[RunDir, list[Any]],
) -> None:
    run, _ = long
    path = _pack(run)[2]
    content = path.read_bytes()
    for size in (0, 5, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        items, reader = read(run)
        assert len(items) + sum(reader.damaged.values()) == 400, size
    for at in range(0, len(content), 37):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])
        items, reader = read(run)
        assert len(items) + sum(reader.damaged.values()) == 400, at


def test_a_packing_that_was_interrupted_costs_nothing(long: tuple[RunDir, list[Any]]) -> None:
    run, expected = long
    plain = sorted(run.segments.iterdir())[1]
    plain.with_name(plain.name + ".gz").write_bytes(b"half")
    assert logged(run) == expected


# -- segments of other versions -------------------------------------------------------------


def _segment(
    run: RunDir,
    frames: list[tuple[int, int, bytes]],
    *,
    number: int = 1,
    first: Optional[int] = 0,
    writer: str = "m0001_00",
    **header: Any,
) -> None:
    """Write a segment by hand: ``frames`` are types, numbers and payloads."""
    told = {"format": 1, "incompatible": [], "first": first, "salt": SALT, **header}
    told = {name: value for name, value in told.items() if value is not None}
    data = frame.encode(frame.HEADER, 0, first or 0, json.dumps(told).encode(), 0) * 2
    for kind, seq, payload in frames:
        data += frame.encode(kind, 0, seq, payload, SALT)
    run.segment_path(writer, number).write_bytes(data)


def _param(index: int) -> bytes:
    text = json.dumps({"t": "param", "key": f"p{index}", "value": index, "time": 1.0}).encode()
    return len(text).to_bytes(4, "little") + text


def test_what_a_later_version_adds_compatibly_is_read_over(run: RunDir) -> None:
    _segment(
        run,
        [
            (77, 0, b"a new kind of frame"),
            (frame.RECORD, 0, _param(0)),
            (77, 1, b""),
            (78, 1, b"another"),
            (frame.RECORD, 1, _param(1)),
            (77, 2, b""),
        ],
        new={"anything": 1},
    )
    items, reader = read(run)
    assert [decoded(item) for item in items] == [Param("p0", 0, 1.0), Param("p1", 1, 1.0)]
    assert reader.damaged == {}
    assert written(run, "m0001_00", 1) == 2


@pytest.mark.parametrize(
    "header",
    [
        {"incompatible": ["zstd"]},
        {"incompatible": "zstd"},
        {"format": 2},
        {"format": 2, "salt": None, "first": None},
        {"format": "1"},
        {"format": None},
    ],
    ids=repr,
)
def test_what_a_later_version_changed_is_refused_and_kept(
    run: RunDir, header: dict[str, Any]
) -> None:
    _segment(run, [(frame.RECORD, 0, _param(0)), (frame.RECORD, 1, _param(1))])
    _segment(run, [(frame.RECORD, 2, _param(2))], number=2, **{"first": 2, **header})
    _segment(run, [(frame.RECORD, 3, _param(3))], number=3, first=3)
    before = {path: path.read_bytes() for path in run.segments.iterdir()}
    items, reader = read(run)
    assert [decoded(item) for item in items] == [Param("p0", 0, 1.0), Param("p1", 1, 1.0)]
    assert "newer tracelet" in reader.refused
    assert reader.position.segment == 2
    assert reader.damaged == {}
    assert not reader.exhausted([1, 2, 3])
    assert reader.read([1, 2, 3], dead=True) == []
    # Counted as something that is still to be delivered.
    assert written(run, "m0001_00", 2) == (1 if header.get("first", 1) is None else 3)
    assert written(run, "m0001_00", 3) == 4
    assert last_word(run) is None
    assert {path: path.read_bytes() for path in run.segments.iterdir()} == before


def test_one_damaged_copy_of_a_header_does_not_hide_that_it_is_refused(run: RunDir) -> None:
    _segment(run, [(frame.RECORD, 0, _param(0))], format=2)
    path = run.segment_path("m0001_00", 1)
    content = path.read_bytes()
    length = frame.scan(content, 0, 0, limit=1).frames[0].end
    for at in range(length * 2):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        items, reader = read(run)
        assert items == []
        assert reader.refused, at


def test_a_header_that_somebody_logged_is_not_the_segment_s(run: RunDir) -> None:
    """Headers are checked without a salt: a copy of one may stand anywhere in the data."""
    foreign = frame.encode(frame.HEADER, 0, 0, b'{"format": 2, "first": 0, "salt": 1}', 0)
    log = SpoolWriter(run)
    for index in range(5):
        log.event("a", b"%d" % index + foreign * 2, None)
    path = run.segment_path(log.name, 1)
    content = path.read_bytes()
    length = frame.scan(content, 0, 0, limit=1).frames[0].end
    for at in range(0, length * 2, 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert len(logged(run)) == 5, at
    # Without any header of its own it cannot be read, and nothing is made of the copies.
    path.write_bytes(bytes(length * 2) + content[length * 2 :])
    items, reader = read(run)
    assert (items, reader.damaged, reader.refused) == ([], {"unreadable": 1}, "")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"format": 1}',
        b'{"format":1,"salt":"x","first":0}',
        b'{"format":1,"salt":1,"first":Infinity}',
    ],
)
def test_a_header_that_says_nothing(run: RunDir, content: bytes) -> None:
    data = frame.encode(frame.HEADER, 0, 0, content, 0) * 2
    run.segment_path("m0001_00", 1).write_bytes(data + b"anything")
    items, reader = read(run)
    assert items == []
    assert reader.damaged == {"unreadable": 1}
    assert written(run, "m0001_00", 1) == 1


# -- frames that no writer of ours makes ----------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (frame.SCALAR, b""),
        (frame.SCALAR, bytes(31)),
        (frame.SCALAR, bytes(32)),  # of a key that nobody defined
        (frame.EVENT, b""),
        (frame.EVENT, bytes(20)),
        (frame.RECORD, b""),
        (frame.RECORD, b"\xff\xff\xff\xffx"),
        (frame.RECORD, b"\2\0\0\0{}"),
    ],
)
def test_a_record_that_verifies_and_is_none_costs_itself(
    run: RunDir, kind: int, payload: bytes
) -> None:
    _segment(run, [(frame.RECORD, 0, _param(0)), (kind, 1, payload), (frame.RECORD, 2, _param(2))])
    items, reader = read(run)
    assert [item.after.seq for item in items] == [1, 3]
    assert reader.damaged == {"damaged": 1}


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (frame.DEFINITION, b""),
        (frame.DEFINITION, b"\xff" * 13),
        (frame.DEFINITION, (5).to_bytes(8, "little") + b"\1\0\0\0\1\xff\xff"),
        (frame.END, b""),
        (frame.END, _param(0)),
        (frame.LOST, b"[]"),
        (frame.LOST, b"{"),
        (frame.LOST, b'{"disk": "many"}'),
        (frame.LOST, b'{"disk": Infinity}'),
        (frame.FOOTER, b"x"),
        (frame.HEADER, b"x"),
    ],
)
def test_a_description_that_describes_nothing_is_passed_over(
    run: RunDir, kind: int, payload: bytes
) -> None:
    _segment(run, [(frame.RECORD, 0, _param(0)), (kind, 1, payload), (frame.RECORD, 1, _param(1))])
    items, reader = read(run)
    assert len(items) == 2
    assert (reader.damaged, reader.end, reader.lost) == ({}, None, {})


def test_a_write_that_failed_and_had_not_is_read_once(run: RunDir) -> None:
    _segment(
        run,
        [
            (frame.RECORD, 0, _param(0)),
            (frame.RECORD, 0, _param(0)),
            (frame.RECORD, 1, _param(1)),
            (frame.RECORD, 1, _param(1)),
        ],
    )
    assert len(logged(run)) == 2
    items, _ = read(run)
    rest, reader = read(run, position=items[0].after)
    assert (len(rest), reader.damaged) == (1, {})


class Liar(Disk):
    """A disk that writes everything and says, a few times, that it has not."""

    lies = 0

    def write(self, fd: int, data: Any) -> int:
        written = os.write(fd, data)
        if self.lies:
            self.lies -= 1
            raise OSError(errno.EIO, "it says")
        return written


@pytest.mark.parametrize("lies", [1, 2, 3])
def test_what_a_writer_has_repeated_after_a_failed_write_is_read_once(
    run: RunDir, lies: int
) -> None:
    """Points among them, which are read by the way: nothing is doubled, and nothing is damage."""
    disk = Liar()
    log, expected = SpoolWriter(run, files=disk), []
    for index in range(40):
        disk.lies = lies if index % 2 else 0
        expected.append(_log(log, index))
        log._retry_at = 0.0
    log.close()
    assert (log.recorded, log.lost) == (40, {})
    assert logged(run) == expected
    # Also for somebody who is replaced behind every record, or who steps over points.
    ((name, numbers),) = run.segment_numbers().items()
    for points in (True, False):
        position, items, more = Position(), [], True
        while more:
            reader = SegmentReader(run, name, position, points=points)
            more = reader.read(numbers, dead=True, limit=1)
            assert reader.damaged == {}
            items += more
            position = reader.position
        assert position.seq == 40
        assert not points or [decoded(item) for item in items] == expected


def test_a_second_writer_in_the_same_file_is_seen(run: RunDir) -> None:
    _segment(
        run,
        [
            (frame.RECORD, 0, _param(0)),
            (frame.RECORD, 0, _param(7)),
            (frame.RECORD, 1, _param(1)),
        ],
    )
    items, reader = read(run)
    assert [decoded(item).key for item in items] == ["p0", "p1"]
    assert reader.damaged == {"order": 1}


def test_what_a_writer_lost_is_told_by_its_segments(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SpoolWriter(run)
    log.scalar("a", "b", 1.0, 1, None)
    with monkeypatch.context() as patch:
        patch.setattr(frame, "MAX_PAYLOAD", 1000)
        patch.setattr(writing, "INLINE_BYTES", 10**9)
        log.event("a", bytes(2000), None)
    assert log.lost == {"disk": 1}
    log._due = 0.0
    log.scalar("a", "b", 2.0, 2, None)
    items, reader = read(run, dead=False)  # as after a SIGKILL
    assert (len(items), reader.lost) == (2, {"disk": 1})


# -- what cannot be had just now ------------------------------------------------------------


def _failing(original: Callable[..., Any], where: str, error: str) -> Callable[..., Any]:
    def call(path: Any, *arguments: Any, **keywords: Any) -> Any:
        if where in str(path):
            raise OSError(number(error), "not now")
        return original(path, *arguments, **keywords)

    return call


@pytest.mark.parametrize("error", ["EMFILE", "EIO", "ESTALE", "EACCES", "ENOMEM"])
def test_a_segment_that_cannot_be_opened_is_waited_for(
    long: tuple[RunDir, list[Any]], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Least of all is it taken for an end: whoever reads next would delete what was not sent."""
    run, expected = long
    ((writer, numbers),) = run.segment_numbers().items()
    reader = SegmentReader(run, writer, Position())
    first = reader.read(numbers, dead=True, limit=3)
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", _failing(open, "seg", error))
        place = reader.position
        for _ in range(3):
            assert reader.read(numbers, dead=True) == []
        assert reader.position == place
        assert "not now" in reader.trouble
        assert not reader.exhausted(numbers)
        assert written(run, writer, numbers[-1]) in (0, 400)
        fresh = SegmentReader(run, writer, place)
        assert fresh.read(numbers, dead=True) == []
        assert fresh.position == place
    rest, _ = read(run, reader=reader)
    assert [decoded(item) for item in first + rest] == expected
    assert (reader.damaged, reader.trouble) == ({}, "")


def test_a_blob_that_cannot_be_opened_is_waited_for(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SpoolWriter(run)
    big = os.urandom(300_000)
    for index in range(3):
        log.scalar("a", "b", index, index, None)
    log.event("a", big, None)
    log.scalar("a", "b", 3, 3, None)
    log.close()
    reader = SegmentReader(run, log.name, Position())
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", _failing(open, "blobs", "EMFILE"))
        items = reader.read([1], dead=True)
        assert len(items) == 3  # what stands before it is not held up
        assert reader.read([1], dead=True) == []
        assert "not now" in reader.trouble
    rest, _ = read(run, reader=reader)
    assert [decoded(item)[2] for item in items + rest] == [0, 1, 2, big, 3]
    assert reader.damaged == {}


@pytest.mark.parametrize("way", ["gone", "cut", "longer", "changed"])
def test_a_blob_that_is_damaged_costs_its_record(run: RunDir, way: str) -> None:
    log = SpoolWriter(run)
    log.event("a", bytes(300_000), None)
    log.scalar("a", "b", 1.0, 1, None)
    (blob,) = run.blobs.iterdir()
    content = blob.read_bytes()
    if way == "gone":
        blob.unlink()
    else:
        other = bytes([content[0] ^ 1]) + content[1:]
        changed = {"cut": content[:-1], "longer": content + b"x", "changed": other}
        blob.write_bytes(changed[way])
    items, reader = read(run)
    assert (len(items), reader.damaged) == (1, {"damaged": 1})


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "a/b", "", ".", ".."])
def test_a_blob_lies_where_blobs_lie(run: RunDir, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(_param(1))
    where = {"blob": name, "size": len(_param(1)), "crc": zlib.crc32(_param(1))}
    data = frame.encode(frame.HEADER, 0, 0, b'{"format": 1, "first": 0, "salt": 99}', 0) * 2
    data += frame.encode(frame.RECORD, frame.IN_BLOB, 0, json.dumps(where).encode(), SALT)
    run.segment_path("m0001_00", 1).write_bytes(data)
    items, reader = read(run)
    assert items == []
    assert (reader.damaged, reader.trouble) == ({"damaged": 1}, "")


# -- questions about a writer ---------------------------------------------------------------


def test_what_is_written_is_seen_from_the_end(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SpoolWriter(run)
    for index in range(2000):
        log.scalar("a", "b", index, index, None)
        if index % 400 == 0:
            assert written(run, log.name, 1) == index + 1
    log.event("a", os.urandom(200_000), None)  # larger than what is looked at first
    assert written(run, log.name, 1) == 2001
    log.record(RunEnd(RunStatus.FINISHED, 1.0))
    assert written(run, log.name, 1) == 2001
    reads = []
    original = module._Segment.read
    monkeypatch.setattr(module._Segment, "read", lambda *how: reads.append(how) or original(*how))
    for _ in range(5):
        assert written(run, log.name, 1) == 2001
    assert reads == []  # nothing has changed since


def test_what_is_written_of_a_writer_that_is_not_there(run: RunDir) -> None:
    assert written(run, "m0001_00", 1) == 0


def test_a_newest_segment_that_is_empty_counts_what_was_before(run: RunDir) -> None:
    log = SpoolWriter(run, segment_bytes=2000)
    while len(run.segment_numbers()[log.name]) < 2:
        log.scalar("a", "b", 1.0, 1, None)
    count = log.spooled
    assert written(run, log.name, 2) == count
    run.segment_path(log.name, 2).write_bytes(b"")
    assert written(run, log.name, 2) == count


def test_the_last_word_is_the_newest_owner_s(run: RunDir) -> None:
    assert last_word(run) is None
    one = SpoolWriter(run)
    one.record(RunEnd(RunStatus.FINISHED, 1.0))
    one.close()
    child = SpoolWriter(run, main=False)
    child.scalar("a", "b", 1.0, 1, None)
    child.close()
    found = last_word(run)
    assert found is not None
    assert found.status is RunStatus.FINISHED
    two = SpoolWriter(run)
    two.scalar("a", "b", 1.0, 1, None)
    assert last_word(run) is None
    two.record(RunEnd(RunStatus.FAILED, 1.0))
    two._rotate()  # what is logged by other threads may still open a segment
    found = last_word(run)
    assert found is not None
    assert found.status is RunStatus.FAILED


CHILD = """
import sys, time
from pathlib import Path
from tracelet.spool.rundir import RunDir
from tracelet.spool.writer import SpoolWriter
log = SpoolWriter(RunDir.open(Path(sys.argv[1])), main=False)
log.scalar("a", "b", 1.0, 1, None)
print(log.name, flush=True)
sys.stdin.read()
"""


def test_a_child_lives_as_long_as_its_process(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    assert child.stdin is not None

    def lockless(_fd: int) -> bool:
        raise OSError(number("ENOSYS"), "no locks here")

    try:
        name = child.stdout.readline().strip()
        assert run.segment_numbers() == {name: [1]}
        for _ in range(3):
            assert alive(run, name, 1)
        with monkeypatch.context() as patch:
            patch.setattr(locks, "_try", lockless)
            assert alive(run, name, 1)
    finally:
        child.kill()
        child.wait(30)
        child.stdin.close()
        child.stdout.close()
    assert not alive(run, name, 1)
    monkeypatch.setattr(locks, "_try", lockless)
    assert not alive(run, name, 1)
    assert not alive(run, name, 2)
    assert len(logged(run)) == 1


def test_counting_beside_a_frame_that_is_being_written_takes_little_memory(run: RunDir) -> None:
    """A part of the newest frame can be seen; a segment of ten megabytes is not read for that."""
    log = SpoolWriter(run)
    for step in range(180_000):
        log.scalar("a", "b", float(step), step, 1.0)
    path = run.segment_path(log.name, 1)
    with open(path, "ab") as file:
        file.write(path.read_bytes()[-56:-20])
    tracemalloc.start()
    try:
        count = written(run, log.name, 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 180_001
    assert peak < 20_000_000
