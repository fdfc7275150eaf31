"""Where a task's files go, and the files that artifacts come from."""

from __future__ import annotations

import contextlib
import hashlib
import io
from typing import BinaryIO, Iterator, Mapping, NamedTuple

from tracelet.backends import sources
from tracelet.backends.clearml.names import Place, segment
from tracelet.records import Artifact, Media

__all__ = [
    "Content",
    "artifact_path",
    "check",
    "content_of",
    "ending_of",
    "folder",
    "mime_of",
    "opened",
    "sample_path",
]

_BLOCK_BYTES = 1 << 20

_ENDINGS: Mapping[str, str] = {
    "audio/flac": "flac",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/wav": "wav",
    "audio/wave": "wav",
    "audio/x-wav": "wav",
    "image/gif": "gif",
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "text/markdown": "md",
    "text/plain": "txt",
    "video/gif": "gif",
    "video/mp4": "mp4",
    "video/webm": "webm",
}
_FALLBACK: Mapping[str, str] = {"audio": "wav", "image": "png", "video": "gif"}


class Content(NamedTuple):
    """What is uploaded: bytes that can be read more than once, and what is known of them."""

    file: BinaryIO
    size: int
    sha256: str


def folder(project: str, name: str, task: str) -> str:
    """
    Return a task's own folder on the file server, as the vendor's client calls it.

    ``Task.import_offline_session`` finds it by ``.<id>/``.
    """
    return f"{segment(project)}/{segment(name)}.{task}"


def sample_path(place: Place, number: int, index: int, ending: str) -> str:
    """Return where a debug sample lies below the task's folder; nothing else is ever there."""
    name = f"{number:08d}_{index}.{ending}"
    return f"metrics/{segment(place.title)}/{segment(place.series)}/{name}"


def artifact_path(path: str) -> str:
    """Return where an artifact lies below the task's folder."""
    return "artifacts/" + "/".join(segment(part) for part in path.split("/"))


def mime_of(ending: str) -> str:
    """Return what kind of file an ending means to a browser."""
    for mime, known in _ENDINGS.items():
        if known == ending:
            return mime
    return "application/octet-stream"


def ending_of(media: Media) -> str:
    """Return the ending that lets ClearML's page choose how to show a medium."""
    return _ENDINGS.get(media.mime, _FALLBACK.get(media.kind, "pb"))


def content_of(data: bytes) -> Content:
    """Return bytes as something to upload."""
    return Content(io.BytesIO(data), len(data), hashlib.sha256(data).hexdigest())


@contextlib.contextmanager
def opened(artifact: Artifact) -> Iterator[Content]:
    """
    Open the file of an artifact as it was when it was logged.

    Raises:
        NotTheFileError: It is gone, or has changed; also when it changed while it was read.
    """
    with sources.opened(artifact) as file:
        digest = hashlib.sha256()
        sources.require_same(artifact, file)
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
        sources.require_same(artifact, file, file.tell())
        file.seek(0)
        yield Content(file, artifact.size, digest.hexdigest())
        sources.require_same(artifact, file)


def check(artifact: Artifact) -> None:
    """Raise ``NotTheFileError`` when the file of an artifact is gone or another."""
    with sources.opened(artifact) as file:
        sources.require_same(artifact, file)
