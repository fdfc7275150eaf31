"""
An event file that only grows, and says of each event which record of the spool it is.

A frame is ``length u64 | masked CRC-32C of it u32 | event | masked CRC-32C of it u32``, little
endian. The event begins with field 20230, which is not TensorBoard's: readers of protobuf pass over
what they do not know. It holds a letter and, for a record, its place: ``l`` or ``h`` is its lane,
``r`` who the run is, ``e`` how it ended. A ``p`` behind the place says that it is a parameter.
"""

from __future__ import annotations

import struct
from typing import Final, Iterator

from tracelet.backends.plain.appended import BLOCK_BYTES, AppendedFile, Entry
from tracelet.tfevents.crc32c import masked_crc32c
from tracelet.tfevents.wire import LENGTH, head, varint

_HEAD: Final = struct.Struct("<QI")
_FOOT: Final = struct.Struct("<I")
_MARK: Final = varint(head(20230, LENGTH))
_MOST: Final = 1 << 31


def frame(mark: str, event: bytes) -> bytes:
    """Return an event as it stands in the file."""
    text = mark.encode()
    payload = _MARK + bytes((len(text),)) + text + event
    length = struct.pack("<Q", len(payload))
    crc = _FOOT.pack(masked_crc32c(payload))
    return length + _FOOT.pack(masked_crc32c(length)) + payload + crc


def first_frame(event: bytes) -> bytes:
    """Return an event that is nobody's record."""
    return frame("v", event)


class EventsFile(AppendedFile):
    """Events in a file."""

    def __iter__(self) -> Iterator[Entry]:
        """Read all events from the beginning."""
        for start, end in self._spans(self._size):
            payload = self._whole(start, end - start)
            if not payload.startswith(_MARK) or len(payload) < len(_MARK) + 1:
                continue
            size = payload[len(_MARK)]
            begin = len(_MARK) + 1
            text = payload[begin : begin + size].decode("ascii", "replace")
            parameter = text.endswith("p")
            digits = text[1:].rstrip("p")
            place = int(digits) if digits.isdecimal() else -1
            yield Entry(text[:1], place, payload[begin + size :], parameter)

    def _end_of_last(self) -> int:
        end = 0
        for _, stop in self._spans(self._size):
            end = stop + _FOOT.size
        return end

    def _spans(self, size: int) -> Iterator[tuple[int, int]]:
        """Return where each whole frame's event starts and ends."""
        position, block, base = 0, b"", 0
        while position + _HEAD.size <= size:
            if not base <= position <= base + len(block) - _HEAD.size:
                block, base = self._read(position, BLOCK_BYTES), position
                if len(block) < _HEAD.size:
                    return
            at = position - base
            length, crc = _HEAD.unpack_from(block, at)
            start = position + _HEAD.size
            end = start + length
            if length > _MOST or end + _FOOT.size > size:
                return
            if crc != masked_crc32c(block[at : at + 8]):
                return
            yield start, end
            position = end + _FOOT.size

    def _whole(self, position: int, count: int) -> bytes:
        found = b""
        while len(found) < count:
            part = self._read(position + len(found), count - len(found))
            if not part:
                break
            found += part
        return found
