"""
Records as charts: what Plotly draws on the page *Plots* of a task.

Plotly's schema: ``data`` is a list of traces, ``layout`` what stands around them. JSON has no NaN;
Plotly shows a gap for ``null``.
"""

from __future__ import annotations

import math
from array import array
from typing import Any, Mapping, Optional, Sequence

from tracelet.records import Histogram, Media, Table
from tracelet.tfevents.curves import curve_of
from tracelet.tfevents.meshes import Mesh

__all__ = ["curve", "histogram", "mesh", "table"]

_Figure = Mapping[str, Any]
#: Larger bodies are left out of a chart, which a browser has to hold; their event is a file anyway.
MOST_VERTICES = 20_000
_MOST_FACES = 60_000


def histogram(record: Histogram) -> _Figure:
    """
    Return a histogram with the very buckets that were logged, as bars.

    ``x`` is the middle of each bucket, ``width`` its width, ``y`` its count; the edges themselves
    are in ``customdata``, as ``[lower, upper]``, and what else is known of the values in ``meta``.
    """
    edges = list(record.edges)
    pairs = list(zip(edges, edges[1:]))
    bars = {
        "type": "bar",
        "name": record.key,
        "x": [_number(low / 2 + high / 2) for low, high in pairs],
        "width": [_number(high - low) for low, high in pairs],
        "y": [_number(count) for count in record.counts],
        "customdata": [[_number(low), _number(high)] for low, high in pairs],
        "hovertemplate": "%{customdata[0]} … %{customdata[1]}: %{y}<extra></extra>",
        "meta": {
            "min": _number(record.min),
            "max": _number(record.max),
            "sum": _number(record.sum),
            "sum_squares": _number(record.sum_squares),
        },
    }
    return {"data": [bars], "layout": {**_titled(record.key), "bargap": 0}}


def table(record: Table) -> _Figure:
    """Return a table; Plotly has its cells by column."""
    columns = [
        [_cell(row[index]) if index < len(row) else None for row in record.rows]
        for index in range(len(record.columns))
    ]
    body = {
        "type": "table",
        "header": {"values": list(record.columns)},
        "cells": {"values": columns},
    }
    return {"data": [body], "layout": _titled(record.key)}


def curve(record: Media) -> Optional[_Figure]:
    """
    Return a precision-recall curve, its four counts beside each point.

    None when the event says nothing that can be drawn.
    """
    found = curve_of(record.meta)
    if found is None:
        return None
    beside = [
        list(each) for each in zip(found.thresholds, *(map(_number, row) for row in found[:4]))
    ]
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": record.key,
        "x": [_number(value) for value in found.recall],
        "y": [_number(value) for value in found.precision],
        "customdata": beside,
        "hovertemplate": "recall %{x}, precision %{y}<br>threshold %{customdata[0]}, TP "
        "%{customdata[1]}, FP %{customdata[2]}, TN %{customdata[3]}, FN %{customdata[4]}"
        "<extra></extra>",
    }
    axes = {"xaxis": {"title": {"text": "recall"}}, "yaxis": {"title": {"text": "precision"}}}
    return {"data": [line], "layout": {**_titled(record.key), **axes}}


def mesh(record: Media, bodies: Sequence[Mesh]) -> Optional[_Figure]:
    """Return meshes and clouds of points to turn; None when they are too large for a chart."""
    traces = [_body(body, str(index)) for index, body in enumerate(bodies) if body.vertices]
    vertices = sum(body.vertices for body in bodies)
    faces = sum(len(body.faces) for body in bodies) // 3
    if not traces or vertices > MOST_VERTICES or faces > _MOST_FACES:
        return None
    scene = {"aspectmode": "data"}
    return {"data": traces, "layout": {**_titled(record.key), "scene": scene}}


def _body(body: Mesh, name: str) -> Mapping[str, Any]:
    trace: dict[str, Any] = {
        "name": name,
        "x": _every(body.points, 3, 0),
        "y": _every(body.points, 3, 1),
        "z": _every(body.points, 3, 2),
    }
    shades = [
        "rgb({},{},{})".format(*body.colours[at : at + 3]) for at in range(0, len(body.colours), 3)
    ]
    if body.faces:
        trace["type"] = "mesh3d"
        for axis, corner in zip("ijk", range(3)):
            trace[axis] = list(body.faces[corner::3])
        if shades:
            trace["vertexcolor"] = shades
    else:
        trace["type"] = "scatter3d"
        trace["mode"] = "markers"
        trace["marker"] = {"size": 2, **({"color": shades} if shades else {})}
    return trace


def _every(points: array[float], stride: int, first: int) -> list[Optional[float]]:
    return [_number(value) for value in points[first::stride]]


def _titled(key: str) -> Mapping[str, Any]:
    return {"title": {"text": key}}


def _number(value: float) -> Optional[float]:
    return value if math.isfinite(value) else None


def _cell(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
