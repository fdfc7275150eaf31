"""What a user may say to the jsonl backend."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from tracelet.backends.base import BackendOptions
from tracelet.backends.plain.folder import chosen

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
        return chosen("jsonl", {"path": self.path, "url": self.url}, DEFAULT_FOLDER, cwd)
