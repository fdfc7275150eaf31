"""
A disk that stalls: it holds one call for as long as it does, and then none.

The stalls are real, and where it matters they last until the test says so: what returns meanwhile
was not held by them.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from spooling import ERRORS, Disk, decoded, new_run, number, program, read

from tracelet.records import Param, RunEnd, RunStatus
from tracelet.spool import relay as module
from tracelet.spool import writer as writing
from tracelet.spool.reader import last_word
from tracelet.spool.rundir import RunDir
from tracelet.spool.writer import SpoolWriter

STALL_S = 0.3
NAME = "tracelet-spool-writer"


class Stalling(Disk):
    """A disk whose writes stall: the next one for a moment, all later ones until it is ``well``."""

    def __init__(self) -> None:
        super().__init__()
        self.well = threading.Event()
        self.well.set()
        self.once = False
        #: What else is wrong with it.
        self.ill: Callable[[str], Any] = lambda _call: None
        self.answer = self._answer

    def stall(self) -> None:
        self.once = True
        self.well.clear()

    def _answer(self, call: str) -> Any:
        if call == "write":
            if self.once:
                self.once = False
                time.sleep(STALL_S)
            else:
                assert self.well.wait(60)
        return self.ill(call)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return new_run(tmp_path)


@pytest.fixture
def disk() -> Iterator[Stalling]:
    disk = Stalling()
    yield disk
    disk.well.set()


@pytest.fixture
def log(run: RunDir, disk: Stalling) -> Iterator[SpoolWriter]:
    log = SpoolWriter(run, files=disk)
    yield log
    disk.well.set()
    log.close(patience_s=30.0)
    _until(lambda: not _relays())


def _relays() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def _until(true: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _steps(log: SpoolWriter, start: int, stop: int) -> None:
    for index in range(start, stop):
        log.scalar("a", f"key{index % 7}", float(index), index, None)
        assert log.recorded == index + 1


def _arrived(run: RunDir) -> list[int]:
    items, reader = read(run)
    assert reader.damaged == {}
    return [decoded(item)[3] for item in items]


def test_a_stall_holds_one_call_and_what_follows_is_written_when_the_disk_is_well(
    run: RunDir, disk: Stalling, log: SpoolWriter
) -> None:
    told: list[float] = []
    log.on_stall = told.append
    _steps(log, 0, 20)
    assert not _relays()
    disk.stall()
    _steps(log, 20, 21)  # this one was held
    before = time.monotonic()
    _steps(log, 21, 2000)
    assert time.monotonic() - before < 10.0  # it would be a minute each
    assert not disk.well.is_set()
    assert log.waiting == 2000 - 21
    assert len(_relays()) == 1
    disk.well.set()
    _until(lambda: not log.waiting)
    assert _arrived(run) == list(range(2000))
    assert log.lost == {}
    _until(lambda: told)
    assert log.stalls == len(told) == 1
    assert told[0] > module.STALL_S


def test_while_the_disk_is_quick_again_what_has_returned_is_on_disk(
    run: RunDir, disk: Stalling, log: SpoolWriter
) -> None:
    """Also in the half minute in which the thread is there."""
    disk.once = True
    _steps(log, 0, 1)
    for index in range(1, 40):
        _steps(log, index, index + 1)
        assert _arrived(run)[-1] == index
    assert len(_relays()) == 1


def test_a_thread_that_has_no_processor_is_waited_for(
    run: RunDir, disk: Stalling, log: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine is no stalling disk: what has returned is on disk, whatever comes then."""
    disk.once = True
    _steps(log, 0, 2)  # the second one is the thread's
    assert len(_relays()) == 1
    monkeypatch.setattr(module.Relay, "_runnable", lambda _: True)
    disk.well.clear()
    threading.Timer(4 * module.HELD_S, disk.well.set).start()
    _steps(log, 2, 3)
    assert not log.waiting
    assert _arrived(run) == [0, 1, 2]


def test_the_program_writes_for_itself_again_after_a_while(
    run: RunDir, disk: Stalling, log: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CALM_S", 0.2)
    disk.once = True
    count = 0
    for _ in range(2):
        deadline = time.monotonic() + 30
        while count < 3 or log._relay is not None:
            _steps(log, count, count + 1)
            count += 1
            time.sleep(0.005)
            assert time.monotonic() < deadline
    _until(lambda: not _relays())
    before = len(disk.calls)
    _steps(log, count, count + 1)
    assert disk.calls[before:].count("write") == 1
    assert _arrived(run) == list(range(count + 1))


def _logging_without_a_pause(log: SpoolWriter) -> int:
    """
    Log until the clock is not looked at any more; return how much.

    A busy machine pauses for us, again and again: there the writer is told that it did not.
    """
    count, deadline = 0, time.monotonic() + 3
    while log._wary and time.monotonic() < deadline:
        for _ in range(50):
            log.scalar("a", "key", float(count), count, None)
            count += 1
    _until(lambda: not log.waiting)
    if log._wary:
        log._wary, log._due = False, time.monotonic() + module.STALL_S
    return count


def test_a_program_that_logs_without_a_pause_is_held_by_one_stall_as_well(
    run: RunDir, disk: Stalling, log: SpoolWriter
) -> None:
    """The clock is not looked at behind its writes; it is what follows that is not held."""
    log.scalar("a", "key", 0.0, 0, None)
    count = _logging_without_a_pause(log)
    disk.stall()
    for _ in range(200):
        log.scalar("a", "key", float(count), count, None)
        count += 1
    assert not disk.well.is_set()
    assert log.waiting >= 198
    disk.well.set()
    _until(lambda: not log.waiting)
    assert log.recorded == count + 1
    assert _arrived(run) == [0, *range(count)]
    _until(lambda: log.stalls == 1)


def test_a_pause_of_such_a_program_is_no_stall(
    run: RunDir, log: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    log.on_stall = told.append
    monkeypatch.setattr(module.Relay, "wrote", _kindly)
    count = _logging_without_a_pause(log)
    time.sleep(0.3)
    log.scalar("a", "key", float(count), count, None)
    assert log._wary
    _until(lambda: not log.waiting)
    assert _arrived(run) == list(range(count + 1))
    _until(lambda: log._relay is None and not _relays())
    log.scalar("a", "key", 0.0, count + 1, None)
    assert _arrived(run)[-1] == count + 1
    assert not _relays()
    assert told == []


_wrote = module.Relay.wrote


def _kindly(relay: module.Relay, seconds: float) -> None:
    """A busy machine that leaves the thread alone for a moment is not what is tested."""
    _wrote(relay, seconds if seconds > 5.0 else 0.0)


@pytest.mark.parametrize("error", ERRORS)
def test_the_thread_meets_every_error_as_the_program_does(
    run: RunDir, disk: Stalling, log: SpoolWriter, error: str
) -> None:
    _steps(log, 0, 5)
    disk.stall()
    _steps(log, 5, 50)
    disk.ill = lambda call: number(error) if call in ("write", "create", "ftruncate") else None
    disk.well.set()
    _steps(log, 50, 100)
    time.sleep(0.05)
    assert log.waiting
    disk.ill = lambda _call: None
    _until(lambda: not log.waiting)
    assert _arrived(run) == list(range(100))
    assert log.lost == {}


@pytest.mark.parametrize("mend", [True, False], ids=["mended", "left torn"])
@pytest.mark.parametrize("size", [1, 23, 56, 700, 1500])
def test_the_thread_s_short_writes(
    run: RunDir, disk: Stalling, log: SpoolWriter, size: int, mend: bool
) -> None:
    """What is there of a batch is there, and the rest is written again."""
    _steps(log, 0, 14)
    disk.stall()
    _steps(log, 14, 60)
    left = [("short", size)]

    def ill(call: str) -> Any:
        if call == "ftruncate" and not mend:
            return number("EIO")
        if call in ("write", "create") and len(left) < 6:
            left.append(("short", 0))
            return left[-2] if call == "write" else number("ENOSPC")
        return None

    disk.ill = ill
    disk.well.set()
    _until(lambda: not log.waiting)
    _steps(log, 60, 70)
    _until(lambda: not log.waiting)
    assert _arrived(run) == list(range(70))


def test_records_of_every_kind_pass_through_the_thread_in_order(
    run: RunDir, disk: Stalling, log: SpoolWriter, tmp_path: Path
) -> None:
    log.scalar("a", "key", 0.0, 0, None)
    disk.stall()
    log.scalar("a", "key", 1.0, 1, None)
    file = tmp_path / "model.bin"
    file.write_bytes(b"weights")
    large = os.urandom(400_000)
    log.event("a", b"event", None)
    log.record(Param("p", 1, 1.0))
    log.event("b", large, {"tag": "x"})
    log.artifact(file)
    for index in range(300):
        log.scalar("new", f"new{index}", 1.5, 2**70 if index == 7 else index, None)
    log.record(RunEnd(RunStatus.FINISHED, 1.0))
    assert not disk.well.is_set()
    assert list(run.blobs.iterdir()) == []
    disk.well.set()
    log.close(patience_s=30.0)
    items, reader = read(run)
    assert reader.damaged == {}
    assert last_word(run) is not None
    found = [decoded(item) for item in items]
    assert found[2:5] == [("a", None, b"event"), Param("p", 1, 1.0), ("b", {"tag": "x"}, large)]
    assert found[5].source == str(file)  # not copied: that would have held the call
    assert [each[1] for each in found[6:]] == [f"new{index}" for index in range(300)]
    assert (log.recorded, log.spooled, log.lost) == (306, 306, {})


def test_a_file_is_copied_again_once_the_thread_has_caught_up(
    run: RunDir, disk: Stalling, log: SpoolWriter, tmp_path: Path
) -> None:
    """It stays for 30 s, also where a busy machine looked like a stall: the promise holds."""
    disk.stall()
    _steps(log, 0, 3)
    disk.well.set()
    _until(lambda: log._relay is not None and not (log.waiting or log._relay.late))
    file = tmp_path / "model.bin"
    file.write_bytes(b"weights")
    log.artifact(file)
    assert log._relay is not None
    assert [blob.read_bytes() for blob in run.blobs.iterdir()] == [b"weights"]


def test_segments_go_on_in_the_thread(
    run: RunDir, disk: Stalling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "BATCH_BYTES", 500)
    log = SpoolWriter(run, files=disk, segment_bytes=3000)
    _steps(log, 0, 5)
    disk.stall()
    _steps(log, 5, 500)
    disk.well.set()
    log.close(patience_s=30.0)
    assert len(run.segment_numbers()[log.name]) > 5
    assert _arrived(run) == list(range(500))


def test_memory_is_bounded_and_what_is_lost_is_told_on_disk(
    run: RunDir, disk: Stalling, log: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "WAITING_BYTES", 100_000)
    disk.stall()
    _steps(log, 0, 2000)
    assert log._waiting_bytes <= 100_000
    lost = log.lost["disk"]
    assert log.recorded == log.spooled + lost == 2000
    disk.well.set()
    _until(lambda: not log.waiting)

    def told() -> bool:
        _, reader = read(run)
        return reader.lost == {"disk": lost}

    _until(told)  # although the program says nothing more
    assert _arrived(run) == list(range(2000 - lost))


# -- at the end -----------------------------------------------------------------------------


def test_close_waits_for_the_thread(run: RunDir, disk: Stalling, log: SpoolWriter) -> None:
    disk.stall()
    _steps(log, 0, 300)
    log.record(RunEnd(RunStatus.FINISHED, 1.0))
    threading.Timer(0.3, disk.well.set).start()
    log.close(patience_s=30.0)
    assert log.lost == {}
    assert _arrived(run) == list(range(300))
    assert last_word(run) is not None
    _until(lambda: not _relays())


def test_close_does_not_wait_for_ever_and_counts(
    run: RunDir, disk: Stalling, log: SpoolWriter
) -> None:
    _steps(log, 0, 1)
    disk.stall()
    _steps(log, 1, 300)
    before = time.monotonic()
    log.close(patience_s=0.3)
    assert time.monotonic() - before < 10.0
    assert not disk.well.is_set()
    assert log.lost == {"disk": 298}
    assert (log.recorded, log.spooled, log.waiting) == (300, 2, 0)
    log.scalar("a", "late", 0.0, 0, None)
    assert log.lost == {"disk": 298, "stopped": 1}
    disk.well.set()
    _until(lambda: not _relays())
    # The write that hung may have come to its end. It is whole, and nothing is doubled.
    assert _arrived(run) in (list(range(2)), list(range(len(_arrived(run)))))


def test_where_no_thread_can_be_started_the_program_writes(
    run: RunDir, disk: Stalling, log: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    disk.once = True
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        _steps(log, 0, 50)
    assert log.waiting == 0
    assert _arrived(run) == list(range(50))


# -- who else is there ----------------------------------------------------------------------

START = """
import json, os, signal, sys, threading, time
from pathlib import Path
from spooling import Disk
from tracelet.spool.rundir import RunDir
from tracelet.spool.writer import SpoolWriter

run = RunDir.open(Path(sys.argv[1]))
run.own()
disk, well, stalls = Disk(), threading.Event(), [0.3]

def answer(call):
    if call == "write":
        if stalls:
            time.sleep(stalls.pop())
        elif os.getpid() == main:
            well.wait()

main = os.getpid()
log = SpoolWriter(run, files=disk)

def steps(who, start, stop):
    for index in range(start, stop):
        log.scalar("a", who, float(index), index, None)

disk.answer = answer
"""


def test_a_fork_while_the_thread_hangs_in_a_write(run: RunDir) -> None:
    program(
        "import warnings; warnings.simplefilter('ignore')\n"
        + START
        + """
steps("parent", 0, 100)
assert log.waiting and not well.is_set()
pids = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert (log.recorded, log.waiting, log.lost, log.stalls) == (0, 0, {}, 0)
            steps("child", 0, 30)
            assert (log.recorded, log.waiting) == (30, 0)
            code = 0
        finally:
            os._exit(code)
    pids.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
steps("parent", 100, 200)
well.set()
log.close(patience_s=30.0)
assert log.lost == {}
""",
        run.path,
    )
    found = []
    for writer in run.segment_numbers():
        items, reader = read(run, writer)
        assert reader.damaged == {}
        found.append([decoded(item)[3] for item in items])
    assert sorted(found, key=len) == [list(range(30))] * 3 + [list(range(200))]


def test_handlers_finalizers_and_threads_that_log_while_the_thread_is_there(run: RunDir) -> None:
    """The disk stalls now and then; everything is counted and arrives, and nobody hangs."""
    said = program(
        START
        + """
import gc, itertools
well.set()
sys.setswitchinterval(1e-5)
# Each of them may be interrupted by its like.
signals, finalizers = itertools.count(), itertools.count()
counts = {}

def handler(*_):
    log.scalar("a", "signal", 0.0, next(signals), None)

class Noisy:
    def __init__(self):
        self.me = self
    def __del__(self):
        log.scalar("a", "finalizer", 0.0, next(finalizers), None)

def busy(name):
    for index in range(1500):
        log.scalar("a", name, 0.0, index, None)
    counts[name] = 1500

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
gc.set_threshold(50)
threads = [threading.Thread(target=busy, args=(f"thread{n}",)) for n in range(3)]
for thread in threads:
    thread.start()
for index in range(3000):
    if index % 500 == 250:
        stalls.append(0.06)
    Noisy()
    log.scalar("a", "main", 0.0, index, None)
counts["main"] = 3000
for thread in threads:
    thread.join()
signal.setitimer(signal.ITIMER_REAL, 0)
gc.collect()
gc.set_threshold(0)
log.close(patience_s=60.0)
counts["signal"], counts["finalizer"] = next(signals), next(finalizers)
assert log.lost == {}, log.lost
assert log.recorded == log.spooled == sum(counts.values())
print(json.dumps(counts))
""",
        run.path,
    )
    counts = json.loads(said)
    items, reader = read(run)
    assert reader.damaged == {}
    steps: dict[str, list[int]] = {}
    for item in items:
        _, tag, _, step, _ = decoded(item)
        steps.setdefault(tag, []).append(step)
    assert {tag: sorted(found) for tag, found in steps.items()} == {
        tag: list(range(count)) for tag, count in counts.items()
    }
    for tag in ("main", "thread0", "thread1", "thread2"):
        assert steps[tag] == sorted(steps[tag])  # in order
