"""
Everything that is no number, as a value of a row: JSON in the outbox, W&B's types when it is sent.

In the outbox such a value is ``{"wandb": <kind>, …}``, with bytes in files of the work folder that
are named after their content.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import math
import os
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from tracelet.backends.wandb.histograms import merged
from tracelet.records import Histogram, Media, Table, Text
from tracelet.tfevents.curves import curve_of
from tracelet.tfevents.meshes import Mesh, read_meshes

__all__ = ["Attic", "described", "images", "made"]

_SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
    "image/webp": ".webp",
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
    "audio/ogg": ".ogg",
    "audio/flac": ".flac",
    "audio/mpeg": ".mp3",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
}
_CURVE = (
    "recall",
    "precision",
    "true_positives",
    "false_positives",
    "true_negatives",
    "false_negatives",
)
#: Bodies of one batch that are shown.
_MOST_BODIES = 32
_PAGE = '<pre style="white-space: pre-wrap">{}</pre>'


class Attic:
    """Files of a run that wait to be sent, named after what is in them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def keep(self, data: bytes, suffix: str) -> str:
        """Keep bytes; return the name of their file."""
        name = hashlib.sha256(data).hexdigest()[:32] + suffix
        path = self._folder / name
        if not path.exists():
            new = path.with_name(f"{name}.new")
            with open(new, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        return name

    def path(self, name: str) -> str:
        """Return where a file is."""
        return str(self._folder / name)

    def drop(self, names: Sequence[str]) -> None:
        """Delete files."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)


def images(members: Sequence[Media], attic: Attic) -> Optional[dict[str, Any]]:
    """Describe pictures of one key and step; None where one of them is no picture."""
    if not all(map(_opens, members)):
        return None
    files = [attic.keep(each.data, _suffix(each.mime, ".png")) for each in members]
    return {"wandb": "image", "files": files, "numbers": [each.index for each in members]}


def _opens(media: Media) -> bool:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(media.data)):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def described(record: Any, attic: Attic) -> Optional[dict[str, Any]]:
    """
    Describe one record as a value of a row; None where W&B has none for its kind.

    Raises:
        ValueError: The record is not what it says it is.
    """
    if isinstance(record, Histogram):
        edges, counts = merged(record)
        return {"wandb": "histogram", "edges": edges, "counts": counts}
    if isinstance(record, Text):
        return {"wandb": "text", "html": _PAGE.format(html.escape(record.text, quote=False))}
    if isinstance(record, Table):
        return {"wandb": "table", "columns": list(record.columns), "rows": record.rows}
    if isinstance(record, Media):
        return _medium(record, attic)
    raise ValueError(f"no medium: {type(record).__name__}")


def _medium(media: Media, attic: Attic) -> Optional[dict[str, Any]]:
    if media.kind in ("audio", "video"):
        name = attic.keep(
            media.data, _suffix(media.mime, {"audio": ".wav"}.get(media.kind, ".gif"))
        )
        return {"wandb": media.kind, "files": [name]}
    if media.kind == "pr_curve":
        curve = curve_of(media.meta)
        if curve is None:
            return None
        points = zip(*(getattr(curve, column) for column in _CURVE))
        return {
            "wandb": "curve",
            "title": media.key,
            "columns": list(_CURVE),
            "rows": [list(map(_finite, point)) for point in points],
        }
    if media.kind == "mesh":
        _, bodies = read_meshes(media.data, _MOST_BODIES)
        files = [attic.keep(*_body(body)) for body in bodies]
        return {"wandb": "mesh", "files": files} if files else None
    return None


def _finite(number: float) -> Any:
    return number if math.isfinite(number) else None


def _body(mesh: Mesh) -> tuple[bytes, str]:
    """Return a body as a file that W&B shows: OBJ with faces, else a list of points."""
    points, colours = mesh.points, mesh.colours
    places = [
        [*map(float, points[at : at + 3]), *colours[at : at + 3]] for at in range(0, len(points), 3)
    ]
    if not mesh.faces:
        return json.dumps(places).encode(), ".pts.json"
    lines = [
        " ".join(("v", *(repr(number if n < 3 else number / 255) for n, number in enumerate(each))))
        for each in places
    ]
    corners = iter(mesh.faces)
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in zip(corners, corners, corners)]
    return ("\n".join(lines) + "\n").encode(), ".obj"


def _suffix(mime: str, otherwise: str) -> str:
    return _SUFFIXES.get(mime.partition(";")[0].strip().lower(), otherwise)


def made(wandb: Any, value: Any, attic: Attic) -> Any:
    """
    Return a row's value as the client takes it.

    Args:
        wandb: The vendor's module.
        value: A number, or what ``described`` returned.
        attic: Where the files are.
    """
    if not isinstance(value, dict):
        return value
    kind = value["wandb"]
    files = [attic.path(name) for name in value.get("files", ())]
    if kind == "image":
        numbers = value["numbers"]
        several = len(files) > 1 or numbers != [0]
        pictures = [
            wandb.Image(path, caption=str(number) if several else None)
            for path, number in zip(files, numbers)
        ]
        return pictures if several else pictures[0]
    if kind == "histogram":
        return wandb.Histogram(np_histogram=(value["counts"], value["edges"]))
    if kind == "text":
        return wandb.Html(value["html"])
    if kind == "table":
        return _table(wandb, value)
    if kind == "curve":
        fields = {"x": "recall", "y": "precision"}
        strings = {"title": f"{value['title']} Precision v. Recall"}
        return wandb.plot_table("wandb/line/v0", _table(wandb, value), fields, strings)
    if kind == "mesh":
        bodies = [wandb.Object3D(path) for path in files]
        return bodies if len(bodies) > 1 else bodies[0]
    return {"audio": wandb.Audio, "video": wandb.Video}[kind](files[0])


def _table(wandb: Any, value: Mapping[str, Any]) -> Any:
    rows = [list(row) for row in value["rows"]]
    return wandb.Table(columns=value["columns"], data=rows, allow_mixed_types=True)
