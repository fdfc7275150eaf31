"""
Sending a run to one more place, or once more to a place where its remote run was deleted.

Both begin with the first record, with a cursor of their own. Whoever changes where a run goes holds
its ``ship.lock``; until then nothing has happened.
"""

from __future__ import annotations

import shutil
from typing import Any, Mapping, Optional

from tracelet.records import Artifact, backend_of
from tracelet.ship import state
from tracelet.spool import codec, frame, thinned
from tracelet.spool.cursor import LANES, Cursor, LaneState
from tracelet.spool.reader import Item, Position, SegmentReader
from tracelet.spool.rundir import RunDir
from tracelet.spool.targets import Target

__all__ = ["add", "begin_again", "drop", "known", "lacking", "opened", "reopen"]


def known(
    run: RunDir, backend: str, options: Mapping[str, Any], project: Optional[str]
) -> Optional[str]:
    """Return the name of the target that is this very place; None when the run goes elsewhere."""
    for name in run.info.backends:
        same_project = project is None or run.info_for(name).project == project
        if (
            backend_of(name) == backend
            and dict(run.info.options.get(name, {})) == dict(options)
            and same_project
        ):
            return name
    return None


def add(
    run: RunDir,
    backend: str,
    options: Mapping[str, Any],
    secrets: Mapping[str, str],
    project: Optional[str],
) -> str:
    """
    Have a run go to one more place; return the name of the target.

    Args:
        run: The run, whose ``shipping`` is held.
        backend: The backend's name.
        options: Its options without their secrets.
        secrets: Where each of these came from.
        project: What the run belongs to there, where that is something else.

    Raises:
        OSError: The disk does not take it.
    """
    name, number = backend, 2
    while name in run.info.backends:
        name, number = f"{backend}@{number}", number + 1
    run.retarget({**run.targets, name: Target(dict(options), dict(secrets), project)})
    return name


def opened(run: RunDir, target: str) -> bool:
    """Return True once the run is there, or may be: the backend has said which one it is."""
    return Cursor(run, target).remote is not None


def drop(run: RunDir, target: str) -> None:
    """Take back a target that has nothing of the run. Its ``shipping`` is held."""
    run.retarget({name: each for name, each in run.targets.items() if name != target})
    (run.cursors / f"{target}.json").unlink(missing_ok=True)
    _say_nothing_of(run, target)


def begin_again(run: RunDir, target: str, project: Optional[str]) -> None:
    """
    Have a target begin a new remote run, with everything that there is.

    Where the records that were delivered have been deleted here, too, it is what is left of them.

    Args:
        run: The run, whose ``shipping`` is held.
        target: The target.
        project: What the new run belongs to, where that is something else.

    Raises:
        OSError: The disk does not take it. The command may be repeated.
    """
    former = run.targets.get(target, Target())
    project = former.project if project is None else project
    whole = not lacking(run)
    # In this order: until the cursor has forgotten the remote run, nothing has changed.
    run.retarget({**run.targets, target: Target(former.options, former.secrets, project)})
    shutil.rmtree(run.path / "work" / target, ignore_errors=True)
    cursor = Cursor(run, target)
    cursor.remote = cursor.closed = cursor.session = None
    cursor.told = {}
    if whole:
        cursor.lanes = {lane: LaneState() for lane in LANES}
        cursor.damaged, cursor.warnings, cursor.resent = {}, {}, []
        (run.rejects / f"{target}.jsonl").unlink(missing_ok=True)
    cursor.save(sync=True)
    _say_nothing_of(run, target)


def reopen(run: RunDir, target: str) -> None:
    """Have the next delivery look whether the remote run is still there. ``shipping`` is held."""
    cursor = Cursor(run, target)
    cursor.closed = cursor.session = None
    cursor.save(sync=True)
    _say_nothing_of(run, target)


def _say_nothing_of(run: RunDir, target: str) -> None:
    """What was published of a target is true no more."""
    published = {name: each for name, each in state.read(run).items() if name != target}
    state.publish(run, published)


def lacking(run: RunDir) -> bool:
    """
    Tell whether something of a run has been deleted because it was delivered.

    A run that is kept has everything. Of the others segments go as they are delivered, and blobs.
    """
    numbers = run.segment_numbers()
    if any(found[0] != 1 for found in numbers.values()):
        return True
    cursors = [Cursor(run, name) for name in run.info.backends]
    untouched = all(
        not cursor.passed(writer).seq for cursor in cursors for writer in numbers
    ) and not any(lane.at for cursor in cursors for lane in cursor.lanes.values())
    if run.info.keep or untouched:
        return not numbers and any(cursor.closed for cursor in cursors)
    damaged = max((_damaged(cursor) for cursor in cursors), default=0)
    return any(_lacks(run, writer, found, damaged) for writer, found in numbers.items()) or (
        not numbers
    )


def _damaged(cursor: Cursor) -> int:
    """Return how many records could not be read; those that were given up are no damage."""
    return sum(cursor.damaged.values()) - sum(thinned.counted(cursor.damaged).values())


def _lacks(run: RunDir, writer: str, numbers: list[int], known_damage: int) -> bool:
    reader = SegmentReader(run, writer, Position(), points=False)
    while True:
        items = reader.read(numbers, dead=True)
        if any(_lacks_its_file(run, item) for item in items):
            return True
        if not items:
            return sum(reader.damaged.values()) > known_damage


def _lacks_its_file(run: RunDir, item: Item) -> bool:
    if item.type != frame.RECORD:
        return False
    record = codec.decode_record(item.payload)
    if not isinstance(record, Artifact) or record.identity is not None:
        return False
    return not (run.blobs / record.source.rpartition("/")[2]).exists()
