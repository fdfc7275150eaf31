"""
A small drawing surface and its PNG: rectangles, digits, and a palette.

Enough for a heat map with its scales, with nothing but ``zlib``: the shipper that talks to a
server has no numpy, and should not need one.
"""

from __future__ import annotations

import struct
import zlib
from typing import Mapping, Sequence

__all__ = ["Pixels", "rgb_png"]

Colour = tuple[int, int, int]

#: What numbers need, 5 rows of 3 bits each.
_GLYPHS: Mapping[str, Sequence[int]] = {
    "0": (7, 5, 5, 5, 7),
    "1": (2, 6, 2, 2, 7),
    "2": (7, 1, 7, 4, 7),
    "3": (7, 1, 3, 1, 7),
    "4": (5, 5, 7, 1, 1),
    "5": (7, 4, 7, 1, 7),
    "6": (7, 4, 7, 5, 7),
    "7": (7, 1, 2, 2, 2),
    "8": (7, 5, 7, 5, 7),
    "9": (7, 5, 7, 1, 7),
    ".": (0, 0, 0, 0, 2),
    "-": (0, 0, 7, 0, 0),
    "+": (0, 2, 7, 2, 0),
    "e": (0, 7, 5, 6, 3),
}


class Pixels:
    """
    A picture of at most 256 colours.

    Args:
        width: In pixels.
        height: In pixels.
        palette: The colours; the first one is the background.
    """

    def __init__(self, width: int, height: int, palette: Sequence[Colour]) -> None:
        self.width = width
        self.height = height
        self._palette = palette
        self._rows = [bytearray(width) for _ in range(height)]

    def fill(self, left: int, top: int, width: int, height: int, colour: int) -> None:
        """Fill a rectangle with a colour of the palette."""
        self.paint(left, top, bytes([colour]) * width, height)

    def paint(self, left: int, top: int, line: bytes, height: int) -> None:
        """Write one line of colours, ``height`` times below each other; what is outside is cut."""
        line = line[max(0, -left) : max(0, self.width - left)]
        left = max(0, left)
        for row in self._rows[max(0, top) : max(0, top + height)]:
            row[left : left + len(line)] = line

    def write(self, left: int, top: int, text: str, colour: int, scale: int = 2) -> None:
        """Write a number; ``scale`` pixels for each dot of its 3 by 5 digits."""
        for position, character in enumerate(text):
            glyph = _GLYPHS.get(character, (0, 0, 0, 0, 0))
            x = left + position * 4 * scale
            for y, bits in enumerate(glyph):
                for dot in range(3):
                    if bits & (4 >> dot):
                        self.fill(x + dot * scale, top + y * scale, scale, scale, colour)

    @staticmethod
    def text_width(text: str, scale: int = 2) -> int:
        """Return how wide ``write`` would make the text."""
        return len(text) * 4 * scale - scale

    def png(self) -> bytes:
        """Return the picture as a PNG file (RFC 2083: an indexed image, no filters)."""
        palette = b"".join(bytes(colour) for colour in self._palette)
        rows = b"".join(b"\x00" + bytes(row) for row in self._rows)
        return _file(self.width, self.height, 3, _chunk(b"PLTE", palette), rows)


def rgb_png(width: int, height: int, data: bytes) -> bytes:
    """
    Return a picture of red, green and blue as a PNG file.

    Args:
        width: In pixels.
        height: In pixels.
        data: Three bytes a pixel, row after row from the top.
    """
    line = width * 3
    rows = b"".join(b"\x00" + data[start : start + line] for start in range(0, line * height, line))
    return _file(width, height, 2, b"", rows)


def _file(width: int, height: int, colour_type: int, palette: bytes, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + palette
        + _chunk(b"IDAT", zlib.compress(rows, 6))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
