"""What a user may say to the jsonl backend."""

from __future__ import annotations

from typing import Optional

from tracelet.backends.plain.backend import FolderOptions


class JsonlOptions(FolderOptions):
    """
    Options of the jsonl backend; see also ``FolderOptions``.

    Args:
        path: The folder for all projects; ``tracelet-jsonl`` in the working directory by default.
    """

    path: Optional[str] = None
