"""
The reader against damage: cut at every byte, flipped at every bit, zeroed, and with parts missing.

It never raises and never invents; at most the touched record is lost, and the loss is counted.
"""

from __future__ import annotations

import json
import random
import secrets
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from spooling import decoded, new_run, read

from tracelet.records import Param, RunEnd, RunStatus, Tag, Text
from tracelet.spool import frame
from tracelet.spool.reader import Position, SegmentReader, last_word, written
from tracelet.spool.rundir import RunDir
from tracelet.spool.writer import SpoolWriter

RECORDS = 20


class Case(NamedTuple):
    """A segment of 20 records, and where each of them stands in it."""

    run: RunDir
    writer: str
    path: Path
    content: bytes
    records: list[Any]
    spans: list[tuple[int, int]]
    end: tuple[int, int]

    def read(self, *, dead: bool = True) -> tuple[list[Any], SegmentReader]:
        items, reader = read(self.run, self.writer, dead=dead)
        return [decoded(item) for item in items], reader


def _log(writer: SpoolWriter) -> list[int]:
    """Log 20 records of every kind; return the size of the segment before each, and at the end."""
    sizes = []

    def at() -> None:
        run, name = writer.run, writer.name
        sizes.append(run.segment_path(name, run.segment_numbers()[name][-1]).stat().st_size)

    for index in range(RECORDS):
        at()
        if index in {5, 11}:
            writer.event("runs/b", b"event %d" % index, {"tag": "x"} if index == 5 else None)
        elif index == 7:
            writer.record(Param("lr", 0.1, 1.0))
        elif index == 13:
            writer.record(Text("notes", "# a text", 3, 1.0))
        elif index == 19:
            writer.record(Tag("kind", "last", 1.0))
        else:
            step = {3: None, 4: 2.5}.get(index, index)
            writer.scalar("runs/a", f"key{index % 4}", index / 7, step, 5.0 if index == 6 else None)
    at()
    return sizes


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    # The same salt each time: a test that tries a hundred thousand bytes must not depend on luck.
    monkeypatch.setattr(secrets, "randbits", lambda _bits: 0xDEADBEEF)
    run = new_run(tmp_path)
    writer = SpoolWriter(run)
    sizes = _log(writer)
    writer.record(RunEnd(RunStatus.FINISHED, 9.0, {}))
    path = run.segment_path(writer.name, 1)
    end = (sizes[-1], path.stat().st_size)
    writer.close()
    spans = list(zip(sizes, sizes[1:]))
    found = Case(run, writer.name, path, path.read_bytes(), [], spans, end)
    records, reader = found.read()
    assert len(records) == RECORDS
    assert reader.damaged == {}
    assert reader.sealed
    found.records.extend(records)
    return found


def _is_part_of(part: list[Any], whole: list[Any]) -> bool:
    rest = iter(whole)
    return all(record in rest for record in part)


@pytest.mark.figure(12)
def test_cut_at_every_byte(case: Case) -> None:
    for size in range(len(case.content)):
        case.path.write_bytes(case.content[:size])
        records, reader = case.read()
        whole = sum(stop <= size for _, stop in case.spans)
        assert records == case.records[:whole], size
        within = any(start < size < stop for start, stop in case.spans)
        lost = sum(reader.damaged.values())
        if size < case.spans[0][0]:
            assert lost <= 1, size  # within the header: nobody knows what was there
        elif case.end[0] < size <= case.end[0] + 20:
            assert lost <= 1, size  # too little is left to tell a record from the last word
        else:
            assert lost == within, size
        assert written(case.run, case.writer, 1) == whole + lost, size
        assert (reader.end is not None) == (size >= sum(case.end) // 2), size
        assert reader.exhausted([1])


def test_a_live_end_anywhere_is_no_damage(case: Case) -> None:
    for size in range(0, len(case.content), 2):
        case.path.write_bytes(case.content[:size])
        first, reader = read(case.run, case.writer, dead=False)
        assert reader.damaged == {}, size
        case.path.write_bytes(case.content)
        rest, _ = read(case.run, case.writer, dead=True, reader=reader)
        assert [decoded(item) for item in first + rest] == case.records, size
        assert reader.damaged == {}, size
        assert reader.end == RunEnd(RunStatus.FINISHED, 9.0, {})


@pytest.mark.figure(12)
def test_every_bit_flipped(case: Case) -> None:
    with open(case.path, "r+b", buffering=0) as file:
        for at, byte in enumerate(case.content):
            touched = [start <= at < stop for start, stop in case.spans]
            for bit in range(8):
                file.seek(at)
                file.write(bytes([byte ^ 1 << bit]))
                records, reader = case.read()
                lost = sum(reader.damaged.values())
                where = (at, bit)
                assert len(records) + lost == RECORDS, where
                assert lost <= sum(touched), where
                assert _is_part_of(records, case.records), where
                assert records.count(case.records[0]) <= 1
                assert reader.end == RunEnd(RunStatus.FINISHED, 9.0, {}), where
                assert reader.sealed, where
                assert reader.exhausted([1]), where
            file.seek(at)
            file.write(bytes([byte]))


def test_what_is_written_is_counted_whatever_bit_is_flipped(case: Case) -> None:
    # Without footer and last word: the last record is the last thing there is.
    content = case.content[: case.spans[-1][1]]
    for at in range(len(content)):
        # The type of a frame is told apart by two bits at least: that byte is tried with all.
        last = at >= case.spans[-1][0]
        for bit in range(8) if last else (at % 8,):
            damaged = bytearray(content)
            damaged[at] ^= 1 << bit
            case.path.write_bytes(damaged)
            records, reader = case.read()
            lost = sum(reader.damaged.values())
            assert len(records) + lost == RECORDS, (at, bit)
            assert lost <= 1
            assert written(case.run, case.writer, 1) == RECORDS, (at, bit)


def test_a_flipped_bit_in_a_live_segment_costs_one_record_at_most(case: Case) -> None:
    for at in range(0, len(case.content), 3):
        damaged = bytearray(case.content)
        damaged[at] ^= 0x10
        case.path.write_bytes(damaged)
        records, reader = case.read(dead=False)
        assert len(records) + sum(reader.damaged.values()) >= RECORDS - 1, at
        assert _is_part_of(records, case.records), at


def test_every_sector_zeroed(case: Case) -> None:
    """What a crash of the machine leaves of blocks that were never written."""
    for start in range(case.spans[0][0], len(case.content), 64):
        for size in (64, 512):
            stop = min(len(case.content), start + size)
            zeroed = case.content[:start] + bytes(stop - start) + case.content[stop:]
            case.path.write_bytes(zeroed)
            records, reader = case.read()
            lost = sum(reader.damaged.values())
            touched = sum(start < end and begin < stop for begin, end in case.spans)
            assert _is_part_of(records, case.records), (start, size)
            if stop < case.end[1]:
                assert len(records) + lost == RECORDS, (start, size)
            else:
                # Zeros to the end may be all there ever was; and too little may be left of the
                # last word to tell it from a record.
                assert lost <= max(touched, 1)
            assert written(case.run, case.writer, 1) == len(records) + lost, (start, size)


def test_zeros_behind_the_end_are_the_end(case: Case) -> None:
    case.path.write_bytes(case.content + bytes(4096))
    records, reader = case.read()
    assert records == case.records
    assert reader.damaged == {}
    assert written(case.run, case.writer, 1) == RECORDS


def test_reading_goes_on_from_every_position_in_damaged_bytes(case: Case) -> None:
    damaged = bytearray(case.content)
    damaged[case.spans[8][0] + 30] ^= 1
    case.path.write_bytes(damaged)
    items, first = read(case.run, case.writer)
    assert first.damaged == {"damaged": 1}
    for index, item in enumerate(items):
        rest, reader = read(case.run, case.writer, position=item.after)
        assert rest == items[index + 1 :]
        assert reader.end == first.end
        assert reader.sealed


def test_garbage_never_raises_and_is_never_a_record(case: Case) -> None:
    chance = random.Random(7)
    for _ in range(300):
        size = chance.randrange(0, 3000)
        garbage = bytes(chance.choices(frame.MAGIC + b"\0\1\xff" + bytes([3, 5, 6, 10]), k=size))
        case.path.write_bytes(case.content[: chance.randrange(len(case.content))] + garbage)
        records, reader = case.read()
        assert records == case.records[: len(records)]
        assert sum(reader.damaged.values()) <= 1


def test_a_frame_that_somebody_logged_is_not_one_of_ours(tmp_path: Path) -> None:
    """Even where the frame around it is damaged, and whatever segment it was copied from."""
    run = new_run(tmp_path)
    writer = SpoolWriter(run)
    for index in range(3):
        writer.scalar("a", "b", index, index, None)
    path = run.segment_path(writer.name, 1)
    copied = path.read_bytes()
    start = path.stat().st_size
    writer.event("a", copied, None)
    writer.scalar("a", "b", 3, 3, None)
    content = bytearray(path.read_bytes())
    for at in range(start, len(content) - 56):
        content[at] ^= 2
        path.write_bytes(content)
        items, reader = read(run)
        steps = [decoded(item)[3] for item in items if item.type == frame.SCALAR]
        assert steps == [0, 1, 2, 3], at
        assert len(items) + sum(reader.damaged.values()) == 5, at
        items, reader = read(run, dead=False)
        assert len(items) + sum(reader.damaged.values()) == 5, at
        content[at] ^= 2
    # While it is being written, it is not damage either.
    for size in range(start, len(content) - 56):
        path.write_bytes(content[:size])
        items, reader = read(run, dead=False)
        assert (len(items), reader.damaged) == (3, {}), size


# -- runs of several segments ---------------------------------------------------------------


@pytest.fixture
def long_run(tmp_path: Path) -> tuple[RunDir, str, list[int]]:
    run = new_run(tmp_path)
    writer = SpoolWriter(run, segment_bytes=2500)
    for index in range(120):
        writer.scalar("runs", f"key{index % 3}", index, index, None)
    writer.close()
    return run, writer.name, run.segment_numbers()[writer.name]


def _steps(run: RunDir, writer: str) -> tuple[list[int], SegmentReader]:
    items, reader = read(run, writer)
    return [decoded(item)[3] for item in items], reader


def test_a_missing_segment_is_counted_to_the_record(
    long_run: tuple[RunDir, str, list[int]],
) -> None:
    run, writer, numbers = long_run
    assert len(numbers) >= 4
    run.segment_path(writer, numbers[1]).unlink()
    steps, reader = _steps(run, writer)
    assert steps == sorted(set(steps))
    assert reader.damaged == {"missing": 120 - len(steps)}
    assert 0 < len(steps) < 120
    assert written(run, writer, numbers[-1]) == 120


def test_a_segment_that_is_cut_is_counted_by_the_next_one(
    long_run: tuple[RunDir, str, list[int]],
) -> None:
    run, writer, numbers = long_run
    path = run.segment_path(writer, numbers[0])
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        steps, reader = _steps(run, writer)
        assert steps == sorted(set(steps))
        assert len(steps) + sum(reader.damaged.values()) == 120, size


def test_bytes_of_the_first_of_several_segments(
    long_run: tuple[RunDir, str, list[int]],
) -> None:
    run, writer, numbers = long_run
    path = run.segment_path(writer, numbers[0])
    content = path.read_bytes()
    for at in range(0, len(content), 2):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at // 2 % 8
        path.write_bytes(damaged)
        steps, reader = _steps(run, writer)
        assert len(steps) >= 119, at
        assert len(steps) + sum(reader.damaged.values()) == 120, at


def test_a_key_whose_definitions_are_gone_is_known_from_before(
    long_run: tuple[RunDir, str, list[int]],
) -> None:
    run, writer, numbers = long_run
    path = run.segment_path(writer, numbers[1])
    content = path.read_bytes()
    scan = frame.scan(content, 0, _salt(content))
    for each in scan.frames:
        if each.type == frame.DEFINITION:
            start = each.end - frame.HEADER_SIZE - len(each.payload)
            content = content[:start] + bytes(each.end - start) + content[each.end :]
    path.write_bytes(content)
    steps, reader = _steps(run, writer)
    assert (steps, reader.damaged) == (list(range(120)), {})


def _salt(content: bytes) -> int:
    (header,) = frame.scan(content, 0, 0, limit=1).frames
    return int(json.loads(header.payload)["salt"])


def test_a_newest_segment_without_header_is_counted(
    long_run: tuple[RunDir, str, list[int]],
) -> None:
    run, writer, numbers = long_run
    run.segment_path(writer, numbers[-1]).write_bytes(b"\xff" * 900)
    steps, reader = _steps(run, writer)
    assert steps == list(range(len(steps)))
    assert reader.damaged == {"unreadable": 1}
    assert written(run, writer, numbers[-1]) == len(steps) + 1
    run.segment_path(writer, numbers[-1]).write_bytes(bytes(900))
    again, reader = _steps(run, writer)
    assert (again, reader.damaged) == (steps, {})


def test_a_middle_segment_without_header_is_counted_once(
    long_run: tuple[RunDir, str, list[int]],
) -> None:
    run, writer, numbers = long_run
    run.segment_path(writer, numbers[1]).write_bytes(b"\xff" * 900)
    steps, reader = _steps(run, writer)
    assert reader.damaged == {"missing": 120 - len(steps)}


def test_the_last_word_is_found_in_damaged_bytes(case: Case) -> None:
    damaged = bytearray(case.content)
    damaged[case.end[0] + 40] ^= 1
    case.path.write_bytes(damaged)
    assert last_word(case.run) == RunEnd(RunStatus.FINISHED, 9.0, {})


def test_a_reader_that_comes_back_to_a_segment_that_has_gone(case: Case) -> None:
    items, _ = read(case.run, case.writer)
    case.path.unlink()
    reader = SegmentReader(case.run, case.writer, items[3].after)
    assert reader.read([1], dead=True) == []
    assert reader.exhausted([1])
    assert SegmentReader(case.run, case.writer, Position()).read([], dead=True) == []
