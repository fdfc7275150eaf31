"""
Sending once more what a backend had refused: its dead letters.

``rejects/<backend>.jsonl`` is only ever added to. How far it has been sent again stands in the
cursor, beside the counts, so that both change at once: what is sent a second time after a crash is
counted once.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

from tracelet import records
from tracelet.backends.base import Backend, Batch, BatchLimits
from tracelet.errors import RejectedError
from tracelet.records import Artifact, Record, RunStatus
from tracelet.ship import state
from tracelet.ship.assembly import UNCOUNTED, cut
from tracelet.ship.redaction import redacted
from tracelet.spool.cursor import Cursor
from tracelet.spool.reader import last_word
from tracelet.spool.rundir import RunDir

__all__ = ["Resent", "delete", "left", "send_again"]

_TYPES: Mapping[str, type] = {each.__name__: each for each in records.RECORD_TYPES}


@dataclass(frozen=True)
class Resent:
    """
    How that went, in lines of the file: ``delivered``, and ``refused`` once more, with the last
    ``reason``. ``trouble`` is why it did not come to its end.
    """

    delivered: int = 0
    refused: int = 0
    reason: str = ""
    trouble: str = ""


@dataclass(frozen=True)
class _Letter:
    """A line of the file: where it is, the record, its lane, and what it was a frame of."""

    begin: int
    end: int
    record: Record
    lane: str
    place: str
    number: int

    @property
    def frame(self) -> tuple[str, str, int]:
        """What tells its frame from all others; a batch of each lane may end at one place."""
        return self.lane, self.place, self.number


def left(run: RunDir, target: str) -> bool:
    """Return True while there are dead letters of a target."""
    return next(_lines(run, target, Cursor(run, target)), None) is not None


def delete(run: RunDir, target: str) -> None:
    """Delete the dead letters of a target. Its ``shipping`` is held. Raises OSError."""
    cursor = Cursor(run, target)
    if cursor.resent:
        # Those were places in this file; what is refused later begins another one.
        cursor.resent = []
        cursor.save(sync=True)
    (run.rejects / f"{target}.jsonl").unlink(missing_ok=True)


def send_again(run: RunDir, target: str, make: Callable[[], Backend]) -> Resent:
    """
    Send the dead letters of a target; what is refused again stays one.

    Args:
        run: The run, whose ``shipping`` is held and whose records are delivered otherwise.
        target: The target.
        make: Makes its backend.
    """
    cursor = Cursor(run, target)
    letters = list(_letters(run, target, cursor))
    done = Resent()
    try:
        backend = make()
        backend.open(run.info_for(target), cursor.remote, run.workdir(target))
        for group in _groups(letters, backend.limits):
            reasons = _write(backend, group, cursor.lanes[group[0].lane].offset)
            backend.barrier()
            _settle(cursor, group, set(reasons), letters)
            done = dataclasses.replace(
                done,
                delivered=done.delivered + len(group) - len(reasons),
                refused=done.refused + len(reasons),
                reason=next(reversed(list(reasons.values())), done.reason),
            )
        end = last_word(run)
        status = RunStatus(cursor.closed) if cursor.closed else RunStatus.RUNNING
        backend.close(status, end.time if end else None)
    except Exception as error:
        # Whatever an SDK raises: what has been counted stays counted, the rest is there.
        return dataclasses.replace(done, trouble=redacted(str(error) or type(error).__name__))
    finally:
        _publish(run, target, cursor)
    return done


def _publish(run: RunDir, target: str, cursor: Cursor) -> None:
    """Tell people the counts as they are now."""
    states = state.read(run)
    former = states[target]
    states[target] = state.of_cursor(
        cursor, state.spooled(run), state=former.state, detail=former.detail, error=former.error
    )
    state.publish(run, states)


def _write(backend: Backend, group: Sequence[_Letter], offset: int) -> dict[int, str]:
    """Write records; return why which of them are refused, which halving finds out."""
    reasons = {
        index: "the file is gone"
        for index, each in enumerate(group)
        if isinstance(each.record, Artifact) and not Path(each.record.source).is_file()
    }
    waiting = [[index for index in range(len(group)) if index not in reasons]]
    while waiting and waiting[-1]:
        indexes = waiting.pop()
        batch = Batch([group[i].record for i in indexes], offset, group[0].lane, resend=True)
        try:
            backend.write(batch)
        except RejectedError as error:
            named = {indexes[i] for i in error.indexes if 0 <= i < len(indexes)}
            if named or len(indexes) == 1:
                reasons.update(dict.fromkeys(named or indexes, redacted(error.reason)))
                rest = [index for index in indexes if index not in reasons]
                waiting += [rest] if rest else []
            else:
                middle = len(indexes) // 2
                waiting += [indexes[middle:], indexes[:middle]]
    return reasons


def _groups(letters: Sequence[_Letter], limits: BatchLimits) -> Iterator[list[_Letter]]:
    for lane in ("light", "heavy"):
        mine = [each for each in letters if each.lane == lane]
        for indexes in cut([each.record for each in mine], limits):
            yield [mine[index] for index in indexes]


def _settle(
    cursor: Cursor, group: Sequence[_Letter], refused: set[int], letters: Sequence[_Letter]
) -> None:
    """Count what has arrived, and note which lines are dead letters no more."""
    arrived = [each for index, each in enumerate(group) if index not in refused]
    with cursor.lock:
        cursor.resent = _joined([*cursor.resent, *((each.begin, each.end) for each in arrived)])
        # A frame is delivered once all of it is.
        waiting = {each.frame for each in letters if not _is_sent(cursor, each.begin)}
        frames = {each.frame for each in arrived if each.number != UNCOUNTED} - waiting
        lane = cursor.lanes[group[0].lane]
        count = min(len(frames), lane.rejected)
        lane.rejected -= count
        lane.delivered += count
        lane.offset += len(arrived)
        cursor.save(sync=True)


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def _is_sent(cursor: Cursor, begin: int) -> bool:
    return any(first <= begin < end for first, end in cursor.resent)


def _letters(run: RunDir, target: str, cursor: Cursor) -> Iterator[_Letter]:
    for begin, line in _lines(run, target, cursor):
        letter = _letter(run, line, begin)
        if letter is not None:
            yield letter


def _lines(run: RunDir, target: str, cursor: Cursor) -> Iterator[tuple[int, bytes]]:
    """Yield what has not been sent again, and where it begins."""
    try:
        raw = (run.rejects / f"{target}.jsonl").read_bytes()
    except FileNotFoundError:
        return
    begin = 0
    for line in raw.splitlines(keepends=True):
        if not _is_sent(cursor, begin):
            yield begin, line
        begin += len(line)


def _letter(run: RunDir, line: bytes, begin: int) -> Optional[_Letter]:
    """Return a record as it was; None for a line that is none."""
    try:
        content = json.loads(line.decode("utf-8", "surrogatepass"))
        cls = _TYPES[content["type"]]
        known = {each.name for each in dataclasses.fields(cls)}
        values = {key: _value(each) for key, each in content["record"].items() if key in known}
        record = cls(**values)
        number = content.get("frame", begin)
        place = json.dumps(content.get("at", {}), sort_keys=True)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return None
    if isinstance(record, Artifact) and record.identity is not None:
        device, inode, size, changed = map(int, record.identity)
        record = dataclasses.replace(record, identity=(device, inode, size, changed))
    elif isinstance(record, Artifact):
        # Its name alone, so that no path leads out of the run's folder.
        source = str(run.blobs / Path(record.source).name)
        record = dataclasses.replace(record, source=source)
    light = isinstance(record, (records.Metric, records.Param, records.Tag))
    lane, number = "light" if light else "heavy", number if isinstance(number, int) else begin
    return _Letter(begin, begin + len(line), record, lane, place, number)


def _value(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"base64"}:
        return base64.b64decode(value["base64"])
    return value
