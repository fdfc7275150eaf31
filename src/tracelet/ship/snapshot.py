"""
A run as it is now, in a folder of its own: to be delivered somewhere without a trace in the run.

It has the run's segments and files (links where that is possible, nothing in them is ever changed)
and neither cursors nor targets. What is read out of it goes the way that everything goes.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any, Mapping

from tracelet.ship import elsewhere
from tracelet.spool.packing import packed_path
from tracelet.spool.rundir import RunDir

__all__ = ["RunLackingError", "snapshot"]


class RunLackingError(Exception):
    """A part of the run has been deleted, because it was delivered."""


def snapshot(run: RunDir, root: Path, backend: str, options: Mapping[str, Any]) -> RunDir:
    """
    Return a copy of a run that goes to one backend.

    A run whose owner lives is copied as far as it has been written, and this process owns the
    copy: it is not over.

    Args:
        run: The run.
        root: An existing folder of the caller's, which is to remove it.
        backend: Where the copy goes.
        options: The backend's options.

    Raises:
        RunLackingError: It is not here as a whole.
        OSError: The disk does not take it.
    """
    _check(run)
    info = dataclasses.replace(
        run.info,
        backends=[backend],
        options={backend: dict(options)},
        secrets={},
        resume={},
        adopted=[],
        parents={},
        resumable=False,
        keep=0,
        collectors=[],
        bounds={},
    )
    lives = run.owner_alive()
    copy = RunDir.create(root, info, owned=lives)
    try:
        # Segments first: what they name was there before them.
        for path in sorted(run.segments.iterdir()):
            if not path.name.startswith("."):
                _take_segment(path, copy.segments, link=not lives)
        for path in sorted(run.blobs.iterdir()):
            if not path.name.startswith("."):
                _take(path, copy.blobs / path.name, link=True)
        _check(run)
    except BaseException:
        copy.release()
        copy.remove()
        raise
    return copy


def _check(run: RunDir) -> None:
    if elsewhere.lacking(run):
        raise RunLackingError


def _take_segment(source: Path, folder: Path, *, link: bool) -> None:
    try:
        _take(source, folder / source.name, link=link)
    except FileNotFoundError:
        # Compressed just now, by whoever ships the run.
        packed = packed_path(source)
        _take(packed, folder / packed.name, link=link)


def _take(source: Path, target: Path, *, link: bool) -> None:
    if link:
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:
            pass  # another disk, or one without links
        else:
            return
    shutil.copyfile(source, target, follow_symlinks=False)
    target.chmod(0o600)
