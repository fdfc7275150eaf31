"""What a user may say to the parquet backend."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from tracelet.backends.base import BackendOptions
from tracelet.backends.plain.folder import chosen

DEFAULT_FOLDER = "tracelet-parquet"


class ParquetOptions(BackendOptions):
    """
    Options of the parquet backend.

    Args:
        path: The folder for all projects; ``tracelet-parquet`` in the working directory by default.
        url: The same as ``path``, also as ``file://…``; this is what ``backend_url`` sets.
        keep_lines: Keep the lines that the tables are made of, so that the run can be continued.
            Without them it is as large as its tables, and what comes later begins it anew.
        parent: Id of the run that this one belongs to.
    """

    path: Optional[str] = None
    url: Optional[str] = None
    keep_lines: bool = True
    parent: Optional[str] = None

    def folder(self, cwd: Path) -> Path:
        """
        Return the absolute folder for all projects.

        Raises:
            ConfigError: ``url`` is no folder, or says something else than ``path``.
        """
        return chosen("parquet", {"path": self.path, "url": self.url}, DEFAULT_FOLDER, cwd)
