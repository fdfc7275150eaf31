"""What may be given up of a segment, decided without a file; and how a segment says it."""

from __future__ import annotations

import gzip
import math
import random
from pathlib import Path

import pytest
from tests.unit.spooling import new_run, read

from tracelet.records import Artifact, Histogram, Media, Metric, Param, Record, Tag, Text
from tracelet.ship.thinning import Entry, choose, entry
from tracelet.spool import frame, packing
from tracelet.spool.reader import Position
from tracelet.spool.rundir import RunDir
from tracelet.spool.thinned import KINDS, Thinned, decode_thinned, encode_thinned
from tracelet.spool.writer import SpoolWriter


def left(entries: list[Entry], kind: str, **how: object) -> list[Entry]:
    gone = list(choose(entries, kind, **how))  # type: ignore[arg-type]
    assert len(set(gone)) == len(gone)
    return [each for each in entries if each.number not in gone]


def points(values: list[float], key: str = "loss", first: int = 0) -> list[Entry]:
    return [Entry(first + n, "scalar", key, value) for n, value in enumerate(values)]


# -- what goes --------------------------------------------------------------------------------


def test_of_every_ten_points_the_ends_and_the_extremes_stay() -> None:
    values = [5.0, 1.0, 2.0, 3.0, 9.0, 4.0, 4.0, 4.0, 4.0, 6.0]
    assert [each.value for each in left(points(values), "scalar")] == [5.0, 1.0, 9.0, 6.0]


def test_windows_are_of_one_key_however_keys_alternate() -> None:
    """Every window of every key keeps its first, last, smallest and largest value."""
    chance = random.Random(7)
    curves = {key: [chance.gauss(0, 1) for _ in range(137)] for key in "abc"}
    entries = [
        Entry(3 * n + place, "scalar", key, curves[key][n])
        for n in range(137)
        for place, key in enumerate(curves)
    ]
    kept = left(entries, "scalar")
    for key, values in curves.items():
        mine = {(each.number // 3): each.value for each in kept if each.key == key}
        assert mine[136] == values[136]
        for start in range(0, 137, 10):
            window = values[start : start + 10]
            found = [mine[n] for n in range(start, start + len(window)) if n in mine]
            assert {window[0], window[-1], min(window), max(window)} == set(found)


def test_the_first_value_that_is_no_number_stays() -> None:
    values = [1.0, 2.0, math.nan, math.nan, math.inf, 3.0, 2.0, 2.0, 2.0, 1.5]
    kept = [each.number for each in left(points(values), "scalar")]
    assert kept == [0, 2, 5, 9]


def test_of_what_is_large_the_last_of_a_key_stays_unless_there_is_a_later_one() -> None:
    entries = [Entry(n, "media", f"card{n % 2}") for n in range(10)]
    assert [each.number for each in left(entries, "media")] == [8, 9]
    later = left(entries, "media", later=lambda key: key == "card1")
    assert [each.number for each in later] == [8]


def test_only_the_kind_in_question_goes() -> None:
    entries = [Entry(n, kind, "key") for n, kind in enumerate((*KINDS, None) * 3)]
    for kind in KINDS:
        gone = {entries[number].kind for number in choose(entries, kind)}
        assert gone == {kind}


def test_what_is_said_once_about_a_run_has_no_kind(tmp_path: Path) -> None:
    """Parameters, tags, artifacts, graphs: never given up. The others are what they are."""
    run = new_run(tmp_path)
    writer = SpoolWriter(run)
    there = [
        (Param("lr", 0.1, 1.0), None),
        (Tag("team", "vision", 1.0), None),
        (Artifact("model.pt", "blobs/00", 3, 1.0), None),
        (Media("graph", "graph", b"x", "", 0, 1.0), None),
        (Media("custom_scalars", "layout", b"x", "", 0, 1.0), None),
        (Media("image", "card", b"x", "image/png", 0, 1.0), "media"),
        (Media("audio", "card", b"x", "audio/wav", 0, 1.0), "media"),
        (Media("mesh", "card", b"x", "", 0, 1.0), "media"),
        (Histogram("h", [0.0, 1.0], [1.0], 0.0, 1.0, 0.5, 0.3, 0, 1.0), "histogram"),
        (Text("note", "words", 0, 1.0), "text"),
        (Metric("loss", 0.5, 0, 1.0), "scalar"),
    ]
    for record, _ in there:
        writer.record(record)
    items, _ = read(run, dead=False)
    assert [entry(item).kind for item in items] == [kind for _, kind in there]


# -- how a segment says it --------------------------------------------------------------------


def test_what_is_gone_is_told_and_read_back() -> None:
    gone = Thinned(7, bytes([0, 1, 1, 4, 0, 2]), 3, ("0a1b",))
    assert decode_thinned(encode_thinned(gone)) == gone
    assert gone.between(7, 13) == {"media": 2, "scalar": 1, "histogram": 1}
    assert gone.between(0, 9) == {"media": 1}
    assert gone.between(12, 99) == {"histogram": 1}
    assert gone.between(13, 99) == {}


@pytest.mark.parametrize("seed", range(20))
def test_bytes_that_say_nothing_are_refused(seed: int) -> None:
    chance = random.Random(seed)
    payload = bytearray(encode_thinned(Thinned(0, bytes([1, 0, 4] * 50))))
    for _ in range(1 + seed % 4):
        payload[chance.randrange(len(payload))] = chance.randrange(256)
    try:
        found = decode_thinned(bytes(payload))
    except (ValueError, TypeError):
        return
    assert set(found.marks) <= {0, 1, 2, 3, 4}


def segments(run: RunDir) -> tuple[str, list[int]]:
    ((writer, numbers),) = run.segment_numbers().items()
    return writer, numbers


def test_a_compressed_segment_is_read_from_anywhere_and_switched_to_on_the_way(
    tmp_path: Path,
) -> None:
    """Content of many windows: the same records from every position, also while it is packed."""
    run = new_run(tmp_path)
    writer = SpoolWriter(run, segment_bytes=8 << 20)
    chance = random.Random(3)
    records: list[Record] = [
        Text("note", chance.randbytes(30_000).hex(), n, 1.0) for n in range(80)
    ]
    for record in records:
        writer.record(record)
    writer.close()
    name, _ = segments(run)
    items, _ = read(run)
    some, reader = read(run)[0][:30], None
    packing.pack(run.segment_path(name, 1), level=1)
    assert not run.segment_path(name, 1).exists()
    again, reader = read(run, position=some[-1].after)
    assert [item.payload for item in again] == [item.payload for item in items[30:]]
    assert reader.damaged == {}
    backwards, _ = read(run, position=Position(1, 0, 0))
    assert [item.payload for item in backwards] == [item.payload for item in items]


def test_a_compressed_segment_that_is_cut_is_read_up_to_there(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    writer = SpoolWriter(run)
    for number in range(2000):
        writer.scalar("/logs", "loss", float(number), number, 1.0)
    writer.close()
    name, _ = segments(run)
    path = run.segment_path(name, 1)
    packing.pack(path, level=1)
    packed = packing.packed_path(path)
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) // 2])
    items, _ = read(run)
    assert 100 < len(items) < 2000
    packed.write_bytes(b"no gzip at all")
    assert read(run)[0] == []


class Free:
    """Nobody reads; ``may`` is what is said to whoever asks."""

    def __init__(self, may: bool = True) -> None:
        self.may = may

    def __enter__(self) -> bool:
        return self.may

    def __exit__(self, *_: object) -> None:
        return


def test_a_segment_without_some_records_is_read_without_damage(tmp_path: Path) -> None:
    """Numbers stay; what is gone is told by kind with the record behind it, from any position."""
    run = new_run(tmp_path)
    writer = SpoolWriter(run)
    for number in range(100):
        writer.scalar("/logs", "loss", float(number), number, 1.0)
    writer.close()
    name, _ = segments(run)
    marks = bytes(4 if number % 10 in (3, 4, 5) else 0 for number in range(100))

    assert not packing.rewrite(run, name, 1, Thinned(0, marks), lambda: Free(may=False))
    assert len(read(run)[0]) == 100
    assert packing.rewrite(run, name, 1, Thinned(0, marks), Free)

    items, reader = read(run)
    assert [item.after.seq - 1 for item in items] == [n for n in range(100) if not marks[n]]
    assert reader.damaged == {}
    told = {item.after.seq - 1: item.thinned for item in items if item.thinned}
    assert told == {n: {"scalar": 3} for n in range(6, 100, 10)}
    for at, item in enumerate(items[:-1]):
        rest, from_there = read(run, position=item.after)
        assert rest == items[at + 1 :]
        assert from_there.damaged == {}
    passing, _ = read(run, limit=7)
    assert passing == items


def test_an_older_reader_sees_damage_and_goes_on(tmp_path: Path) -> None:
    """It passes over the frame that it does not know: the numbers say how many are missing."""
    run = new_run(tmp_path)
    writer = SpoolWriter(run)
    for number in range(10):
        writer.scalar("/logs", "loss", float(number), number, 1.0)
    writer.close()
    name, _ = segments(run)
    assert packing.rewrite(run, name, 1, Thinned(0, bytes([0, 4, 4])), Free)
    packed = packing.packed_path(run.segment_path(name, 1))
    plain = gzip.decompress(packed.read_bytes())
    # A type that nobody knows, with a checksum that is right: what this one was to it.
    salt_at = plain.index(b'"salt": ') + 8
    salt = int(plain[salt_at : plain.index(b",", salt_at)])
    start = plain.index(frame.MAGIC, plain.index(frame.MAGIC, 1) + 1)
    found = frame.scan(plain, start, salt)
    assert [each.type for each in found.frames[:2]] == [frame.THINNED, frame.THINNED]
    unknown = b"".join(
        frame.encode(
            each.type + 6 if each.type == frame.THINNED else each.type,
            each.flags,
            each.seq,
            each.payload,
            salt,
        )
        for each in found.frames
    )
    packed.write_bytes(gzip.compress(plain[:start] + unknown))
    items, reader = read(run)
    assert len(items) == 8
    assert reader.damaged == {"damaged": 2}
    assert not any(item.thinned for item in items)


def test_damage_in_a_thinned_segment_is_told_apart(tmp_path: Path) -> None:
    """One flipped bit still costs one record, and is called what it is."""
    run = new_run(tmp_path)
    writer = SpoolWriter(run)
    for number in range(30):
        writer.scalar("/logs", "loss", float(number), number, 1.0)
    writer.close()
    name, _ = segments(run)
    marks = bytes(4 if 10 <= number < 15 else 0 for number in range(30))
    assert packing.rewrite(run, name, 1, Thinned(0, marks), Free)
    packed = packing.packed_path(run.segment_path(name, 1))
    plain = bytearray(gzip.decompress(packed.read_bytes()))
    items, _ = read(run)
    behind = next(item for item in items if item.thinned)
    plain[behind.after.offset - 1] ^= 1
    packed.write_bytes(gzip.compress(bytes(plain)))
    items, reader = read(run)
    assert len(items) == 24
    assert reader.damaged == {"damaged": 1}
    assert [item.thinned for item in items if item.thinned] == [{"scalar": 5}]
