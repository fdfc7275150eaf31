"""A mesh: a page to turn it, the whole of it as PLY, and one look at it for the image grid."""

from __future__ import annotations

import json
import sys
from array import array
from base64 import b64encode
from typing import Any, Mapping, Optional

from tracelet.backends.mlflow.render.files import File, Rendering, filled
from tracelet.backends.mlflow.render.ply import ply
from tracelet.backends.mlflow.render.still import still
from tracelet.backends.mlflow.render.thinning import Thinned, reduced, thinned
from tracelet.records import Media
from tracelet.tfevents.meshes import read_meshes

__all__ = ["render_mesh"]

#: Points, and triangles, that a page has; shared by the members of a batch.
_MOST = 60_000
_FEWEST = 1_000
#: Members of a batch that a page shows.
_MOST_SHOWN = 32
#: And that have a PLY file.
_MOST_FILES = 256
#: Points and triangles of the picture of a surface; a point of a cloud costs next to nothing.
_MOST_DRAWN = 30_000
_UNIT = 32_767


def render_mesh(media: Media) -> Optional[Rendering]:
    """
    Return the files of a mesh, one page for a whole batch.

    Raises:
        ValueError: The event is no mesh.
    """
    members, bodies = read_meshes(media.data, _MOST_FILES)
    if not bodies:
        return None
    numbered = members > 1
    found = [
        File("meshes", f"_{number}.ply" if numbered else ".ply", ply(mesh))
        for number, mesh in enumerate(bodies)
    ]
    shown = bodies[:_MOST_SHOWN]
    most = max(_FEWEST, _MOST // len(shown))
    thin = [thinned(mesh, most) for mesh in shown]
    data = {
        "key": media.key,
        "step": media.step,
        "fov": _fov(media.meta),
        "members": members,
        "bodies": [
            {
                **_packed(body),
                "vertices": mesh.vertices,
                "triangles": len(mesh.faces) // 3,
            }
            for mesh, body in zip(shown, thin)
        ],
    }
    first = thin[0]
    if first.faces:
        first = reduced(first, _MOST_DRAWN)
    picture = still(first) if first.points else None
    return Rendering([File("meshes", ".html", filled("mesh.html", data)), *found], picture)


def _packed(body: Thinned) -> Mapping[str, Any]:
    """Return the body as texts: 16 bits for a coordinate are finer than any screen."""
    points = array("h", (round(number * _UNIT) for point in body.points for number in point))
    faces = array("I", (corner for face in body.faces for corner in face))
    return {
        "points": _text(points),
        "faces": _text(faces),
        "colours": b64encode(body.colours).decode(),
        "low": body.low,
        "high": body.high,
    }


def _text(numbers: array[int]) -> str:
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers.tobytes()).decode()


def _fov(meta: Mapping[str, Any]) -> float:
    """Return the angle of the camera in degrees, where the configuration has a sensible one."""
    try:
        found = json.loads(meta.get("config") or "{}")
        angle = float(found["camera"]["fov"])
    except (ValueError, TypeError, KeyError):
        return 40.0
    return angle if 5 <= angle <= 120 else 40.0
