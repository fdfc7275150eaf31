"""
A mesh that is small enough to be drawn in a browser and by plain Python.

Vertices that share a cell of a grid become one, so that a dense surface keeps its shape and has no
holes; of a cloud of points every so many-th stays. Nothing here is exact: the PLY file is.
"""

from __future__ import annotations

import math
from array import array
from typing import NamedTuple, Sequence

from tracelet.tfevents.meshes import Mesh

__all__ = ["Thinned", "reduced", "thinned"]

#: More than this is drawn as points.
_MOST_FACES_READ = 2_000_000

_Vertex = tuple[float, float, float]


class Thinned(NamedTuple):
    """
    What to draw.

    ``points`` lie in the cube from -1 to 1 around the middle of the body; ``low`` and ``high`` are
    the corners of the box that it fills in truth.
    """

    points: Sequence[_Vertex]
    colours: bytes
    faces: Sequence[tuple[int, int, int]]
    low: _Vertex
    high: _Vertex


def thinned(mesh: Mesh, most: int) -> Thinned:
    """
    Return a body of at most ``most`` points and ``most`` triangles.

    What is not finite cannot be drawn, and is left out.
    """
    total, corners = mesh.vertices, mesh.faces
    surface = 0 < len(corners) // 3 <= _MOST_FACES_READ
    stride = 1 if surface else max(1, math.ceil(total / most))
    axes = [mesh.points[axis :: 3 * stride] for axis in range(3)]
    vertices = list(zip(*axes))
    colours = mesh.colours
    if stride > 1:
        colours = b"".join(colours[at : at + 3] for at in range(0, len(colours), 3 * stride))
    # One that is not finite spoils a sum.
    if not all(math.isfinite(sum(axis)) for axis in axes):
        good = [place for place, vertex in enumerate(vertices) if all(map(math.isfinite, vertex))]
        colours = b"".join(colours[place * 3 : place * 3 + 3] for place in good)
        vertices = [vertices[place] for place in good]
        new = {place: number for number, place in enumerate(good)}
        corners = array(
            "I",
            (
                new[corner]
                for face in zip(*[iter(corners)] * 3)
                if all(corner in new for corner in face)
                for corner in face
            ),
        )
    low, high = _box(vertices)
    scale = max(top - bottom for bottom, top in zip(low, high)) / 2 or 1.0
    u, v, w = ((bottom + top) / 2 for bottom, top in zip(low, high))
    points = [((x - u) / scale, (y - v) / scale, (z - w) / scale) for x, y, z in vertices]
    faces = list(zip(*[iter(corners)] * 3)) if surface else []
    return reduced(Thinned(points, colours, faces, low, high), most)


def reduced(found: Thinned, most: int) -> Thinned:
    """Return a body with fewer points and triangles, or the same if it has few enough."""
    # A closed surface fills about three cells for each square of one of its sides.
    cells = max(2, round(math.sqrt(most / 3)) * 5 // 4)
    while len(found.points) > most or len(found.faces) > most:
        found = _merged(found, cells)
        cells = max(1, cells * 4 // 5)
    return found


def _box(vertices: Sequence[_Vertex]) -> tuple[_Vertex, _Vertex]:
    if not vertices:
        return (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    axes = list(zip(*vertices))
    low, high = [min(axis) for axis in axes], [max(axis) for axis in axes]
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _merged(body: Thinned, cells: int) -> Thinned:
    """Return the body with one vertex for each cell: the first one that lies in it."""
    half = cells / 2
    line, layer = cells + 1, (cells + 1) ** 2
    numbers: dict[int, int] = {}
    points: list[_Vertex] = []
    firsts: list[int] = []
    new = array("I")
    for place, (x, y, z) in enumerate(body.points):
        cell = int((x + 1) * half) + line * int((y + 1) * half) + layer * int((z + 1) * half)
        number = numbers.get(cell)
        if number is None:
            number = numbers[cell] = len(points)
            points.append((x, y, z))
            firsts.append(place)
        new.append(number)
    colours = body.colours
    if colours:
        colours = b"".join(colours[place * 3 : place * 3 + 3] for place in firsts)
    faces = set()
    for a, b, c in body.faces:
        p, q, r = new[a], new[b], new[c]
        if p != q and r not in (p, q):
            faces.add((p, q, r))
    return body._replace(points=points, colours=colours, faces=sorted(faces))
