"""
The files that artifacts come from: blobs of the spool, and users' own files as they were logged.

Wrong bytes are worse than none, so a user's file that has changed is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Callable, Optional

from tracelet.records import Artifact, identity_of

__all__ = ["NotTheFileError", "copy", "is_same", "opened", "require_same"]

_BLOCK_BYTES = 1 << 20


class NotTheFileError(Exception):
    """An artifact's file is gone, or is not the one that was logged."""


def is_same(artifact: Artifact, found: os.stat_result) -> bool:
    """Tell whether a file is still the one that was logged; nobody changes a blob of the spool."""
    return artifact.identity is None or tuple(artifact.identity) == identity_of(found)


def opened(artifact: Artifact) -> BinaryIO:
    """
    Open the file of an artifact.

    Raises:
        NotTheFileError: It is gone.
        OSError: The disk fails in a way that may pass.
    """
    try:
        return open(artifact.source, "rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise NotTheFileError(f"the file cannot be read: {error.strerror}") from error


def require_same(artifact: Artifact, file: BinaryIO, size: Optional[int] = None) -> None:
    """
    Refuse an open file that is not the one that was logged.

    Args:
        artifact: What was logged.
        file: Its file.
        size: How many bytes were read to its end, where it was read.

    Raises:
        NotTheFileError: It is another one.
    """
    found = os.fstat(file.fileno())
    if not is_same(artifact, found) or artifact.size != (found.st_size if size is None else size):
        raise NotTheFileError("the file has changed since it was logged")


def copy(artifact: Artifact, target: Path, see: Optional[Callable[[bytes], object]] = None) -> None:
    """
    Copy the file of an artifact as it was when it was logged.

    Args:
        artifact: What was logged.
        target: Where to; what is there is overwritten, and is no copy when this raises.
        see: Called with each block.

    Raises:
        NotTheFileError: The file is gone, or has changed since it was logged.
        OSError: The disk does not take it.
    """
    with opened(artifact) as source, open(target, "wb") as written:
        while block := source.read(_BLOCK_BYTES):
            if see is not None:
                see(block)
            written.write(block)
        # After the copy, so that a change while it ran is seen too.
        require_same(artifact, source, written.tell())
