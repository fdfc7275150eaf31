"""
One picture of a histogram over the whole run: steps from left to right, values upwards; and below
it the bars of the last step.

It stands in the image grid beside the loss curve. Every column is as dark as its fullest bar, so
that a distribution that narrows is as visible as one that does not.

The picture is a square with the map in its upper part. MLflow's card gives an image a square as
wide as itself and cuts off the lower part of it, on a wide screen more than half: what is at the
top is seen.
"""

from __future__ import annotations

from typing import Optional, Sequence

from tracelet.backends.mlflow.pixels import Pixels
from tracelet.backends.mlflow.rows import Row, spread

__all__ = ["heat_map"]

#: The picture's side. A smaller one would not be enlarged, but stand in the middle of the square.
_SIDE = 480
_LEFT, _RIGHT, _TOP = 96, 14, 8
_WIDE = _SIDE - _LEFT - _RIGHT
#: Of the map, and of the bars below.
_HEIGHT, _BARS_TOP, _BARS_HEIGHT = 154, 236, 190
#: Digits that are still read when the card is 200 pixels wide.
_SCALE = 3
_LEVELS = 48
_INK, _FRAME, _MARK = 1, 2, 3
_FIRST_LEVEL = 4
_CELLS = 77


def heat_map(rows: Sequence[Row]) -> bytes:
    """
    Return the PNG.

    Args:
        rows: The steps, at least one, in the order in which they were logged.
    """
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    picture = Pixels(_SIDE, _SIDE, _palette())
    picture.fill(_LEFT - 2, _TOP - 2, _WIDE + 4, _HEIGHT + 4, _FRAME)
    columns = [_column(row, low, high) for row in rows]
    # Which column each pixel of a line belongs to.
    places = [x * len(rows) // _WIDE for x in range(_WIDE)]
    for index in range(_CELLS):
        values = bytes(column[_CELLS - 1 - index] for column in columns)
        line = bytes(values[place] for place in places)
        picture.paint(_LEFT, _TOP + index * _HEIGHT // _CELLS, line, _HEIGHT // _CELLS)
    _scales(picture, rows, low, high)
    _bars(picture, rows[-1])
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


def _scales(picture: Pixels, rows: Sequence[Row], low: float, high: float) -> None:
    bottom = _TOP + _HEIGHT
    places = [(high, _TOP), (low, bottom - 5 * _SCALE)]
    zero = bottom - (0 - low) / (high - low) * _HEIGHT - 2.5 * _SCALE
    # Where the sign changes is worth more than the middle, if there is room for it.
    if low < 0 < high and _TOP + 8 * _SCALE < zero < bottom - 13 * _SCALE:
        places.append((0.0, round(zero)))
    for value, y in places:
        _write(picture, _LEFT - 8, y, value, 1)
    _ends(picture, bottom + 10, rows[0].step, rows[-1].step if len(rows) > 1 else None)


def _bars(picture: Pixels, row: Row) -> None:
    """Draw the last step as the page of histograms does, over its own range."""
    top = max(row.heights) or 1
    bottom = _BARS_TOP + _BARS_HEIGHT
    for index, height in enumerate(row.heights):
        left = index * _WIDE // len(row.heights)
        right = (index + 1) * _WIDE // len(row.heights)
        tall = round(height / top * _BARS_HEIGHT)
        picture.fill(_LEFT + left, bottom - tall, right - left - 1, tall, _MARK)
    picture.fill(_LEFT - 2, bottom, _WIDE + 4, 2, _FRAME)
    _ends(picture, bottom + 10, row.low, row.high)


def _ends(picture: Pixels, y: int, first: float, last: Optional[float]) -> None:
    """Write what the two ends of a horizontal axis are."""
    _write(picture, _LEFT, y, first, 0)
    if last is None:
        return
    room = _WIDE - sum(picture.text_width(_number(end), _SCALE) for end in (first, last))
    if room > 16:
        _write(picture, _LEFT + _WIDE, y, last, 1)


def _write(picture: Pixels, x: int, y: int, value: float, part: int) -> None:
    text = _number(value)
    picture.write(x - part * picture.text_width(text, _SCALE), y, text, _INK, _SCALE)


def _number(value: float) -> str:
    """Return the number in seven characters, or one or two more for a power of three digits."""
    # Steps are counted, and deserve all of their digits as long as there is room.
    if float(value).is_integer() and abs(value) < 1e7:
        return str(int(value))
    short = f"{value:.2g}" if abs(value) >= 1e-3 else f"{value:.1e}"
    figures, _, power = short.partition("e")
    return f"{figures}e{int(power)}" if power else figures


def _palette() -> list[tuple[int, int, int]]:
    light, dark = (255, 255, 255), (8, 48, 107)
    middle = (66, 146, 198)
    colours = [(255, 255, 255), (60, 70, 80), (205, 212, 218), (230, 85, 13)]
    for level in range(_LEVELS):
        place = level / (_LEVELS - 1)
        start, end, part = (
            (light, middle, place * 2) if place < 0.5 else (middle, dark, place * 2 - 1)
        )
        mixed = [round(a + (b - a) * part) for a, b in zip(start, end)]
        colours.append((mixed[0], mixed[1], mixed[2]))
    return colours
