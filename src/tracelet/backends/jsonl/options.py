"""What a user may say to the jsonl backend."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tracelet.backends.base import BackendOptions
from tracelet.errors import ConfigError

DEFAULT_FOLDER = "tracelet-jsonl"


class JsonlOptions(BackendOptions):
    """
    Options of the jsonl backend.

    Args:
        path: The folder for all projects; ``tracelet-jsonl`` in the working directory by default.
        url: The same as ``path``, also as ``file://…``; this is what ``backend_url`` sets.
        parent: Id of the run that this one belongs to.
    """

    path: Optional[str] = None
    url: Optional[str] = None
    parent: Optional[str] = None

    def folder(self, cwd: Path) -> Path:
        """
        Return the absolute folder for all projects.

        Raises:
            ConfigError: ``url`` is no folder, or says something else than ``path``.
        """
        given = [text for text in (self.path, _local(self.url)) if text is not None]
        folders = {os.path.normpath(cwd / Path(text).expanduser()) for text in given}
        if len(folders) > 1:
            raise ConfigError("The jsonl backend has one folder: give either 'path' or 'url'.")
        return Path(folders.pop()) if folders else cwd / DEFAULT_FOLDER


def _local(url: Optional[str]) -> Optional[str]:
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme == "file":
        return url2pathname(parts.path)
    if "://" in url:
        raise ConfigError(f"The jsonl backend writes into a folder, and {url!r} is none.")
    return url
