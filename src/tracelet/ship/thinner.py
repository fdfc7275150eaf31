"""
Keeps a run that cannot be delivered within its bounds: compresses first, gives up what it must.

All it knows is in the segments themselves, so that whoever ships next goes on in the same way. It
touches no segment that somebody writes to, and none that a lane stands in.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Sequence

from tracelet.ship.bounds import Bounds, bytes_in, run_bytes
from tracelet.ship.shipper import Shipper
from tracelet.ship.thinning import Entry, choose, entry
from tracelet.spool import frame
from tracelet.spool.packing import pack, packed_path, rewrite
from tracelet.spool.reader import Item, Position, SegmentReader, frames, front
from tracelet.spool.rundir import RunDir
from tracelet.spool.thinned import KINDS, Thinned, decode_thinned

__all__ = ["Thinner"]

log = logging.getLogger("tracelet")

#: A segment that nobody has wanted for so long is compressed.
PACK_AFTER_S = 60.0
#: Points of a segment are thinned again as long as that gives up one part in so many of them.
WORTH = 20
#: How long a lane may take to read what it is reading.
PATIENCE_S = 1.0
#: Keys remembered at most; of one that is not known the last value in every segment stays.
MAX_KEYS = 100_000

_WHY = {
    "run": "the run has grown to max_run_bytes",
    "spool": "the runs in the spool have grown to max_spool_bytes",
    "free": "less than min_free_bytes is left on the disk",
}


@dataclass
class _Survey:
    """What one segment still holds of what could be given up."""

    #: How many points, about.
    points: int = 0
    rounds: int = 0
    #: Thinning its points once more would not be worth it.
    spent: bool = False
    #: By kind the keys that have values here; those of ``done`` have one each, their last.
    keys: dict[str, set[Any]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)


class Thinner:
    """
    Makes the segments of one run smaller, one at a time.

    Args:
        run: The run, whose ``ship.lock`` the caller holds.
        lanes: Gives every lane of every delivery.
    """

    def __init__(self, run: RunDir, lanes: Callable[[], Sequence[Shipper]]) -> None:
        self.run = run
        self.bounds = Bounds.of(run.info.bounds)
        self._lanes = lanes
        self._surveys: dict[tuple[str, int], _Survey] = {}
        #: The last segment in which a writer has a value for a key.
        self._last: dict[tuple[str, str, Any], int] = {}
        self._told = ""

    def turn(self, *, growing: bool) -> bool:
        """
        Do one thing: compress a segment, look into one, or give something up in one.

        Args:
            growing: Somebody still writes to the run.

        Returns:
            True when there is more to do at once.

        Raises:
            OSError: The disk does not allow it now; nothing is lost by it.
        """
        waiting = self._waiting()
        if not waiting:
            return False
        if self._pack(waiting):
            return True
        why = self.bounds.exceeded(self.run, self._bytes(), growing=growing)
        if not why:
            self._told = ""
            return False
        return self._thin(waiting, why)

    def _waiting(self) -> list[tuple[str, int]]:
        """Return the segments that nobody writes to any more and some lane still needs."""
        return [
            (writer, number)
            for writer, numbers in self.run.segment_numbers().items()
            for number in numbers[:-1]
            if any(lane.held(writer)[0] <= number for lane in self._lanes())
        ]

    def _bytes(self) -> int:
        """Return what the run takes on disk, without what is kept although it is delivered."""
        if not self.run.info.keep:
            return run_bytes(self.run)
        total, since = 0, 0.0
        for writer, numbers in self.run.segment_numbers().items():
            needed = min((lane.held(writer)[0] for lane in self._lanes()), default=0)
            for number in numbers:
                path = self.run.segment_path(writer, number)
                found = (path if path.exists() else packed_path(path)).stat()
                if number >= needed:
                    total += found.st_size
                else:
                    since = max(since, found.st_mtime)
        return total + bytes_in(self.run.blobs, since)

    # -- compressing ----------------------------------------------------------------------

    def _pack(self, waiting: Sequence[tuple[str, int]]) -> bool:
        for writer, number in waiting:
            path = self.run.segment_path(writer, number)
            try:
                age = time.time() - path.stat().st_mtime
            except FileNotFoundError:
                continue  # it is compressed, or delivered
            if age > PACK_AFTER_S and any(
                number > max(lane.held(writer)) for lane in self._lanes()
            ):
                pack(path, level=1)
                return True
        return False

    # -- giving up ------------------------------------------------------------------------

    def _thin(self, waiting: Sequence[tuple[str, int]], why: str) -> bool:
        self._surveys = {each: self._surveys[each] for each in waiting if each in self._surveys}
        for each in waiting:
            if each not in self._surveys:
                self._surveys[each] = self._survey(*each)
                return True
        for kind in KINDS:
            for each in self._worthwhile(kind, waiting):
                if self._free(*each) and self._give_up(*each, kind, why):
                    return True
        if self._told != why:
            self._told = why
            log.warning("%s, and nothing is left that may be given up", _WHY[why])
        return False

    def _worthwhile(self, kind: str, waiting: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """Return the segments that may hold something of a kind to give up, in order."""
        if kind == "scalar":
            found = [
                each
                for each in waiting
                if self._surveys[each].points and not self._surveys[each].spent
            ]
            return sorted(found, key=lambda each: self._surveys[each].rounds)
        return [
            (writer, number)
            for writer, number in waiting
            for keys in [self._surveys[writer, number].keys.get(kind)]
            if keys
            and (
                kind not in self._surveys[writer, number].done
                or any(self._later(writer, number, kind, key) for key in keys)
            )
        ]

    def _later(self, writer: str, number: int, kind: str, key: Any) -> bool:
        return self._last.get((writer, kind, key), 0) > number

    def _survey(self, writer: str, number: int) -> _Survey:
        survey = _Survey()
        former = self._former(writer, number)
        if former is not None:
            survey.rounds = former.rounds
            for name in former.blobs:
                # Whoever gave them up may have been killed before they were gone.
                (self.run.blobs / name).unlink(missing_ok=True)
        begin, others = 0, 0
        for item in self._items(writer, number, points=False):
            begin = begin or item.after.seq
            survey.points = item.after.seq - begin + 1
            others += sum((item.thinned or {}).values())
            each = entry(item)
            others += each.kind != "scalar"
            if each.kind not in (None, "scalar"):
                survey.keys.setdefault(each.kind, set()).add(each.key)
                place = (writer, each.kind, each.key)
                if place in self._last or len(self._last) < MAX_KEYS:
                    self._last[place] = max(number, self._last.get(place, 0))
        survey.points = max(0, survey.points - others)
        return survey

    def _give_up(self, writer: str, number: int, kind: str, why: str) -> bool:
        """Give up what may go of a kind in a segment; False if somebody wants it as it is."""
        survey = self._surveys[writer, number]
        begin = front(self.run, writer, number)
        if begin is None:
            survey.points, survey.keys = 0, {}
            return False
        former = self._former(writer, number)
        marks = bytearray(former.marks if former else b"")
        places: dict[int, tuple[Any, Optional[Path]]] = {}

        def looked_at() -> Iterator[Entry]:
            for item in self._items(writer, number, points=kind == "scalar"):
                each = entry(item)
                if each.kind == kind != "scalar":
                    places[each.number] = each.key, item.blob
                yield each

        code, count = KINDS.index(kind) + 1, 0
        chosen = choose(looked_at(), kind, lambda key: self._later(writer, number, kind, key))
        for gone in chosen:
            at = gone - begin.first
            marks.extend(bytes(max(0, at + 1 - len(marks))))
            marks[at] = code
            count += 1
        blobs = [
            path
            for each, (_, path) in places.items()
            if path is not None and each - begin.first < len(marks) and marks[each - begin.first]
        ]
        done = not count or self._replace(
            writer,
            number,
            Thinned(
                begin.first,
                bytes(marks),
                (former.rounds if former else 0) + (kind == "scalar"),
                [path.name for path in blobs],
            ),
        )
        if not done:
            return False
        self._note(survey, kind, count)
        if kind != "scalar":
            survey.keys[kind] = {
                key
                for each, (key, _) in places.items()
                if not (each - begin.first < len(marks) and marks[each - begin.first])
            }
        for path in blobs:
            path.unlink(missing_ok=True)
        if count:
            name = self.run.segment_path(writer, number).name
            log.warning("%s: %s %s of %s given up", _WHY[why], f"{count:,}", kind, name)
        return True

    @staticmethod
    def _note(survey: _Survey, kind: str, count: int) -> None:
        if kind != "scalar":
            survey.done.add(kind)
            return
        survey.spent = count * WORTH <= survey.points
        survey.points -= count
        survey.rounds += bool(count)

    def _replace(self, writer: str, number: int, gone: Thinned) -> bool:
        return rewrite(self.run, writer, number, gone, lambda: self._undisturbed(writer, number))

    # -- who else is at it ----------------------------------------------------------------

    @contextlib.contextmanager
    def _undisturbed(self, writer: str, number: int) -> Iterator[bool]:
        """Keep every lane from reading; give True if none of them needs the segment as it is."""
        with contextlib.ExitStack() as held:
            for lane in self._lanes():
                if not lane.reading.acquire(timeout=PATIENCE_S):
                    yield False
                    return
                held.callback(lane.reading.release)
            yield self._free(writer, number)

    def _free(self, writer: str, number: int) -> bool:
        for lane in self._lanes():
            first, last = lane.held(writer)
            if first <= number <= last:
                return False
        return True

    # -- reading --------------------------------------------------------------------------

    def _former(self, writer: str, number: int) -> Optional[Thinned]:
        """Return what a segment lacks already; it stands before the first record."""
        begin = front(self.run, writer, number)
        if begin is None:
            return None
        with contextlib.closing(frames(self.run, writer, number, begin)) as found:
            for each, _ in found:
                if each.type == frame.THINNED:
                    with contextlib.suppress(ValueError, TypeError):
                        return decode_thinned(each.payload)
                elif frame.is_data(each.type):
                    break
        return None

    def _items(self, writer: str, number: int, *, points: bool) -> Iterator[Item]:
        """Yield the records of one segment, but for most points if so told. Raises OSError."""
        reader = SegmentReader(self.run, writer, Position(number), points=points)
        while not reader.exhausted([number]) and not reader.refused:
            before = reader.position
            yield from reader.read([number], dead=True)
            if reader.trouble:
                raise OSError(reader.trouble)
            if reader.position == before:
                return
