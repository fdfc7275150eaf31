"""What a training without a shipper does about a disk that fills up."""

from __future__ import annotations

import shutil
import time
from typing import Optional

from tracelet._ledger import Ledger
from tracelet.spool.blobs import least_free
from tracelet.spool.writer import SpoolWriter

__all__ = ["Room"]

#: How often is looked.
LOOK_S = 2.0


class Room:
    """
    Has the writer leave out what is large while too little of the disk is free.

    Nobody is there to make segments smaller, and the training itself must not be held up by that.
    So images, sounds and other large payloads are counted as lost, with the reason; everything else
    goes on until the disk takes no more.

    Args:
        writer: The run's.
        least: How many bytes stay free; None for the default.
        ledger: Is told once.
    """

    def __init__(self, writer: SpoolWriter, least: Optional[int], ledger: Ledger) -> None:
        self._writer, self._least, self._ledger = writer, least, ledger
        self._due = 0.0

    def __call__(self) -> None:
        """Look. Raises OSError when that cannot be found out."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + LOOK_S
        disk = shutil.disk_usage(self._writer.run.path)
        self._writer.short = disk.free < least_free(disk.total, self._least)
        if self._writer.short:
            self._ledger.warn(
                "the disk is nearly full: images, sounds and other large records are left out "
                "until there is room again (min_free_bytes).",
                once="the disk is nearly full",
            )
