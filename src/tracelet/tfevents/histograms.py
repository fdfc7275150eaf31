"""
Buckets of the two kinds of histogram events, as edges and counts.

The old kind (``HistogramProto``) knows only the right edges of its buckets. A left one that no
bucket before it tells is the smallest value; an outer one that is infinite, or the largest double
as TensorFlow writes it, becomes the smallest or largest value. Empty buckets at both ends are left
out, as TensorBoard does when it draws. The new kind is a tensor of rows (left, right, count).
"""

from __future__ import annotations

import math
import sys
from typing import Final, NamedTuple, Sequence

from tracelet.tfevents.tensor import read_numbers, read_tensor
from tracelet.tfevents.wire import FIXED64, LENGTH, Span, Wire, WireError

_MAX_BUCKETS: Final = 262_144
_HUGE: Final = sys.float_info.max


class Buckets(NamedTuple):
    """What a histogram record holds besides its name, step and time."""

    edges: tuple[float, ...]
    counts: tuple[float, ...]
    min: float
    max: float
    sum: float
    sum_squares: float


def read_histogram(wire: Wire, span: Span) -> Buckets:
    """Return the buckets of a ``HistogramProto``. Raises WireError if they make no sense."""
    totals = {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0, 5: 0.0}
    lists: dict[int, list[float]] = {6: [], 7: []}
    for mark, start, end in wire.fields(*span):
        number, kind = mark >> 3, mark & 7
        if number > 7:
            continue
        if kind == LENGTH and number in lists:
            lists[number] += wire.packed(start, end, "d")
        elif kind == FIXED64 and number in lists:
            lists[number].append(wire.double(start))
        elif kind == FIXED64:
            totals[number] = wire.double(start)
        else:
            raise WireError("a histogram with a field of the wrong type")
    low, high = totals[1], totals[2]
    edges, counts = _trim(lists[6], lists[7], low, high)
    return Buckets(edges, counts, low, high, totals[4], totals[5])


def read_histogram_tensor(wire: Wire, span: Span) -> Buckets:
    """
    Return the buckets of a tensor of rows (left, right, count).

    The sum and the sum of squares are NaN: this kind does not hold them. Raises WireError.
    """
    tensor = read_tensor(wire, span)
    if len(tensor.shape) != 2 or tensor.shape[1] != 3 or tensor.shape[0] > _MAX_BUCKETS:
        raise WireError("a histogram of an unknown shape")
    numbers = read_numbers(wire, tensor)
    edges: list[float] = numbers[:1]
    counts: list[float] = []
    for left, right, count in zip(numbers[0::3], numbers[1::3], numbers[2::3]):
        if left < edges[-1]:
            raise WireError("a histogram whose buckets overlap")
        if left > edges[-1]:
            edges.append(left)
            counts.append(0.0)
        edges.append(right)
        counts.append(count)
    _check(edges, counts)
    filled = [index for index, count in enumerate(counts) if count]
    if not filled:
        edges = [edges[0], edges[-1]] if edges else [0.0, 0.0]
        return Buckets(tuple(edges), (0.0,), edges[0], edges[1], math.nan, math.nan)
    edges = edges[filled[0] : filled[-1] + 2]
    counts = counts[filled[0] : filled[-1] + 1]
    return Buckets(tuple(edges), tuple(counts), edges[0], edges[-1], math.nan, math.nan)


def _trim(
    limits: list[float], counts: list[float], low: float, high: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if len(limits) != len(counts) or len(counts) > _MAX_BUCKETS:
        raise WireError("a histogram whose limits and counts do not match")
    filled = [index for index, count in enumerate(counts) if count != 0]
    if not filled:
        bounds = (low, high) if _usable(low) and _usable(high) and low <= high else (0.0, 0.0)
        return bounds, (0.0,)
    first, last = filled[0], filled[-1]
    inner = limits[first:last]
    left, right = (limits[first - 1] if first else min(low, limits[first])), limits[last]
    if not _usable(left):
        left = min(_first_usable(low, *inner, right, high), *inner[:1], math.inf)
    if not _usable(right):
        right = max(_first_usable(high, *inner[::-1], left), *inner[-1:], left)
    edges = [left, *inner, right]
    _check(edges, counts)
    return tuple(edges), tuple(counts[first : last + 1])


def _check(edges: Sequence[float], counts: Sequence[float]) -> None:
    """Raise WireError unless the edges rise and the counts count."""
    if not all(math.isfinite(edge) for edge in edges):
        raise WireError("a histogram with an edge that is no number")
    if any(a > b for a, b in zip(edges, edges[1:])):
        raise WireError("a histogram whose edges do not rise")
    if not all(math.isfinite(count) and count >= 0 for count in counts):
        raise WireError("a histogram with a count that is no number")


def _first_usable(*edges: float) -> float:
    return next((edge for edge in edges if _usable(edge)), math.nan)


def _usable(edge: float) -> bool:
    """Tell whether an edge can be drawn: NaN, infinity and the largest double cannot."""
    return abs(edge) < _HUGE
