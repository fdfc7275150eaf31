from __future__ import annotations

import itertools
import struct
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelet.spool import frame

TYPES = [
    frame.SCALAR,
    frame.EVENT,
    frame.RECORD,
    frame.HEADER,
    frame.DEFINITION,
    frame.END,
    frame.FOOTER,
    frame.LOST,
]
SALT = 0x12345678


def test_the_layout_is_what_the_specification_says() -> None:
    data = frame.encode(frame.EVENT, 8, 77, b"payload", SALT)
    magic, length, crc, seq, kind, flags, reserved = struct.unpack("<4sIIQBBH", data[:24])
    assert (magic, length, seq, kind, flags, reserved) == (b"\xf7\x1aTL", 7, 77, 5, 8, 0)
    assert data[24:] == b"payload"
    assert crc == crc32(data[:8] + data[12:], SALT)


def test_two_bits_at_least_tell_types_apart() -> None:
    assert len(set(TYPES)) == len(TYPES)
    for one, other in itertools.combinations([0, *TYPES], 2):
        assert bin(one ^ other).count("1") >= 2


def test_only_records_are_numbered() -> None:
    assert {kind for kind in range(256) if frame.is_data(kind)} == {
        frame.SCALAR,
        frame.EVENT,
        frame.RECORD,
    }


@given(
    st.sampled_from(TYPES),
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=300),
    st.integers(0, 2**32 - 1),
)
def test_what_is_encoded_is_found(
    kind: int, flags: int, seq: int, payload: bytes, salt: int
) -> None:
    data = frame.encode(kind, flags, seq, payload, salt)
    found = frame.scan(data, 0, salt)
    assert found == frame.Scan(
        [frame.Frame(kind, flags, seq, payload, len(data))], len(data), [], 0
    )


def test_a_frame_of_another_segment_does_not_pass() -> None:
    data = frame.encode(frame.EVENT, 0, 1, b"payload", SALT)
    assert frame.scan(data, 0, SALT + 1).frames == []
    assert frame.scan(data, 0, 0).frames == []


def test_a_payload_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "MAX_PAYLOAD", 10)
    assert frame.scan(frame.encode(3, 0, 0, b"0123456789", 0), 0, 0).frames
    with pytest.raises(ValueError, match="at most 10 bytes"):
        frame.encode(3, 0, 0, b"0123456789a", 0)
    long = frame.encode(3, 0, 0, b"0123456789", 0)
    monkeypatch.setattr(frame, "MAX_PAYLOAD", 9)
    assert frame.scan(long, 0, 0).frames == []


def test_zeros_are_no_frame() -> None:
    zeros = bytes(1000)
    assert frame.scan(zeros, 0, 0) == frame.Scan([], 0, [], 1000)
    # Not even with everything else in order.
    data = frame._WHOLE.pack(frame.MAGIC, 0, 0, 0, 0, 0, 0)
    crc = crc32(data[:8] + data[12:])
    data = frame._WHOLE.pack(frame.MAGIC, 0, crc, 0, 0, 0, 0)
    assert frame.scan(data, 0, 0).frames == []


def test_damage_is_stepped_over_and_told() -> None:
    frames = [frame.encode(frame.EVENT, 0, seq, b"x" * seq, SALT) for seq in range(1, 5)]
    data = b"".join([frames[0], b"torn", frames[1], frames[2][:-1], frames[3], b"rest"])
    found = frame.scan(data, 0, SALT)
    assert [each.seq for each in found.frames] == [1, 2, 4]
    start = len(frames[0])
    third = start + 4 + len(frames[1])
    assert found.damage == [(start, start + 4), (third, third + len(frames[2]) - 1)]
    assert found.tail == 4
    assert found.end == len(data) - 4


def test_a_copy_of_an_earlier_frame_is_no_end_of_damage() -> None:
    """Somebody logged the bytes of the very segment, and the frame around them is damaged."""
    early = frame.encode(frame.EVENT, 0, 1, b"early", SALT)
    around = frame.encode(frame.EVENT, 0, 2, b"<<" + early + b">>", SALT)
    late = frame.encode(frame.EVENT, 0, 3, b"late", SALT)
    damaged = early + around[:-1] + b"!" + late
    assert [each.seq for each in frame.scan(damaged, 0, SALT).frames] == [1, 3]
    assert [each.seq for each in frame.scan(damaged[len(early) :], 0, SALT, least=2).frames] == [3]
    # At the end of a live segment it is unfinished, and stays so.
    found = frame.scan(early + around[:-1], 0, SALT)
    assert (found.end, found.tail) == (len(early), len(around) - 1)


def test_a_limit_ends_the_look() -> None:
    data = b"".join(frame.encode(frame.EVENT, 0, seq, b"", SALT) for seq in range(5))
    found = frame.scan(data, 0, SALT, limit=3)
    assert [each.seq for each in found.frames] == [0, 1, 2]
    assert found.end == 3 * frame.HEADER_SIZE
    assert [each.seq for each in frame.scan(data, found.end, SALT).frames] == [3, 4]


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from(TYPES), st.binary(max_size=80)), max_size=8),
    st.binary(max_size=200),
    st.data(),
)
def test_any_bytes_behind_any_prefix_never_lie(
    kinds: list[tuple[int, bytes]], garbage: bytes, data: st.DataObject
) -> None:
    frames = [frame.encode(kind, 0, seq, body, SALT) for seq, (kind, body) in enumerate(kinds)]
    whole = b"".join(frames)
    cut = data.draw(st.integers(0, len(whole)))
    found = frame.scan(whole[:cut] + garbage, 0, SALT)
    kept = 0
    while kept < len(frames) and sum(map(len, frames[: kept + 1])) <= cut:
        kept += 1
    assert [each.payload for each in found.frames[:kept]] == [body for _, body in kinds[:kept]]
    # What stands behind the cut may only be the very frame that was cut.
    assert len(found.frames) - kept <= (cut < len(whole))
    assert 0 <= found.end <= cut + len(garbage)


@given(st.binary(max_size=500), st.integers(0, 2**32 - 1))
def test_random_bytes_are_nothing(data: bytes, salt: int) -> None:
    assert frame.scan(frame.MAGIC + data, 0, salt).frames == []


def _cut(kind: int, size: int) -> bytes:
    return frame.encode(kind, 0, 1, b"x" * 40, SALT)[:size]


@pytest.mark.parametrize(
    ("last", "single", "tail", "expected"),
    [
        (frame.SCALAR, False, b"", False),
        (frame.SCALAR, False, bytes(500), False),
        (frame.SCALAR, False, _cut(frame.SCALAR, 5), True),
        (frame.SCALAR, False, _cut(frame.EVENT, 30), True),
        (frame.SCALAR, False, _cut(frame.EVENT, 64)[:-1] + b"!", True),
        (frame.SCALAR, False, _cut(frame.DEFINITION, 30), True),
        (frame.SCALAR, False, _cut(frame.END, 30), False),
        (frame.SCALAR, False, _cut(frame.FOOTER, 30), False),
        (frame.SCALAR, False, _cut(frame.LOST, 30), False),
        (frame.SCALAR, False, b"\xff" * 64, True),
        (frame.DEFINITION, False, b"", True),
        (frame.DEFINITION, True, _cut(frame.DEFINITION, 30), True),
        (frame.END, True, _cut(frame.END, 5), False),
        (frame.END, True, b"\xff" * 64, False),
        (frame.END, False, _cut(frame.FOOTER, 5), False),
        (frame.END, False, _cut(frame.SCALAR, 30), True),
        (frame.HEADER, False, b"", False),
        (frame.HEADER, False, _cut(frame.DEFINITION, 3), True),
    ],
)
def test_what_an_unfinished_end_is(last: int, single: bool, tail: bytes, expected: bool) -> None:
    assert frame.unfinished(last, single=single, tail=tail) is expected
