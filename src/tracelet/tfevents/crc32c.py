"""
CRC-32C (Castagnoli), the checksum of TensorFlow's record files, without a compiled module.

Byte by byte Python checks about 10 MB/s. Long data is therefore cut into as many pieces as each
piece is long, and one step moves the checksums of all pieces on by a byte: a table lookup is then
``bytes.translate`` and an exclusive-or is one of large integers. The pieces are joined by moving a
checksum over so many zero bytes, which is linear and hence four more tables.
"""

from __future__ import annotations

from functools import lru_cache
from math import isqrt
from typing import Final

_POLYNOMIAL: Final = 0x82F63B78
_MASK: Final = 0xA282EAD8
_ONES: Final = 0xFFFFFFFF
#: Where the detour over pieces begins to pay.
_LONG: Final = 2048

_Tables = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _row(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE: Final = tuple(_row(byte) for byte in range(256))
#: The same table as four tables of bytes, the lowest byte first.
_PLANES: Final = tuple(bytes(row >> shift & 0xFF for row in _TABLE) for shift in (0, 8, 16, 24))


def masked_crc32c(data: bytes) -> int:
    """Return the checksum as record files store it, so that a checksum of checksums is none."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK) & _ONES


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of some bytes."""
    if len(data) < _LONG:
        return _move(_ONES, data) ^ _ONES
    length = isqrt(len(data))
    pieces = len(data) // length
    whole = pieces * length
    zero, one, two, three = (_ONES >> shift & 0xFF for shift in (0, 8, 16, 24))
    for place in range(length):
        column = int.from_bytes(data[place:whole:length], "little")
        index = (zero ^ column).to_bytes(pieces, "little")
        moved = [int.from_bytes(index.translate(plane), "little") for plane in _PLANES]
        zero, one, two, three = one ^ moved[0], two ^ moved[1], three ^ moved[2], moved[3]
    planes = [state.to_bytes(pieces, "little") for state in (zero, one, two, three)]
    low, middle, high, top = _zeros(length)
    crc = 0
    for a, b, c, d in zip(*planes):
        crc = low[crc & 0xFF] ^ middle[crc >> 8 & 0xFF] ^ high[crc >> 16 & 0xFF] ^ top[crc >> 24]
        crc ^= a | b << 8 | c << 16 | d << 24
    return _move(crc, data[whole:]) ^ _ONES


def _move(crc: int, data: bytes) -> int:
    table = _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


@lru_cache(maxsize=64)
def _zeros(count: int) -> _Tables:
    """Return the tables, one for each byte of a checksum, that move it over zero bytes."""
    step = [_move(1 << bit, b"\0") for bit in range(32)]
    moved = [1 << bit for bit in range(32)]
    while count:
        if count & 1:
            moved = [_apply(step, column) for column in moved]
        step = [_apply(step, column) for column in step]
        count >>= 1
    low, middle, high, top = (
        tuple(_apply(moved, byte << shift) for byte in range(256)) for shift in (0, 8, 16, 24)
    )
    return low, middle, high, top


def _apply(columns: list[int], value: int) -> int:
    """Multiply a bit matrix, given by its columns, with a vector."""
    out = 0
    for column in columns:
        if not value:
            break
        if value & 1:
            out ^= column
        value >>= 1
    return out
