"""
The cold end of the spool: one writer's records, in order, from any position on.

A reader never changes what it reads and never raises for what it finds: a frame that does not
verify costs itself, is counted, and reading goes on behind it. The unfinished end of a segment
that is still being written is not damage; it is looked at again later. A segment that only a
later version understands is kept as it is, and nothing behind it is read.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Generator, Iterator, Mapping, NamedTuple, Optional, Sequence

from tracelet.records import RunEnd, RunStatus
from tracelet.spool import codec, frame
from tracelet.spool.locks import lives, try_lock
from tracelet.spool.rundir import RunDir, is_main, is_sampler
from tracelet.spool.thinned import Thinned, decode_thinned

__all__ = [
    "Front",
    "Item",
    "Position",
    "SegmentReader",
    "alive",
    "finished",
    "frames",
    "front",
    "last_word",
    "unfinished",
    "written",
]

#: Read at most so much of a segment at once.
CHUNK_BYTES = 512 * 1024
#: The newest format of a segment that this version reads.
FORMAT = 1
#: Keys of earlier segments are remembered up to so many.
MAX_KEYS = 100_000
#: No frame of a record that is not in a blob is as long as this, as a rule.
_WIDE_BYTES = 512 * 1024
#: A header is much shorter.
_HEADER_BYTES = 16 * 1024
#: A kept segment is unpacked up to this size: far above what a writer lets one grow to.
UNPACKED_BYTES = 1024 * 1024 * 1024


#: As in ``frame``: a point is a tuple of each kind.
_tuple = tuple.__new__


class Position(NamedTuple):
    """A place in one writer's records: everything before it has been dealt with."""

    segment: int = 1
    offset: int = 0
    seq: int = 0


class Item(NamedTuple):
    """
    A data frame with its keys resolved and the position behind it.

    The numbers in the positions (``after.seq``) have no holes but for records that are gone.
    ``blob`` is the file that the payload came from, if it was not in the segment. ``thinned`` says
    how many records, by kind, were given up between the one before and this one.
    """

    type: int
    flags: int
    payload: bytes
    stream: str
    tag: Optional[str]
    after: Position
    blob: Optional[Path] = None
    thinned: Optional[Mapping[str, int]] = None


class _Header(NamedTuple):
    """What a segment says about itself; ``refused`` says why this version must not read it."""

    start: int
    first: int
    salt: int
    refused: str
    content: Mapping[str, Any]


def _header(head: bytes) -> Optional[_Header]:
    """
    Return the header in a segment's first bytes, from either of its two copies.

    Both copies are of one length. Whatever else looks like a header is something that was logged.
    """
    found = frame.scan(head, 0, 0, limit=1)
    for each in found.frames:
        length = each.end - (found.damage[0][1] if found.damage else 0)
        if each.type != frame.HEADER or each.end not in (length, 2 * length):
            return None
        try:
            content = json.loads(each.payload)
        except (ValueError, RecursionError):
            return None
        if not isinstance(content, dict):
            return None
        refused = _refusal(content)
        try:
            salt, first = int(content["salt"]), int(content["first"])
        except (KeyError, OverflowError, TypeError, ValueError):
            if not refused:
                return None
            salt = first = 0
        return _Header(2 * length, first, salt & 0xFFFFFFFF, refused, content)
    return None


def _refusal(content: Mapping[str, Any]) -> str:
    version, changes = content.get("format"), content.get("incompatible", [])
    if not isinstance(version, int) or version > FORMAT:
        return f"format {version}"
    return f"{changes}" if changes else ""


class _Segment:
    """A segment's bytes, plain or compressed."""

    def __init__(self, run: RunDir, writer: str, number: int) -> None:
        self.number = number
        self.path = run.segment_path(writer, number)
        self._packed = self.path.with_name(f"{self.path.name}.gz")
        # Where the segment is compressed; else the file is read as it grows.
        self._unpacked: Optional[_Unpacked] = None

    def read(self, offset: int, size: int) -> bytes:
        """
        Return bytes; fewer than asked for at the end, none when the segment is gone.

        Raises:
            OSError: It is there, but cannot be read just now.
        """
        if self._unpacked is None:
            try:
                with open(self.path, "rb", buffering=0) as file:
                    return _read(file, offset, size)
            except FileNotFoundError:
                self._unpacked = _Unpacked(self._packed)
        return self._unpacked.read(offset, size)

    def mark(self) -> tuple[int, int]:
        """Return what changes whenever the segment does."""
        for path in (self.path, self._packed):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            return found.st_size, found.st_mtime_ns
        return 0, 0

    def size(self) -> int:
        """Return how long it is now."""
        if self._unpacked is None:
            try:
                return self.path.stat().st_size
            except FileNotFoundError:
                self._unpacked = _Unpacked(self._packed)
        return self._unpacked.size()


class _Unpacked:
    """
    The content of a compressed segment, of which only a stretch is in memory.

    What cannot be unpacked is missing, which is counted. The file is open only while it is read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._restart()

    def _restart(self) -> None:
        self._machine = zlib.decompressobj(wbits=31)  # gzip's frame around it (zlib's manual)
        self._taken = self._start = 0
        self._window = b""
        self._over = False

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes as ``_Segment.read`` does. Raises OSError."""
        if offset < self._start:
            self._restart()
        while not self._over and self._start + len(self._window) < offset + size:
            self._more()
            # Readers go forward, and back by no more than what they have just looked at.
            spare = min(len(self._window), offset - self._start - 2 * CHUNK_BYTES)
            if spare > 2 * CHUNK_BYTES:
                self._window = self._window[spare:]
                self._start += spare
        at = offset - self._start
        return self._window[at : at + size]

    def size(self) -> int:
        """Return how long the whole content is."""
        at = self._start
        while self.read(at, CHUNK_BYTES):
            at += CHUNK_BYTES
        return self._start + len(self._window)

    def _more(self) -> None:
        data = self._machine.unconsumed_tail
        if not data:
            try:
                with open(self._path, "rb", buffering=0) as file:
                    data = _read(file, self._taken, CHUNK_BYTES // 4)
            except FileNotFoundError:
                data = b""
            self._taken += len(data)
        try:
            piece = self._machine.decompress(data, CHUNK_BYTES) if data else b""
        except zlib.error:
            piece, data = b"", b""
        self._window += piece
        read = self._start + len(self._window)
        self._over = not data or self._machine.eof or read >= UNPACKED_BYTES


def _read(file: Any, offset: int, size: int) -> bytes:
    file.seek(offset)
    data: bytes = file.read(size)
    # A signal may cut a large read short; the end of the file is a read of nothing.
    while len(data) < size:
        more = file.read(size - len(data))
        if not more:
            break
        data += more
    return data


@dataclass
class _Open:
    """The segment that is being read, and what has been seen in it."""

    segment: _Segment
    header: Optional[_Header] = None
    #: The last frame, how often it stood there, and the last record.
    last: int = 0
    copies: int = 0
    record: Optional[frame.Frame] = None
    #: What was given up of it, if it was made smaller.
    thinned: Optional[Thinned] = None

    @property
    def salt(self) -> int:
        return self.header.salt if self.header else 0

    def saw(self, each: frame.Frame) -> None:
        self.copies = self.copies + 1 if each.type == self.last else 1
        self.last = each.type
        if frame.is_data(each.type):
            self.record = each

    def repeats(self, each: frame.Frame) -> bool:
        """Tell whether this is the last record once more: a write that failed and had not."""
        last = self.record
        return last is not None and last.seq == each.seq and last.payload == each.payload

    def cut(self, tail: bytes) -> bool:
        """Tell whether the bytes behind the last frame are a record's, for good."""
        single = not frame.is_data(self.last) and self.copies % 2 == 1
        return frame.unfinished(self.last, single=single, tail=tail)


class SegmentReader:
    """
    Reads the segments of one writer.

    Args:
        run: The run.
        writer: The writer's name, as in its files' names.
        position: Where to begin.
        points: False for somebody who only steps over plain scalars: of those that come one after
            the other in a stream, only the last is returned.
    """

    def __init__(
        self, run: RunDir, writer: str, position: Position, *, points: bool = True
    ) -> None:
        self.run = run
        self._points = points
        self.writer = writer
        self.main = is_main(writer)
        self.position = position
        #: Records that are gone because their bytes are damaged, by reason.
        self.damaged: dict[str, int] = {}
        #: Records that the writer itself could not keep, by reason, as far as it could tell.
        self.lost: Mapping[str, int] = {}
        #: The owner's last word, once it was read.
        self.end: Optional[RunEnd] = None
        #: True while the last frame that was read is a footer.
        self.sealed = False
        #: Why reading cannot go on with this version; empty as a rule.
        self.refused = ""
        #: What kept the last ``read`` from reading; empty as a rule.
        self.trouble = ""
        self._open: Optional[_Open] = None
        # A key has the same hash in every segment (but for collisions, in one of 2**64 cases), so
        # where its definitions are damaged, an earlier one will do.
        self._keys: dict[bytes, tuple[str, Optional[str]]] = {}
        #: What was given up, by kind, behind the last record that was returned.
        self.thinned: dict[str, int] = {}

    def read(self, numbers: Sequence[int], *, dead: bool, limit: int = 2000) -> list[Item]:
        """
        Return the records behind the position, and move it.

        Args:
            numbers: The writer's segments that exist now, sorted.
            dead: True when the writer will never write again: then what is unfinished stays so.
            limit: At most about so many records.

        Returns:
            Records in order; an empty list when there is nothing (more) to read now.
        """
        items: list[Item] = []
        try:
            while not items and self._enter(numbers) and not self.refused:
                newest = self.position.segment >= numbers[-1]
                if self._read_some(items, limit, final=dead or not newest, newest=newest):
                    continue
                if (newest and not dead) or not self._leave(numbers):
                    break
            self.trouble = ""
        except OSError as error:
            # There, but not to be had just now. It stays where it is, and so do we.
            self._open, self.trouble = None, str(error)
        return items

    def exhausted(self, numbers: Sequence[int]) -> bool:
        """Return True when, for a dead writer, nothing is left behind the position."""
        return not numbers or self.position.segment > numbers[-1]

    # -- segments -------------------------------------------------------------------------

    def _enter(self, numbers: Sequence[int]) -> bool:
        """Have the segment at the position open; a missing one below others has been consumed."""
        later = [number for number in numbers if number >= self.position.segment]
        if not later:
            return False
        if later[0] != self.position.segment:
            self.position = Position(later[0], 0, self.position.seq)
        if self._open is None or self._open.segment.number != self.position.segment:
            if len(self._keys) > MAX_KEYS:
                self._keys.clear()
            opened = _Open(_Segment(self.run, self.writer, self.position.segment))
            if self.position.offset:
                self._prepare(opened)
            self._open = opened
        return True

    def _prepare(self, opened: _Open) -> None:
        """Learn again what stands before the position: the salt, the keys, the last word."""
        if not self._begin(opened) or opened.header is None:
            return
        at, until, size = opened.header.start, self.position.offset, CHUNK_BYTES
        while at < until:
            data = opened.segment.read(at, min(size, until - at))
            found = frame.scan(data, 0, opened.salt)
            for each in found.frames:
                self._note(opened, each)
            if found.end:
                at, size = at + found.end, CHUNK_BYTES
            elif len(data) < size or size > frame.MAX_PAYLOAD:
                break  # damage up to the position
            else:
                size *= 4  # a frame longer than what was looked at

    def _begin(self, opened: _Open) -> bool:
        """Read the segment's header; False when there is none to be read."""
        if opened.header is None:
            opened.header = _header(opened.segment.read(0, _HEADER_BYTES))
            if opened.header is None:
                return False
            opened.last, opened.copies = frame.HEADER, 2
            if opened.header.refused:
                self.refused = (
                    f"{opened.segment.path.name} was written by a newer tracelet "
                    f"({opened.header.refused}); update tracelet to deliver it"
                )
        return not opened.header.refused

    def _leave(self, numbers: Sequence[int]) -> bool:
        """Go on to the next segment; False when there is none, or this one is not for us."""
        if self.refused:
            return False
        self._open = None
        self.position = Position(self.position.segment + 1, 0, self.position.seq)
        return self.position.segment <= numbers[-1]

    # -- frames ---------------------------------------------------------------------------

    def _read_some(self, items: list[Item], limit: int, *, final: bool, newest: bool) -> bool:
        """Read one stretch; True when the position moved."""
        opened = self._open
        assert opened is not None
        if not self._begin(opened):
            if final and newest and not self.refused and any(opened.segment.read(0, CHUNK_BYTES)):
                # What follows a segment says how much was in it. If nothing follows, nobody does.
                self._damage("unreadable", 1)
            return False
        assert opened.header is not None
        before = self.position
        start, seq = before.offset, before.seq
        if start == 0:
            start = opened.header.start
            if opened.header.first > seq:
                self._damage("missing", opened.header.first - seq)
                seq = opened.header.first
        self.position = Position(before.segment, start, seq)
        data, found = self._look(opened, start, seq, limit)
        if not self._take_all(opened, found.frames, start, items):
            return True
        if final and found.end + found.tail == len(data) and not self._more(opened, start, data):
            # Nothing will ever follow: at most the record that was being written is cut.
            seq = self.position.seq
            if newest and opened.cut(data[found.end :]):
                self._damage("torn", 1)
                opened.last = 0
                seq += 1
            self.position = Position(before.segment, start + len(data), seq)
        return self.position != before

    def _take_all(
        self, opened: _Open, frames: list[frame.Frame], start: int, items: list[Item]
    ) -> bool:
        """
        Step over frames; the common one, a scalar where everything is in order, by the way.

        Returns:
            False when it stopped on the way: what lies in blobs would take too much memory at once.
        """
        keys, scalar, size = self._keys, frame.SCALAR, frame.SCALAR_INT.size
        large, gone = 0, self.thinned
        passed: Optional[frame.Frame] = None
        stream = ""
        segment, _, seq = self.position
        for each in frames:
            kind, flags, number, payload, end = each
            if kind == scalar and number == seq and len(payload) == size and not gone:
                known = keys.get(payload[:8])
                if known is not None and not flags & frame.IN_BLOB:
                    if self._points or passed is None or stream != known[0]:
                        if passed is not None and not self._points:
                            self._passed(
                                opened, passed, Position(segment, start + passed.end, seq), items
                            )
                        stream, tag = known
                        after = _tuple(Position, (segment, start + end, seq + 1))
                        fields = (kind, flags, payload, stream, tag, after, None, None)
                        items.append(_tuple(Item, fields))
                    seq += 1
                    passed = each
                    continue
            if passed is not None:
                self._passed(opened, passed, Position(segment, start + passed.end, seq), items)
                passed = None
            taken = self._take(opened, each, start)
            if taken is not None:
                items.append(taken)
                large += len(taken.payload) if flags & frame.IN_BLOB else 0
                if large > CHUNK_BYTES:
                    return False
            segment, _, seq = self.position
        if passed is not None:
            self._passed(opened, passed, Position(segment, start + passed.end, seq), items)
        return True

    def _passed(self, opened: _Open, last: frame.Frame, after: Position, items: list[Item]) -> None:
        """Take note of the last of some scalars that were stepped over."""
        self.position = after
        if not self._points:
            items[-1] = items[-1]._replace(after=after)
        opened.last, opened.copies, opened.record = last.type, 1, last
        self.sealed = False

    def _take(self, opened: _Open, each: frame.Frame, start: int) -> Optional[Item]:
        """Step over one frame; return the record in it, if it is one."""
        segment, _, seq = self.position
        item, missing = None, max(0, each.seq - seq)
        given_up = opened.thinned.between(seq, each.seq) if missing and opened.thinned else {}
        after = Position(segment, start + each.end, seq + missing)
        if frame.is_data(each.type) and each.seq >= seq:
            after = after._replace(seq=each.seq + 1)
            item = self._item(each, after)  # what can fail, before anything is counted
            if item is None:
                missing += 1
        elif frame.is_data(each.type) and not opened.repeats(each):
            # A number that was there already, and not the same record again: somebody who must
            # not write here did (a fork that Python was not told of).
            self._damage("order", 1)
        # Frames that describe carry the number of the next record, so that no gap is missed.
        damaged = missing - sum(given_up.values())
        if damaged:
            self._damage("damaged", damaged)
        for kind, count in given_up.items():
            self.thinned[kind] = self.thinned.get(kind, 0) + count
        if item is not None and self.thinned:
            item = item._replace(thinned=dict(self.thinned))
            self.thinned.clear()
        self._note(opened, each)
        self.position = after
        return item

    @staticmethod
    def _look(opened: _Open, offset: int, seq: int, limit: int) -> tuple[bytes, frame.Scan]:
        """Return a stretch that holds a whole frame, if there is one, and what is in it."""
        size = CHUNK_BYTES
        while True:
            data = opened.segment.read(offset, size)
            found = frame.scan(data, 0, opened.salt, least=seq, limit=limit)
            if found.frames or len(data) < size:
                return data, found
            size *= 4

    @staticmethod
    def _more(opened: _Open, offset: int, data: bytes) -> bool:
        return bool(opened.segment.read(offset + len(data), 1))

    def _note(self, opened: _Open, each: frame.Frame) -> None:
        """Keep what a frame says about the segment, its writer or the run."""
        opened.saw(each)
        self.sealed = each.type == frame.FOOTER
        try:
            if each.type == frame.DEFINITION:
                key, stream, tag = codec.decode_definition(each.payload)
                self._keys[key.to_bytes(8, "little")] = (stream, tag)
            elif each.type == frame.END:
                record = codec.decode_record(each.payload)
                self.end = record if isinstance(record, RunEnd) else self.end
            elif each.type == frame.LOST:
                self.lost = {
                    str(why): int(count) for why, count in json.loads(each.payload).items()
                }
            elif each.type == frame.THINNED:
                opened.thinned = decode_thinned(each.payload)
        except (AttributeError, OverflowError, RecursionError, TypeError, ValueError):
            return  # whole, and nothing that we would have written

    def _item(self, each: frame.Frame, after: Position) -> Optional[Item]:
        """Return the record of a frame; None when a part of it cannot be had."""
        payload: Optional[bytes] = each.payload
        stream, tag, blob = "", None, None
        if each.type in (frame.SCALAR, frame.EVENT):
            known = self._keys.get(each.payload[:8])
            if known is None:
                return None
            stream, tag = known
        if each.flags & frame.IN_BLOB:
            blob, payload = self._from_blob(each)
        if payload is None or not _sound(each.type, payload):
            return None
        return Item(each.type, each.flags, payload, stream, tag, after, blob)

    def _from_blob(self, each: frame.Frame) -> tuple[Optional[Path], Optional[bytes]]:
        """Return where a payload is that was too large for a frame, and what it is."""
        front = each.payload[:8] if each.type == frame.EVENT else b""
        try:
            where: Any = json.loads(each.payload[len(front) :])
            name, size, crc = str(where["blob"]), int(where["size"]), int(where["crc"])
            if not name.isalnum():  # nothing that leads anywhere
                return None, None
            path = self.run.blobs / name
            with open(path, "rb") as file:
                data = file.read(size + 1)
        except FileNotFoundError:
            return None, None
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError):
            return None, None
        whole = len(data) == size and zlib.crc32(data) == crc
        return path, front + data if whole else None

    def _damage(self, reason: str, count: int) -> None:
        self.damaged[reason] = self.damaged.get(reason, 0) + count


def _sound(kind: int, payload: bytes) -> bool:
    """Tell whether a payload can be decoded; only a foreign writer's cannot."""
    if kind == frame.SCALAR:
        return len(payload) == frame.SCALAR_INT.size
    try:
        if kind == frame.EVENT:
            codec.decode_event(payload)
        else:
            codec.decode_record(payload)
    except ValueError:
        return False
    return True


# -- a segment as it is -------------------------------------------------------------------


class Front(NamedTuple):
    """The bytes of a segment's header, the number of its first record, and its salt."""

    data: bytes
    first: int
    salt: int


def front(run: RunDir, writer: str, number: int) -> Optional[Front]:
    """Return what a segment begins with; None when this version cannot read it. Raises OSError."""
    segment = _Segment(run, writer, number)
    header = _header(segment.read(0, _HEADER_BYTES))
    if header is None or header.refused:
        return None
    return Front(segment.read(0, header.start), header.first, header.salt)


def frames(
    run: RunDir, writer: str, number: int, begin: Front
) -> Generator[tuple[frame.Frame, bytes], None, None]:
    """
    Yield each whole frame of a segment that nobody writes to any more, with its bytes.

    Raises:
        OSError: It cannot be read just now.
    """
    segment, at, least = _Segment(run, writer, number), len(begin.data), begin.first
    size = CHUNK_BYTES
    while True:
        data = segment.read(at, size)
        found = frame.scan(data, 0, begin.salt, least=least)
        for each in found.frames:
            yield each, data[each.end - frame.HEADER_SIZE - len(each.payload) : each.end]
            least = max(least, each.seq + frame.is_data(each.type))
        if found.end:
            at, size = at + found.end, CHUNK_BYTES
        elif len(data) < size:
            return
        else:
            size *= 4  # a frame longer than what was looked at, or damage


# -- questions about a writer -------------------------------------------------------------


def written(run: RunDir, writer: str, number: int) -> int:
    """
    Return how many records a writer has written, from the end of its newest segment.

    A record that is cut at the very end counts: the reader counts it as damaged, once it is sure.

    Args:
        run: The run.
        writer: The writer.
        number: Its newest segment.
    """
    segment = _Segment(run, writer, number)
    try:
        key = (segment.path, *segment.mark())
        count = _counted.get(key)
        if count is None:
            count = _count(run, writer, segment)
            if len(_counted) >= 256:
                _counted.clear()
            _counted[key] = count
    except OSError:
        return 0
    return count


#: What was counted, by segment, size and time: most are asked about again and again.
_counted: dict[tuple[Path, int, int], int] = {}


def _count(run: RunDir, writer: str, segment: _Segment, *, newest: bool = True) -> int:
    header = _header(segment.read(0, _HEADER_BYTES))
    if header is None:
        before = [each for each in run.segment_numbers().get(writer, []) if each < segment.number]
        something = newest and any(segment.read(0, CHUNK_BYTES))
        if not before:
            return int(something)
        former = _Segment(run, writer, before[-1])
        return _count(run, writer, former, newest=False) + something
    if header.refused:
        return header.first + 1  # at least; and it shows that something is left
    size = segment.size()
    look = 8 * 1024
    while True:
        at = max(header.start, size - look)
        data = segment.read(at, max(0, size - at))
        found = frame.scan(data, 0, header.salt, least=header.first)
        # A look that begins within a large frame may see what is no frame of this segment. A frame
        # that is just being written (a part of it can be seen where it is on two pages) is no
        # reason to look at all of it, which takes a hundred times the memory.
        settled = not found.tail or look >= _WIDE_BYTES
        if at == header.start or (found.frames and settled and not _doubtful(found)):
            break
        look *= 8
    opened = _Open(segment, header, last=frame.HEADER, copies=2)
    count = header.first
    for each in found.frames:
        opened.saw(each)
        count = max(count, each.seq + frame.is_data(each.type))
    # As in the reader, what is cut at the end of an older one was written again in the next.
    return count + (newest and opened.cut(data[found.end :]))


def _doubtful(found: frame.Scan) -> bool:
    """Only one frame was seen, and it describes: the record before it may be a large one."""
    return not any(frame.is_data(each.type) for each in found.frames) and len(found.frames) < 2


def last_word(run: RunDir) -> Optional[RunEnd]:
    """Return what the newest owner of a run said at its end; None when it said nothing."""
    mains = [pair for pair in run.segment_numbers().items() if is_main(pair[0])]
    if not mains:
        return None
    writer, numbers = mains[-1]
    for number in reversed(numbers[-2:]):
        reader = SegmentReader(run, writer, Position(number))
        while not reader.exhausted([number]) and not reader.refused:
            before = reader.position
            reader.read([number], dead=True)
            if reader.position == before:
                break
        if reader.end is not None:
            return reader.end
    return None


def lost(run: RunDir) -> Mapping[str, int]:
    """
    Return what the writers of a run could not keep, by reason, as far as the folder tells.

    An owner says it with its last word; one that was killed, and a child, have said it on the way.
    """
    total: dict[str, int] = {}
    for writer, numbers in run.segment_numbers().items():
        if is_sampler(writer):
            continue
        said: dict[str, int] = {}
        for number in numbers:
            for reason, count in _told_lost(_Segment(run, writer, number)):
                said[reason] = max(count, said.get(reason, 0))
        for reason, count in said.items():
            total[reason] = total.get(reason, 0) + count
    return total


#: Where a frame may begin that tells of losses: there are few, and reading all others takes long.
_TELLS_OF_LOSSES = re.compile(
    re.escape(frame.MAGIC) + rb"(?s:.{16})[" + bytes((frame.END, frame.LOST)) + rb"]"
)


def _told_lost(segment: _Segment) -> Iterator[tuple[str, int]]:
    try:
        header = _header(segment.read(0, _HEADER_BYTES))
        if header is None or header.refused:
            return
        data = segment.read(0, segment.size())
    except OSError:
        return
    for found in _TELLS_OF_LOSSES.finditer(data, header.start):
        (each,) = frame.scan(data, found.start(), header.salt, limit=1).frames[:1] or (None,)
        if each is None or each.type not in (frame.END, frame.LOST):
            continue  # somebody has logged such bytes
        try:
            if each.type == frame.LOST:
                counts: Any = json.loads(each.payload)
            else:
                counts = getattr(codec.decode_record(each.payload), "lost", {})
            yield from [(str(reason), int(count)) for reason, count in counts.items()]
        except (AttributeError, OverflowError, RecursionError, TypeError, ValueError):
            continue


def waiting_since(run: RunDir, passed: Callable[[str], Position]) -> Optional[float]:
    """
    Return when the oldest record was logged that is not answered for, in seconds since the epoch.

    Args:
        run: The run.
        passed: Says for a writer up to where everything is.
    """
    times: list[float] = []
    for writer, numbers in run.segment_numbers().items():
        if is_sampler(writer):
            continue
        reader = SegmentReader(run, writer, passed(writer))
        times += map(_time_of, reader.read(numbers, dead=False, limit=1)[:1])
    return min(times, default=None)


def _time_of(item: Item) -> float:
    if item.type == frame.SCALAR:
        return float(frame.SCALAR_INT.unpack(item.payload)[3])
    if item.type == frame.EVENT:
        return float(codec.decode_event(item.payload)[1])
    return float(codec.decode_record(item.payload).time)


def unfinished(run: RunDir) -> bool:
    """
    Tell whether a training may be taken up again: its owner is gone, and did not say that it had
    finished.
    """
    return not run.owner_alive() and not finished(run)


def finished(run: RunDir) -> bool:
    """Tell whether the last owner of a run said that it had finished."""
    end = last_word(run)
    return end is not None and end.status is RunStatus.FINISHED


def alive(run: RunDir, writer: str, number: int) -> bool:
    """
    Tell whether the process of a child's segments lives: it holds the lock on its newest one.

    Never ask in that very process: the answer would cost the lock.

    Args:
        run: The run.
        writer: A child's name, as in its files' names.
        number: Its newest segment.
    """
    segment = _Segment(run, writer, number)
    try:
        fd = os.open(segment.path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        return False
    try:
        taken = try_lock(fd)
    finally:
        os.close(fd)
    if taken is not None:
        return not taken
    header = _header(segment.read(0, _HEADER_BYTES))
    return header is None or lives(header.content) is not False
