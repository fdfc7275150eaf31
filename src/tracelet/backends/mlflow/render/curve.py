"""A precision-recall curve: its drawing for the image grid, and its numbers."""

from __future__ import annotations

import math
from typing import Any, Optional, Sequence

from tracelet.backends.mlflow.pixels import Pixels
from tracelet.backends.mlflow.render.files import File, Rendering, as_json
from tracelet.backends.mlflow.render.lettering import width_of, write
from tracelet.records import Media
from tracelet.tfevents.curves import Curve, curve_of

__all__ = ["render_curve"]

# As wide as the heat maps: a card of the grid cuts off the lower end of anything taller.
_WIDTH, _HEIGHT = 512, 256
_LEFT, _TOP, _RIGHT, _BOTTOM = 84, 16, 32, 44
#: Pixels for each dot of a letter: the card of the grid is small.
_DOT = 3
_INK, _GRID, _SOFT = 1, 2, 3
_FIRST, _SHADES = 4, 16
#: Half of the line's width, in pixels.
_REACH = 1.6

_Point = tuple[float, float]


def render_curve(media: Media) -> Optional[Rendering]:
    """Return the drawing and the numbers; None if the event says nothing that can be drawn."""
    curve = curve_of(media.meta)
    if curve is None:
        return None
    found = {
        "key": media.key,
        "step": media.step,
        "time": media.time,
        "thresholds": curve.thresholds,
        **{name: [_plain(each) for each in row] for name, row in curve._asdict().items()},
    }
    points = _drawn(curve)
    average = _average(points)
    found["average_precision"] = average
    picture = _draw(points, average) if points else None
    return Rendering([File("pr_curves", ".json", as_json(found))], picture)


def _plain(number: float) -> Any:
    return int(number) if math.isfinite(number) and number == int(number) else number


def _drawn(curve: Curve) -> list[_Point]:
    """
    Return recall and precision of the thresholds that say something.

    At the upper end of the thresholds nothing may be left that is called positive; precision is
    then 0 / 0, and what stands there is no part of the curve.
    """
    points = list(zip(curve.recall, curve.precision))
    called = [a + b for a, b in zip(curve.true_positives, curve.false_positives)]
    while len(points) > 1 and called[len(points) - 1] == 0:
        points.pop()
    return [
        (min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0))
        for x, y in points
        if math.isfinite(x) and math.isfinite(y)
    ]


def _average(points: Sequence[_Point]) -> Optional[float]:
    """Return the average precision: each precision, weighted by the recall that it adds."""
    if not points:
        return None
    # Thresholds fall, recall grows; of one recall the highest threshold counts.
    growing = list(points[::-1])
    growing.sort(key=lambda point: point[0])
    before, total = 0.0, 0.0
    for recall, precision in growing:
        total += (recall - before) * precision
        before = recall
    return total


def _draw(points: Sequence[_Point], average: Optional[float]) -> bytes:
    picture = Pixels(_WIDTH, _HEIGHT, _palette())
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    for quarter in range(5):
        across, down = round(quarter * wide / 4), round(quarter * high / 4)
        colour = _SOFT if quarter in (0, 4) else _GRID
        picture.fill(_LEFT + across, _TOP, 1, high + 1, colour)
        picture.fill(_LEFT, _TOP + down, wide + 1, 1, colour)
        if quarter % 2 == 0:
            label = str(quarter / 4)
            left = _LEFT + across - width_of(label, _DOT) // 2
            write(picture, left, _HEIGHT - _BOTTOM + 12, label, _INK, _DOT)
            label = str(1 - quarter / 4)
            left = _LEFT - 10 - width_of(label, _DOT)
            top = min(max(_TOP + down - 10, 2), _HEIGHT - _BOTTOM - 18)
            write(picture, left, top, label, _INK, _DOT)
    middle = _LEFT + wide // 4 - width_of("recall", 2) // 2
    write(picture, middle, _HEIGHT - _BOTTOM + 16, "recall", _SOFT)
    write(picture, _LEFT + 10, _TOP + 10, "precision", _SOFT)
    if average is not None:
        text = f"AP {average:.3f}"
        write(picture, _LEFT + 10, _TOP + high - 31, text, _INK, _DOT)
    canvas = _Coverage(_WIDTH, _HEIGHT)
    places = [(_LEFT + x * wide, _TOP + (1 - y) * high) for x, y in points]
    if len(places) == 1:
        places *= 2
    for start, end in zip(places, places[1:]):
        canvas.line(start, end)
    for y, x, colour in canvas.dots():
        picture.paint(x, y, bytes([colour]), 1)
    return picture.png()


class _Coverage:
    """How much of each pixel a line covers."""

    def __init__(self, width: int, height: int) -> None:
        self._width = width
        self._height = height
        self._covered: dict[tuple[int, int], float] = {}

    def line(self, start: _Point, end: _Point) -> None:
        (ax, ay), (bx, by) = start, end
        steps = max(1, math.ceil(max(abs(bx - ax), abs(by - ay)) / 8))
        # Short pieces, for their boxes are small also where the line is slanted.
        for number in range(steps):
            low, high = number / steps, (number + 1) / steps
            self._piece(
                ax + (bx - ax) * low, ay + (by - ay) * low,
                ax + (bx - ax) * high, ay + (by - ay) * high,
            )  # fmt: skip

    def _piece(self, ax: float, ay: float, bx: float, by: float) -> None:
        dx, dy = bx - ax, by - ay
        length = dx * dx + dy * dy
        reach = _REACH + 1
        for y in range(int(min(ay, by) - reach), int(max(ay, by) + reach) + 1):
            for x in range(int(min(ax, bx) - reach), int(max(ax, bx) + reach) + 1):
                along = ((x - ax) * dx + (y - ay) * dy) / length if length else 0.0
                along = min(max(along, 0.0), 1.0)
                away = math.hypot(x - ax - along * dx, y - ay - along * dy)
                share = min(max(_REACH + 0.5 - away, 0.0), 1.0)
                if share > self._covered.get((y, x), 0.0):
                    self._covered[y, x] = share

    def dots(self) -> Sequence[tuple[int, int, int]]:
        """Return row, column and colour of every pixel that the line touches."""
        return [
            (y, x, _FIRST + round(share * (_SHADES - 1)))
            for (y, x), share in self._covered.items()
            if share > 0.03 and 0 <= x < self._width and 0 <= y < self._height
        ]


def _palette() -> list[tuple[int, int, int]]:
    line = (8, 81, 156)
    colours = [(255, 255, 255), (31, 41, 51), (226, 231, 236), (120, 132, 144)]
    for shade in range(_SHADES):
        part = shade / (_SHADES - 1)
        mixed = [round(255 + (end - 255) * part) for end in line]
        colours.append((mixed[0], mixed[1], mixed[2]))
    return colours
