"""
Which metrics share a row: a pure function of the order in which they were logged.

A row holds consecutive points of one step, logged within a second, each key once. Rows have one
time, that of their first point.
"""

from __future__ import annotations

from typing import Any, Iterable, Optional

from tracelet.backends.wandb.names import STEP, column
from tracelet.records import Metric, Step

__all__ = ["Row", "row_of", "rows_of"]

#: Columns and their values, JSON only.
Row = dict[str, Any]

_MOST_KEYS = 500
#: Points that were logged further apart have rows of their own, so that their times are kept.
_TOGETHER_S = 1.0


def rows_of(metrics: Iterable[Metric]) -> list[Row]:
    """Return the rows of metrics that were logged one after the other."""
    rows: list[Row] = []
    row: Row = {}
    step: Step = None
    began, room = 0.0, 0
    for metric in metrics:
        key = column(metric.key)
        if (
            room == 0
            or metric.step != step
            or key in row
            or not 0 <= metric.time - began <= _TOGETHER_S
        ):
            step, began, room = metric.step, metric.time, _MOST_KEYS
            row = row_of(step, began)
            rows.append(row)
        row[key] = metric.value
        room -= 1
    return rows


def row_of(step: Step, time: float, values: Optional[Row] = None) -> Row:
    """Return a row of a step and a time, with or without values."""
    row: Row = {"_timestamp": time}
    if step is not None:
        row[STEP] = step
    if values:
        row.update(values)
    return row
