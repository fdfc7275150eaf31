"""
What is in the file of an offline run: the vendor's log of transactions, ``run-<id>.wandb``.

Its form: ``:W&B``, 0xBEE1 and a version, then records as LevelDB frames them, in blocks of 32 KiB
with a header of seven bytes (checksum, length, type) for each piece. The checksum is CRC-32 over
type and data (``core/internal/transactionlog`` of wandb). A record is a ``wandb_internal.Record``.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Iterator

__all__ = ["payloads"]

_BLOCK = 32768
_HEADER = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def payloads(path: Path, start: int = 7) -> Iterator[tuple[int, bytes]]:
    """
    Yield each whole record, with the position behind it; a torn tail ends it.

    Args:
        path: The file.
        start: A position that was given before; 7 is the beginning.
    """
    with open(path, "rb") as file:
        file.seek(start)
        position, parts = start, b""
        while True:
            left = _BLOCK - position % _BLOCK
            if left < _HEADER.size:
                file.seek(left, 1)
                position += left
                continue
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return
            check, size, kind = _HEADER.unpack(header)
            data = file.read(size)
            if len(data) < size or kind == 0 or zlib.crc32(bytes([kind]) + data) != check:
                return
            position += _HEADER.size + size
            parts = data if kind in (_FULL, _FIRST) else parts + data
            if kind in (_FULL, _LAST):
                yield position, parts
