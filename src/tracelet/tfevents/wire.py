"""
A reader of the protobuf wire format, for bytes that nobody vouches for.

Only what TensorBoard's messages need: no groups, no schema. It never copies what it walks over
(a field is given as two positions), and it never does more work than a fixed number of fields,
whatever the bytes claim. The format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from array import array
from typing import Final, Iterator, Optional

VARINT: Final = 0
FIXED64: Final = 1
LENGTH: Final = 2
FIXED32: Final = 5

#: More fields than this in one event is an attack or an accident; walking them takes about 1 s.
MAX_FIELDS: Final = 1_000_000
_MAX_NUMBER: Final = (1 << 29) - 1
_MASK64: Final = (1 << 64) - 1

_DOUBLE = struct.Struct("<d")
_FLOAT = struct.Struct("<f")

#: Two positions in the bytes of an event: where something starts, and where it has ended.
Span = tuple[int, int]


class WireError(ValueError):
    """These bytes are not what they should be; the text says what is wrong with them."""


class Wire:
    """
    The bytes of one message, and how many more fields of it may be read.

    Args:
        data: The message.
        within: The message that this one was taken out of: both share what may be read.
    """

    __slots__ = ("data", "left")

    def __init__(self, data: bytes, within: Optional[Wire] = None) -> None:
        self.data = data
        #: How many fields may still be read; shared, therefore a list of one.
        self.left: list[int] = [MAX_FIELDS] if within is None else within.left

    def spend(self, count: int) -> None:
        """Take so many fields, or numbers, off what may be read. Raises WireError."""
        self.left[0] -= count
        if self.left[0] < 0:
            raise WireError("too many fields")

    def fields(self, start: int = 0, end: Optional[int] = None) -> Iterator[tuple[int, int, int]]:
        """
        Walk over the fields of the message between two positions.

        Yields:
            ``(number * 8 + wire type, a, b)``. The field has ended at ``b``. For a ``VARINT``
            ``a`` is its value (unsigned, 64 bits), for all else where its payload starts.

        Raises:
            WireError: The bytes are no message, or it has too many fields.
        """
        data, left = self.data, self.left
        stop = len(data) if end is None else end
        position = start
        while position < stop:
            left[0] -= 1
            if left[0] < 0:
                raise WireError("too many fields")
            mark = data[position]
            if mark < 0x80:
                position += 1
            else:
                mark, position = self.varint(position, stop)
            if not 0 < mark >> 3 <= _MAX_NUMBER:
                raise WireError("a field without a number")
            kind = mark & 7
            if kind == VARINT:
                value, position = self.varint(position, stop)
                yield mark, value, position
                continue
            if kind == LENGTH:
                size, position = self.varint(position, stop)
            elif kind == FIXED64:
                size = 8
            elif kind == FIXED32:
                size = 4
            else:
                raise WireError("a field of an unknown type")
            after = position + size
            if after > stop:
                raise WireError("a field reaches beyond its message")
            yield mark, position, after
            position = after

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """Return the unsigned number at a position and where it has ended. Raises WireError."""
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                raise WireError("a number is cut")
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & _MASK64, position
        raise WireError("a number is too long")

    def double(self, position: int) -> float:
        """Return the double at a position that ``fields`` gave."""
        value: float = _DOUBLE.unpack_from(self.data, position)[0]
        return value

    def single(self, position: int) -> float:
        """Return the 32-bit float at a position that ``fields`` gave, as a double."""
        value: float = _FLOAT.unpack_from(self.data, position)[0]
        return value

    def text(self, start: int, end: int) -> str:
        """Return a string field. Raises WireError if it is not UTF-8, as protobuf does."""
        try:
            return self.data[start:end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise WireError("a string that is not UTF-8") from error

    def packed(self, start: int, end: int, code: str) -> list[float]:
        """
        Return the numbers of a packed field of fixed width.

        Args:
            start: Where the payload starts.
            end: Where it has ended.
            code: ``"d"`` or ``"f"``.

        Raises:
            WireError: The length is no multiple of the width.
        """
        width = struct.calcsize("<" + code)
        count, rest = divmod(end - start, width)
        if rest:
            raise WireError("packed numbers of a broken length")
        return list(struct.unpack_from(f"<{count}{code}", self.data, start))

    def packed_varints(self, start: int, end: int) -> array[int]:
        """Return the unsigned numbers of a packed field. Raises WireError."""
        values = array("Q")
        position = start
        while position < end:
            self.spend(1)
            value, position = self.varint(position, end)
            values.append(value)
        return values


def head(number: int, kind: int) -> int:
    """Return what ``Wire.fields`` calls a field of this number and wire type."""
    return number << 3 | kind


def signed(value: int, bits: int = 64) -> int:
    """Return an unsigned number as two's complement of so many bits, higher bits cut."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def varint(value: int) -> bytes:
    """Return the wire form of a number; a negative one as 64-bit two's complement."""
    value &= _MASK64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, payload: bytes) -> bytes:
    """Return the wire form of a field that holds bytes."""
    return varint(head(number, LENGTH)) + varint(len(payload)) + payload
