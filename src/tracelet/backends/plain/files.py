"""Media and artifacts of a run, as files beside its lines."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, Mapping

from tracelet.backends.plain.names import file_name, short_hash
from tracelet.backends.sources import copy
from tracelet.records import Artifact, Media

_SUFFIXES: Mapping[str, str] = {
    "application/x-tfevent": ".tfevent",
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
    "image/gif": ".gif",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "video/gif": ".gif",
}


class RunFiles:
    """
    The folder beside a run's lines. Storing the same thing again changes nothing.

    For one thread at a time: the one that brings everything heavy.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unsynced: deque[Path] = deque()

    def media(self, media: Media) -> Mapping[str, Any]:
        """Keep the bytes of a medium; return what its line says of them."""
        digest = hashlib.sha256(media.data).hexdigest()
        step = "none" if media.step is None else str(media.step)
        # Key and bytes are in the name: what has the same name is the same thing, also where a
        # file system thinks that two keys are one.
        name = f"{step}-{media.index}-{short_hash(media.key + digest)}"
        target = (
            self._folder
            / "media"
            / file_name(media.kind)
            / file_name(media.key)
            / (file_name(name) + _SUFFIXES.get(media.mime, ".bin"))
        )
        part = self._part()
        part.write_bytes(media.data)
        self._move(part, target)
        return {"file": self._shown(target), "sha256": digest}

    def artifact(self, artifact: Artifact) -> Mapping[str, Any]:
        """
        Copy an artifact's file; return what its line says of it.

        Raises:
            NotTheFileError: The file is gone, or has changed since it was logged.
        """
        part = self._part()
        digest = hashlib.sha256()
        copy(artifact, part, digest.update)
        segments = artifact.path.split("/")
        target = self._folder.joinpath("artifacts", *map(_segment, segments))
        try:
            self._move(part, target)
        except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError):
            # One artifact's path is the folder of another's.
            own = self._folder / "artifacts~" / short_hash(artifact.path)
            target = own / _segment(segments[-1])
            self._move(part, target)
        return {"file": self._shown(target), "sha256": digest.hexdigest()}

    def sync(self) -> None:
        """Make what was stored survive the machine."""
        while self._unsynced:
            # Taken off afterwards: what fails is tried again with the next call.
            with suppress(FileNotFoundError), open(self._unsynced[0], "rb+") as file:
                os.fsync(file.fileno())
            self._unsynced.popleft()

    def _part(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / ".part"

    def _move(self, part: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
        self._unsynced.append(target)

    def _shown(self, target: Path) -> str:
        return target.relative_to(self._folder.parent).as_posix()


def _segment(text: str) -> str:
    # A leading dot hides a folder of ours, but belongs to a user's `.gitignore`.
    return "." + file_name(text[1:]) if text.startswith(".") and text[1:] else file_name(text)
