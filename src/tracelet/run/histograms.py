"""A distribution from its values, or from buckets that somebody counted already."""

from __future__ import annotations

import math
from typing import Any, Optional, Sequence

from tracelet.records import Histogram, Step
from tracelet.run.values import as_number

__all__ = ["counted", "of_values"]


def of_values(key: str, values: Any, bins: int, step: Step, time: float) -> Optional[Histogram]:
    """
    Return the distribution of all finite values, in ``bins`` buckets of one width.

    Args:
        key: Its name.
        values: Numbers in any nesting; an array or tensor; or an iterable of tensors.
        bins: How many buckets.
        step: Its step.
        time: Seconds since the epoch.

    Returns:
        None when there is no finite value to count.

    Raises:
        TypeError: There are no numbers in it.
    """
    import numpy as np

    array = _flat(values)
    finite = array[np.isfinite(array)]
    if finite.size == 0:
        return None
    counts, edges = np.histogram(finite, bins=bins)
    return Histogram(
        key=key,
        edges=edges.tolist(),
        counts=[float(count) for count in counts],
        min=float(finite.min()),
        max=float(finite.max()),
        sum=float(finite.sum()),
        sum_squares=float(np.square(finite).sum()),
        step=step,
        time=time,
    )


def counted(
    key: str, edges: Sequence[Any], counts: Sequence[Any], step: Step, time: float
) -> Histogram:
    """
    Return a distribution that is given as buckets; its moments are taken at their middles.

    Raises:
        TypeError: Edges or counts are no numbers, fall, or do not fit each other.
    """
    borders = [as_number(edge, key) for edge in edges]
    numbers = [as_number(count, key) for count in counts]
    if len(borders) != len(numbers) + 1 or not numbers:
        raise TypeError(
            f"A histogram has one edge more than counts, not {len(borders)} and {len(numbers)}."
        )
    if not all(map(math.isfinite, [*borders, *numbers])) or borders != sorted(borders):
        raise TypeError("The edges of a histogram rise, and all its numbers are finite.")
    middles = [(low + high) / 2 for low, high in zip(borders, borders[1:])]
    filled = [index for index, count in enumerate(numbers) if count] or [0]
    return Histogram(
        key=key,
        edges=borders,
        counts=numbers,
        min=borders[filled[0]],
        max=borders[filled[-1] + 1],
        sum=sum(middle * count for middle, count in zip(middles, numbers)),
        sum_squares=sum(middle * middle * count for middle, count in zip(middles, numbers)),
        step=step,
        time=time,
    )


def _flat(values: Any) -> Any:
    import numpy as np

    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    elif not hasattr(values, "shape") and not isinstance(values, (str, bytes, dict)):
        parts = list(values) if hasattr(values, "__iter__") else [values]
        if parts and all(hasattr(part, "detach") for part in parts):
            return np.concatenate([_flat(part) for part in parts])
        values = parts
    try:
        return np.asarray(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise TypeError(f"A histogram is made of numbers, not {type(values).__name__}.") from None
