"""
The points, triangles and colours of an event that ``add_mesh`` wrote.

They stand in up to three tensors of one event, each of shape ``[batch, count, 3]`` (TensorBoard's
``mesh`` plugin, ``summary.py``). torch and tensorboardX write all three as floats.
"""

from __future__ import annotations

import math
from array import array
from typing import Any, NamedTuple

from tracelet.tfevents.event import read_event, read_values
from tracelet.tfevents.plugins import read_mesh
from tracelet.tfevents.tensor import read_array, read_tensor
from tracelet.tfevents.wire import Wire, WireError

__all__ = ["Mesh", "read_meshes"]


class Mesh(NamedTuple):
    """
    One body.

    ``points`` has x, y, z of each vertex; ``faces`` three vertices for each triangle, all of them
    there, empty for a cloud of points; ``colours`` red, green, blue of each vertex, or nothing.
    """

    points: array[float]
    faces: array[int]
    colours: bytes

    @property
    def vertices(self) -> int:
        """How many vertices it has."""
        return len(self.points) // 3


def read_meshes(data: bytes, most: int) -> tuple[int, list[Mesh]]:
    """
    Return how many bodies a serialized event has, and the first ones of them.

    A triangle between vertices that do not exist is left out.

    Args:
        data: The event.
        most: How many members of its batch are wanted.

    Raises:
        WireError: The event holds no mesh, or its parts do not fit together.
    """
    wire = Wire(data)
    event = read_event(wire)
    if event.what != "summary":
        raise WireError("an event without a mesh")
    parts: dict[str, tuple[list[int], array[Any]]] = {}
    for value in read_values(wire, event):
        if value.what == "tensor" and value.plugin is not None and value.plugin.name == "mesh":
            _, meta = read_mesh(wire, value.span, value.plugin.content)
            part = next(name for name in ("vertices", "faces", "colors") if name in meta)
            parts[part] = _part(wire, value.span)
    if "vertices" not in parts:
        raise WireError("a mesh without vertices")
    shape, numbers = parts["vertices"]
    # A shape costs nothing: without vertices there may be any number of bodies.
    bodies = shape[0] if numbers else 0
    return bodies, [_body(parts, number) for number in range(min(bodies, most))]


def _part(wire: Wire, span: tuple[int, int]) -> tuple[list[int], array[Any]]:
    tensor = read_tensor(wire, span)
    shape = list(tensor.shape)
    if len(shape) == 2:
        shape.insert(0, 1)
    if len(shape) != 3 or shape[2] != 3:
        raise WireError(f"a part of a mesh of shape {shape[:8]}")
    return shape, read_array(wire, tensor)


def _member(parts: dict[str, tuple[list[int], array[Any]]], part: str, number: int) -> array[Any]:
    """Return one member of a batch; a batch of one is for all."""
    if part not in parts:
        return array("f")
    shape, numbers = parts[part]
    size = shape[1] * 3
    if shape[0] == 1:
        number = 0
    return numbers[number * size : (number + 1) * size]


def _body(parts: dict[str, tuple[list[int], array[Any]]], number: int) -> Mesh:
    points = _member(parts, "vertices", number)
    if points.typecode != "f":
        points = array("f", map(_single, points))
    count = len(points) // 3
    colours = _member(parts, "colors", number)
    return Mesh(
        points,
        _triangles(_member(parts, "faces", number), count),
        bytes(map(_shade, colours)) if len(colours) == len(points) else b"",
    )


def _triangles(numbers: array[Any], count: int) -> array[int]:
    if not numbers:
        return array("I")
    # NaN spoils a sum, whatever it does to a comparison.
    if min(numbers) >= 0 and max(numbers) < count and math.isfinite(sum(numbers)):
        return array("I", map(int, numbers[: len(numbers) // 3 * 3]))
    found = array("I")
    limit = float(count)
    corners = iter(numbers)
    for corner in zip(corners, corners, corners):
        a, b, c = corner
        # A comparison with NaN is false.
        if 0 <= a < limit and 0 <= b < limit and 0 <= c < limit:
            found.extend((int(a), int(b), int(c)))
    return found


def _shade(value: float) -> int:
    return 0 if not value > 0 else 255 if value >= 255 else round(value)


def _single(value: float) -> float:
    """Return a double that a 32-bit float can hold; what is too large is infinite."""
    return value if not abs(value) > 3.4e38 else math.copysign(math.inf, value)
