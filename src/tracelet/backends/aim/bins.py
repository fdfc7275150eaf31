"""
Histograms as Aim's distributions: equal bins, at most 512 of them.

TensorBoard's buckets grow by a tenth each. Their mass is spread evenly within each bucket; the
total stays what it was. Buckets that are equal already stay exactly as they are.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Sequence

__all__ = ["Bins", "equal_bins"]

#: The most that Aim takes.
_MOST = 512
#: Bins of a resampled histogram.
_BINS = 128
#: How far edges may be from equal distances, as part of one bin.
_SLACK = 1e-6


class Bins(NamedTuple):
    """Counts of equal bins from ``low`` to ``high``."""

    low: float
    high: float
    counts: list[float]


def equal_bins(
    edges: Sequence[float], counts: Sequence[float], least: float, greatest: float
) -> Bins:
    """
    Return the same histogram in equal bins.

    Args:
        edges: One more than ``counts``, rising.
        counts: What lies in each bucket.
        least: The smallest value, where that is known; else not finite.
        greatest: The largest one.
    """
    if not counts:
        return Bins(0.0, 1.0, [0.0])
    if _equal(edges, len(counts)):
        return Bins(float(edges[0]), float(edges[-1]), [float(count) for count in counts])
    low, high = _ends(edges, counts, least, greatest)
    if not low < high:
        return Bins(low - 0.5, low + 0.5, [float(sum(counts))])
    found = [0.0] * _BINS
    width = high / _BINS - low / _BINS
    for start, end, count in zip(edges, edges[1:], counts):
        if count:
            _spread(found, low, width, (max(start, low), min(end, high)), float(count))
    return Bins(low, high, found)


def _equal(edges: Sequence[float], size: int) -> bool:
    if size > _MOST or not all(map(math.isfinite, edges)):
        return False
    width = edges[-1] / size - edges[0] / size
    if not (0 < width < math.inf):
        return False
    return all(
        abs(edge - (edges[0] + number * width)) <= _SLACK * width
        for number, edge in enumerate(edges)
    )


def _ends(
    edges: Sequence[float], counts: Sequence[float], least: float, greatest: float
) -> tuple[float, float]:
    """Return where the values begin and end: the outer buckets may reach to 1e308."""
    filled = [number for number, count in enumerate(counts) if count] or [0, len(counts) - 1]
    low, high = edges[filled[0]], edges[filled[-1] + 1]
    if math.isfinite(least) and math.isfinite(greatest) and least <= greatest:
        low, high = max(low, least), min(high, greatest)
    limit = 8.0e307
    return max(-limit, min(low, limit)), max(-limit, min(high, limit))


def _spread(
    found: list[float], low: float, width: float, part: tuple[float, float], count: float
) -> None:
    start, end = part
    first = _bin(start, low, width)
    if not start < end:
        found[first] += count
        return
    last = _bin(end, low, width)
    if first == last:
        found[first] += count
        return
    left = count
    for number in range(first, last):
        share = count * ((low + (number + 1) * width - start) / (end - start))
        start_share = min(max(share - (count - left), 0.0), left)
        found[number] += start_share
        left -= start_share
    found[last] += left


def _bin(value: float, low: float, width: float) -> int:
    return min(max(int((value - low) / width), 0), _BINS - 1)
