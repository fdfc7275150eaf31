"""
The rows of a precision-recall curve, as a record carries them beside its event.

TensorBoard's page takes the thresholds as evenly spread over [0, 1], for the event does not hold
them (``pr_curves_plugin.py``); so does everybody here.
"""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Optional, Sequence

__all__ = ["Curve", "curve_of"]


class Curve(NamedTuple):
    """The six rows in the order of the event, each with one number for each threshold."""

    true_positives: Sequence[float]
    false_positives: Sequence[float]
    true_negatives: Sequence[float]
    false_negatives: Sequence[float]
    precision: Sequence[float]
    recall: Sequence[float]

    @property
    def thresholds(self) -> Sequence[float]:
        """The thresholds, rising."""
        size = len(self.recall)
        return [place / (size - 1) if size > 1 else 0.0 for place in range(size)]


def curve_of(meta: Mapping[str, Any]) -> Optional[Curve]:
    """
    Return the curve of a record; None if its event says nothing that can be drawn.

    Args:
        meta: What ``plugins.read_curve`` found.
    """
    rows = [meta.get(name) for name in Curve._fields]
    sizes = {len(row) if isinstance(row, (list, tuple)) else 0 for row in rows}
    return Curve(*rows) if len(sizes) == 1 and 0 not in sizes else None  # type: ignore[arg-type]
