"""
One look at a mesh, drawn without any library: triangles in the light, or a cloud of points.

The nearest thing wins in every pixel, so that the order of the triangles does not matter.
"""

from __future__ import annotations

import math
from typing import Sequence

from tracelet.backends.mlflow.pixels import rgb_png
from tracelet.backends.mlflow.render.thinning import Thinned

__all__ = ["still"]

# Twice as wide as high: a card of the grid cuts off the lower end of anything taller.
_WIDTH, _HEIGHT = 512, 256
_PAPER = 250
_PLAIN = (110, 150, 190)
#: From where it is seen: a little from the right and from above.
_TURN, _TILT = math.radians(-32), math.radians(24)
_FAR = -1e9

_Vertex = tuple[float, float, float]


def still(body: Thinned) -> bytes:
    """Return the picture as PNG."""
    seen = [_turned(point) for point in body.points]
    canvas = _Canvas()
    size = max((max(abs(x), abs(y)) for x, y, _ in seen), default=1.0) or 1.0
    zoom = (_HEIGHT / 2 - 12) / size
    spots = [(_WIDTH / 2 + x * zoom, _HEIGHT / 2 - y * zoom, z) for x, y, z in seen]
    colours = body.colours
    if body.faces:
        for a, b, c in body.faces:
            colour = _middle(colours, (a, b, c)) if colours else _PLAIN
            canvas.triangle(spots[a], spots[b], spots[c], _lit(seen[a], seen[b], seen[c], colour))
    else:
        wide = 3 if len(spots) < 4000 else 2 if len(spots) < 40_000 else 1
        for number, spot in enumerate(spots):
            colour = _middle(colours, (number,)) if colours else _deep(spot[2])
            canvas.spot(spot, wide, colour)
    return rgb_png(_WIDTH, _HEIGHT, bytes(canvas.pixels))


def _turned(point: _Vertex) -> _Vertex:
    x, y, z = point
    x, z = x * math.cos(_TURN) + z * math.sin(_TURN), z * math.cos(_TURN) - x * math.sin(_TURN)
    y, z = y * math.cos(_TILT) - z * math.sin(_TILT), z * math.cos(_TILT) + y * math.sin(_TILT)
    return x, y, z


def _middle(colours: bytes, corners: Sequence[int]) -> tuple[int, int, int]:
    count = len(corners)
    red, green, blue = (sum(colours[c * 3 + part] for c in corners) // count for part in range(3))
    return red, green, blue


def _deep(z: float) -> tuple[int, int, int]:
    """Return a colour that is stronger where a point is nearer."""
    near = min(max((z + 1.2) / 2.4, 0.0), 1.0)
    return round(170 - 150 * near), round(195 - 115 * near), round(220 - 55 * near)


def _lit(a: _Vertex, b: _Vertex, c: _Vertex, colour: tuple[int, int, int]) -> bytes:
    """Return the colour of a triangle in light from the upper left, seen from both sides."""
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    length = math.sqrt(nx * nx + ny * ny + nz * nz) or 1.0
    if nz < 0:
        length = -length
    light = 0.35 + 0.65 * max(0.0, (-0.3 * nx + 0.55 * ny + 0.78 * nz) / length)
    return bytes(min(255, round(part * light)) for part in colour)


class _Canvas:
    def __init__(self) -> None:
        self.pixels = bytearray([_PAPER]) * (_WIDTH * _HEIGHT * 3)
        self._depth = [_FAR] * (_WIDTH * _HEIGHT)

    def spot(self, spot: _Vertex, wide: int, colour: tuple[int, int, int]) -> None:
        left, top = int(spot[0] - wide / 2 + 0.5), int(spot[1] - wide / 2 + 0.5)
        paint = bytes(colour)
        for y in range(max(top, 0), min(top + wide, _HEIGHT)):
            for x in range(max(left, 0), min(left + wide, _WIDTH)):
                self._paint(y * _WIDTH + x, spot[2], paint)

    def triangle(self, a: _Vertex, b: _Vertex, c: _Vertex, paint: bytes) -> None:
        """Fill line by line; each line from the left edge to the right one."""
        first = max(math.ceil(min(a[1], b[1], c[1]) - 0.5), 0)
        last = min(math.floor(max(a[1], b[1], c[1]) - 0.5), _HEIGHT - 1)
        depth, pixels = self._depth, self.pixels
        edges = ((a, b), (b, c), (c, a))
        for y in range(first, last + 1):
            middle = y + 0.5
            crossings = []
            for (ax, ay, az), (bx, by, bz) in edges:
                if (ay <= middle) != (by <= middle):
                    part = (middle - ay) / (by - ay)
                    crossings.append((ax + (bx - ax) * part, az + (bz - az) * part))
            if len(crossings) < 2:
                continue
            (left, near), (right, far) = sorted(crossings)[:2]
            slope = (far - near) / (right - left) if right > left else 0.0
            start = max(math.ceil(left - 0.5), 0)
            for x in range(start, min(math.floor(right - 0.5) + 1, _WIDTH)):
                z = near + (x + 0.5 - left) * slope
                place = y * _WIDTH + x
                if z > depth[place]:
                    depth[place] = z
                    pixels[place * 3 : place * 3 + 3] = paint

    def _paint(self, place: int, z: float, paint: bytes) -> None:
        if z > self._depth[place]:
            self._depth[place] = z
            self.pixels[place * 3 : place * 3 + 3] = paint
