"""
Histograms as they are drawn: the same number of bars each, and a bounded number of steps.

TensorBoard's buckets grow by a tenth from 1e-12 up to 1e20; for the eye they are spread over equal
bars between the smallest and the largest value. The exact buckets are kept elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from tracelet.records import Histogram

__all__ = ["BARS", "TOP", "Curve", "Row", "row_of", "spread"]

#: How many bars are drawn for one step.
BARS = 48
#: Heights are whole numbers up to this one, the highest bar of a step.
TOP = 999


@dataclass(frozen=True)
class Row:
    """
    One step: ``heights`` are bars of equal width from ``low`` to ``high``.

    ``time`` is in seconds since the epoch, ``count`` how many values there were.
    """

    step: float
    time: float
    count: float
    min: float
    max: float
    mean: float
    deviation: float
    low: float
    high: float
    heights: Sequence[int]

    def as_json(self) -> list[Any]:
        """Return the row as the page reads it."""
        numbers = (self.count, self.min, self.max, self.mean, self.deviation, self.low, self.high)
        return [self.step, round(self.time, 3), *map(_short, numbers), list(self.heights)]

    @classmethod
    def from_json(cls, found: Sequence[Any]) -> Row:
        """Return what ``as_json`` was made of, up to the digits it keeps."""
        count, least, most, mean, deviation, low, high = (
            math.nan if number is None else float(number) for number in found[2:9]
        )
        return cls(found[0], found[1], count, least, most, mean, deviation, low, high, found[9])


@dataclass
class Curve:
    """
    The steps of one key that are drawn: every ``stride``-th, and the last.

    The stride doubles whenever there are more than ``most``, so that whatever is drawn stays
    spread over the whole run.
    """

    stride: int = 1
    count: int = 0
    rows: list[Row] = field(default_factory=list)
    first_time: float = 0.0
    #: The last row is there only because nothing comes behind it so far.
    loose: bool = False

    def add(self, row: Row, most: int) -> None:
        """Add the next step."""
        if self.count == 0:
            self.first_time = row.time
        self._drop_loose()
        self.rows.append(row)
        self.loose = self.passes
        self.count += 1
        self.thin(most)

    @property
    def passes(self) -> bool:
        """True when the next step is drawn only as long as it is the last one."""
        return self.count % self.stride != 0

    def pass_over(self) -> None:
        """Count the next step, behind which there is another one, without drawing it."""
        self._drop_loose()
        self.count += 1

    def thin(self, most: int) -> None:
        """Keep at most so many steps."""
        while len(self.rows) > max(most, 2):
            last = self.rows[-1]
            kept = self.rows[:-1] if self.loose else self.rows
            self.rows = kept[::2]
            self.stride *= 2
            if self.rows[-1] is not last:
                self.rows.append(last)
                self.loose = True

    def _drop_loose(self) -> None:
        if self.loose:
            self.rows.pop()
            self.loose = False

    def as_json(self) -> dict[str, Any]:
        """Return the curve for the file that survives a restart."""
        return {
            "stride": self.stride,
            "count": self.count,
            "first_time": self.first_time,
            "loose": self.loose,
            "rows": [row.as_json() for row in self.rows],
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Curve:
        """Return what ``as_json`` was made of."""
        rows = [Row.from_json(row) for row in found["rows"]]
        return cls(found["stride"], found["count"], rows, found["first_time"], found["loose"])


def row_of(histogram: Histogram) -> Row:
    """Return the histogram as it is drawn."""
    buckets = _finite(histogram)
    count = float(sum(count for _, _, count in buckets))
    low = buckets[0][0] if buckets else 0.0
    high = buckets[-1][1] if buckets else 0.0
    if not high > low:
        width = abs(low) * 0.05 or 0.5
        low, high = low - width, high + width
    mean, deviation = _moments(histogram, count)
    return Row(
        step=histogram.step or 0,
        time=histogram.time,
        count=count,
        min=histogram.min,
        max=histogram.max,
        mean=mean,
        deviation=deviation,
        low=low,
        high=high,
        heights=_heights(buckets, low, high),
    )


def _finite(histogram: Histogram) -> list[tuple[float, float, float]]:
    """Return (left, right, count) of the buckets that hold something, cut to min and max."""
    edges = histogram.edges
    low = histogram.min if math.isfinite(histogram.min) else -math.inf
    high = histogram.max if math.isfinite(histogram.max) else math.inf
    found = []
    for index, count in enumerate(histogram.counts):
        if not (count > 0 and math.isfinite(count)):
            continue
        left, right = max(edges[index], low), min(edges[index + 1], high)
        # The outermost bucket has no end of its own: it is drawn at its inner edge.
        left = left if math.isfinite(left) else right
        right = right if math.isfinite(right) else left
        if math.isfinite(left) and math.isfinite(right) and abs(left) < 1e300 > abs(right):
            found.append((min(left, right), max(left, right), float(count)))
    return found


def _moments(histogram: Histogram, count: float) -> tuple[float, float]:
    if not count or not math.isfinite(histogram.sum):
        return math.nan, math.nan
    mean = histogram.sum / count
    variance = histogram.sum_squares / count - mean * mean
    return mean, math.sqrt(variance) if variance > 0 else 0.0


def spread(
    buckets: Sequence[tuple[float, float, float]], low: float, high: float, places: int
) -> list[float]:
    """
    Spread buckets evenly over equal places.

    Args:
        buckets: Left and right edge, and what is in it.
        low: The left edge of the first place.
        high: The right edge of the last.
        places: How many there are.
    """
    width = (high - low) / places
    found = [0.0] * places
    for left, right, count in buckets:
        first = min(places - 1, max(0, int((left - low) / width)))
        last = min(places - 1, max(0, int((right - low) / width)))
        if first == last or not right > left:
            found[first] += count
            continue
        for place in range(first, last + 1):
            start = low + place * width
            inside = min(right, start + width) - max(left, start)
            found[place] += count * max(0.0, inside / (right - left))
    return found


def _heights(buckets: Sequence[tuple[float, float, float]], low: float, high: float) -> list[int]:
    bars = spread(buckets, low, high, BARS)
    top = max(bars)
    if top <= 0:
        return [0] * BARS
    # What is there at all stays visible.
    return [max(1, round(TOP * bar / top)) if bar > top * 1e-6 else 0 for bar in bars]


def _short(number: float) -> Any:
    """Six digits are more than a page shows; what is no number is null in JSON."""
    return float(f"{number:.6g}") if math.isfinite(number) else None
