"""Artifacts: the file in the place of the run's artifacts, and its entry in the run."""

from __future__ import annotations

import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, Optional
from urllib.parse import urlsplit

from tracelet.backends.sources import copy
from tracelet.records import Artifact

__all__ = ["keep", "local_root", "snapshot"]


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
        copy(artifact, part)
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
        copy(artifact, part)
        yield part
    finally:
        with suppress(OSError):
            part.unlink()
