"""What becomes of a run's folder when every backend has everything."""

from __future__ import annotations

import logging
from typing import Collection

from tracelet.records import RunStatus
from tracelet.ship import rejected, state
from tracelet.spool.packing import pack, packed_path
from tracelet.spool.rundir import RunDir, find_runs

__all__ = ["put_away", "removes", "resumable"]

log = logging.getLogger("tracelet")


def removes(run: RunDir) -> bool:
    """Tell whether a delivered run is deleted as a whole; then nobody else may have it."""
    return not (run.info.keep or resumable(run) or _refused(run))


def _refused(run: RunDir) -> bool:
    """Tell whether there are records that a backend refused, and that were not sent since."""
    return any(rejected.left(run, path.stem) for path in run.rejects.glob("*.jsonl"))


def put_away(run: RunDir, writers: Collection[str]) -> None:
    """
    Delete a delivered run, or keep of it what somebody may still want.

    The caller holds the run's ``ship.lock``, and where all of it goes also the owner's.

    Args:
        run: The run.
        writers: Those who have ended. Of a run that is kept somebody else may already have begun a
            new session, which is left alone.
    """
    run.reserve.unlink(missing_ok=True)  # of one that was killed
    if run.info.keep:
        _pack(run, writers)
        if isinstance(run.info.keep, int):
            _prune(run, run.info.keep)
    elif removes(run):
        run.remove()
    else:
        _strip(run, writers)


def resumable(run: RunDir) -> bool:
    """Tell whether the next start may want to continue this run: it asked for that, and failed."""
    return run.info.resumable and any(
        each.status != RunStatus.FINISHED.value for each in state.read(run).values()
    )


def _strip(run: RunDir, writers: Collection[str]) -> None:
    """Keep who the run was, its cursors, last words and rejects; what was delivered may go."""
    refused = b"".join(path.read_bytes() for path in run.rejects.iterdir())
    ended = 0.0
    for writer, numbers in run.segment_numbers().items():
        if writer not in writers:
            continue
        for path in [run.segment_path(writer, number) for number in numbers]:
            ended = max(ended, path.stat().st_mtime if path.exists() else 0.0)
            if path != run.segment_path(writer, numbers[-1]):
                path.unlink(missing_ok=True)
                packed_path(path).unlink(missing_ok=True)
    for blob in run.blobs.iterdir():
        # A later one belongs to a new session.
        if blob.stat().st_mtime <= ended and blob.name.encode() not in refused:
            blob.unlink(missing_ok=True)
    _pack(run, writers)


def _pack(run: RunDir, writers: Collection[str]) -> None:
    """Compress the segments; the reader reads them as they are."""
    for writer, numbers in run.segment_numbers().items():
        for number in numbers if writer in writers else ():
            path = run.segment_path(writer, number)
            if not path.exists():
                continue
            pack(path)


def _prune(run: RunDir, keep: int) -> None:
    """Of the delivered runs beside ``run`` that are kept by number, delete all but the newest."""
    kept = [
        each
        for each in find_runs(run.path.parent)
        if isinstance(each.info.keep, int) and each.info.keep
    ]
    delivered = [
        each
        for each in kept
        if all(found.complete for found in state.read(each).values()) and not _refused(each)
    ]
    for each in delivered[:-keep]:
        if each.path != run.path:
            _remove(each)
        elif run.own(patience_s=0.0):
            run.remove()


def _remove(run: RunDir) -> None:
    """Delete a run, unless somebody has it."""
    try:
        if run.shipping.acquire() and run.own(patience_s=0.0):
            run.remove()
    except FileNotFoundError:
        return  # somebody else was faster
    finally:
        run.release()
        run.shipping.release()
