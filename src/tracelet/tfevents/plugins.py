"""
What is worth knowing about events that are kept whole: precision-recall curves, meshes, layouts.

A backend cannot read events, so the numbers that it may want to draw go along as JSON values.
Messages: ``plugin_data.proto`` of TensorBoard's ``pr_curve`` and ``mesh`` plugins, ``layout.proto``
of ``custom_scalar``.
"""

from __future__ import annotations

from typing import Any, Final

from tracelet.tfevents.curves import Curve
from tracelet.tfevents.tensor import read_numbers, read_strings, read_tensor
from tracelet.tfevents.wire import LENGTH, VARINT, Span, Wire, WireError, head

_PARTS: Final = {1: "vertices", 2: "faces", 3: "colors"}
_MAX_THRESHOLDS: Final = 10_000


def read_curve(wire: Wire, span: Span) -> dict[str, Any]:
    """Return the six rows of a precision-recall curve by name. Raises WireError."""
    tensor = read_tensor(wire, span)
    if len(tensor.shape) != 2 or tensor.shape[0] != len(Curve._fields):
        raise WireError("a precision-recall curve of an unknown shape")
    columns = tensor.shape[1]
    if columns > _MAX_THRESHOLDS:
        raise WireError("a precision-recall curve with too many thresholds")
    numbers = read_numbers(wire, tensor)
    rows = [numbers[start : start + columns] for start in range(0, len(numbers), columns or 1)]
    return dict(zip(Curve._fields, rows))


def read_mesh(wire: Wire, span: Span, content: bytes) -> tuple[str, dict[str, Any]]:
    """
    Return the name of a mesh, and what one of its values is: the part and its shape.

    Args:
        wire: The event.
        span: Where the tensor lies.
        content: The serialized ``MeshPluginData``.

    Raises:
        WireError: The bytes are no such thing.
    """
    name, part, config = "", 0, ""
    data = Wire(content, wire)
    for mark, start, end in data.fields():
        if mark == head(2, LENGTH):
            name = data.text(start, end)
        elif mark == head(3, VARINT):
            part = start
        elif mark == head(5, LENGTH):
            config = data.text(start, end)
    if part not in _PARTS:
        raise WireError("an unknown part of a mesh")
    meta: dict[str, Any] = {_PARTS[part]: list(read_tensor(wire, span).shape)}
    if config:
        meta["config"] = config
    return name, meta


def read_layout(wire: Wire, span: Span) -> dict[str, Any]:
    """Return a layout as ``add_custom_scalars`` takes one. Raises WireError."""
    strings = read_strings(wire, read_tensor(wire, span))
    if len(strings) != 1:
        raise WireError("a layout of an unknown shape")
    data = Wire(strings[0], wire)
    layout: dict[str, Any] = {}
    for mark, start, end in data.fields():
        if mark != head(2, LENGTH):
            continue
        title, charts = "", {}
        for inner, low, high in data.fields(start, end):
            if inner == head(1, LENGTH):
                title = data.text(low, high)
            elif inner == head(2, LENGTH):
                name, chart = _chart(data, low, high)
                charts[name] = chart
        layout[title] = charts
    return layout


def _chart(data: Wire, start: int, end: int) -> tuple[str, list[Any]]:
    title = ""
    kind = "Multiline"
    names: list[str] = []
    for mark, low, high in data.fields(start, end):
        if mark == head(1, LENGTH):
            title = data.text(low, high)
        elif mark in {head(2, LENGTH), head(3, LENGTH)}:
            kind = "Margin" if mark == head(3, LENGTH) else "Multiline"
            names = []
            for inner, first, last in data.fields(low, high):
                if inner != head(1, LENGTH):
                    continue
                if kind == "Multiline":
                    names.append(data.text(first, last))
                else:
                    names += [data.text(a, b) for _, a, b in data.fields(first, last)]
    return title, [kind, names]
