"""How much room runs may take on disk, and how much they take."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional

from tracelet.spool.blobs import least_free
from tracelet.spool.rundir import RunDir, load_json

__all__ = ["Bounds", "bytes_in", "run_bytes"]

#: All runs of a spool together, where the user did not say: so much, or this share of the file
#: system, whichever is smaller.
SPOOL_BYTES = 5 * 1024**3
SPOOL_SHARE = 0.10
#: A run smaller than this is not what fills a disk, so that it is not thinned for that; one smaller
#: than an eighth of it is not thinned because there are others.
SMALL_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class Bounds:
    """
    What a run may take, in bytes.

    ``run`` is for the run itself, ``spool`` for all runs of its spool together that are not kept on
    purpose, ``free`` is what has to be left of the file system. None: the default, which depends on
    the file system's size; 0: no bound.
    """

    run: int = 0
    spool: Optional[int] = 0
    free: Optional[int] = 0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Bounds:
        """Return what ``run.json`` says. A run that says nothing has no bounds."""
        known = told if isinstance(told, dict) else {}

        def number(name: str) -> Optional[int]:
            value = known.get(name, 0)
            return value if value is None or (type(value) is int and value >= 0) else 0

        return cls(
            number("max_run_bytes") or 0, number("max_spool_bytes"), number("min_free_bytes")
        )

    def exceeded(self, run: RunDir, own: int, *, growing: bool) -> str:
        """
        Return which bound is exceeded: ``run``, ``spool``, ``free``, or nothing.

        Args:
            run: The run.
            own: What it takes, in bytes.
            growing: Its own bound holds only as long as it grows; a run that ended keeps the rest.

        Raises:
            OSError: That cannot be found out now.
        """
        if self.run and growing and own > self.run:
            return "run"
        if self.spool == 0 and self.free == 0:
            return ""
        disk = shutil.disk_usage(run.path)
        least = least_free(disk.total, self.free)
        small = SMALL_BYTES if self.free is None else min(SMALL_BYTES, least)
        if disk.free < least and own > small:
            return "free"
        most = self.spool
        if most is None:
            # A share of a very small disk would be less than a run may take anywhere.
            most = max(SMALL_BYTES, min(SPOOL_BYTES, int(disk.total * SPOOL_SHARE)))
        if most and own > min(SMALL_BYTES, most) // 8 and own + _bytes_beside(run, most) > most:
            return "spool"
        return ""


def run_bytes(run: RunDir) -> int:
    """Return what the records of a run take on disk, their blobs included."""
    return bytes_in(run.segments) + bytes_in(run.blobs)


def _bytes_beside(run: RunDir, most: int) -> int:
    """Return what the other runs of a spool take, without those that are kept on purpose."""
    total = 0
    with os.scandir(run.path.parent) as found:
        for each in found:
            path = Path(each.path)
            if total > most:
                break
            if path == run.path or not each.is_dir(follow_symlinks=False):
                continue
            info = load_json(path / "run.json")
            if info is not None and not info.get("keep"):
                total += run_bytes(RunDir(path, run.info))
    return total


def bytes_in(folder: Path, since: float = 0.0) -> int:
    """Return how large the files in a folder are that were written after a time."""
    total = 0
    try:
        with os.scandir(folder) as found:
            for each in found:
                with contextlib.suppress(FileNotFoundError):
                    about = each.stat(follow_symlinks=False)
                    total += about.st_size if about.st_mtime > since else 0
    except FileNotFoundError:
        return 0
    return total
