"""Where runs would be spooled to: can that be written, and does anything wait there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Iterator, Mapping, Optional

from tracelet.cli.finding import roots_and_runs
from tracelet.findings import Finding
from tracelet.ship import state
from tracelet.spool.rundir import could_be_written, default_root, on_network, state_home

__all__ = ["findings"]

#: Less than this is next to nothing: a segment alone may have 8 MB.
_FULL_BYTES = 16 << 20
_LITTLE_BYTES = 512 << 20


def findings(named: Optional[Path], cwd: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    """
    Look at the folder; nothing is made.

    Args:
        named: The setting ``spool_dir``.
        cwd: The working directory.
        environ: The environment.
    """
    root = default_root(cwd, environ, could_be_written) if named is None else cwd / named
    error = None if root is None else could_be_written(root)
    if root is None or error is not None:
        yield _refused(root, error, cwd, environ)
    else:
        yield Finding("ok", "folder", f"{root}{_why(root, named, cwd)}")
        yield _room(root)
        if on_network(_existing(root)):
            yield Finding(
                "note",
                "folder",
                "lies on a network mount, which may hang or go away",
                "give a folder of a local disk with spool_dir (or TRACELET_SPOOL_DIR)",
            )
    yield from _undelivered()


def _why(root: Path, named: Optional[Path], cwd: Path) -> str:
    if named is not None:
        return ", from spool_dir"
    if root.parent == cwd:
        return ""
    return f", because {cwd} cannot be written to or lies on a network mount"


def _refused(
    root: Optional[Path], error: Optional[OSError], cwd: Path, environ: Mapping[str, str]
) -> Finding:
    remedy = "give a folder that can with spool_dir (or TRACELET_SPOOL_DIR)"
    if root is None:
        neither = f"neither {cwd / '.tracelet'} nor {state_home(environ)} can be written to"
        return Finding("problem", "folder", neither, remedy)
    reason = error.strerror or str(error) if error is not None else ""
    return Finding("problem", "folder", f"{root} cannot be written to ({reason})", remedy)


def _room(root: Path) -> Finding:
    free = shutil.disk_usage(_existing(root)).free
    text = f"{free / 1e9:,.1f} GB free" if free >= 1e9 else f"{free / 1e6:,.0f} MB free"
    remedy = "make room, or give a folder of another disk with spool_dir (or TRACELET_SPOOL_DIR)"
    if free < _FULL_BYTES:
        return Finding("problem", "disk", f"the disk of {root} is full ({text})", remedy)
    if free < _LITTLE_BYTES:
        return Finding("note", "disk", f"only {text}", remedy)
    return Finding("ok", "disk", text)


def _undelivered() -> Iterator[Finding]:
    _, found = roots_and_runs(None)
    counts = [
        max((each.pending for each in state.read(run).values()), default=0)
        for run in found.runs
        if not run.owner_alive()
    ]
    waiting = [count for count in counts if count]
    if waiting:
        runs_of = "1 run" if len(waiting) == 1 else f"{len(waiting):,} runs"
        text = f"{sum(waiting):,} records of {runs_of} are not delivered"
        yield Finding("note", "undelivered", text, "tracelet sync")
    else:
        yield Finding("ok", "undelivered", "nothing")


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
