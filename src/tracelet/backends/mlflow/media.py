"""
Pictures, sounds, films, tables, and whatever else TensorBoard has, as files of a run.

==============  ==================================================================
image           the image grid
video           the image grid, where it moves, and ``tensorboard/video/<key>/…gif``
audio           ``tensorboard/audio/<key>/…wav``, with a player in the artifact tab
table           ``tensorboard/tables/<key>/…json``, a table in the artifact tab
the rest        ``tensorboard/raw/<kind>/<key>/…pb``, the event as TensorBoard has it,
                and what ``render`` makes of it to look at
==============  ==================================================================
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Callable, Mapping, Sequence, Union

from tracelet.backends.mlflow.artifacts import Artifacts
from tracelet.backends.mlflow.images import Image, put_image
from tracelet.backends.mlflow.render import render
from tracelet.backends.mlflow.values import text_of
from tracelet.records import Media, Step, Table

__all__ = [
    "IMAGES_TAG",
    "TABLES_TAG",
    "file_name",
    "put_media",
    "put_table",
    "table_json",
    "tables_tag",
]

#: Without it the run page does not look for images.
IMAGES_TAG = "mlflow.loggedImages"
#: The files that the artifact tab shows as tables.
TABLES_TAG = "mlflow.loggedArtifacts"

#: A tag holds 8,000 characters; a table that is not in the list is shown as JSON.
_TAG_LENGTH = 7900

_SUFFIXES: Mapping[str, str] = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mpeg": "mp3",
    "audio/flac": "flac",
    "audio/ogg": "ogg",
    "image/gif": "gif",
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "video/mp4": "mp4",
    "video/webm": "webm",
}


def put_media(
    artifacts: Artifacts,
    media: Media,
    image_key: Callable[[str], str],
    file_key: Callable[[str], str],
) -> bool:
    """
    Store what there is of a medium; the same one again changes nothing.

    Returns:
        Whether it is in the image grid.
    """
    in_grid = media.kind == "image" or (media.kind == "video" and media.data[:4] == b"GIF8")
    if in_grid:
        # The grid has one picture for a title and a step: each member of a batch has its own.
        title = media.key if media.index == 0 else f"{media.key}/{media.index}"
        # Two of one step and millisecond are two, unless they are the same.
        source = f"{text_of(media.key)}\n{media.index}\n{media.time!r}\n{_digest(media.data)}"
        image = Image(image_key(title), source, _whole(media.step), media.time)
        put_image(artifacts, image, media.data)
        if media.kind == "image":
            return True
    folder = media.kind if media.kind in ("audio", "video") else f"raw/{media.kind}"
    path = f"tensorboard/{folder}/{file_key(media.key)}/{file_name(media)}"
    artifacts.put(path, media.data)
    return _put_rendering(artifacts, media, image_key, file_key) or in_grid


def _put_rendering(
    artifacts: Artifacts,
    media: Media,
    image_key: Callable[[str], str],
    file_key: Callable[[str], str],
) -> bool:
    rendering = render(media)
    name = file_name(media).rpartition(".")[0]
    for file in rendering.files:
        path = f"tensorboard/{file.folder}/{file_key(media.key)}/{name}{file.ending}"
        artifacts.put(path, file.data)
    if rendering.picture is None:
        return False
    source = f"{media.kind}\n{text_of(media.key)}\n{media.index}\n{_digest(media.data)}"
    image = Image(image_key(media.key), source, _whole(media.step), media.time)
    put_image(artifacts, image, rendering.picture, shrink=False)
    return True


def put_table(artifacts: Artifacts, table: Table, file_key: Callable[[str], str]) -> str:
    """Store a table as MLflow's own ``log_table`` would, without pandas; return its path."""
    path = f"tensorboard/tables/{file_key(table.key)}/{file_name(table)}"
    artifacts.put(path, table_json(table))
    return path


def table_json(table: Table) -> bytes:
    """Return a table as MLflow reads it."""
    rows = [[_cell(value) for value in row] for row in table.rows]
    return json.dumps({"columns": list(table.columns), "data": rows}).encode()


def file_name(record: Union[Media, Table]) -> str:
    """
    Return a file's name, without its folder.

    It sorts by step, and is another one for another time, place or content.
    """
    if isinstance(record, Table):
        place, suffix, digest = 0, "json", _digest(table_json(record))
    else:
        place, suffix, digest = record.index, _suffix(record), _digest(record.data)
    what = f"{record.time!r} {place} {digest}"
    step = record.step if record.step is not None else 0
    shown = f"{step:06}" if isinstance(step, int) else f"{step:010.3f}"
    return f"step_{shown}_{hashlib.sha256(what.encode()).hexdigest()[:12]}.{suffix}"


def tables_tag(paths: Sequence[str], before: str) -> str:
    """
    Return the tag that lists the tables of a run.

    Args:
        paths: The tables that are to be in it.
        before: What the tag was; somebody else's tables stay in it.
    """
    try:
        listed = [item for item in json.loads(before or "[]") if isinstance(item, dict)]
    except (ValueError, TypeError):
        listed = []
    present = {item.get("path") for item in listed}
    for path in paths:
        more = [*listed, {"path": path, "type": "table"}]
        if path not in present and len(json.dumps(more)) <= _TAG_LENGTH:
            listed = more
    return json.dumps(listed)


def _suffix(media: Media) -> str:
    fallback = {"image": "png", "video": "gif", "audio": "wav"}.get(media.kind, "pb")
    return _SUFFIXES.get(media.mime, fallback)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _cell(value: Any) -> Any:
    """JSON has no NaN, and a page refuses the whole table for one."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _whole(step: Step) -> int:
    return int(step // 1) if step is not None else 0
