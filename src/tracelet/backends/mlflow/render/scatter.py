"""
A page that shows an embedding as points in two dimensions.

The page itself finds the principal components, so that nothing here needs NumPy: it gets the
numbers, centred and in 16 bits, of as many points as a page can carry.
"""

from __future__ import annotations

import math
import sys
from array import array
from base64 import b64encode
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

from tracelet.backends.mlflow.render.files import filled

__all__ = ["labels_of", "points_of", "scatter_page"]

#: What a page carries at most; the file beside it has all.
_MOST_POINTS = 5_000
_MOST_NUMBERS = 800_000
_MOST_COLUMNS = 12
#: Characters of one label.
_SHOWN = 200
_UNIT = 32_767


def points_of(source: Path) -> Optional[Mapping[str, Any]]:
    """
    Return the numbers of ``tensors.tsv`` in a small form; None where there is nothing to draw.

    Of many points every so many-th is taken. A row with something that is no number is left out.
    """
    total, width = 0, 0
    for line in _lines(source):
        width = width or line.count("\t") + 1
        total += 1
    if not 0 < width <= _MOST_NUMBERS // 16 or total == 0:
        return None
    most = min(_MOST_POINTS, _MOST_NUMBERS // width)
    stride = -(-total // most)
    rows: list[int] = []
    numbers = array("d")
    for place, line in enumerate(_lines(source)):
        row = _row(line, width) if place % stride == 0 else None
        if row is not None:
            rows.append(place)
            numbers.extend(row)
    if not rows:
        return None
    for column in range(width):
        values = numbers[column::width]
        mean = math.fsum(values) / len(values)
        numbers[column::width] = array("d", (value - mean for value in values))
    top = max(map(abs, numbers)) or 1.0
    small = array("h", (round(value / top * _UNIT) for value in numbers))
    if sys.byteorder == "big":
        small.byteswap()
    return {
        "total": total,
        "width": width,
        "rows": rows,
        "numbers": b64encode(small.tobytes()).decode(),
    }


def labels_of(source: Path, points: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what ``metadata.tsv`` says of these points: names of columns, and a row for each."""
    lines = [line.split("\t")[:_MOST_COLUMNS] for line in _lines(source)]
    # With one column there is no heading, with several there must be one (projector_plugin.py).
    headed = len(lines) == points["total"] + 1
    heading = lines.pop(0) if headed else [""] * max(map(len, lines), default=0)
    columns = [text[:_SHOWN] or "label" for text in heading]
    labels = [
        [text[:_SHOWN] for text in lines[row]] if row < len(lines) else [] for row in points["rows"]
    ]
    return {"columns": columns, "labels": labels}


def scatter_page(
    name: str,
    points: Mapping[str, Any],
    labels: Optional[Mapping[str, Any]],
    sprite: Optional[str],
    sides: Optional[tuple[int, int]],
) -> bytes:
    """
    Return the page.

    Args:
        name: What the embedding is called.
        points: As from ``points_of``.
        labels: As from ``labels_of``.
        sprite: A PNG with one small picture for each point, as base64.
        sides: Width and height of one small picture, in pixels.
    """
    data = {
        "name": name,
        **points,
        "columns": labels["columns"] if labels else [],
        "labels": labels["labels"] if labels else [],
        "sprite": sprite if sides else None,
        "sides": sides,
    }
    return filled("scatter.html", data)


def _row(line: str, width: int) -> Optional[list[float]]:
    try:
        row = [float(cell) for cell in line.split("\t")]
    except ValueError:
        return None
    # Far beyond 32 bits a sum is infinite, and so is what is drawn.
    return row if len(row) == width and all(abs(number) < 1e300 for number in row) else None


def _lines(source: Path) -> Iterator[str]:
    with open(source, encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            yield line.rstrip("\r\n")
