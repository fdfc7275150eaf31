"""What a user may say to the parquet backend."""

from __future__ import annotations

from typing import Optional

from tracelet.backends.plain.backend import FolderOptions


class ParquetOptions(FolderOptions):
    """
    Options of the parquet backend; see also ``FolderOptions``.

    Args:
        path: The folder for all projects; ``tracelet-parquet`` in the working directory by default.
        keep_lines: Keep the lines that the tables are made of, so that the run can be continued.
            Without them it is as large as its tables, and what comes later begins it anew.
    """

    path: Optional[str] = None
    keep_lines: bool = True
