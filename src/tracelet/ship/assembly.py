"""
Frames into batches: decoded, named, their missing steps counted, cut to what a backend takes.

One assembly serves one lane of one backend. It reads every writer of the run, takes the frames
that belong to its lane and steps over the others. What it makes depends on the position, the
catalog and the step counters alone, so that after a crash the same range gives the same batch.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Mapping, NamedTuple, Optional, Sequence

from tracelet import tfevents
from tracelet.backends.base import BatchLimits
from tracelet.records import (
    Artifact,
    Histogram,
    Media,
    Metric,
    Param,
    Record,
    RunEnd,
    Table,
    Tag,
    Text,
)
from tracelet.ship.catalog import Catalog, below_rank
from tracelet.spool import codec, frame, thinned
from tracelet.spool.cursor import LaneState
from tracelet.spool.reader import Item, Position, SegmentReader
from tracelet.spool.rundir import RunDir, is_main, is_sampler, leads, rank_of

__all__ = ["UNCOUNTED", "Assembly", "Blob", "Load", "cut", "merge"]

log = logging.getLogger("tracelet")

#: How long a child's records wait for the owner's first one, which decides the plain stream.
CHILD_PATIENCE_S = 5.0
#: A batch is of no more than so many segments of a writer: while it is on its way none of them can
#: be made smaller, and there may be little for this lane in each.
SPAN = 3
#: What a point can have that makes it not a plain one.
_SPECIAL = frame.NO_STEP | frame.FRACTION | frame.IN_BLOB


#: The frame that a record comes from that nobody logged.
UNCOUNTED = -1


class Blob(NamedTuple):
    """A file that is of no more use once its record has been dealt with, and all before it."""

    path: Path
    writer: str
    after: Position
    #: Which of a load's records it is for; None: all that the frame holds was in it.
    record: Optional[int] = None


@dataclass
class Load:
    """
    A batch in the making, and what there is to write down once it has arrived.

    ``frame_of`` says which frame a record came from; ``frames`` counts the frames of this lane,
    ``unsupported`` those of which a record cannot be taken by the backend. What was measured, not
    logged, is in no count; its frame is ``UNCOUNTED``. ``behind`` is, in the order they were read,
    where each writer stands after it. ``blobs`` are the files that only this load needs. ``resend``
    says that the records may have arrived before, ``again`` that they have been announced before,
    ``full`` that there was more to read.
    """

    records: list[Record] = field(default_factory=list)
    frame_of: list[int] = field(default_factory=list)
    frames: int = 0
    unsupported: set[int] = field(default_factory=set)
    behind: dict[str, Position] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    damaged: dict[str, int] = field(default_factory=dict)
    blobs: list[Blob] = field(default_factory=list)
    resend: bool = False
    again: bool = False
    full: bool = False
    keys: set[str] = field(default_factory=set)
    size: int = 0
    #: In which segment of each writer it begins.
    since: dict[str, int] = field(default_factory=dict)


@dataclass
class _Source:
    """A writer's reader and what it has read ahead."""

    reader: SegmentReader
    #: Behind the last item that went into a load.
    at: Position
    ahead: deque[Item] = field(default_factory=deque)
    first_seen: Optional[float] = None
    #: Whose names it has: a rank's, where all ranks record; and whether it decides upon them.
    rank: Optional[int] = None
    leads: bool = False
    #: The names of metrics, by stream and tag: asked for with every point.
    keys: dict[str, dict[Optional[str], str]] = field(default_factory=dict)


class Assembly:
    """
    Makes the batches of one lane.

    Args:
        run: The run.
        lane: ``"light"`` or ``"heavy"``.
        state: Where this lane stands.
        catalog: The run's names.
        accepts: The record types that the backend takes.
        limits: The largest batch it takes.
        dead: Says whether a writer will never write again.
        doubtful: The state was lost: what is there already may have arrived.
    """

    def __init__(
        self,
        run: RunDir,
        lane: str,
        state: LaneState,
        catalog: Catalog,
        accepts: frozenset[type],
        limits: BatchLimits,
        dead: Callable[[str], bool],
        *,
        doubtful: bool = False,
    ) -> None:
        self.run = run
        self.lane = lane
        self._catalog = catalog
        self.accepts = accepts
        if lane == "heavy":
            most = min(limits.max_records, limits.max_heavy)
            limits = dataclasses.replace(limits, max_records=most)
        self.limits = limits
        self._dead = dead
        self._sources: dict[str, _Source] = {}
        self._steps = dict(state.steps)
        self._start = dict(state.at)
        self._again = deque(dict(each) for each in state.sending)
        self._doubtful = doubtful
        # Steps counted for the frame in hand; kept only if the frame still fits.
        self._counted: dict[str, int] = {}
        self._turn = 0
        #: What was found damaged behind the last record of each writer (by the light lane), or was
        #: given up there, by reason: no record follows with which it could be settled, so that
        #: every reader finds it again.
        self.tail: dict[str, int] = {}

    def end(self, writer: str) -> Optional[RunEnd]:
        """Return the last word of a session of the owner, once it was read."""
        source = self._sources.get(writer)
        return source.reader.end if source else None

    def sealed(self, writer: str) -> bool:
        """Return True once a writer's footer was read, behind which it writes nothing more."""
        source = self._sources.get(writer)
        return bool(source and source.reader.end and source.reader.sealed)

    @property
    def refused(self) -> str:
        """Why a writer cannot be read on with this version; empty as a rule."""
        return next((each.reader.refused for each in self._sources.values()), "")

    def quiet(self) -> bool:
        """Return True when dead writers are read to their end, and the living to what there is."""
        if self._again:
            return False
        for writer, numbers in self.run.segment_numbers().items():
            source = self._sources.get(writer)
            if source is None or source.ahead:
                return False
            if is_main(writer) and not self._dead(writer):
                return False
            if self._dead(writer) and not source.reader.exhausted(numbers):
                return False
        return True

    def next(self) -> Optional[Load]:
        """
        Return the next batch; None when there is nothing new.

        A load without records is possible: it only moves the position over foreign frames.
        """
        numbers = self.run.segment_numbers()
        if self._again:
            load = self._replay(self._again[0], numbers)
            if load is None:
                return None
            self._again.popleft()
        else:
            load = Load(resend=self._doubtful)
            # Whoever came first last time comes last now: no writer starves behind a busy one.
            turns = deque(numbers)
            turns.rotate(-self._turn)
            self._turn = (self._turn + 1) % max(len(turns), 1)
            for writer in turns:
                if not self._fill(load, writer, numbers[writer], None):
                    load.full = True
                    break
            self._doubtful = self._doubtful and bool(load.behind)
        self._steps.update(load.steps)
        self.tail = self._tail()
        return load if load.behind or load.again else None

    def _replay(
        self, until: Mapping[str, Position], numbers: Mapping[str, list[int]]
    ) -> Optional[Load]:
        """Make a batch that was on its way once more; None while not all of it can be read."""
        before = {writer: self._source(writer).at for writer in until}
        load = Load(resend=True, again=True)
        for writer, bound in until.items():
            found = numbers.get(writer, [])
            self._fill(load, writer, found, bound)
            reader = self._source(writer).reader
            if reader.position < bound and not reader.exhausted(found):
                # Half of it would be another batch than the one that may have arrived.
                for each, position in before.items():
                    self._sources[each] = self._new_source(each, position)
                return None
            load.behind[writer] = max(bound, load.behind.get(writer, bound))
        return load

    def _fill(self, load: Load, writer: str, numbers: list[int], bound: Optional[Position]) -> bool:
        """Add a writer's records, up to ``bound`` or the limits; False when the load is full."""
        source = self._source(writer)
        since = load.since.setdefault(writer, source.at.segment)
        while True:
            self._take_scalars(load, writer, source, bound)
            item = self._peek(source, numbers, writer, wait=bound is None)
            if item is None or (bound is not None and item.after > bound):
                return True
            if bound is None and load.records and item.after.segment > since + SPAN:
                return False
            self._counted.clear()
            records = self._records(item, load, source)
            if records is not None:
                if bound is None and load.records and not self._fits(load, records, item):
                    return False
                self._add(load, records, item, writer)
            # The numbers of a writer's records have no holes but for those that were damaged, or
            # given up for lack of room.
            gap = item.after.seq - source.at.seq - 1
            if gap > 0 and not is_sampler(writer):
                merge(load.damaged, self._given_up(item.thinned or {}))
                if self.lane == "light":
                    gap -= sum((item.thinned or {}).values())
                    merge(load.damaged, {_reason(source.reader): gap})
            source.ahead.popleft()
            source.at = load.behind[writer] = item.after

    def _take_scalars(
        self, load: Load, writer: str, source: _Source, bound: Optional[Position]
    ) -> None:
        """
        Take the plain points that come next, as far as they fit.

        The same as ``_fill`` does with anything, the short way: they are almost all there is.
        """
        main, light, ahead = source.leads, self.lane == "light", source.ahead
        rank = source.rank
        if (light and Metric not in self.accepts) or not (main or self._catalog.has_main(rank)):
            return
        known: Optional[str] = None
        keys, unpack, point = load.keys, frame.SCALAR_INT.unpack, Metric.point
        names: dict[Optional[str], str] = {}
        size, limits = frame.SCALAR_INT.size, self.limits
        # A batch that was on its way is made again as it was, whatever the limits are now.
        most = min(limits.max_records - len(load.records), (limits.max_bytes - load.size) // size)
        most = len(ahead) if bound is not None else most
        at, seq, passed = source.at, source.at.seq, 0
        found: list[Record] = []
        add = found.append
        for kind, flags, payload, stream, tag, after, _, given_up in ahead:
            if (
                kind != frame.SCALAR
                or flags & _SPECIAL
                or given_up
                or (light and after[2] != seq + 1)
                or (bound is not None and after > bound)
            ):
                break
            if stream != known:
                self._catalog.seen(stream, main=main, rank=rank)
                known = stream
                names = source.keys.setdefault(stream, {})
            if light:
                if passed >= most:
                    break
                key = names.get(tag)
                if key is None:
                    key = names[tag] = self._catalog.key("metric", stream, tag or "", rank)
                if key not in keys:
                    if bound is None and len(keys) >= limits.max_keys:
                        break
                    keys.add(key)
                _, value, step, when = unpack(payload)
                add(point(key, value, step, when, stream))
            passed += 1
            at, seq = after, after[2]
        if not passed:
            return
        if passed == len(ahead):
            ahead.clear()
        else:
            for _ in range(passed):
                ahead.popleft()
        source.at = load.behind[writer] = at
        load.records += found
        load.frame_of += range(load.frames, load.frames + len(found))
        load.frames += len(found)
        load.size += len(found) * size

    def _fits(self, load: Load, records: Sequence[Record], item: Item) -> bool:
        limits = self.limits
        if len(records) == 1:
            new = int(_key(records[0]) not in load.keys)
        else:
            new = len({_key(each) for each in records} - load.keys)
        return (
            len(load.records) + len(records) <= limits.max_records
            and len(load.keys) + new <= limits.max_keys
            and load.size + len(item.payload) <= limits.max_bytes
        )

    def _add(self, load: Load, records: Sequence[Record], item: Item, writer: str) -> None:
        load.size += len(item.payload)
        if self._counted:
            load.steps.update(self._counted)
        counted = not is_sampler(writer)
        if isinstance(records, _Unreadable):
            merge(load.damaged, {"unreadable": int(counted)})
            return
        number = load.frames if counted else UNCOUNTED
        load.frames += counted
        if item.blob is not None:
            load.blobs.append(Blob(item.blob, writer, item.after))
        for record in records:
            load.keys.add(_key(record))
            taken = type(record) in self.accepts
            if isinstance(record, Artifact) and record.identity is None:
                index = len(load.records) if taken else None
                load.blobs.append(Blob(Path(record.source), writer, item.after, index))
            if taken:
                load.records.append(record)
                load.frame_of.append(number)
            else:
                load.unsupported.add(number)
        load.unsupported.discard(UNCOUNTED)

    def _given_up(self, kinds: Mapping[str, int]) -> dict[str, int]:
        """Return what this lane counts of it: the other lane may have had its part before."""
        light = self.lane == "light"
        return {
            thinned.reason(kind): count
            for kind, count in kinds.items()
            if (kind == "scalar") == light
        }

    def reached(self, writer: str) -> Position:
        """Return how far a writer's bytes have been looked at."""
        source = self._sources.get(writer)
        return self._start.get(writer, Position()) if source is None else source.reader.position

    def _tail(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for writer, source in self._sources.items():
            reader = source.reader
            if not source.ahead and not is_sampler(writer):
                merge(found, self._given_up(reader.thinned))
                if self.lane == "heavy":
                    continue
                gone = sum(reader.thinned.values())
                merge(found, {_reason(reader): reader.position.seq - source.at.seq - gone})
                # A segment that nobody can read has no numbers; it counts as one record.
                merge(found, {"unreadable": reader.damaged.get("unreadable", 0)})
        return found

    # -- reading --------------------------------------------------------------------------

    def _source(self, writer: str) -> _Source:
        source = self._sources.get(writer)
        if source is None:
            source = self._new_source(writer, self._start.get(writer, Position()))
            self._sources[writer] = source
        return source

    def _new_source(self, writer: str, position: Position) -> _Source:
        rank = rank_of(writer)
        if rank is None and self.run.info.ranks and not is_sampler(writer):
            rank = 0  # the owner, and its children
        return _Source(
            SegmentReader(self.run, writer, position, points=self.lane == "light"),
            position,
            rank=rank,
            leads=leads(writer),
        )

    def _peek(
        self, source: _Source, numbers: list[int], writer: str, *, wait: bool
    ) -> Optional[Item]:
        """Return a writer's next item; ``wait`` allows that it is not its turn yet."""
        if not source.ahead and not self._unchanged(source, numbers, writer):
            source.ahead.extend(source.reader.read(numbers, dead=self._dead(writer)))
        if not source.ahead:
            return None
        if wait and self._may_decide(source, writer):
            # The owner's first record decides what a stream is called; give it a moment.
            now = time.monotonic()
            source.first_seen = source.first_seen or now
            if now - source.first_seen < CHILD_PATIENCE_S and not self._undecided(source.rank):
                return None
        return source.ahead[0]

    def _may_decide(self, source: _Source, writer: str) -> bool:
        """Tell whether this writer's stream might be taken for the plain one, which it is not."""
        # What was measured has no stream.
        return not (source.leads or self._catalog.has_main(source.rank) or is_sampler(writer))

    def _unchanged(self, source: _Source, numbers: list[int], writer: str) -> bool:
        """Tell, without opening anything, that a living writer has written nothing more."""
        segment, offset, _ = source.reader.position
        if not numbers or segment != numbers[-1] or self._dead(writer):
            return False
        try:
            return self.run.segment_path(writer, segment).stat().st_size == offset
        except OSError:
            return False

    def _undecided(self, rank: Optional[int]) -> bool:
        """Tell whether nobody is left who would decide upon the names of a rank."""
        return all(
            self._dead(name)
            for name, source in self._sources.items()
            if source.leads and source.rank == rank
        )

    # -- records --------------------------------------------------------------------------

    def _records(self, item: Item, load: Load, source: _Source) -> Optional[Sequence[Record]]:
        """Return the records of a frame, named; None when it belongs to the other lane."""
        if item.type != frame.RECORD:
            self._catalog.seen(item.stream, main=source.leads, rank=source.rank)
        if item.type == frame.SCALAR:
            return [self._metric(item, load, source.rank)] if self.lane == "light" else None
        light = True
        try:
            if item.type == frame.EVENT:
                _, _, hint, data = codec.decode_event(item.payload)
                light = tfevents.is_light(data, hint)
                if light != (self.lane == "light"):
                    return None
                found = tfevents.decode(data, item.stream, hint)
            else:
                found = [codec.decode_record(item.payload)]
                light = isinstance(found[0], (Metric, Param, Tag))
                if light != (self.lane == "light"):
                    return None
            return [self._named(each, load, source.rank) for each in found]
        except Exception:
            # Whatever is in there: one frame must not stop those behind it.
            log.exception("a record of %s cannot be read", self.run.path.name)
            return _Unreadable() if light == (self.lane == "light") else None

    def _metric(self, item: Item, load: Load, rank: Optional[int]) -> Metric:
        fraction = item.flags & frame.FRACTION
        layout = frame.SCALAR_FRACTION if fraction else frame.SCALAR_INT
        _, value, step, when = layout.unpack(item.payload)
        key = self._catalog.key("metric", item.stream, item.tag or "", rank)
        if item.flags & frame.NO_STEP:
            step = self._count("metric", key, load)
        return Metric(key, value, step, when, item.stream)

    def _named(self, record: Record, load: Load, rank: Optional[int]) -> Record:
        if isinstance(record, (Metric, Histogram, Text, Media, Table)):
            kind = record.kind if isinstance(record, Media) else type(record).__name__.lower()
            key = self._catalog.key(kind, record.stream, record.key, rank)
            step = record.step
            if step is None and not (isinstance(record, Media) and record.index):
                step = self._count(kind, key, load)
            elif step is None:
                step = self._next_step(kind, key, load) - 1
            return dataclasses.replace(record, key=key, step=step)
        if rank and isinstance(record, (Param, Tag)):
            # Those of the first rank describe the run.
            record = dataclasses.replace(record, key=below_rank(rank, record.key))
        if rank and isinstance(record, Artifact):
            record = dataclasses.replace(record, path=below_rank(rank, record.path))
        if isinstance(record, Artifact) and record.identity is None:
            # Its name alone, so that no path in a spool leads out of the run's folder.
            return dataclasses.replace(
                record, source=str(self.run.blobs / Path(record.source).name)
            )
        return record

    def _next_step(self, kind: str, key: str, load: Load) -> int:
        name = f"{kind}:{key}"
        for counts in (self._counted, load.steps, self._steps):
            if name in counts:
                return counts[name]
        return 0

    def _count(self, kind: str, key: str, load: Load) -> int:
        step = self._next_step(kind, key, load)
        self._counted[f"{kind}:{key}"] = step + 1
        return step


class _Unreadable(tuple[Record, ...]):
    """What a frame holds that verifies and means nothing."""

    __slots__ = ()


def cut(records: Sequence[Record], limits: BatchLimits) -> list[list[int]]:
    """
    Return the indexes of records in groups that a backend takes at once.

    One frame may hold more records than that: a hundred parameters in one event.
    """
    groups: list[list[int]] = []
    keys: set[str] = set()
    if len(records) <= limits.max_records and len(set(map(_key, records))) <= limits.max_keys:
        return [list(range(len(records)))] if records else []
    for index, record in enumerate(records):
        key = _key(record)
        full = groups and (
            len(groups[-1]) >= limits.max_records
            or (key not in keys and len(keys) >= limits.max_keys)
        )
        if full or not groups:
            groups.append([])
            keys = set()
        groups[-1].append(index)
        keys.add(key)
    return groups


def merge(counts: dict[str, int], more: Mapping[str, int]) -> None:
    """Add counts to counts."""
    for name, count in more.items():
        if count > 0:
            counts[name] = counts.get(name, 0) + count


def _reason(reader: SegmentReader) -> str:
    """Return why records are not there, in the reader's word where it has only one."""
    reasons = [reason for reason in reader.damaged if reason not in ("order", "unreadable")]
    return reasons[0] if len(reasons) == 1 else "damaged"


def _key(record: Record) -> str:
    return getattr(record, "key", "")
