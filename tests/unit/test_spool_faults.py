"""
Every system call of the writer fails: once, for a while, and half.

The program never sees it, the counts add up, and everything arrives once the disk takes it again.
"""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from spooling import ERRORS, Disk, decoded, new_run, number, read

from tracelet.records import Param, RunEnd, RunStatus
from tracelet.spool import writer as module
from tracelet.spool.reader import last_word, written
from tracelet.spool.rundir import RunDir
from tracelet.spool.writer import SpoolWriter

CALLS = ("create", "write", "close", "ftruncate", "fstat", "show")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return new_run(tmp_path)


class Program:
    """Logs this and that, and knows what it has logged."""

    def __init__(self, run: RunDir, disk: Disk, patch: pytest.MonkeyPatch) -> None:
        self.disk = disk
        self.log = SpoolWriter(run, files=disk, segment_bytes=4000)
        self.logged: list[Any] = []
        self.steady = 1000.0
        patch.setattr(module, "_monotonic", lambda: self.steady)

    def go(self, count: int, *, seconds: float = 0.0) -> None:
        for _ in range(count):
            index = len(self.logged)
            self.steady += seconds
            if index % 10 == 4:
                self.log.event("a", b"%d" % index, None)
                self.logged.append(("a", None, b"%d" % index))
            elif index % 10 == 8:
                self.log.record(Param("p", index, 1.0))
                self.logged.append(Param("p", index, 1.0))
            elif index % 40 == 35:
                data = b"%d " % index * 100_000
                self.log.event("a", data, None)
                self.logged.append(("a", None, data))
            else:
                point = ("a", f"key{index % 6}", float(index), index, None)
                self.log.scalar(*point)
                self.logged.append(point)
            assert self.log.recorded == len(self.logged)
            assert self.log.recorded == self.log.spooled + sum(self.log.lost.values())

    def end(self) -> list[Any]:
        """End the run on a disk that is well; return what has arrived."""
        self.disk.answer = lambda _call: None
        self.steady += 1.0
        self.log.record(RunEnd(RunStatus.FINISHED, 1.0, dict(self.log.lost)))
        self.log.close()
        items, reader = read(self.log.run, self.log.name)
        assert reader.damaged == {}
        assert last_word(self.log.run) is not None
        assert reader.lost == self.log.lost
        numbers = self.log.run.segment_numbers()[self.log.name]
        assert written(self.log.run, self.log.name, numbers[-1]) == len(items)
        assert not [path for path in self.log.run.segments.iterdir() if path.name[0] == "."]
        return [decoded(item) for item in items]


@pytest.fixture
def program(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> Program:
    return Program(run, Disk(), monkeypatch)


def _failing(calls: tuple[str, ...], error: str, when: Callable[[int], bool]) -> Callable[..., Any]:
    count = itertools.count()
    return lambda call: number(error) if call in calls and when(next(count)) else None


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", CALLS)
def test_each_call_fails_once(
    tmp_path: Path, call: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    well = Program(new_run(tmp_path), Disk(), monkeypatch)
    well.go(120, seconds=0.3)
    well.end()
    times = well.disk.calls.count(call)
    for nth in range(0, times + 1, max(1, times // 15)):
        program = Program(new_run(tmp_path), Disk(), monkeypatch)
        program.disk.answer = _failing((call,), error, lambda index, nth=nth: index == nth)
        program.go(120, seconds=0.3)
        assert program.end() == program.logged, nth
        assert program.log.lost == {}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", CALLS)
def test_each_call_fails_for_a_while(program: Program, call: str, error: str) -> None:
    program.go(50, seconds=0.05)
    program.disk.answer = _failing((call,), error, lambda _index: True)
    program.go(100, seconds=0.05)
    program.disk.answer = lambda _call: None
    program.go(50, seconds=0.05)
    assert program.log.waiting == 0
    assert program.end() == program.logged
    assert program.log.lost == {}


@pytest.mark.parametrize("error", ERRORS)
def test_everything_fails_for_a_while(program: Program, error: str) -> None:
    program.go(50, seconds=0.05)
    program.disk.answer = _failing(CALLS, error, lambda _index: True)
    program.go(100, seconds=0.05)
    assert program.log.waiting == 100
    program.disk.answer = lambda _call: None
    program.go(1, seconds=0.3)
    assert program.log.waiting == 0
    assert program.end() == program.logged


@pytest.mark.parametrize("every", [2, 3, 7])
@pytest.mark.parametrize("calls", [("write",), ("write", "ftruncate"), CALLS])
def test_calls_fail_now_and_then(program: Program, calls: tuple[str, ...], every: int) -> None:
    program.disk.answer = _failing(calls, "EIO", lambda index: index % every == 0)
    program.go(200, seconds=0.25)
    assert program.end() == program.logged


@pytest.mark.parametrize("mend", [True, False], ids=["mended", "left torn"])
@pytest.mark.parametrize("size", [0, 1, 3, 23, 24, 30, 55])
def test_short_writes_are_completed_or_taken_back(program: Program, size: int, mend: bool) -> None:
    """A disk that fills up in the middle of a frame, and has room again later."""
    program.go(30)
    state = {"full": True, "short": True}

    def answer(call: str) -> Any:
        if call == "ftruncate" and not mend:
            return number("EIO")
        if call == "write" and state["full"]:
            if state["short"]:
                state["short"] = False
                return ("short", size)
            return number("ENOSPC")
        return None

    program.disk.answer = answer
    path = program.log.run.segment_path(program.log.name, 1)
    before = path.stat().st_size
    program.go(20, seconds=0.01)
    assert program.log.waiting == 20
    assert path.stat().st_size == before + (0 if mend else size)
    assert _arrived(program) == program.logged[:30]
    state["full"] = False
    program.go(20, seconds=0.3)
    assert program.end() == program.logged


def _arrived(program: Program) -> list[Any]:
    items, reader = read(program.log.run, program.log.name, dead=False)
    assert reader.damaged == {}
    return [decoded(item) for item in items]


def test_a_short_write_that_can_be_completed_is_complete_when_the_call_returns(
    program: Program,
) -> None:
    chance = itertools.cycle([1, 5, 17, 0, 40])
    program.disk.answer = lambda call: ("short", next(chance)) if call == "write" else None
    for _ in range(60):
        program.go(1)
        assert _arrived(program) == program.logged
    assert program.log.waiting == 0


def test_a_signal_that_interrupts_a_write_costs_nothing(program: Program) -> None:
    program.disk.answer = _failing(("write",), "EINTR", lambda index: index % 2 == 0)
    program.go(60)
    assert program.log.waiting == 0
    assert _arrived(program) == program.logged


# -- memory ---------------------------------------------------------------------------------


def test_the_disk_is_asked_again_even_while_the_program_logs_without_a_pause(
    program: Program,
) -> None:
    program.go(10)
    full = {"now": True}
    program.disk.answer = lambda call: number("ENOSPC") if call == "write" and full["now"] else None
    program.go(1000, seconds=0.001)  # five times as long as the disk is left alone
    asked = program.disk.calls.count("write")
    full["now"] = False
    program.go(300, seconds=0.001)
    assert program.log.waiting == 0
    assert program.end() == program.logged
    assert asked < 100  # but not at every call


def test_memory_is_bounded_and_what_is_large_goes_first(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_BYTES", 200_000)
    log = program.log
    log.scalar("a", "first", 0.0, 0, None)
    program.disk.answer = _failing(CALLS, "ENOSPC", lambda _index: True)
    for index in range(30):
        log.event("a", b"%02d" % index * 5000, None)
        log.scalar("a", "b", float(index), index, None)
    assert log._waiting_bytes <= 200_000
    assert 11 <= log.lost["disk"] <= 20  # there is room for nineteen pictures
    for index in range(30, 700):
        log.scalar("a", "b", float(index), index, None)
    assert log._waiting_bytes <= 200_000
    assert log.recorded == 1 + 30 + 700
    before = log.lost["disk"]
    for index in range(700, 2000):
        log.scalar("a", "b", float(index), index, None)
    assert log.lost["disk"] > before  # nothing large was left
    assert log.recorded == 1 + 30 + 2000
    arrived = program.end()
    assert len(arrived) == log.spooled == log.recorded - log.lost["disk"]
    steps = [entry[3] for entry in arrived if len(entry) == 5][1:]
    assert steps == list(range(len(steps)))
    assert len(steps) >= 700
    # Of the pictures the newest were kept.
    pictures = [entry[2][:2] for entry in arrived if len(entry) == 3]
    assert pictures == sorted(pictures)


def test_a_long_queue_is_written_a_little_at_a_time(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call of the program pays for all that has waited."""
    disk = Disk()
    log = SpoolWriter(run, files=disk)
    log.scalar("a", "b", 0.0, 0, None)
    disk.answer = lambda call: number("ENOSPC") if call == "write" else None
    for index in range(1, 20_000):
        log.scalar("a", "b", float(index), index, None)
    disk.answer = lambda _call: None
    monkeypatch.setattr(module, "DRAIN_S", 0.002)
    log._retry_at = 0.0
    log.scalar("a", "b", 20_000.0, 20_000, None)
    assert 0 < log.waiting < 20_000
    calls = 0
    while log.waiting and calls < 20_000:
        log.scalar("a", "b", 0.0, 20_001 + calls, None)
        calls += 1
    assert log.waiting == 0
    log.close()
    steps = [decoded(item)[3] for item in read(run)[0]]
    assert steps == list(range(20_001 + calls))


# -- at the end -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", ERRORS)
def test_a_disk_that_stays_ill_is_counted_at_the_end(program: Program, error: str) -> None:
    program.go(50)
    program.disk.answer = _failing(CALLS, error, lambda _index: True)
    program.go(25)
    log = program.log
    log.record(RunEnd(RunStatus.FINISHED, 1.0))
    log.close()
    assert log.lost == {"disk": 25}
    assert (log.recorded, log.spooled, log.waiting) == (75, 50, 0)
    items, reader = read(log.run)
    assert [decoded(item) for item in items] == program.logged[:50]
    assert reader.damaged == {}
    assert reader.end is None  # a run that could not say so did not finish


class Full(Disk):
    """A disk with room for so many bytes, what is deleted given back."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, fd: int, data: Any) -> int:
        size = min(self.room, len(data))
        if not size:
            raise OSError(number("ENOSPC"), "full")
        self.room -= size
        return os.write(fd, bytes(data)[:size])

    def ftruncate(self, fd: int, size: int) -> None:
        self.room += os.fstat(fd).st_size - size
        os.ftruncate(fd, size)

    def unlink(self, path: Path) -> None:
        self.room += path.stat().st_size
        path.unlink()


def test_the_reserve_takes_the_end_the_parameters_and_what_else_fits(run: RunDir) -> None:
    disk = Full(module.RESERVE_BYTES + 20_000)
    log = SpoolWriter(run, files=disk)
    assert run.reserve.stat().st_size == module.RESERVE_BYTES
    for index in range(5000):
        log.scalar("a", "b", float(index), index, None)
    log.event("a", b"x" * 100_000, None)
    log.record(Param("p", "v", 1.0))
    log.record(RunEnd(RunStatus.FINISHED, 1.0))
    on_disk = log.spooled - log.waiting
    assert run.reserve.exists()  # not for everyday's sake
    log.close()
    assert not run.reserve.exists()
    items, reader = read(run)
    assert reader.damaged == {}
    assert reader.end is not None
    found = [decoded(item) for item in items]
    assert Param("p", "v", 1.0) in found
    steps = [each[3] for each in found if isinstance(each, tuple) and len(each) == 5]
    assert steps == list(range(len(steps)))
    assert len(steps) > on_disk
    assert reader.lost == log.lost == {"disk": 5002 - len(found)}
    assert (log.recorded, log.spooled, log.waiting) == (5002, len(found), 0)


def test_a_reserve_that_cannot_be_had_is_done_without(run: RunDir) -> None:
    disk = Full(3000)
    log = SpoolWriter(run, files=disk)
    assert not run.reserve.exists()
    log.scalar("a", "b", 0.0, 0, None)
    log.close()
    assert log.lost == {}


def test_a_child_keeps_none(run: RunDir) -> None:
    SpoolWriter(run, main=False).scalar("a", "b", 0.0, 0, None)
    assert not run.reserve.exists()


def test_segments_are_a_part_of_a_small_disk(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(run.path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    log = SpoolWriter(run)
    for index in range(6000):
        log.scalar("a", "b", float(index), index, None)
    log.close()
    assert len(run.segment_numbers()[log.name]) == 2


def test_a_segment_that_the_disk_does_not_confirm_is_left_for_a_new_one(
    program: Program, run: RunDir
) -> None:
    program.go(20, seconds=0.01)
    run.suspect(run.segment_path(program.log.name, 1).name)
    program.go(14, seconds=0.3)  # nothing large, which would close a segment by itself
    assert run.segment_numbers()[program.log.name] == [1, 2]
    assert program.end() == program.logged


def test_close_waits_for_the_disk_as_long_as_it_is_told_and_holds_nobody_up(
    run: RunDir,
) -> None:
    disk = Disk()
    log = SpoolWriter(run, files=disk)
    log.scalar("a", "b", 0.0, 0, None)
    full = {"now": True}
    disk.answer = lambda call: number("ENOSPC") if call == "write" and full["now"] else None
    log.scalar("a", "b", 1.0, 1, None)
    log.record(RunEnd(RunStatus.FINISHED, 1.0))
    closing = threading.Thread(target=log.close, args=(20.0,))
    closing.start()
    time.sleep(0.2)
    started = time.monotonic()
    log.scalar("a", "b", 2.0, 2, None)  # another thread of the program
    assert time.monotonic() - started < 0.1
    assert closing.is_alive()
    full["now"] = False
    closing.join(10)
    assert not closing.is_alive()
    assert log.lost == {}
    items, reader = read(run)
    assert sorted(decoded(item)[3] for item in items) == [0, 1, 2]
    assert reader.end is not None


# -- one file -------------------------------------------------------------------------------


def test_a_file_that_cannot_be_written_to_any_more_is_left_for_a_new_one(
    program: Program, run: RunDir
) -> None:
    """A stale handle, a bad sector: the disk is well, and only this file is not."""
    program.go(30)
    assert program.log._segment is not None
    bad = program.log._segment.fd
    original = program.disk.write

    def write(fd: int, data: Any) -> int:
        if fd == bad:
            raise OSError(number("EIO"), "bad")
        return original(fd, data)

    program.log._write = write  # type: ignore[method-assign]
    program.disk.write = write  # type: ignore[method-assign]
    program.go(60, seconds=0.1)
    assert program.log.waiting == 0
    assert run.segment_numbers()[program.log.name] == [1, 2]
    assert program.end() == program.logged


def test_a_child_whose_first_segment_cannot_be_made(run: RunDir) -> None:
    disk = Disk()
    disk.answer = _failing(("create",), "EMFILE", lambda _index: True)
    log = SpoolWriter(run, main=False, files=disk)
    for index in range(10):
        log.scalar("a", "b", float(index), index, None)
    assert (log.recorded, log.waiting) == (10, 10)
    assert run.segment_numbers() == {}
    disk.answer = lambda _call: None
    log._retry_at = 0.0
    log.scalar("a", "b", 10.0, 10, None)
    assert [decoded(item)[3] for item in read(run)[0]] == list(range(11))


@pytest.mark.parametrize("call", ["create", "write", "close"])
def test_a_blob_that_cannot_be_written_is_kept_in_the_segment(
    program: Program, call: str, run: RunDir
) -> None:
    program.log.event("a", b"first", None)
    data = os.urandom(400_000)
    program.disk.answer = _failing((call,), "ENOSPC", lambda index: index == 0)
    program.log.event("a", data, None)
    program.disk.answer = lambda _call: None
    assert list(run.blobs.iterdir()) == []
    assert [decoded(item)[2] for item in read(run)[0]] == [b"first", data]


def test_a_segment_that_cannot_be_followed_goes_on_growing(program: Program, run: RunDir) -> None:
    program.disk.answer = _failing(("create", "show"), "EMFILE", lambda _index: True)
    program.go(30)
    for index in range(3000):
        program.log.scalar("a", "b", float(index), index, None)
    assert run.segment_numbers()[program.log.name] == [1]
    # It is not tried at every call.
    assert program.disk.calls.count("create") < 1000
    program.disk.answer = lambda _call: None
    for index in range(3000, 3100):
        program.log.scalar("a", "b", float(index), index, None)
    assert len(run.segment_numbers()[program.log.name]) > 1
    items, reader = read(run)
    assert (len(items), reader.damaged) == (3130, {})
