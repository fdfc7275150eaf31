"""
Figures as Plotly reads them (https://plotly.com/javascript/reference): Aim's page draws them.

They are written as JSON, so that nobody has to have Plotly installed to log one.
"""

from __future__ import annotations

import json
import math
from typing import Any, Mapping, Optional, Sequence

from tracelet.records import Media, Table
from tracelet.tfevents.meshes import Mesh, read_meshes

__all__ = ["curve", "mesh", "table"]

#: Members of a batch that one figure has, and points and triangles of a body.
_MOST_BODIES = 8
_MOST_POINTS = 60_000
_MOST_TRIANGLES = 120_000


def curve(media: Media) -> Optional[str]:
    """Return a precision-recall curve as JSON; None if the event says nothing to draw."""
    precision, recall = media.meta.get("precision"), media.meta.get("recall")
    if not precision or not recall or len(precision) != len(recall):
        return None
    size = len(recall)
    # The event has no thresholds; TensorBoard takes them as evenly spread, and so do we.
    thresholds = [place / (size - 1) if size > 1 else 0.0 for place in range(size)]
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(recall),
        "y": list(precision),
        "text": [f"threshold {threshold:.4g}" for threshold in thresholds],
        "name": media.key,
    }
    layout = {
        "title": {"text": media.key},
        "xaxis": {"title": {"text": "recall"}, "range": [0, 1.02]},
        "yaxis": {"title": {"text": "precision"}, "range": [0, 1.02]},
    }
    return _text([line], layout)


def mesh(media: Media) -> Optional[str]:
    """
    Return the bodies of a mesh as JSON; None if there is none.

    Raises:
        ValueError: The event is no mesh.
    """
    members, bodies = read_meshes(media.data, _MOST_BODIES)
    if not bodies:
        return None
    title = media.key if members <= len(bodies) else f"{media.key} ({len(bodies)} of {members})"
    layout = {"title": {"text": title}, "scene": {"aspectmode": "data"}}
    return _text([_body(body, number) for number, body in enumerate(bodies)], layout)


def _body(body: Mesh, number: int) -> Mapping[str, Any]:
    points = body.points
    colours = [
        f"rgb({body.colours[at]},{body.colours[at + 1]},{body.colours[at + 2]})"
        for at in range(0, len(body.colours), 3)
    ]
    axes = {"x": list(points[0::3]), "y": list(points[1::3]), "z": list(points[2::3])}
    if 0 < len(body.faces) // 3 <= _MOST_TRIANGLES:
        corners = {name: list(body.faces[at::3]) for at, name in enumerate("ijk")}
        shades = {"vertexcolor": colours} if colours else {}
        return {"type": "mesh3d", "name": str(number), **axes, **corners, **shades}
    thin = slice(None, None, max(1, math.ceil(body.vertices / _MOST_POINTS)))
    marker = {"size": 2, **({"color": colours[thin]} if colours else {})}
    thinned = {name: values[thin] for name, values in axes.items()}
    return {
        "type": "scatter3d", "mode": "markers", "name": str(number), "marker": marker, **thinned
    }  # fmt: skip


def table(record: Table) -> str:
    """Return a table as JSON, column by column."""
    cells = [[_cell(row[at]) for row in record.rows] for at in range(len(record.columns))]
    found = {
        "type": "table",
        "header": {"values": list(record.columns), "align": "left"},
        "cells": {"values": cells, "align": "left"},
    }
    return _text([found], {"title": {"text": record.key}})


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(value)


def _text(data: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> str:
    return json.dumps(_plain({"data": data, "layout": layout}), allow_nan=False)


def _plain(value: Any) -> Any:
    """Return ``value`` with words for what JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value
