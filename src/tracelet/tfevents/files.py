"""
Event files: whole records, whatever happened to the file.

A record is ``length u64 | masked CRC-32C of it u32 | event | masked CRC-32C of it u32``, little
endian (``tfrecord`` of TensorFlow). A file that is being written, or whose writer died, ends in the
middle of a record: that is its tail and no damage. A record with a broken checksum is left out
and counted; where the length itself is broken, the next place that holds a length with a good
checksum is where reading goes on.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import BinaryIO, Final, Iterator, Optional, Union

from tracelet.tfevents.crc32c import masked_crc32c

_HEAD: Final = struct.Struct("<QI")
_FOOT: Final = struct.Struct("<I")
#: Protobuf itself refuses messages of 2 GiB.
_MAX_BYTES: Final = 1 << 30
_WINDOW: Final = 1 << 20
_NOT_ZERO: Final = re.compile(rb"[^\0]")


class EventFile:
    """
    One event file, read once or followed.

    Args:
        path: The file.
        position: Where to begin; what ``position`` of an earlier reader said.
        max_bytes: A larger event is left out like a damaged one.

    Attributes:
        position: Behind the last whole record; only ever grows.
        damaged: Records, or runs of records, that were left out.
        skipped: Bytes that were left out with them.
    """

    def __init__(
        self, path: Union[str, Path], position: int = 0, *, max_bytes: int = _MAX_BYTES
    ) -> None:
        self.path = Path(path)
        self.position = position
        self.damaged = 0
        self.skipped = 0
        self._max_bytes = max_bytes
        self._searched = position

    def events(self) -> Iterator[bytes]:
        """
        Yield the events that are whole by now, and were not yielded before.

        Call it again to see what was written since.

        Raises:
            OSError: The file cannot be read.
        """
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while True:
                found = self._next(file, size)
                if found is None:
                    return
                start, end, event = found
                self.position = self._searched = end
                if event is None:
                    self.damaged += 1
                    self.skipped += end - start
                else:
                    yield event

    def tail(self) -> int:
        """
        Return how many bytes lie behind the last whole record.

        Raises:
            OSError: The file cannot be read.
        """
        return max(0, self.path.stat().st_size - self.position)

    def _next(self, file: BinaryIO, size: int) -> Optional[tuple[int, int, Optional[bytes]]]:
        """Return where the next record starts and ends, and its event; None: not whole yet."""
        start = self.position
        if start + _HEAD.size > size:
            return None
        file.seek(start)
        length = _length(file.read(_HEAD.size))
        if length is None:
            end = self._search(file, size)
            return None if end is None else (start, end, None)
        end = start + _HEAD.size + length + _FOOT.size
        if end > size:
            return None
        if length > self._max_bytes:
            return start, end, None
        event, foot = file.read(length), file.read(_FOOT.size)
        if len(foot) < _FOOT.size:
            return None
        good = _FOOT.unpack(foot)[0] == masked_crc32c(event)
        return start, end, event if good else None

    def _search(self, file: BinaryIO, size: int) -> Optional[int]:
        """Return where a length with a good checksum stands next; the search is not repeated."""
        place = max(self._searched, self.position + 1)
        while place + _HEAD.size <= size:
            file.seek(place)
            window = file.read(_WINDOW)
            offset = 0
            while offset + _HEAD.size <= len(window):
                # The upper half of a length is zero, and an event is never empty.
                zeros = window.find(b"\0\0\0\0", offset + 4)
                if zeros < 0 or zeros + 8 > len(window):
                    offset = max(offset, len(window) - _HEAD.size + 1)
                    break
                offset = zeros - 4
                if window[offset : offset + 4] == b"\0\0\0\0":
                    other = _NOT_ZERO.search(window, offset)
                    last = len(window) if other is None else other.start()
                    offset = max(offset + 1, last - 3)
                elif _length(window[offset : offset + _HEAD.size]) is not None:
                    return place + offset
                else:
                    offset += 1
            if len(window) < _HEAD.size:
                break
            place += max(1, min(offset, len(window) - _HEAD.size + 1))
        self._searched = max(self._searched, place)
        return None


def _length(head: bytes) -> Optional[int]:
    """Return the length that a record begins with, or None if its checksum is broken."""
    if len(head) < _HEAD.size:
        return None
    length, crc = _HEAD.unpack(head)
    return int(length) if crc == masked_crc32c(head[:8]) else None
