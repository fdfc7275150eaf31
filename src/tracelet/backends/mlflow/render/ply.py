"""
A mesh as a PLY file, which MeshLab, Blender and Open3D open.

The binary form with the lowest byte first (https://paulbourke.net/dataformats/ply/). Bytes are laid
side by side with strides instead of one by one: a million vertices take a moment.
"""

from __future__ import annotations

import sys
from array import array
from typing import Any

from tracelet.tfevents.meshes import Mesh

__all__ = ["ply"]


def ply(mesh: Mesh) -> bytes:
    """Return the whole mesh: every vertex as it was logged, its colour, and every triangle."""
    count, faces = mesh.vertices, len(mesh.faces) // 3
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {count}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {name}" for name in ("red", "green", "blue") if mesh.colours),
    ]
    if faces:
        lines += [f"element face {faces}", "property list uchar uint vertex_indices"]
    lines.append("end_header\n")
    width = 15 if mesh.colours else 12
    vertices = bytearray(width * count)
    _interleave(vertices, _little(mesh.points), width, 12, 0)
    if mesh.colours:
        _interleave(vertices, mesh.colours, width, 3, 12)
    triangles = bytearray(13 * faces)
    triangles[::13] = b"\x03" * faces
    # Faces are 32 bits wide wherever Python runs.
    _interleave(triangles, _little(mesh.faces), 13, 12, 1)
    return "\n".join(lines).encode() + vertices + triangles


def _interleave(target: bytearray, source: bytes, width: int, size: int, offset: int) -> None:
    """Copy records of ``size`` bytes to the same place of records of ``width`` bytes."""
    for place in range(size):
        target[offset + place :: width] = source[place::size]


def _little(numbers: array[Any]) -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()
