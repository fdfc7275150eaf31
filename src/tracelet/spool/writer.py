"""
The hot end of the spool: one captured call, one frame, one ``write(2)``.

What is in the file when a call returns survives the death of this process. Nothing here waits for
anything but the disk: no fsync (the shipper's host does that), no other process. When the disk
refuses, records wait in bounded memory until it takes them again; there is no error that sticks.
When it stalls, a thread writes what waits (``relay``), so that it holds one call and not all.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import operator
import os
import shutil
import struct
import sys
import threading
import time
import weakref
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, Optional, Union
from zlib import crc32

from tracelet.errors import SpoolError
from tracelet.naming import artifact_path
from tracelet.records import Artifact, Record, RunEnd
from tracelet.spool import blobs, codec, frame, holding
from tracelet.spool.files import Files
from tracelet.spool.power import keep_confirming
from tracelet.spool.relay import STALL_S, Relay
from tracelet.spool.rundir import RunDir, sync_folder
from tracelet.spool.segment import SCALAR_SIZE, Key, Segment, open_segment

__all__ = ["SpoolWriter"]

#: A segment is closed at this size, or at this age when it holds anything.
SEGMENT_BYTES = 16 * 1024 * 1024
SEGMENT_AGE_S = 600.0
#: On a small disk a segment is a part of what is free, so that what was delivered can go soon.
SEGMENT_SHARE, LEAST_SEGMENT_BYTES = 16, 256 * 1024
#: What is kept free on the disk for the end of the run.
RESERVE_BYTES = 64 * 1024
#: An event or record larger than this goes into a blob of its own.
INLINE_BYTES = 256 * 1024
#: Records that wait for the disk take at most so much memory. When it is full, what is not small
#: goes first.
WAITING_BYTES = 32 * 1024 * 1024
SMALL_BYTES = 4 * 1024
#: What a waiting record takes besides its payload, about.
_ENTRY_BYTES = 200
#: While the disk refuses it is asked again no more often than this.
RETRY_S = 0.2
#: What has waited is written for so long at once; then the program goes on.
DRAIN_S = 0.01
#: How often the writer looks around: at the clock, at its file, at who it is.
LOOK_S = 1.0
#: A program that logs more often than this, per second, is spared a look at the clock behind each
#: write. A pause of it may then have been a stall; the next write is left to the relay, to be sure.
DENSE = 5000
#: So many points are taken together when it is asked whether a program does nothing but log; it
#: does where they come faster than this, per second. A queue of TensorBoard's is full then, and the
#: program waits for TensorBoard's thread in any case: to let it go on is quicker for both.
PACE, TIGHT = 64, 10_000
#: One stall of this length is told even if no other one follows. (A busy machine may well leave a
#: process alone for a tenth of a second.)
LONG_STALL_S = 0.5
#: The relay writes about so much at once.
BATCH_BYTES = 256 * 1024
#: A large payload may take so much longer to write before that is a stall.
BYTES_PER_S = 20e6
#: The wall clock is followed when it has been off by more than a jump for longer than a while.
CLOCK_JUMP_S = 2.0
CLOCK_PATIENCE_S = 60.0

# What stands behind magic, length and checksum of a scalar frame; type, flags and the reserved
# bytes are one number. See ``frame``.
_pack_int = struct.Struct("<QIQdqd").pack_into
_pack_fraction = struct.Struct("<QIQddd").pack_into
_SCALAR = frame.SCALAR
_NO_STEP = frame.NO_STEP << 8
_FRACTION = frame.FRACTION << 8
_GIVEN_TIME = frame.GIVEN_TIME << 8
# The payload of a scalar, but for the hash of its key, which depends on the segment.
_INT = struct.Struct("<dqd")
_FLOAT = struct.Struct("<ddd")
_NAME = struct.Struct("<Q")
_EDGE = 2**63
Number = Union[int, float]
_monotonic = time.monotonic


class _Entry(NamedTuple):
    """A record on its way: it has no number yet, and its key no hash."""

    kind: int
    flags: int
    payload: bytes
    key: Optional[Key] = None


class _Batch(NamedTuple):
    """Entries that the relay writes at once: their bytes, and where each of them ends."""

    segment: Segment
    data: bytearray
    entries: list[_Entry]
    ends: list[int]
    names: dict[Key, int]


def _point(key: Key, value: Any, step: Any, when: Any, flags: int = 0) -> _Entry:
    """
    Return the entry of a point, whatever kinds of numbers it is made of.

    Raises:
        TypeError: One of them is none.
    """
    _check(key)
    try:
        if step is None:
            return _Entry(_SCALAR, flags | frame.NO_STEP, _INT.pack(value, 0, when), key)
        if not isinstance(step, float):
            step = operator.index(step) if hasattr(step, "__index__") else _fraction(step)
        if isinstance(step, int) and not -_EDGE <= step < _EDGE:
            # Nearly the number that was meant; a backend says by name if it is too large for it.
            step = _fraction(step)
        if isinstance(step, int):
            return _Entry(_SCALAR, flags, _INT.pack(value, step, when), key)
        return _Entry(_SCALAR, flags | frame.FRACTION, _FLOAT.pack(value, step, when), key)
    except (struct.error, OverflowError, ValueError) as error:
        raise TypeError(f"not a point: {value!r:.60}, {step!r:.60}, {when!r:.60}") from error


def _fraction(step: Any) -> float:
    if isinstance(step, (str, bytes)):
        raise TypeError(f"a step is a number, not {step!r:.60}")
    try:
        return float(step)
    except OverflowError:
        return sys.float_info.max if step > 0 else -sys.float_info.max


class SpoolWriter:
    """
    Appends one process's records to a run.

    It is the ``Sink`` that the taps write to. Safe for any number of threads, for signal handlers
    and finalizers that log while a log call is under way, and for forked children: a child writes
    segments of its own, opened at its first record.

    Args:
        run: The run.
        main: This process owns the run; it is not one of the owner's children.
        snapshot: Artifacts are copied when they are recorded, if there is room.
        files: The system calls.
        segment_bytes: A segment is closed at this size.
        name: The writer's name; a new one when not given.
        rank: Which one of the owner's job this is, when it is not the owner.
        child: It is not that rank itself, but a process that the rank has started.
        power: Have the disk confirm what is written; see ``confirm``.

    Raises:
        SpoolError: The owner, or a rank, cannot have a segment. (A child may have one later.)
    """

    __slots__ = (
        "__weakref__",
        "_acquire",
        "_anchor",
        "_beside",
        "_busy",
        "_clock_off_since",
        "_closed",
        "_confirmed",
        "_confirmer",
        "_confirming",
        "_counted_at",
        "_due",
        "_files",
        "_hold",
        "_jump",
        "_look_due",
        "_main",
        "_number",
        "_open",
        "_paced",
        "_pid",
        "_power",
        "_queued",
        "_relay",
        "_release",
        "_retry_at",
        "_segment",
        "_segment_bytes",
        "_seq",
        "_snapshot",
        "_stumbles",
        "_told",
        "_unconfirmed",
        "_waiting",
        "_waiting_bytes",
        "_wary",
        "_watch_due",
        "_write",
        "jumps",
        "lost",
        "name",
        "on_jump",
        "on_stall",
        "rank",
        "run",
        "short",
        "stalls",
        "waiting",
        "watch",
    )

    def __init__(
        self,
        run: RunDir,
        *,
        main: bool = True,
        snapshot: bool = True,
        files: Optional[Files] = None,
        segment_bytes: int = SEGMENT_BYTES,
        name: Optional[str] = None,
        rank: Optional[int] = None,
        child: bool = False,
        power: bool = False,
    ) -> None:
        self.run = run
        self._power = power
        self.rank = rank
        self._files = files or Files()
        self._write = self._files.write
        #: Writes a point without letting another thread run; None where that is not done.
        self._hold = holding.write_for(run.path) if files is None else None
        self._snapshot = snapshot
        self._segment_bytes = min(segment_bytes, _share_of_disk(run.path))
        #: Which stream was the first to put files into a place.
        self._beside: dict[tuple[str, ...], str] = {}
        #: There is no room for what is large: it is counted as lost.
        self.short = False
        #: Asked once a second while records come, in the owner only: is the shipper there?
        self.watch: Optional[Callable[[], object]] = None
        self._watch_due = False
        #: Told, in a thread of ours, that a write has taken so many seconds; once for each time
        #: that the relay comes.
        self.on_stall: Optional[Callable[[float], object]] = None
        #: Told once for each time that the wall clock was followed: by how many seconds.
        self.on_jump: Optional[Callable[[float], object]] = None
        #: How often that was, in the owner; and by how much, while nobody has been told.
        self.jumps = 0
        self._jump = 0.0
        self._anchor = time.time() - _monotonic()
        self._due = self._look_due = 0.0
        self._clock_off_since: Optional[float] = None
        self._closed = False
        self._become(main=main, forked=child)
        if name is not None:
            self.name = name
        if main or (rank is not None and not child):
            try:
                self._open_segment()
            except OSError as error:
                raise SpoolError(
                    f"Cannot write to the spool folder {run.path.parent}: "
                    f"{error.strerror or error}. "
                    "Give another one with spool_dir (or TRACELET_SPOOL_DIR)."
                ) from error
            self._settle()
            self._keep_reserve()
        if power:
            with contextlib.suppress(OSError):
                for folder in (run.path, run.path.parent, run.path.parent.parent):
                    sync_folder(folder)
            self.confirm()
        with _forking:
            _writers.add(self)

    def _become(self, *, main: bool, forked: bool = False) -> None:
        """Start as a new writer of the run: the owner's at first, a child's after a fork."""
        lock = threading.RLock()
        self._acquire: Callable[[], object] = lock.acquire
        self._release: Callable[[], object] = lock.release
        #: True while a thread is at it; seen by itself, it tells a call from within a call.
        self._busy = False
        self._pid = os.getpid()
        self._main = main
        self.name = self.run.new_writer(main=main, rank=self.rank, forked=forked)
        self._segment: Optional[Segment] = None
        #: The segment, where a scalar of a known key may go straight into it; else ``_NOWHERE``.
        self._open = _NOWHERE
        self._number = 0
        #: The number of the next record, while there is no segment that knows it.
        self._seq = 0
        #: What was asked for from within a call.
        self._queued: deque[Callable[[], None]] = deque()
        #: What the disk has not taken, in order; how many records that is, and how much memory.
        self._waiting: deque[_Entry] = deque()
        self.waiting = 0
        self._waiting_bytes = 0
        self._retry_at = 0.0
        self._stumbles = 0
        #: Who writes while the disk stalls; None as a rule. While there is one the segment is its.
        self._relay: Optional[Relay] = None
        #: How often the disk stalled.
        self.stalls = 0
        #: The clock is looked at behind each write.
        self._wary = True
        self._counted_at = 0
        #: How many points there were when it was last asked how fast they come, and when that was.
        self._paced = (0, 0.0)
        #: Records that could not be kept, by reason; and what the spool says of it.
        self.lost: dict[str, int] = {}
        self._told: dict[str, int] = {}
        #: Who has the disk confirm things, the blobs that it has not confirmed, and how much of
        #: which segment it has.
        self._confirming = threading.RLock()
        self._confirmer: Optional[threading.Thread] = None
        self._unconfirmed: deque[Path] = deque()
        self._confirmed: tuple[Optional[Segment], int] = (None, 0)

    # -- counts ---------------------------------------------------------------------------

    @property
    def spooled(self) -> int:
        """Records on disk, or waiting in memory for the disk to take them."""
        # One number, although another thread may be at it.
        self._acquire()
        try:
            return self._counted + self.waiting
        finally:
            with contextlib.suppress(RuntimeError):
                self._release()

    @property
    def recorded(self) -> int:
        """Every record that this process was given."""
        return self.spooled + sum(self.lost.values())

    def _lose(self, reason: str, count: int = 1) -> None:
        self.lost[reason] = self.lost.get(reason, 0) + count

    # -- what the taps call ---------------------------------------------------------------

    def scalar(  # noqa: PLR0912 - one function on purpose: every call of another one costs
        self,
        stream: str,
        tag: str,
        value: float,
        step: Optional[Number],
        time: Optional[float],
    ) -> None:
        """
        Record one point; see ``Sink.scalar``.

        Raises:
            TypeError: Value, step or time is no number, stream or tag no text. Nothing is recorded.
        """
        try:
            # Within ``try``, because a signal handler may raise as soon as the lock is ours. (A
            # ``with`` looks its two methods up, at 0.1 us of 2.)
            self._acquire()
            if self._busy:
                when = self.now() if time is None else time
                entry = _point((stream, tag), value, step, when)
                self._queued.append(partial(self._put, entry))
                return
            try:
                self._busy = True
                now = _monotonic()
                if now > self._due:
                    self._look(now)
                kind = _SCALAR
                if time is None:
                    time = self._anchor + now
                else:
                    kind |= _GIVEN_TIME
                segment = self._open
                try:
                    name = segment.names[stream][tag]
                    buffer = segment.buffer
                    seq = segment.seq
                    if step is None:
                        _pack_int(buffer, 12, seq, kind | _NO_STEP, name, value, 0, time)
                    elif type(step) is float:
                        _pack_fraction(buffer, 12, seq, kind | _FRACTION, name, value, step, time)
                    else:
                        _pack_int(buffer, 12, seq, kind, name, value, step, time)
                except (KeyError, struct.error, OverflowError):
                    seq = -1  # no definition yet, or the disk refuses, or the run has ended; or
                    # other kinds of numbers
                if seq < 0:
                    self._put(_point((stream, tag), value, step, time, kind >> 8))
                else:
                    segment.checksum[0] = crc32(segment.body, segment.front)
                    # Counted first: once it is written, a signal handler may raise at any time.
                    segment.seq = seq + 1
                    try:
                        written = segment.write(*segment.point)
                    except OSError:
                        written = 0
                    if written != SCALAR_SIZE:
                        written = max(written, 0)
                        if not self._complete(segment, bytes(buffer), written, seq, now):
                            self._put(_point((stream, tag), value, step, time, kind >> 8))
                    elif self._wary and _monotonic() - now > STALL_S:
                        self._stall(_monotonic() - now)
                    elif seq >= segment.turn:
                        self._pace(segment, now)
                self._busy = False
            except BaseException:
                self._busy = False
                raise
        finally:
            try:  # noqa: SIM105 - which costs more than the rest of this line
                self._release()
            except RuntimeError:
                pass  # not ours: interrupted before it was, or this is a child by now
        if self._queued:
            self._replay()

    def event(self, stream: str, data: bytes, hint: Optional[Mapping[str, Any]]) -> None:
        """Record a serialized event; see ``Sink.event``."""
        payload = codec.encode_event(self.now(), codec.encode_hint(hint), data)
        self._add(self._entry(frame.EVENT, payload, (stream, None)))

    def file(self, stream: str, local_path: str, path: str) -> None:
        """
        Record a file or folder that lies beside the events; see ``Sink.file``.

        Its bytes are always copied: the library may write over them, or they lie in a temporary
        folder. A second stream's files are put beside those of the first, never over them.
        """
        place = path.split("/", 2)[:2]
        if self._beside.setdefault(tuple(place), stream) != stream:
            place[-1] += f"~{codec.key_hash(stream, None) & 0xFFFF:04x}"
            path = "/".join((*place, *path.split("/", 2)[2:]))
        self.artifact(local_path, path, whole=True, snapshot=True)

    def record(self, record: Record) -> None:
        """Record anything that an explicit call logs; a ``RunEnd`` is the owner's last word."""
        payload = codec.encode_record(record)
        if isinstance(record, RunEnd):
            self._add(_Entry(frame.END, 0, payload))
        else:
            self._add(self._entry(frame.RECORD, payload))

    def artifact(
        self,
        local_path: Union[str, Path],
        path: str = "",
        *,
        whole: bool = False,
        snapshot: Optional[bool] = None,
    ) -> int:
        """
        Record a file, or every file of a folder, with its bytes as they are now.

        Args:
            local_path: What the user named.
            path: Where it goes: a folder for a file; for a folder what its own name is put under.
            whole: ``path`` already is the name: nothing is put under it but a folder's content.
            snapshot: Keep a copy, or a reference only; as the run was told when None.

        Returns:
            How many files were recorded.

        Raises:
            OSError: It is not there or cannot be read. Of a folder, all other files are recorded.
            ValueError: ``path``, or the name of a file, is not a path that an artifact may have.
        """
        source = Path(os.path.abspath(local_path))  # noqa: PTH100 - a link stays one
        base = artifact_path(path) if path else ""
        name = base if whole else "/".join(part for part in (base, source.name) if part)
        copied = self._snapshot if snapshot is None else snapshot
        if not source.is_dir():
            self._snapshot_of(source, artifact_path(name), copied)
            return 1
        count, problem = 0, None
        for file, below in blobs.files_below(source):
            try:
                self._snapshot_of(file, artifact_path(f"{name}/{below}" if name else below), copied)
                count += 1
            except (OSError, ValueError) as error:
                problem = problem or error
        if problem is not None:
            raise problem
        return count

    def _snapshot_of(self, file: Path, path: str, snapshot: bool) -> None:
        # A copy would hold the call as long as the disk stalls; once it has caught up it does not.
        relay = self._relay
        hangs = relay is not None and relay.late
        kept = blobs.take(file, self.run.blobs, snapshot=snapshot and not hangs)
        if kept.identity is None and self._power:
            self._unconfirmed.append(kept.path)
        # A blob is named relative to the run, so that the folder may move.
        source = f"blobs/{kept.path.name}" if kept.identity is None else str(kept.path)
        self.record(Artifact(path, source, kept.size, self.now(), kept.identity))

    def now(self) -> float:
        """Return the time that a record gets: the wall clock without its jumps."""
        return self._anchor + _monotonic()

    @property
    def closed(self) -> bool:
        """True once nothing more is written."""
        return self._closed

    def confirm(self) -> None:
        """
        Return when the disk has confirmed what was written, where that was asked for.

        A blob before the segment that speaks of it. A disk that says no is not asked twice: the
        writer goes on in a new segment within a second.
        """
        if not self._power or self._pid != os.getpid():
            return
        with self._confirming:
            folders = {self.run.blobs} if self._unconfirmed else set()
            while self._unconfirmed:
                with contextlib.suppress(OSError):
                    self._confirm_blob(self._unconfirmed.popleft())
            segment, path = self._segment, self.run.segment_path(self.name, self._number)
            try:
                size = segment.size(self._files) if segment is not None else 0
                known, confirmed = self._confirmed
                if segment is not None and (segment is not known or size != confirmed):
                    if segment is not known:
                        folders.add(path.parent)
                    self._confirmed = (segment, size)
                    # (Closed meanwhile, it was confirmed by who closed it; and to ask for the file
                    # that has its number then does no harm.)
                    self._files.sync(segment.fd)
                for folder in folders:
                    sync_folder(folder)
            except OSError:
                if segment is not None and segment is self._segment:
                    self._suspect(path)

    def _confirm_blob(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        try:
            self._files.sync(fd)
        finally:
            os.close(fd)

    def _suspect(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            self.run.suspect(path.name)

    def close(self, patience_s: float = 0.0) -> None:
        """
        Seal the segment. Records that still wait for the disk are tried for ``patience_s``, then
        counted as lost; so is what is logged later.
        """
        if self._pid != os.getpid():
            return
        deadline = _monotonic() + patience_s
        if not self._closed:
            self.confirm()
        while not self._closed:
            if not self._exclusively(partial(self._end, deadline)):
                # In a signal handler, within a log call, which has to come to its end first.
                self._queued.append(partial(self._end, deadline=0.0))
                return
            if not self._closed:
                time.sleep(0.02)

    # -- from a call to the disk ----------------------------------------------------------

    def _entry(self, kind: int, payload: bytes, key: Optional[Key] = None) -> Optional[_Entry]:
        """Return an entry, its payload in a blob where it is large; None where that has no room."""
        if key is not None:
            _check(key)
        if len(payload) > INLINE_BYTES and self.short:
            return None
        if len(payload) > INLINE_BYTES and self._relay is None:
            elsewhere = self._to_blob(payload)
            if elsewhere is not None:
                return _Entry(kind, frame.IN_BLOB, elsewhere, key)
        return _Entry(kind, 0, payload, key)

    def _to_blob(self, data: bytes) -> Optional[bytes]:
        """Write bytes beside the segment; return what says where they are, None if that failed."""
        path, began = blobs.new_blob(self.run.blobs), _monotonic()
        try:
            fd = self._files.create(path)
            try:
                view = memoryview(data)
                while view:
                    written = self._files.write(fd, view)
                    if not written:
                        raise OSError("nothing was written")
                    view = view[written:]
            finally:
                self._files.close(fd)
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        finally:
            took = _monotonic() - began
            if took > STALL_S + len(data) / BYTES_PER_S:
                self._exclusively(partial(self._stall, took))
        if self._power:
            self._unconfirmed.append(path)
        segment = self._segment
        if segment is not None:
            # What is given up for lack of room is given up by segments, their blobs included.
            segment.spend(len(data))
        return json.dumps({"blob": path.name, "size": len(data), "crc": crc32(data)}).encode()

    def _add(self, entry: Optional[_Entry]) -> None:
        work = partial(self._lose, "room") if entry is None else partial(self._put, entry)
        if not self._exclusively(work):
            # We are in a signal handler or finalizer, within a log call of this very thread. That
            # call writes it when it is done.
            self._queued.append(work)
        elif self._queued:
            self._replay()

    def _replay(self) -> None:
        """Do what was asked for from within the call that has just ended."""
        while self._queued and self._exclusively(self._work_off):
            relay = self._relay
            if relay is None:
                self._look_after()
            else:
                relay.wait_for(self._idle)

    def _idle(self) -> bool:
        relay = self._relay
        return not self._waiting and (relay is None or not relay.busy)

    def _look_after(self) -> None:
        """Not under the lock, and not instead of the record: it may start a process."""
        jump, self._jump = self._jump, 0.0
        if jump and self.on_jump is not None:
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                self.on_jump(jump)
        if self._watch_due and self.watch is not None:
            self._watch_due = False
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                self.watch()

    def _work_off(self) -> None:
        while self._queued:
            self._queued.popleft()()

    def _exclusively(self, work: Callable[[], None]) -> bool:
        """Run ``work`` as the only one; False when this thread is at it already."""
        try:
            self._acquire()
            if self._busy:
                return False
            try:
                self._busy = True
                now = _monotonic()
                if now > self._due:
                    self._look(now)
                work()
                self._busy = False
            except BaseException:
                self._busy = False
                raise
        finally:
            with contextlib.suppress(RuntimeError):  # as in ``scalar``
                self._release()
        return True

    def _put(self, entry: _Entry) -> None:
        """Write an entry, or have it wait, or count it as lost. Never raises."""
        writer = self.name
        if self._closed:
            if frame.is_data(entry.kind):
                self._lose("stopped")
        elif len(entry.payload) > frame.MAX_PAYLOAD - _NAME.size:
            self._lose("disk")  # there is no other place for it than the blob that could not be
        elif self._relay is None and self._drain() and self._write_entry(entry):
            pass
        elif self.name == writer:  # else this is a child, forked within, and it is the parent's
            self._wait(entry)
        if self._relay is not None and self._waiting:
            self._hand_over(self._relay)
        self._settle()

    def _write_entry(self, entry: _Entry) -> bool:
        """Write the frame of an entry; False when the disk refuses."""
        had = self._segment is not None
        done = self._try_entry(entry)
        if not done and had and self._segment is None:
            # Only the file was gone.
            done = self._try_entry(entry)
        return done

    def _try_entry(self, entry: _Entry) -> bool:
        try:
            segment = self._segment or self._open_segment()
        except OSError:
            return False
        seq, before, name = segment.seq, b"", 0
        if entry.key is not None:
            before, name = segment.define(entry.key, seq)
        data = before + _encoded(entry, name, seq, segment.salt)
        if frame.is_data(entry.kind):
            segment.seq = seq + 1  # as in ``scalar``
        if not self._complete(segment, data, 0, seq):
            return False
        if entry.key is not None:
            segment.learn(entry.key, name)
        segment.spend(len(data))
        if segment.seq >= segment.until:
            self._rotate()
        return True

    def _complete(
        self, segment: Segment, data: bytes, written: int, seq: int, began: Optional[float] = None
    ) -> bool:
        """
        Bring all of a frame to disk, or nothing.

        Args:
            segment: Where.
            data: The frame.
            written: How much of it is there already.
            seq: The segment's next number, if nothing comes of it.
            began: When the first attempt did, if there was one.
        """
        stumbles, patience = 0, STALL_S + len(data) / BYTES_PER_S
        stalled = began is not None and _monotonic() - began > patience
        began = _monotonic() if began is None else began
        # A disk that has stalled is not asked again by the program.
        while written < len(data) and stumbles < 2 and not stalled:
            try:
                more = self._write(segment.fd, data[written:] if written else data)
            except OSError:
                more = 0
            stumbles = 0 if more else stumbles + 1
            written += more
            stalled = _monotonic() - began > patience
        if stalled:
            self._stall(_monotonic() - began)
        if written == len(data):
            self._stumbles = 0
            return True
        segment.seq = seq
        self._stumbles += 1
        if self._relay is not None:
            return False  # torn bytes, if any, are stepped over
        try:
            size = segment.size(self._files)
        except OSError:
            # Somebody closed every descriptor (a daemon does), or deleted the folder. The number
            # may be that of a file of theirs by now: not ours to close.
            self._abandon(segment)
            return False
        if written:
            # Where even that fails the reader steps over the torn bytes.
            with contextlib.suppress(OSError):
                self._files.ftruncate(segment.fd, size - written)
        return False

    # -- when the disk refuses ------------------------------------------------------------

    def _wait(self, entry: _Entry) -> None:
        """Keep an entry in memory until the disk takes it."""
        if not self._waiting:
            self._retry_at = _monotonic() + RETRY_S
        size, record = _size(entry), frame.is_data(entry.kind)
        if record and self._waiting_bytes + size > WAITING_BYTES:
            if size <= SMALL_BYTES:
                self._thin()
            if self._waiting_bytes + size > WAITING_BYTES:
                self._lose("disk")
                return
        self._waiting.append(entry)
        self._waiting_bytes += size
        self.waiting += record

    def _thin(self) -> None:
        """Give up the oldest of what is large, until a quarter of the memory is free."""
        kept: deque[_Entry] = deque()
        for entry in self._waiting:
            size = _size(entry)
            if size <= SMALL_BYTES or self._waiting_bytes <= WAITING_BYTES * 3 // 4:
                kept.append(entry)
            else:
                self._waiting_bytes -= size
                self.waiting -= 1
                self._lose("disk")
        self._waiting = kept

    def _drain(self, *, force: bool = False) -> bool:
        """Write what waits, in order; True when nothing waits any more."""
        waiting, started = self._waiting, _monotonic()
        if not waiting:
            return True
        if started < self._retry_at and not force:
            return False
        fresh = False
        # (In a child that was forked from within this, what waits is the parent's.)
        while waiting and waiting is self._waiting and self._relay is None:
            if self._take_first(waiting):
                if _monotonic() - started > DRAIN_S and not force:
                    break
                continue
            # Perhaps it is only this file that cannot be written to.
            fresh = not fresh and self._stumbles > 1 and self._rotate()
            if not fresh:
                self._retry_at = _monotonic() + RETRY_S
                return False
        if waiting or waiting is not self._waiting:
            return False
        self._tell()
        return True

    def _take_first(self, waiting: deque[_Entry]) -> bool:
        """Write the first entry that waits; False when the disk refuses."""
        entry, before = waiting.popleft(), self._counted
        written = False
        try:
            written = self._write_entry(entry)
        finally:
            # If a signal handler raised, the number tells whether it was written.
            if not written and self._counted == before:
                waiting.appendleft(entry)
            else:
                self._waiting_bytes -= _size(entry)
                self.waiting -= frame.is_data(entry.kind)
        return written

    @property
    def _counted(self) -> int:
        """The number of the next record."""
        return self._seq if self._segment is None else self._segment.seq

    def _tell(self) -> None:
        """Write down what was lost, so that it is known even if this process is killed."""
        if self.lost != self._told and not self._waiting and self._segment is not None:
            told = dict(self.lost)
            if self._write_entry(_Entry(frame.LOST, 0, json.dumps(told).encode())):
                self._told = told

    # -- segments -------------------------------------------------------------------------

    def _open_segment(self, before: Callable[[], None] = lambda: None) -> Segment:
        """Open the next segment. Raises OSError; then everything is as it was."""
        name, number = self.name, self._number + 1

        def install(segment: Segment) -> None:
            if self.name != name:
                raise OSError("forked meanwhile: this segment is the parent's")
            self._segment, self._number = segment, number

        open_segment(
            self._files,
            self.run,
            name,
            number,
            first=self._counted,
            main=self._main,
            room=self._segment_bytes,
            before=before,
            install=install,
        )
        assert self._segment is not None
        if self._power and self._confirmer is None:
            self._confirmer = keep_confirming(self)
        return self._segment

    def _rotate(self) -> bool:
        """Go on in a new segment; if there cannot be one just now, the old one goes on growing."""
        old, began = self._segment, _monotonic()
        if old is None:
            return False
        self._open = _NOWHERE
        try:
            # Sealed before the next one can be seen: whoever sees that reads this one to its end.
            self._open_segment(partial(self._put_footer, old))
        except OSError:
            old.until = old.seq + self._segment_bytes // SCALAR_SIZE // 8 + 1
            old.since = _monotonic()
            self._settle()
            return False
        with contextlib.suppress(OSError):
            self._files.close(old.fd)
        if self._relay is None and _monotonic() - began > STALL_S:
            self._stall(_monotonic() - began)
        self._settle()
        return True

    def _put_footer(self, segment: Segment) -> None:
        # One that is missing is a normal end: the next segment's header says the same.
        with contextlib.suppress(OSError):
            self._write(segment.fd, segment.footer())
        if self._power:
            # Nobody has it open any more in a moment.
            with contextlib.suppress(OSError):
                self._files.sync(segment.fd)

    def _abandon(self, segment: Segment) -> None:
        if self._segment is segment:
            self._seq, self._segment = segment.seq, None
            self._settle()

    def _settle(self) -> None:
        """Let scalars go straight into the segment, or not."""
        segment = self._segment
        if segment is None or self._waiting or self._closed or self._relay is not None:
            segment = _NOWHERE
        else:
            self._set_out(segment, tight=False)
            self._paced = (segment.seq, _monotonic())
        self._open = segment

    def _set_out(self, segment: Segment, *, tight: bool) -> None:
        """Choose who writes points, and when to look again."""
        if self._hold is None or self.stalls or tight:
            segment.write, segment.point = self._write, (segment.fd, segment.buffer)
        elif segment.write is not self._hold:
            segment.write = self._hold
            segment.point = holding.arguments(segment.fd, segment.buffer)
        segment.turn = min(segment.until, segment.seq + PACE)

    def _pace(self, segment: Segment, now: float) -> None:
        """Go on in a new segment, or find out whether the program does nothing but log."""
        if segment.seq > segment.until:
            self._rotate()
            return
        count, since = self._paced
        self._set_out(segment, tight=segment.seq - count > TIGHT * (now - since))
        self._paced = (segment.seq, now)

    def _end(self, deadline: float) -> None:
        """Close, if all is written or the time is up."""
        if self._closed:
            return
        self._work_off()
        relay = self._relay
        if relay is not None:
            if (self._waiting or relay.busy) and _monotonic() < deadline and relay.ring():
                return
            self._relay = None
            relay.dismiss()
        stuck = relay is not None and relay.busy
        if not stuck and not self._drain(force=True):
            if _monotonic() < deadline:
                return
            self._use_reserve()
        self._closed = True
        if self.waiting:
            self._lose("disk", self.waiting)
        self._waiting.clear()
        self.waiting = self._waiting_bytes = 0
        segment = self._segment
        if stuck and segment is not None:
            self._abandon(segment)  # it is the relay's, for as long as the disk holds that
        elif segment is not None:
            self._tell()
            self._put_footer(segment)
            self._abandon(segment)
            with contextlib.suppress(OSError):
                self._files.close(segment.fd)
        self._settle()
        if self._main and not stuck:
            self._drop_reserve()

    # -- the reserve ----------------------------------------------------------------------

    def _keep_reserve(self) -> None:
        """Take some of the disk, really: not zeros, which some file systems keep for nothing."""
        with contextlib.suppress(OSError):
            fd = self._files.create(self.run.reserve)
            try:
                whole = self._files.write(fd, os.urandom(RESERVE_BYTES)) == RESERVE_BYTES
            finally:
                self._files.close(fd)
            if not whole:
                self._drop_reserve()

    def _drop_reserve(self) -> bool:
        try:
            self._files.unlink(self.run.reserve)
        except OSError:
            return False
        return True

    def _use_reserve(self) -> None:
        """
        On a disk that is full to the last: the end of the run first, then parameters and their
        like, then what else fits.
        """
        if not self._main or not self._drop_reserve():
            return
        room = RESERVE_BYTES // 2
        left: deque[_Entry] = deque()
        first = {frame.END: 0, frame.RECORD: 1}
        for entry in sorted(self._waiting, key=lambda each: first.get(each.kind, 2)):
            size = _size(entry)
            if size > room or not self._write_entry(entry):
                left.append(entry)
                continue
            room -= size
            self._waiting_bytes -= size
            self.waiting -= frame.is_data(entry.kind)
        self._waiting = left

    # -- once a second --------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Notice a fork that nobody told us of, follow a clock that stays away, mind the file."""
        late = now - self._due > STALL_S
        self._due = now + LOOK_S
        if self._pid != os.getpid():
            # Forked by code that runs no Python hooks. (Asking at every call would cost a tenth.)
            self._busy = False
            self._after_fork()
            self._busy = True
            return
        if self._relay is None and not self._rush(now, late=late):
            return
        self._look_due = now + LOOK_S
        self._mind_the_clock(now)
        if self._main:
            self.run.beat()
            if self.watch is not None:
                self._watch_due = True
                self._queued.append(_nothing)  # so that the call does not end without it
        segment = self._segment
        if self._relay is not None:
            if self._waiting:
                self._hand_over(self._relay)
            return
        if segment is not None:
            try:
                segment.size(self._files)
            except OSError:
                self._abandon(segment)  # as in ``_complete``
            else:
                if self._worn(segment, now):
                    self._rotate()
        if self._drain():
            self._tell()
        self._settle()

    def _mind_the_clock(self, now: float) -> None:
        """Follow the wall clock once it has stayed away for a while; have that told."""
        wall = time.time()
        if abs(wall - (self._anchor + now)) <= CLOCK_JUMP_S:
            self._clock_off_since = None
        elif self._clock_off_since is None:
            self._clock_off_since = now
        elif now - self._clock_off_since > CLOCK_PATIENCE_S:
            if self._main:
                self._jump = wall - (self._anchor + now)
                self.jumps += 1
                self._queued.append(_nothing)  # as below
            self._anchor, self._clock_off_since = wall - now, None

    # -- when the disk stalls -------------------------------------------------------------

    def _rush(self, now: float, *, late: bool) -> bool:
        """
        Decide whether the clock is looked at behind each write; False when that was all there was
        to do.

        A program that logs without a pause does without. It is looked at more often then, and where
        a look comes late nobody knows whether the program paused or the disk.
        """
        count, self._counted_at = self._counted - self._counted_at, self._counted
        if self._wary:
            if not late and count > DENSE * LOOK_S:
                self._wary, self._due = False, now + STALL_S
            return True
        if late:
            self._wary = True
            self._relay = Relay(self._turn, passing=True)
            self._settle()
        elif count < DENSE * STALL_S:
            self._wary = True
        else:
            self._due = now + STALL_S
        return self._wary or now >= self._look_due

    def _stall(self, seconds: float) -> None:
        """Leave the writing to a thread: a write has taken so long."""
        if self._closed:
            return
        if self._relay is None:
            self._relay = Relay(self._turn)
        self._relay.wrote(seconds)
        if seconds > LONG_STALL_S:
            self._count_stall(self._relay, seconds)
        self._settle()

    def _count_stall(self, relay: Relay, seconds: float) -> None:
        if not relay.stalled_s:
            self.stalls += 1
            relay.stalled_s = seconds

    def _hand_over(self, relay: Relay) -> None:
        """Have the relay write what waits; the call waits for that, but not for long."""
        if relay.ring():
            self._queued.append(_nothing)  # so that the call does not end without it
        else:
            self._relay = None
            self._drain(force=True)

    # -- in the relay's thread ------------------------------------------------------------

    def _turn(self, relay: Relay) -> Optional[float]:
        """Write some of what waits; see ``Relay``."""
        over: list[bool] = []
        self._exclusively(lambda: over.append(self._begin_turn(relay)))
        if over != [False]:
            return None
        if relay.stalled_s and not relay.told and self.on_stall is not None:
            relay.told = True
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                self.on_stall(relay.stalled_s)
        if not relay.busy:
            self._look_after()
            return relay.rest()
        taken: list[_Batch] = []
        done, began = 0, _monotonic()
        relay.writing_since = time.monotonic()
        try:
            if self._ready():
                self._exclusively(lambda: taken.append(self._gathered()))
                done = self._write_batch(taken[0])
        finally:
            relay.writing_since = None
            took = _monotonic() - began
            self._exclusively(partial(self._end_turn, relay, taken, done, took))
        return 0.0 if taken and done == len(taken[0].entries) else RETRY_S

    def _begin_turn(self, relay: Relay) -> bool:
        """Take the segment, if there is something to write; True when the relay is not needed."""
        if self._relay is not relay or self._closed:
            return True
        self._work_off()
        if not self._waiting and self.lost != self._told:
            self._told = dict(self.lost)
            self._waiting.append(_Entry(frame.LOST, 0, json.dumps(self._told).encode()))
        relay.busy = bool(self._waiting)
        if not relay.busy:
            relay.late = False
            if relay.calm():
                self._relay = None
                self._settle()
                return True
        return False

    def _ready(self) -> bool:
        """Have a segment that can be written to."""
        segment = self._segment
        try:
            if segment is None:
                self._open_segment()
                return True
            segment.size(self._files)
        except OSError:
            if segment is not None:
                self._abandon(segment)  # as in ``_complete``
            return False
        full = segment.seq >= segment.until
        if full or self._stumbles > 1 or self._worn(segment, _monotonic()):
            self._rotate()
        return True

    def _gathered(self) -> _Batch:
        """Take what one write should hold out of what waits."""
        segment, waiting = self._segment, self._waiting
        assert segment is not None
        batch = _Batch(segment, bytearray(), [], [], {})
        seq, hashes = segment.seq, set()
        while waiting and len(batch.data) < BATCH_BYTES:
            key, before, name = waiting[0].key, b"", 0
            if key is not None and key in batch.names:
                name = batch.names[key]
            elif key is not None:
                before, name = segment.define(key, seq)
                if before and name in hashes:
                    break  # two new keys of one hash: the second gets another one in its turn
                hashes.add(name)
                batch.names[key] = name
            entry = waiting.popleft()
            batch.data.extend(before + _encoded(entry, name, seq, segment.salt))
            batch.entries.append(entry)
            batch.ends.append(len(batch.data))
            seq += frame.is_data(entry.kind)
        return batch

    def _write_batch(self, batch: _Batch) -> int:
        """Write, and return how many entries are on disk; of no other is anything left there."""
        view, written, stumbles = memoryview(batch.data), 0, 0
        while written < len(view) and stumbles < 2:
            try:
                more = self._write(batch.segment.fd, view[written:])
            except OSError:
                more = 0
            stumbles = 0 if more else stumbles + 1
            written += more
        done = bisect.bisect_right(batch.ends, written)
        torn = written - (batch.ends[done - 1] if done else 0)
        if torn:
            with contextlib.suppress(OSError):
                size = batch.segment.size(self._files)
                self._files.ftruncate(batch.segment.fd, size - torn)
        return done

    def _end_turn(self, relay: Relay, taken: list[_Batch], done: int, took: float) -> None:
        """Count what was written; what was not waits on."""
        relay.busy = False
        if self._relay is not relay or self._closed:
            return  # whoever closed the writer has counted already
        relay.wrote(took)
        relay.refused = not taken or done < len(taken[0].entries)
        if took > STALL_S:
            self._count_stall(relay, took)
        if not taken:
            self._stumbles += 1
            return
        segment, _, entries, ends, names = taken[0]
        self._waiting.extendleft(reversed(entries[done:]))
        for entry in entries[:done]:
            record = frame.is_data(entry.kind)
            segment.seq += record
            self._waiting_bytes -= _size(entry)
            self.waiting -= record
            if entry.key is not None:
                segment.learn(entry.key, names[entry.key])
        if done:
            segment.until -= max(0, ends[done - 1] // SCALAR_SIZE - done)
        self._stumbles = 0 if done == len(entries) else self._stumbles + 1

    def _worn(self, segment: Segment, now: float) -> bool:
        """Return True when a segment should be left: it is old, or the disk did not confirm it."""
        if now - segment.since > SEGMENT_AGE_S and segment.seq > segment.first:
            return True
        return self.run.is_suspect(self.run.segment_path(self.name, self._number).name)

    # -- forks ----------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """Be a new writer in the child: nothing of the parent's is shared, sent or closed twice."""
        segment, busy = self._segment, self._busy
        self._become(main=False, forked=True)
        if segment is None:
            return
        with contextlib.suppress(OSError):
            segment.size(self._files)  # raises if the number is somebody else's by now
            if busy:
                # Forked from within a log call, which will go on here as well. The record is the
                # parent's; what is written of it here must go nowhere.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, segment.fd, inheritable=False)
                os.close(nowhere)
            else:
                os.close(segment.fd)


def _share_of_disk(folder: Path) -> int:
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return LEAST_SEGMENT_BYTES
    return max(LEAST_SEGMENT_BYTES, free // SEGMENT_SHARE)


def _nothing() -> None:
    return


def _size(entry: _Entry) -> int:
    """Return what an entry takes in memory, about."""
    return _ENTRY_BYTES + len(entry.payload)


def _encoded(entry: _Entry, name: int, seq: int, salt: int) -> bytes:
    """Return the bytes of an entry; ``name`` is the hash of its key, if it has one."""
    payload = entry.payload if entry.key is None else _NAME.pack(name) + entry.payload
    data = frame.encode(entry.kind, entry.flags, seq, payload, salt)
    return data if frame.is_data(entry.kind) else data * 2


def _check(key: tuple[Any, Any]) -> None:
    """Refuse what cannot be defined. Raises TypeError or ValueError."""
    stream, tag = key
    if not isinstance(stream, str) or not (tag is None or isinstance(tag, str)):
        raise TypeError(f"stream and tag are texts, not {stream!r:.60} and {tag!r:.60}")
    if len(stream) + len(tag or "") > frame.MAX_PAYLOAD // 8:
        raise ValueError("a stream and a tag of that length cannot be recorded")


#: Knows no keys: a scalar that looks here takes the long way.
_NOWHERE = Segment(-1, 0, 0, 0)

# One hook for all writers, holding none of them alive.
_writers: weakref.WeakSet[SpoolWriter] = weakref.WeakSet()
#: Two threads may fork at once; and a writer may be made while one does.
_forking = threading.RLock()
_held: list[Callable[[], object]] = []


def _before_fork() -> None:
    # A child must not inherit a lock, or a half-written frame, of a thread it does not have.
    _forking.acquire()
    for writer in list(_writers):
        writer._acquire()  # noqa: SLF001
        _held.append(writer._release)  # noqa: SLF001


def _in_parent() -> None:
    while _held:
        _held.pop()()
    _forking.release()


def _in_child() -> None:
    global _forking  # noqa: PLW0603
    _held.clear()
    _forking = threading.RLock()
    for writer in list(_writers):
        writer._after_fork()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
