"""Artifacts: the file in the place of the run's artifacts, and its entry in the run."""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Iterator, Optional
from urllib.parse import urlsplit

from tracelet.records import Artifact

__all__ = ["NotTheFileError", "keep", "local_root", "snapshot"]

_BLOCK_BYTES = 1 << 20


class NotTheFileError(Exception):
    """An artifact's file is gone, or is not the one that was logged."""


def local_root(uri: str) -> Optional[Path]:
    """Return the folder of a ``file://`` URI, as Aim reads it: not decoded; None for another."""
    return Path(urlsplit(uri).path) if uri.startswith("file://") else None


def keep(artifact: Artifact, root: Path) -> None:
    """
    Put an artifact's file where Aim looks for it; never half of it.

    Args:
        artifact: What was logged.
        root: The folder of the run's artifacts.

    Raises:
        NotTheFileError: The file is gone, or has changed since it was logged.
        OSError: The disk does not take it.
    """
    target = root.joinpath(*artifact.path.split("/"))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = root / f".part-{uuid.uuid4().hex[:12]}"
    try:
        _copy(artifact, part)
        part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def snapshot(artifact: Artifact, folder: Path) -> Iterator[Path]:
    """
    Return a copy of an artifact's file that nobody changes, for as long as the block lasts.

    Raises:
        NotTheFileError: The file is gone, or has changed since it was logged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"artifact-{uuid.uuid4().hex[:12]}"
    try:
        _copy(artifact, part)
        yield part
    finally:
        with suppress(OSError):
            part.unlink()


def _copy(artifact: Artifact, target: Path) -> None:
    with _source(artifact) as source, open(target, "wb") as copy:
        while block := source.read(_BLOCK_BYTES):
            copy.write(block)
        size = copy.tell()
        # After the copy, so that a change while it ran is seen too.
        status = os.fstat(source.fileno())
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if size != artifact.size or artifact.identity not in (None, identity):
        raise NotTheFileError("the file has changed since it was logged")


def _source(artifact: Artifact) -> BinaryIO:
    try:
        return open(artifact.source, "rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        # Anything else that a disk says may pass, and goes on to the caller.
        raise NotTheFileError(f"the file cannot be read: {error.strerror}") from error
