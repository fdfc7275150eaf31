"""
The spool against a model of it: a list of what was acknowledged, for every writer.

Random programs log, rotate, fill the disk, fork, are killed at any byte of any write, lose power;
others read meanwhile, remember where they were, delete what they have read, come back. Whatever
happens: nothing that was acknowledged is lost, nothing is invented, order is kept; and where bytes
are damaged, at most the touched record is gone, and counted.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from spooling import Disk, decoded, new_run, number

from tracelet.records import Param, RunEnd, RunStatus
from tracelet.spool import reader as reading
from tracelet.spool import writer as writing
from tracelet.spool.reader import Position, SegmentReader, written
from tracelet.spool.writer import SpoolWriter

SEGMENT_BYTES = 2500


class Killed(BaseException):
    """The process is gone: nothing that it would do afterwards happens."""


class Mortal(Disk):
    """A disk whose process may be killed when so many more bytes have been written."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes_left: Optional[int] = None
        self.dead = False

    def _asked(self, call: str) -> Any:
        if self.dead:
            raise Killed
        return super()._asked(call)

    def write(self, fd: int, data: Any) -> int:
        left = self.bytes_left
        if left is not None and not self.dead:
            if len(data) > left:
                os.write(fd, bytes(data)[:left])
                self.dead = True
                raise Killed
            self.bytes_left = left - len(data)
        return super().write(fd, data)

    def close(self, fd: int) -> None:
        if self.dead:
            os.close(fd)  # the kernel does that
            raise Killed
        super().close(fd)


@dataclass
class Writer:
    """A process, and what it knows to be logged."""

    log: SpoolWriter
    disk: Mortal
    acknowledged: list[Any] = field(default_factory=list)
    #: What may or may not have got to the disk when it was killed: what waited for the disk (the
    #: promise begins there), and the record whose call did not return.
    open: list[Any] = field(default_factory=list)
    alive: bool = True
    ended: bool = False
    #: How many of its records may be gone: bytes were flipped, or never reached the disk.
    flips: int = 0
    cut: bool = False


@dataclass
class Reading:
    """Somebody who delivers: what has arrived there, and where each writer stands."""

    arrived: dict[str, list[Any]] = field(default_factory=dict)
    at: dict[str, Position] = field(default_factory=dict)
    readers: dict[str, SegmentReader] = field(default_factory=dict)


class Spool(RuleBasedStateMachine):
    """The rules."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="spool-model-"))
        self.run = new_run(self.folder)
        self.writers: dict[str, Writer] = {}
        self.backends = [Reading(), Reading()]
        self.current: Optional[Writer] = None
        self.count = itertools.count()
        self.steady = 1000.0
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(writing, "_monotonic", lambda: self.steady)
        self.patch.setattr(writing, "INLINE_BYTES", 900)
        self.patch.setattr(reading, "CHUNK_BYTES", 700)

    def teardown(self) -> None:
        try:
            for writer in self.writers.values():
                if writer.alive:
                    writer.log.close()
                    writer.alive = False
            self._read_everything()
        finally:
            self.patch.undo()
            shutil.rmtree(self.folder)

    # -- writing --------------------------------------------------------------------------

    @initialize()
    def start(self) -> None:
        self._new(main=True)

    def _new(self, *, main: bool) -> None:
        disk = Mortal()
        log = SpoolWriter(self.run, main=main, files=disk, segment_bytes=SEGMENT_BYTES)
        self.current = self.writers[log.name] = Writer(log, disk)

    @rule(main=st.booleans())
    def another_process(self, main: bool) -> None:
        if main:
            for writer in self.writers.values():
                self._die(writer, writer.log.waiting)
        self._new(main=main)

    @rule(pick=st.integers(0, 20))
    def go_on_in_another(self, pick: int) -> None:
        living = [writer for writer in self.writers.values() if writer.alive]
        if living:
            self.current = living[pick % len(living)]

    @staticmethod
    def _die(writer: Writer, waiting: int = 0) -> None:
        """As by SIGKILL: what the writer has in memory is gone, and its descriptor closed."""
        if writer.alive:
            writer.alive = False
            writer.disk.dead = True
            if writer.log._segment is not None:
                os.close(writer.log._segment.fd)
            kept = len(writer.acknowledged) - waiting
            writer.open = writer.acknowledged[kept:]
            del writer.acknowledged[kept:]

    def _call(self, writer: Writer, what: Any, call: Any) -> None:
        log = writer.log
        waiting = log.waiting
        try:
            call()
        except Killed:
            self._die(writer, waiting)
            writer.open.append(what)
            return
        assert log.lost == {}
        writer.acknowledged.append(what)
        assert log.recorded == log.spooled == len(writer.acknowledged)

    def _log(self, writer: Writer, kind: str, key: int, size: int) -> None:
        index = next(self.count)
        if kind == "scalar":
            what: Any = ("a", f"key{key}", float(index), index, None)
            self._call(writer, what, lambda: writer.log.scalar(*what))
        elif kind == "event":
            data = b"%d " % index * size
            what = (f"stream{key}", None, data)
            self._call(writer, what, lambda: writer.log.event(what[0], data, None))
        else:
            what = Param(f"p{index}", "x" * size, 1.0)
            self._call(writer, what, lambda: writer.log.record(what))

    writing_now = precondition(lambda self: self.current.alive and not self.current.ended)

    @writing_now
    @rule(
        kind=st.sampled_from(["scalar", "scalar", "event", "record"]),
        key=st.integers(0, 4),
        size=st.sampled_from([0, 1, 30, 400]),
        times=st.integers(1, 15),
    )
    def log(self, kind: str, key: int, size: int, times: int) -> None:
        writer = self.current
        assert writer is not None
        for turn in range(times):
            if writer.alive:
                self._log(writer, kind, key + turn % 2, size)

    @writing_now
    @rule(
        left=st.integers(0, 1500),
        kind=st.sampled_from(["scalar", "event", "record"]),
        size=st.sampled_from([0, 20, 400]),
    )
    def is_killed_at_a_byte(self, left: int, kind: str, size: int) -> None:
        writer = self.current
        assert writer is not None
        writer.disk.bytes_left = left
        while writer.alive:
            self.steady += 0.3
            self._log(writer, kind, left % 5, size)
        self._new(main=True)

    @writing_now
    @rule()
    def rotate(self) -> None:
        assert self.current is not None
        self.current.log._rotate()

    @writing_now
    @rule(
        error=st.sampled_from(["ENOSPC", "EIO", "EINTR"]),
        calls=st.sampled_from([("write",), ("create",), ("write", "create", "ftruncate", "fstat")]),
        short=st.sampled_from([None, 0, 5, 30]),
        times=st.integers(1, 20),
    )
    def the_disk_refuses_for_a_while(
        self, error: str, calls: tuple[str, ...], short: Optional[int], times: int
    ) -> None:
        writer = self.current
        assert writer is not None
        first = [short] if short is not None else []

        def answer(call: str) -> Any:
            if call == "write" and first:
                return ("short", first.pop())
            return number(error) if call in calls else None

        writer.disk.answer = answer
        for turn in range(times):
            self.steady += 0.06
            self._log(writer, "scalar", turn % 3, 0)
        writer.disk.answer = lambda _call: None

    @rule(seconds=st.sampled_from([0.3, 1.5, 700.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.steady += seconds

    @writing_now
    @rule()
    def end(self) -> None:
        writer = self.current
        assert writer is not None
        writer.log.record(RunEnd(RunStatus.FINISHED, 1.0))
        writer.log.close()
        writer.ended = True
        self._die(writer)
        self._new(main=True)

    # -- reading --------------------------------------------------------------------------

    def _read(self, backend: Reading, name: str, limit: int) -> bool:
        writer = self.writers[name]
        numbers = self.run.segment_numbers().get(name, [])
        reader = backend.readers.get(name)
        if reader is None:
            place = Position(*backend.at.get(name, Position()))
            reader = backend.readers[name] = SegmentReader(self.run, name, place)
        items = reader.read(numbers, dead=not writer.alive, limit=limit)
        if items:
            backend.arrived.setdefault(name, []).extend(decoded(item) for item in items)
            backend.at[name] = items[-1].after
        if writer.alive:
            assert reader.damaged == {} or writer.flips
        return bool(items)

    @rule(backend=st.integers(0, 1), limit=st.sampled_from([1, 5, 2000]), times=st.integers(1, 4))
    def read(self, backend: int, limit: int, times: int) -> None:
        for name in list(self.writers):
            for _ in range(times):
                self._read(self.backends[backend], name, limit)

    @rule(backend=st.integers(0, 1))
    def the_reader_is_killed(self, backend: int) -> None:
        """What was read is committed with its position; the next one begins there."""
        self.backends[backend].readers.clear()

    @rule()
    def what_everybody_has_read_is_deleted(self) -> None:
        for name, numbers in self.run.segment_numbers().items():
            passed = min(backend.at.get(name, Position()).segment for backend in self.backends)
            for each in numbers[:-1]:
                if each < passed:
                    self.run.segment_path(name, each).unlink()

    # -- damage ---------------------------------------------------------------------------

    def _dead_tail(self, pick: int) -> Optional[tuple[Writer, Path]]:
        """Return the newest segment of somebody who is dead, and of whom nothing was read yet."""
        found = self.run.segment_numbers()
        names = [
            name
            for name, writer in self.writers.items()
            if not writer.alive
            and name in found
            and not (writer.flips or writer.cut)
            and not any(name in backend.readers or name in backend.at for backend in self.backends)
        ]
        if not names:
            return None
        name = names[pick % len(names)]
        return self.writers[name], self.run.segment_path(name, found[name][-1])

    @rule(pick=st.integers(0, 20), where=st.integers(0, 10_000), bit=st.integers(0, 7))
    def a_bit_flips(self, pick: int, where: int, bit: int) -> None:
        found = self._dead_tail(pick)
        if found is not None and found[1].stat().st_size:
            writer, path = found
            content = bytearray(path.read_bytes())
            content[where % len(content)] ^= 1 << bit
            path.write_bytes(content)
            writer.flips += 1

    @rule(pick=st.integers(0, 20), where=st.integers(0, 10_000), zeros=st.booleans())
    def power_is_lost(self, pick: int, where: int, zeros: bool) -> None:
        """What was not forced to disk is cut off, or reads as zeros."""
        found = self._dead_tail(pick)
        if found is not None:
            writer, path = found
            content = path.read_bytes()
            size = where % (len(content) + 1)
            path.write_bytes(content[:size] + bytes(len(content) - size if zeros else 0))
            writer.cut = True

    # -- what must hold -------------------------------------------------------------------

    @invariant()
    def nothing_is_invented_and_order_is_kept(self) -> None:
        for backend in self.backends:
            for name, arrived in backend.arrived.items():
                writer = self.writers[name]
                possible = writer.acknowledged + writer.open
                if writer.flips or writer.cut:
                    rest = iter(possible)
                    assert all(what in rest for what in arrived)
                else:
                    assert arrived == possible[: len(arrived)]

    def _read_everything(self) -> None:
        for backend in self.backends:
            for name in self.writers:
                while self._read(backend, name, 2000):
                    pass
        self.nothing_is_invented_and_order_is_kept()
        found = self.run.segment_numbers()
        for name, writer in self.writers.items():
            if name not in found:
                assert not writer.acknowledged
                continue
            total = written(self.run, name, found[name][-1])
            for backend in self.backends:
                arrived = len(backend.arrived.get(name, []))
                reader = backend.readers[name]
                assert reader.exhausted(found[name])
                # Positions count what has gone as well, whoever found it.
                gone = reader.position.seq - arrived + reader.damaged.get("unreadable", 0)
                if writer.cut:
                    assert gone <= 1
                elif writer.flips:
                    assert len(writer.acknowledged) <= arrived + gone
                    assert gone <= writer.flips + bool(writer.open)
                else:
                    # All that was acknowledged; and of the one write that was cut off, either
                    # nothing is there, or all of it, or a part, which is counted.
                    assert arrived >= len(writer.acknowledged)
                    assert gone <= bool(writer.open)
                assert total == arrived + gone


Spool.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestSpool = Spool.TestCase
