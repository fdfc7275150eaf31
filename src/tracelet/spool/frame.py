"""
The frame: the unit that one ``write(2)`` puts on disk, and how it is found again.

Little endian::

    magic 4 | length u32 | crc u32 | seq u64 | type u8 | flags u8 | reserved u16 | payload[length]

The CRC-32 (zlib's) covers everything except itself and starts from the segment's salt, so that
bytes of another segment, or a frame that somebody logged as text, never pass for a frame of this
one. ``seq`` numbers the data frames of a segment's writer without holes; frames that describe the
segment itself carry the number of the data frame that follows, and stand twice. The magic is the
mark to look for behind damage: a frame that does not verify costs itself and nothing else.

``docs/spool-format.md`` is the specification; this module is its only reader and writer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple, Optional
from zlib import crc32

__all__ = [
    "DEFINITION",
    "END",
    "EVENT",
    "FOOTER",
    "FRACTION",
    "GIVEN_TIME",
    "HEADER",
    "HEADER_SIZE",
    "IN_BLOB",
    "LOST",
    "MAGIC",
    "MAX_PAYLOAD",
    "NO_STEP",
    "RECORD",
    "SCALAR",
    "SCALAR_FRACTION",
    "SCALAR_INT",
    "THINNED",
    "Frame",
    "Scan",
    "encode",
    "is_data",
    "scalar_front",
    "scan",
    "unfinished",
]

MAGIC = b"\xf7\x1aTL"
#: No frame is longer; a length above it is damage, whatever the checksum says.
MAX_PAYLOAD = 64 * 1024 * 1024

# Any two types differ in two bits at least: a flipped bit never turns one into another. Type 0 is
# none, so that a preallocated or forgotten block of zeros is never a frame.
SCALAR, EVENT, RECORD = 3, 5, 6
HEADER, DEFINITION, END, FOOTER, LOST, THINNED = 9, 10, 12, 15, 17, 18
_DATA_TYPES = frozenset((SCALAR, EVENT, RECORD))

# Flags of a scalar frame.
NO_STEP, FRACTION, GIVEN_TIME = 1, 2, 4
# Flag of an event or record frame: the bytes are in a blob, the payload names it.
IN_BLOB = 8

_FRONT = struct.Struct("<4sI")
_CRC = struct.Struct("<I")
_REST = struct.Struct("<QBBH")
_WHOLE = struct.Struct("<4sIIQBBH")
#: A whole frame of a plain point.
_POINT = struct.Struct("<4sIIQBBH32s")
HEADER_SIZE = _WHOLE.size
_unpack_from = _WHOLE.unpack_from
_SMALL = 4096
#: What a ``NamedTuple`` calls in the end. Its own way there takes three times as long, and for a
#: point there are several of them.
_tuple = tuple.__new__
#: Where the type stands in a frame.
_TYPE_AT = 20

#: key hash u64, value f64, step i64 (or f64 with FRACTION), time f64
SCALAR_INT = struct.Struct("<Qdqd")
SCALAR_FRACTION = struct.Struct("<Qddd")


class Frame(NamedTuple):
    """One verified frame; ``end`` is the offset just behind it."""

    type: int
    flags: int
    seq: int
    payload: bytes
    end: int


def is_data(frame_type: int) -> bool:
    """Return True for the types that are numbered, that is, that carry a record."""
    return frame_type in _DATA_TYPES


def encode(frame_type: int, flags: int, seq: int, payload: bytes, salt: int) -> bytes:
    """
    Return the bytes of one frame.

    Raises:
        ValueError: The payload is longer than ``MAX_PAYLOAD``.
    """
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a frame holds at most {MAX_PAYLOAD} bytes, not {len(payload)}")
    front = _FRONT.pack(MAGIC, len(payload))
    rest = _REST.pack(seq, frame_type, flags, 0)
    crc = crc32(payload, crc32(rest, crc32(front, salt)))
    return b"".join((front, _CRC.pack(crc), rest, payload))


def scalar_front(salt: int) -> tuple[bytes, int]:
    """Return what every scalar frame of a segment begins with, and the checksum so far."""
    front = _FRONT.pack(MAGIC, SCALAR_INT.size)
    return front, crc32(front, salt)


@dataclass
class Scan:
    """
    What a stretch of bytes holds.

    ``frames`` are the whole ones in order. ``end`` is where the next look has to start. ``damage``
    lists stretches ``(from, to)`` that hold no frame although a frame follows them. ``tail`` is
    the number of bytes behind ``end`` that are the beginning of something unfinished (or damaged,
    if nothing ever follows).
    """

    frames: list[Frame]
    end: int
    damage: list[tuple[int, int]]
    tail: int


def scan(
    data: bytes, start: int, salt: int, *, least: int = 0, limit: Optional[int] = None
) -> Scan:
    """
    Find the frames in ``data`` from ``start`` on.

    Args:
        data: Bytes of a segment.
        start: Where the first frame is expected.
        salt: The segment's salt (0 for its header frames).
        least: The lowest number that a frame behind damage can have. A lower one is a copy that
            somebody logged: the damage goes on.
        limit: Stop after so many frames.

    Returns:
        Frames, damage and the unfinished rest. Never raises, whatever the bytes are.
    """
    frames: list[Frame] = []
    damage: list[tuple[int, int]] = []
    # Most frames are of one length: the checksum of magic and length is known then.
    fronts: dict[int, int] = {}
    at = look = start
    size = len(data)
    while look < size and (limit is None or len(frames) < limit):
        if look == at and SCALAR_INT.size in fronts:
            most = size if limit is None else limit - len(frames)
            least = _points(data, at, fronts[SCALAR_INT.size], most, least, frames)
            if frames and frames[-1].end > at:
                at = look = frames[-1].end
                continue
        if look == at and size - look >= HEADER_SIZE:
            # The short way, for one small frame behind another.
            magic, length, crc, seq, kind, flags, _ = _unpack_from(data, look)
            front = fronts.get(length)
            body = look + HEADER_SIZE
            end = body + length
            if (
                magic == MAGIC
                and front is not None
                and kind
                and end <= size
                and length < _SMALL
                and crc32(data[look + 12 : end], front) == crc
            ):
                frames.append(_tuple(Frame, (kind, flags, seq, data[body:end], end)))
                at = look = end
                least = max(least, seq + (kind in _DATA_TYPES))
                continue
        frame = _frame_at(data, look, salt, fronts)
        if frame is None or (look > at and frame.seq < least):
            # Either the end of what is there, or damage with something whole behind it.
            look = data.find(MAGIC, look + 1)
            if look < 0:
                return Scan(frames, at, damage, size - at)
            continue
        if look > at:
            damage.append((at, look))
        frames.append(frame)
        at = look = frame.end
        least = max(least, frame.seq + (frame.type in _DATA_TYPES))
    return Scan(frames, at, damage, 0)


def _points(data: bytes, at: int, front: int, most: int, least: int, frames: list[Frame]) -> int:
    """
    Add the points that stand one behind another from ``at`` on; return the new ``least``.

    They are almost all there is, and unpacked in one go they take half the time.
    """
    size = _POINT.size
    count = min((len(data) - at) // size, most)
    stretch = memoryview(data)[at : at + count * size]
    add, magic_here, length_here, scalar = frames.append, MAGIC, SCALAR_INT.size, SCALAR
    for magic, length, crc, seq, kind, flags, _, payload in _POINT.iter_unpack(stretch):
        end = at + size
        if (
            kind != scalar
            or length != length_here
            or magic != magic_here
            or crc32(data[at + 12 : end], front) != crc
        ):
            break
        add(_tuple(Frame, (kind, flags, seq, payload, end)))
        at = end
        if seq >= least:
            least = seq + 1
    return least


def _frame_at(data: bytes, at: int, salt: int, fronts: dict[int, int]) -> Optional[Frame]:
    """Return the frame that starts at ``at`` if one verifies there."""
    size = len(data)
    if size - at < HEADER_SIZE:
        return None
    magic, length, crc, seq, frame_type, flags, _ = _unpack_from(data, at)
    end = at + HEADER_SIZE + length
    if magic != MAGIC or end > size or length > MAX_PAYLOAD or frame_type == 0:
        return None
    front = fronts.get(length)
    if front is None:
        front = fronts[length] = crc32(data[at : at + 8], salt)
    # A copy of little is quicker than a view; of a large payload there need not be two.
    body = data[at + 12 : end] if length < _SMALL else memoryview(data)[at + 12 : end]
    if crc32(body, front) != crc:
        return None
    return Frame(frame_type, flags, seq, data[at + HEADER_SIZE : end], end)


def unfinished(last: int, *, single: bool, tail: bytes) -> bool:
    """
    Tell whether a writer's last bytes are a record that was being written, or is damaged.

    Args:
        last: The type of the last whole frame; 0 when there is none.
        single: Of that frame only the first copy was read, so that the second one comes next.
        tail: What is behind it.

    Returns:
        False for nothing, for zeros, and for the rest of a frame that describes the segment.
    """
    if last == DEFINITION:
        return True  # what it defines a key for is in the same write
    if not tail.strip(b"\0") or single:
        return False
    if len(tail) <= _TYPE_AT or not tail.startswith(MAGIC):
        return last not in (END, FOOTER)
    length, kind = _FRONT.unpack_from(tail)[1], tail[_TYPE_AT]
    if HEADER_SIZE + length <= len(tail):
        # Whole but wrong. All frames that describe come twice, and the other copy would be there.
        return True
    return kind in _DATA_TYPES or kind == DEFINITION
