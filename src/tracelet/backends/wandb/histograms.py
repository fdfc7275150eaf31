"""Histograms in 512 buckets, which is all that W&B takes."""

from __future__ import annotations

import math

from tracelet.records import Histogram

__all__ = ["merged"]

_MOST = 512


def merged(histogram: Histogram) -> tuple[list[float], list[float]]:
    """
    Return edges and counts; where there are too many buckets, neighbours become one.

    Counts stay exact and edges are some of those that were there. Outermost edges that are not
    finite, or as wide as TensorBoard makes them, end at the smallest and the largest value.
    """
    edges, counts = list(map(float, histogram.edges)), list(map(float, histogram.counts))
    if len(edges) != len(counts) + 1 or not counts:
        return [0.0, 1.0], [0.0]
    edges, counts = _without_empty_ends(edges, counts)
    low, high = histogram.min, histogram.max
    if math.isfinite(low) and (not math.isfinite(edges[0]) or abs(edges[0]) > 1e300):
        edges[0] = min(low, edges[1])
    if math.isfinite(high) and (not math.isfinite(edges[-1]) or abs(edges[-1]) > 1e300):
        edges[-1] = max(high, edges[-2])
    if len(counts) <= _MOST:
        return edges, counts
    # Evenly over the buckets, so that the middle of TensorBoard's exponential ones stays fine.
    cuts = [round(place * len(counts) / _MOST) for place in range(_MOST + 1)]
    return [edges[cut] for cut in cuts], [
        math.fsum(counts[start:end]) for start, end in zip(cuts, cuts[1:])
    ]


def _without_empty_ends(edges: list[float], counts: list[float]) -> tuple[list[float], list[float]]:
    if len(counts) <= _MOST or not any(counts):
        return edges, counts
    filled = [place for place, count in enumerate(counts) if count]
    first, last = filled[0], filled[-1] + 1
    return edges[first : last + 1], counts[first:last]
