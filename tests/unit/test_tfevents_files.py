"""Event files: real ones, ones that grow, and ones that something happened to."""

from __future__ import annotations

import os
import struct
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracelet.records import Metric
from tracelet.tfevents import EventFile, decode
from tracelet.tfevents.crc32c import crc32c, masked_crc32c

record_writer = pytest.importorskip("tensorboardX.record_writer")


def frame(event: bytes) -> bytes:
    head = struct.pack("<Q", len(event))
    return b"".join(
        (
            head,
            struct.pack("<I", masked_crc32c(head)),
            event,
            struct.pack("<I", masked_crc32c(event)),
        )
    )


EVENTS = [bytes([65 + number]) * (number + 1) for number in range(20)]
FRAMES = [frame(event) for event in EVENTS]


def write(path: Path, data: bytes) -> EventFile:
    path.write_bytes(data)
    return EventFile(path)


@pytest.mark.parametrize("size", [*range(20), 2047, 2048, 2049, 5000, 100_003])
def test_checksums_are_those_of_the_writers(size: int) -> None:
    data = os.urandom(size)

    assert masked_crc32c(data) == record_writer.masked_crc32c(data)


def test_the_known_checksum() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
    assert crc32c(b"\0" * 10_000) != crc32c(b"\0" * 10_001)


def test_long_checksums_take_little_time() -> None:
    data = os.urandom(4_000_000)
    start = time.process_time()
    crc32c(data)

    assert time.process_time() - start < 2  # byte by byte: 0.4 s where this takes 0.05 s


@pytest.mark.parametrize("family", ["tensorboardX", "torch.utils.tensorboard"])
def test_real_files(family: str, tmp_path: Path) -> None:
    writer = pytest.importorskip(family).SummaryWriter(str(tmp_path))
    for step in range(200):
        writer.add_scalar("loss", step / 8, step, walltime=step)
    writer.close()
    (path,) = tmp_path.iterdir()
    file = EventFile(path)

    records = [record for event in file.events() for record in decode(event, "s")]

    assert records == [Metric("loss", step / 8, step, float(step), "s") for step in range(200)]
    assert (file.damaged, file.skipped, file.tail()) == (0, 0, 0)
    assert file.position == path.stat().st_size


def test_a_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "events"
    file = write(path, b"")
    seen = []
    for event, whole in zip(EVENTS, FRAMES):
        for start in range(len(whole)):
            with path.open("ab") as out:
                out.write(whole[start : start + 1])
            found = list(file.events())
            assert bool(found) == (start == len(whole) - 1)
            seen += found
        assert seen[-1] == event

    assert seen == EVENTS
    assert (file.damaged, file.tail()) == (0, 0)


def test_reading_goes_on_where_another_reader_was(tmp_path: Path) -> None:
    path = tmp_path / "events"
    first = write(path, b"".join(FRAMES[:5]))
    list(first.events())
    with path.open("ab") as out:
        out.write(b"".join(FRAMES[5:]))

    assert list(EventFile(path, first.position).events()) == EVENTS[5:]


@pytest.mark.parametrize("lost", [1, 4, 11, 20])
def test_a_cut_tail_is_no_damage(tmp_path: Path, lost: int) -> None:
    data = b"".join(FRAMES)
    file = write(tmp_path / "events", data[:-lost])

    assert list(file.events()) == EVENTS[:-1]
    assert file.damaged == 0
    assert file.tail() == len(FRAMES[-1]) - lost


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "none")

    with pytest.raises(FileNotFoundError):
        list(file.events())


def flipped(data: bytes, bit: int) -> bytes:
    broken = bytearray(data)
    broken[bit // 8] ^= 1 << bit % 8
    return bytes(broken)


def test_a_flipped_bit_costs_the_record_that_it_is_in(tmp_path: Path) -> None:
    data = b"".join(FRAMES[:6])
    ends = [sum(map(len, FRAMES[: number + 1])) for number in range(6)]
    path = tmp_path / "events"
    for bit in range(len(data) * 8):
        file = write(path, flipped(data, bit))
        touched = next(number for number, end in enumerate(ends) if bit // 8 < end)

        found = list(file.events())

        whole = EVENTS[:touched] + EVENTS[touched + 1 : 6]
        if touched == 5 and file.damaged == 0:  # a broken last length cannot be told from a tail
            assert found == EVENTS[:5]
            assert file.tail() == len(FRAMES[5])
        else:
            assert found == whole, bit
            assert file.damaged == 1
            assert file.skipped == len(FRAMES[touched])


def test_a_hole_is_skipped(tmp_path: Path) -> None:
    for hole in (b"\0" * 5000, os.urandom(5000), b"\0\1" * 2500, b"\0\0\0\0\1" * 1000):
        file = write(tmp_path / "events", FRAMES[0] + hole + b"".join(FRAMES[1:]))

        assert list(file.events()) == EVENTS
        assert (file.damaged, file.skipped) == (1, len(hole))


def test_zeros_at_the_end_are_a_tail(tmp_path: Path) -> None:
    path = tmp_path / "events"
    file = write(path, FRAMES[0] + b"\0" * 3_000_000)
    start = time.process_time()

    for _ in range(3):
        list(file.events())

    assert time.process_time() - start < 5
    assert (file.damaged, file.tail()) == (0, 3_000_000)
    with path.open("ab") as out:
        out.write(FRAMES[1])
    assert list(file.events()) == [EVENTS[1]]
    assert (file.damaged, file.skipped) == (1, 3_000_000)


def test_a_hole_wider_than_a_window(tmp_path: Path) -> None:
    hole = bytes(zlib.crc32(bytes([n % 256, n // 256 % 256])) & 0xFF for n in range(1 << 16)) * 40
    file = write(tmp_path / "events", FRAMES[0] + b"x" + hole + FRAMES[1])

    assert list(file.events()) == EVENTS[:2]
    assert file.skipped == len(hole) + 1


def test_a_length_that_lies_reads_nothing(tmp_path: Path) -> None:
    head = struct.pack("<Q", 1 << 60)
    file = write(tmp_path / "events", head + struct.pack("<I", masked_crc32c(head)) + b"x" * 100)

    assert list(file.events()) == []
    assert (file.damaged, file.tail()) == (0, 112)


def test_an_event_that_is_too_large_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(FRAMES[0] + frame(b"x" * 5000) + FRAMES[1])
    file = EventFile(path, max_bytes=1000)

    assert list(file.events()) == EVENTS[:2]
    assert (file.damaged, file.skipped) == (1, 5016)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_damage(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever happened, what comes out was written, in its order."""
    raw = bytearray(b"".join(FRAMES))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(raw)))
        kind = data.draw(st.sampled_from(["put", "drop", "flip"]))
        if kind == "put":
            raw[place:place] = data.draw(st.binary(max_size=40))
        elif kind == "drop":
            del raw[place : place + data.draw(st.integers(1, 40))]
        elif place < len(raw):
            raw[place] ^= data.draw(st.integers(1, 255))
    file = write(tmp_path / "events", bytes(raw))

    found = list(file.events())

    positions = [EVENTS.index(event) for event in found]
    assert positions == sorted(set(positions))
    if bytes(raw) == b"".join(FRAMES):
        assert found == EVENTS
    whole = sum(len(frame(event)) for event in found)
    assert whole + file.skipped + file.tail() == len(raw)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.binary(max_size=3000))
def test_any_file(tmp_path: Path, raw: bytes) -> None:
    file = write(tmp_path / "events", raw)

    assert sum(len(frame(event)) for event in file.events()) + file.skipped + file.tail() == len(
        raw
    )
