"""
One picture of a histogram over the whole run: steps from left to right, values upwards.

It stands in the image grid beside the loss curve. Every column is as dark as its fullest bar, so
that a distribution that narrows is as visible as one that does not.
"""

from __future__ import annotations

from typing import Sequence

from tracelet.backends.mlflow.pixels import Pixels
from tracelet.backends.mlflow.rows import Row, spread

__all__ = ["heat_map"]

# Twice as wide as high: the card cuts off the lower end of anything taller.
_WIDTH, _HEIGHT = 512, 256
_LEFT, _BOTTOM, _TOP, _RIGHT = 84, 30, 14, 14
_LEVELS = 48
_INK, _FRAME = 1, 2
_FIRST_LEVEL = 3
_CELLS = 71


def heat_map(rows: Sequence[Row]) -> bytes:
    """
    Return the PNG.

    Args:
        rows: The steps, at least one, in the order in which they were logged.
    """
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    picture = Pixels(_WIDTH, _HEIGHT, _palette())
    wide, high_px = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    picture.fill(_LEFT - 2, _TOP - 2, wide + 4, high_px + 4, _FRAME)
    columns = [_column(row, low, high) for row in rows]
    # Which column each pixel of a line belongs to.
    places = [x * len(rows) // wide for x in range(wide)]
    cell = high_px // _CELLS
    spare = high_px - cell * _CELLS
    y = _TOP
    for index in range(_CELLS):
        tall = cell + (1 if index < spare else 0)
        values = bytes(column[_CELLS - 1 - index] for column in columns)
        picture.paint(_LEFT, y, bytes(values[place] for place in places), tall)
        y += tall
    _scales(picture, rows, low, high, wide)
    return picture.png()


def _column(row: Row, low: float, high: float) -> bytes:
    """Return one step, as colours from the lowest value to the highest."""
    width = (row.high - row.low) / len(row.heights)
    bars = [
        (row.low + index * width, row.low + (index + 1) * width, float(height))
        for index, height in enumerate(row.heights)
        if height
    ]
    cells = spread(bars, low, high, _CELLS)
    top = max(cells) or 1.0
    # The power lifts what is thin: a tail of one in a hundred is still seen.
    return bytes(_FIRST_LEVEL + round((_LEVELS - 1) * (value / top) ** 0.6) for value in cells)


def _scales(picture: Pixels, rows: Sequence[Row], low: float, high: float, wide: int) -> None:
    bottom = _HEIGHT - _BOTTOM
    for value, y in (
        (high, _TOP - 2),
        ((low + high) / 2, (bottom + _TOP) // 2 - 5),
        (low, bottom - 9),
    ):
        text = _number(value)
        picture.write(_LEFT - 8 - picture.text_width(text), y, text, _INK)
    first, last = _number(rows[0].step), _number(rows[-1].step)
    picture.write(_LEFT, bottom + 10, first, _INK)
    right = _LEFT + wide - picture.text_width(last)
    if len(rows) > 1 and right > _LEFT + picture.text_width(first) + 16:
        picture.write(right, bottom + 10, last, _INK)


def _number(value: float) -> str:
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    text = f"{value:.3g}"
    # Steps are counted, and deserve all of their digits as long as there is room.
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e12 else text


def _palette() -> list[tuple[int, int, int]]:
    light, dark = (255, 255, 255), (8, 48, 107)
    middle = (66, 146, 198)
    colours = [(255, 255, 255), (60, 70, 80), (205, 212, 218)]
    for level in range(_LEVELS):
        place = level / (_LEVELS - 1)
        start, end, part = (
            (light, middle, place * 2) if place < 0.5 else (middle, dark, place * 2 - 1)
        )
        mixed = [round(a + (b - a) * part) for a, b in zip(start, end)]
        colours.append((mixed[0], mixed[1], mixed[2]))
    return colours
