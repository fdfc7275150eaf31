"""A file of whole lines that only grows."""

from __future__ import annotations

from typing import Iterator

from tracelet.backends.plain.appended import BLOCK_BYTES, AppendedFile


class LineFile(AppendedFile):
    """Lines in a file; one without an end is none."""

    def __iter__(self) -> Iterator[bytes]:
        """Read all lines from the beginning, without their ends."""
        position, rest = 0, b""
        while position < self._size:
            block = self._read(position, min(BLOCK_BYTES, self._size - position))
            if not block:
                return
            position += len(block)
            *lines, rest = (rest + block).split(b"\n")
            yield from lines

    def _end_of_last(self) -> int:
        end = self._size
        while end > 0:
            start = max(0, end - BLOCK_BYTES)
            found = self._read(start, end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0
