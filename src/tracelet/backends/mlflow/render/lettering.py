"""
Words on a picture: an alphabet of 5 by 7 dots, as far as the labels of an axis need one.

Letters with a tail hang two dots below the line.
"""

from __future__ import annotations

from typing import Mapping, Sequence

from tracelet.backends.mlflow.pixels import Pixels

__all__ = ["width_of", "write"]

#: Rows from the top, 5 bits each, the highest one leftmost.
_GLYPHS: Mapping[str, Sequence[int]] = {
    "0": (14, 17, 19, 21, 25, 17, 14),
    "1": (4, 12, 4, 4, 4, 4, 14),
    "2": (14, 17, 1, 6, 8, 16, 31),
    "3": (14, 17, 1, 6, 1, 17, 14),
    "4": (2, 6, 10, 18, 31, 2, 2),
    "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14),
    "7": (31, 1, 2, 4, 8, 8, 8),
    "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12),
    ".": (0, 0, 0, 0, 0, 12, 12),
    "A": (14, 17, 17, 31, 17, 17, 17),
    "P": (30, 17, 17, 30, 16, 16, 16),
    "a": (0, 0, 14, 1, 15, 17, 15),
    "c": (0, 0, 14, 17, 16, 17, 14),
    "e": (0, 0, 14, 17, 31, 16, 14),
    "i": (4, 0, 12, 4, 4, 4, 14),
    "l": (12, 4, 4, 4, 4, 4, 14),
    "n": (0, 0, 30, 17, 17, 17, 17),
    "o": (0, 0, 14, 17, 17, 17, 14),
    "p": (0, 0, 30, 17, 17, 17, 30, 16, 16),
    "r": (0, 0, 22, 25, 16, 16, 16),
    "s": (0, 0, 15, 16, 14, 1, 30),
}


def write(picture: Pixels, left: int, top: int, text: str, colour: int, scale: int = 2) -> None:
    """Write from left to right; ``scale`` pixels for each dot."""
    for place, character in enumerate(text):
        x = left + place * 6 * scale
        for y, bits in enumerate(_GLYPHS.get(character, ())):
            for dot in range(5):
                if bits & (16 >> dot):
                    picture.fill(x + dot * scale, top + y * scale, scale, scale, colour)


def width_of(text: str, scale: int = 2) -> int:
    """Return how wide ``write`` makes the text."""
    return max(0, len(text) * 6 - 1) * scale
