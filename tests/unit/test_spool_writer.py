from __future__ import annotations

import gc
import json
import math
import os
import random
import signal
import sys
import threading
import time
import weakref
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spooling import Disk, decoded, logged, new_run, number, program, read

from tracelet.errors import SpoolError
from tracelet.records import Media, Param, RunEnd, RunStatus, Tag
from tracelet.spool import frame, segment
from tracelet.spool import writer as module
from tracelet.spool.reader import last_word, written
from tracelet.spool.rundir import RunDir
from tracelet.spool.writer import SpoolWriter

EDGE = 2**63


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return new_run(tmp_path)


@pytest.fixture
def log(run: RunDir) -> SpoolWriter:
    return SpoolWriter(run)


# -- what is recorded -----------------------------------------------------------------------


def test_a_point_is_on_disk_when_the_call_returns(run: RunDir, log: SpoolWriter) -> None:
    expected = []
    for point in [
        ("runs/a", "loss", 0.1, 1, None),
        ("runs/a", "loss", 0.1 + 0.2, 2, 1234.5),
        ("runs/a", "loss", -0.0, None, None),
        ("runs/a", "loss", 1e-320, 2.5, None),
        ("runs/b", "loss", math.inf, -7, None),
        ("", "loss", -math.inf, EDGE - 1, 0.0),
        ("", "a/b [%] é \U0001f600", 5, -EDGE, None),
    ]:
        log.scalar(*point)
        expected.append(point)
        assert logged(run, dead=False) == expected
    log.scalar("", "loss", math.nan, 1, None)
    assert math.isnan(logged(run, dead=False)[-1][2])
    assert log.recorded == log.spooled == 8


def test_times_are_those_of_the_calls(run: RunDir, log: SpoolWriter) -> None:
    before = time.time()
    for _ in range(3):
        log.scalar("a", "b", 1.0, 1, None)
        log.event("a", b"event", None)
    after = time.time()
    items, _ = read(run)
    scalars = [item.payload for item in items if item.type == frame.SCALAR]
    times = [frame.SCALAR_INT.unpack(payload)[3] for payload in scalars]
    assert times == sorted(times)
    assert before - 0.1 <= times[0] <= times[-1] <= after + 0.1
    assert before - 0.1 <= log.now() <= time.time() + 0.1


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (True, 1),
        (np.int64(5), 5),
        (np.uint8(5), 5),
        (np.float64(2.5), 2.5),
        (np.float32(2.5), 2.5),
        (Fraction(5, 2), 2.5),
        (EDGE, float(EDGE)),
        (-EDGE - 1, float(-EDGE - 1)),
        (2**200, 2.0**200),
        (10**400, sys.float_info.max),
        (-(10**400), -sys.float_info.max),
        (math.inf, math.inf),
        (np.uint64(2**64 - 1), float(2**64 - 1)),
    ],
)
def test_steps_of_every_kind(run: RunDir, log: SpoolWriter, step: Any, expected: Any) -> None:
    for _ in range(2):  # the first one brings the definition, the second takes the short way
        log.scalar("a", "b", 1.0, step, None)
        log.scalar("a", "b", 1.0, 7, None)
    steps = [point[3] for point in logged(run)]
    assert steps == [expected, 7] * 2
    assert type(steps[0]) is type(expected)


@pytest.mark.parametrize("value", [True, 5, np.float32(0.5), np.int8(-1), Fraction(1, 2)])
def test_values_of_every_kind(run: RunDir, log: SpoolWriter, value: Any) -> None:
    for _ in range(2):
        log.scalar("a", "b", value, 1, None)
    assert [point[2] for point in logged(run)] == [float(value)] * 2


WRONG = [
    ("a", "b", "0.5", 1, None),
    ("a", "b", None, 1, None),
    ("a", "b", 1j, 1, None),
    ("a", "b", 10**400, 1, None),
    ("a", "b", [1.0], 1, None),
    ("a", "b", 1.0, "1", None),
    ("a", "b", 1.0, b"1", None),
    ("a", "b", 1.0, [1], None),
    ("a", "b", 1.0, 1j, None),
    ("a", "b", 1.0, 1, "now"),
    ("a", 5, 1.0, 1, None),
    (None, "b", 1.0, 1, None),
    ("a", ["b"], 1.0, 1, None),
    ("a", b"b", 1.0, 1, None),
]


@pytest.mark.parametrize("point", WRONG, ids=repr)
@pytest.mark.parametrize("known", [False, True])
def test_what_is_no_point_is_refused_and_leaves_no_trace(
    run: RunDir, log: SpoolWriter, point: Any, known: bool
) -> None:
    if known:
        log.scalar("a", "b", 0.0, 0, None)
    size = run.segment_path(log.name, 1).stat().st_size
    with pytest.raises(TypeError):
        log.scalar(*point)
    assert run.segment_path(log.name, 1).stat().st_size == size
    assert log.recorded == known
    # A bad first point must not spoil its key for those that follow.
    for index in range(3):
        log.scalar("a", "b", index, index, None)
    assert [point[2] for point in logged(run)] == [0.0, 0, 1, 2][not known :]


@pytest.mark.parametrize(
    "tag", ["", "\0", "a\0b", "\ud800", "x\udfff\ud800", "ä☃\U0001f600", "x" * 1_000_000, "\n\r"]
)
def test_every_tag_comes_back(run: RunDir, log: SpoolWriter, tag: str) -> None:
    for stream in ("runs", tag):
        log.scalar(stream, tag, 1.0, 1, None)
        log.scalar(stream, tag, 2.0, 2, None)
        log.event(stream, b"event", None)
    items, reader = read(run)
    assert reader.damaged == {}
    assert [(item.stream, item.tag) for item in items] == [
        ("runs", tag), ("runs", tag), ("runs", None), (tag, tag), (tag, tag), (tag, None)
    ]  # fmt: skip
    # And to whoever begins in the middle.
    again, reader = read(run, position=items[0].after)
    assert again == items[1:]
    assert reader.damaged == {}


def test_a_tag_beyond_reason_is_refused(
    run: RunDir, log: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame, "MAX_PAYLOAD", 8_000)
    for call in (
        lambda: log.scalar("a", "b" * 1000, 1.0, 1, None),
        lambda: log.event("a" * 1001, b"", None),
    ):
        with pytest.raises(ValueError, match="cannot be recorded"):
            call()
    log.scalar("a", "b" * 999, 1.0, 1, None)
    assert len(logged(run)) == 1


def test_more_keys_than_are_remembered(
    run: RunDir, log: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "MAX_KEYS", 10)
    for index in range(100):
        log.scalar("a", f"key{index % 25}", index, index, None)
    assert [(point[1], point[2]) for point in logged(run)] == [
        (f"key{index % 25}", index) for index in range(100)
    ]


def test_hashes_that_meet_are_told_apart(
    run: RunDir, log: SpoolWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = segment.codec.key_hash
    monkeypatch.setattr(
        segment.codec,
        "key_hash",
        lambda stream, tag, salt=0: original(stream, tag, salt) if salt > 3 else salt,
    )
    for index in range(60):
        log.scalar("a", f"key{index % 12}", index, index, None)
        log.event("a", b"%d" % index, None)
    found = logged(run)
    assert [entry[1] for entry in found[::2]] == [f"key{index % 12}" for index in range(60)]
    assert [entry[2] for entry in found[1::2]] == [b"%d" % index for index in range(60)]


def test_records_of_all_sizes(run: RunDir, log: SpoolWriter) -> None:
    picture = os.urandom(module.INLINE_BYTES + 1)
    log.record(Param("lr", 0.1, 1.0))
    log.event("a", picture, {"tag": "x"})
    log.event("a", picture[:100], None)
    log.record(Media("image", "k", picture, "image/png", 1, 1.0))
    log.record(Tag("t", "x" * 300_000, 1.0))
    assert logged(run) == [
        Param("lr", 0.1, 1.0),
        ("a", {"tag": "x"}, picture),
        ("a", None, picture[:100]),
        Media("image", "k", picture, "image/png", 1, 1.0),
        Tag("t", "x" * 300_000, 1.0),
    ]
    assert len(list(run.blobs.iterdir())) == 3


def test_what_cannot_be_encoded_is_refused_and_leaves_no_trace(
    run: RunDir, log: SpoolWriter
) -> None:
    for call in (
        lambda: log.record("text"),  # type: ignore[arg-type]
        lambda: log.event("a", "text", None),  # type: ignore[arg-type]
        lambda: log.event(5, b"", None),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call()
    log.scalar("a", "b", 1.0, 1, None)
    assert len(logged(run)) == log.recorded == 1


# -- segments -------------------------------------------------------------------------------


def test_a_segment_is_closed_at_its_size(run: RunDir) -> None:
    log = SpoolWriter(run, segment_bytes=20_000)
    for index in range(3000):
        log.scalar("a", f"key{index % 7}", index, index, None)
    for _ in range(20):
        log.event("a", b"x" * 3000, None)
    numbers = run.segment_numbers()[log.name]
    sizes = [run.segment_path(log.name, each).stat().st_size for each in numbers]
    assert all(18_000 <= size <= 23_500 for size in sizes[:-1]), sizes
    assert [point[3] for point in logged(run)[:3000]] == list(range(3000))
    for index, each in enumerate(numbers):
        before = written(run, log.name, each)
        assert before == 3020 or index < len(numbers) - 1


def test_a_segment_is_sealed_before_the_next_one_can_be_seen(run: RunDir) -> None:
    disk = Disk()
    log = SpoolWriter(run, segment_bytes=3000, files=disk)
    seen = []

    def watch(call: str) -> None:
        if call == "show":
            content = run.segment_path(log.name, 1).read_bytes()
            (header,) = frame.scan(content, 0, 0, limit=1).frames
            salt = json.loads(header.payload)["salt"]
            seen.append(frame.scan(content, header.end * 2, salt).frames[-1].type)

    disk.answer = watch
    while len(run.segment_numbers()[log.name]) < 2:
        log.scalar("a", "b", 1.0, 1, None)
    assert seen == [frame.FOOTER]


def test_a_segment_is_closed_at_its_age(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SpoolWriter(run)
    monkeypatch.setattr(module, "SEGMENT_AGE_S", 0.0)
    log._due = 0.0
    log.scalar("a", "b", 1.0, 1, None)  # it was empty: no reason to close it
    assert run.segment_numbers()[log.name] == [1]
    log._due = 0.0
    log.scalar("a", "b", 2.0, 2, None)
    assert run.segment_numbers()[log.name] == [1, 2]
    assert [point[2] for point in logged(run)] == [1.0, 2.0]


def test_nobody_sees_a_segment_without_header(run: RunDir, tmp_path: Path) -> None:
    disk = Disk()
    seen = []
    disk.answer = lambda _call: seen.append(run.segment_numbers())
    SpoolWriter(run, files=disk).close()
    assert seen[0] == {}
    assert all(found == {} for found in seen[: disk.calls.index("show") + 1])
    assert [path.name for path in run.segments.iterdir()] == [f"{_only(run)}-000001"]


def _only(run: RunDir) -> str:
    (name,) = run.segment_numbers()
    return name


def test_an_owner_needs_a_segment(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    disk = Disk()
    disk.answer = lambda call: number("ENOSPC") if call == "write" else None
    with pytest.raises(SpoolError, match=r"Cannot write to the spool folder .*No space left"):
        SpoolWriter(run, files=disk)
    assert list(run.segments.iterdir()) == []


def test_the_header_says_who_wrote_it(run: RunDir, log: SpoolWriter) -> None:
    content = run.segment_path(log.name, 1).read_bytes()
    first, second = frame.scan(content, 0, 0).frames
    assert first.payload == second.payload
    header = json.loads(first.payload)
    assert header["format"] == 1
    assert header["incompatible"] == []
    assert (header["run"], header["writer"], header["number"]) == (run.info.run_id, log.name, 1)
    assert (header["first"], header["main"], header["pid"]) == (0, True, os.getpid())
    assert header["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert header["start"] > 0
    assert abs(header["wall"] - time.time()) < 60


# -- closing --------------------------------------------------------------------------------


def test_the_last_word(run: RunDir, log: SpoolWriter) -> None:
    log.scalar("a", "b", 1.0, 1, None)
    end = RunEnd(RunStatus.FAILED, 5.0, {"disk": 3})
    log.record(end)
    assert log.recorded == 1  # it describes the run; it is no record of it
    assert last_word(run) == end
    items, reader = read(run, dead=False)
    assert (len(items), reader.end, reader.sealed) == (1, end, False)
    log.close()
    items, reader = read(run, dead=False)
    assert (len(items), reader.end, reader.sealed) == (1, end, True)


def test_what_is_logged_after_the_end_is_counted(run: RunDir, log: SpoolWriter) -> None:
    log.scalar("a", "b", 1.0, 1, None)
    log.close()
    log.close()
    for _ in range(2):
        log.scalar("a", "b", 1.0, 1, None)
    log.event("a", b"late", None)
    log.record(RunEnd(RunStatus.FAILED, 5.0))
    assert log.lost == {"stopped": 3}
    assert (log.recorded, log.spooled) == (4, 1)
    assert len(logged(run)) == 1


def test_a_closed_writer_leaves_nothing_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for index in range(5):
        log = SpoolWriter(new_run(tmp_path), segment_bytes=2000)
        for _ in range(200):
            log.scalar("a", "b", index, 1, None)
        log.event("a", bytes(300_000), None)
        log.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_writers_are_not_kept_alive(run: RunDir) -> None:
    log = SpoolWriter(run)
    log.close()
    seen = weakref.ref(log)
    del log
    gc.collect()
    assert seen() is None


# -- time -----------------------------------------------------------------------------------


class Clock:
    """The wall clock and the monotonic one, turned by hand."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.wall, self.steady = 1_000_000.0, 50.0
        patch.setattr(module.time, "time", lambda: self.wall)
        patch.setattr(module, "_monotonic", lambda: self.steady)

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def test_a_step_of_the_clock_neither_reorders_nor_repeats(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    log = SpoolWriter(run)
    told: list[float] = []
    log.on_jump = told.append

    def times(seconds: int, jump: float = 0.0) -> list[float]:
        clock.wall += jump
        for _ in range(seconds):
            clock.go(1.1)
            log.scalar("a", "b", 1.0, 1, None)
        items, _ = read(run)
        return [frame.SCALAR_INT.unpack(item.payload)[3] for item in items]

    times(10)
    # Set back by an hour, and put right within a minute: nothing is seen of it.
    times(10, jump=-3600)
    found = times(10, jump=3600)
    assert found == sorted(found)
    assert found[-1] == pytest.approx(clock.wall)
    # By a second: a clock that is being adjusted is not followed.
    found = times(100, jump=-1.0)
    assert found[-1] == pytest.approx(clock.wall + 1.0)
    assert (told, log.jumps) == ([], 0)
    # Back for good: followed after a minute, and told.
    found = times(40, jump=-3600)
    assert found == sorted(found)
    found = times(40)
    assert found[-1] == pytest.approx(clock.wall)
    assert told == pytest.approx([-3601.0])
    times(100, jump=50.0)
    assert told == pytest.approx([-3601.0, 50.0])
    assert log.jumps == 2


# -- from within a call ---------------------------------------------------------------------


def test_a_signal_handler_that_logs_while_a_call_is_under_way(run: RunDir) -> None:
    disk = Disk()
    log = SpoolWriter(run, files=disk)
    armed = [0]

    def during(call: str) -> None:
        if call == "write" and armed[0]:
            armed[0] -= 1
            os.kill(os.getpid(), signal.SIGUSR1)

    def handler(*_arguments: Any) -> None:
        log.scalar("a", "handler", 1.0, len(log.lost), None)
        log.event("a", b"handler", None)
        log.record(Param("handler", 1, 1.0))

    former = signal.signal(signal.SIGUSR1, handler)
    try:
        disk.answer = during
        for index in range(30):
            armed[0] = 1
            log.scalar("a", f"key{index % 3}", index, index, None)
            armed[0] = 1
            log.event("a", b"%d" % index, None)
    finally:
        signal.signal(signal.SIGUSR1, former)
    found = logged(run, dead=False)  # all of it is there although nothing was closed
    points = [entry for entry in found if isinstance(entry, tuple)]
    assert [entry[2] for entry in points if entry[1] == "key0"] == list(range(0, 30, 3))
    assert len(found) == 60 * 4 == log.recorded
    assert sum(entry == Param("handler", 1, 1.0) for entry in found) == 60


def test_a_finalizer_that_logs_while_a_call_is_under_way(run: RunDir) -> None:
    class Logging:
        def __del__(self) -> None:
            log.scalar("a", "finalizer", 1.0, 1, None)

    class Value:
        """A number that drops an object in a cycle, and collects it, when it is read."""

        def __float__(self) -> float:
            dropped = Logging()
            dropped.itself = dropped  # type: ignore[attr-defined]
            del dropped
            gc.collect()
            return 0.5

    log = SpoolWriter(run)
    for index in range(20):
        log.scalar("a", "value", Value(), index, None)  # type: ignore[arg-type]
    found = logged(run, dead=False)
    assert [entry[3] for entry in found if entry[1] == "value"] == list(range(20))
    assert sum(entry[1] == "finalizer" for entry in found) == log.recorded - 20 >= 20


# Interrupted within ``open``, Python closes the file by itself, and complains.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_handler_that_raises_at_any_moment_costs_the_call_it_broke_at_most(
    tmp_path: Path,
) -> None:
    """Ctrl-C in a notebook: the program goes on, and so must the spool."""
    disk = Disk()
    run = new_run(tmp_path)
    log = SpoolWriter(run, files=disk, segment_bytes=3000)
    chance = random.Random(3)

    def interrupt(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    returned, broken = [], []
    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        for index in range(4000):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 6e-5))
                log.scalar("a", f"key{index % 5}", index, index, None)
                signal.setitimer(signal.ITIMER_REAL, 0)
                returned.append(index)
            except KeyboardInterrupt:
                broken.append(index)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    log.close()
    assert broken
    assert not log._queued
    items, reader = read(run)
    steps = [decoded(item)[3] for item in items]
    assert steps == sorted(set(steps))
    assert set(returned) <= set(steps)
    # A number may have been given to a call that was broken just before its write.
    assert sum(reader.damaged.values()) <= len(broken)
    assert log.spooled == len(steps) + sum(reader.damaged.values())


def test_a_run_that_a_handler_stops_in_the_middle_of_a_call(run: RunDir) -> None:
    disk = Disk()
    log = SpoolWriter(run, files=disk)
    log.scalar("a", "b", 0.0, 0, None)

    def stop(_call: str) -> None:
        disk.answer = lambda _call: None
        log.record(RunEnd(RunStatus.KILLED, 1.0))
        log.close(patience_s=5.0)

    disk.answer = stop
    log.scalar("a", "b", 1.0, 1, None)
    assert [point[3] for point in logged(run)] == [0, 1]
    end = last_word(run)
    assert end is not None
    assert end.status is RunStatus.KILLED
    log.scalar("a", "b", 2.0, 2, None)
    assert log.lost == {"stopped": 1}


def test_the_shipper_is_looked_after_once_a_second_and_never_instead_of_a_record(
    run: RunDir, log: SpoolWriter
) -> None:
    asked = []

    def watch() -> None:
        asked.append(len(logged(run, dead=False)))
        log.scalar("a", "watch", 1.0, 1, None)  # it may log, and it holds nobody up
        other = threading.Thread(target=log.scalar, args=("a", "thread", 1.0, 1, None))
        other.start()
        other.join(10)
        assert not other.is_alive()
        raise OSError("no process can be started")

    log.watch = watch
    for index in range(10):
        log.scalar("a", "b", index, index, None)
    assert asked == [1]
    log._due = 0.0
    log.event("a", b"event", None)
    assert asked == [1, 13]
    assert len(logged(run)) == 15
    log.watch = None
    log._due = 0.0
    log.scalar("a", "b", 1.0, 1, None)
    assert len(asked) == 2


# -- threads --------------------------------------------------------------------------------


def test_eight_threads_lose_nothing_and_keep_their_order(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    log = SpoolWriter(run, segment_bytes=50_000)
    start = threading.Barrier(8)

    def work(name: int) -> None:
        start.wait(30)
        for index in range(1000):
            if index % 50 == 7:
                log.event("a", b"%d/%d" % (name, index), None)
            else:
                log.scalar("a", f"thread{name}/{index % 3}", index, index, None)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    finally:
        sys.setswitchinterval(interval)
    log.close()
    assert log.recorded == log.spooled == 8000
    order: dict[int, list[int]] = {name: [] for name in range(8)}
    for entry in logged(run):
        if len(entry) == 3:
            name, _, index = entry[2].decode().partition("/")
        else:
            name, index = entry[1][6], entry[3]
        order[int(name)].append(int(index))
    assert all(found == list(range(1000)) for found in order.values())


# -- files that go away ---------------------------------------------------------------------


def test_a_program_that_closes_every_descriptor(run: RunDir, tmp_path: Path) -> None:
    log = SpoolWriter(run)
    for index in range(5):
        log.scalar("a", "b", index, index, None)
    assert log._segment is not None
    os.close(log._segment.fd)
    for index in range(5, 10):
        log.scalar("a", "b", index, index, None)
    assert log.waiting == 0
    assert [point[3] for point in logged(run)] == list(range(10))
    assert log.lost == {}


def test_a_descriptor_that_has_become_somebody_else_s_is_let_alone(
    run: RunDir, tmp_path: Path
) -> None:
    log = SpoolWriter(run)
    log.scalar("a", "b", 0.0, 0, None)
    assert log._segment is not None
    theirs = os.open(tmp_path / "theirs", os.O_RDWR | os.O_CREAT)
    os.dup2(theirs, log._segment.fd)
    os.write(theirs, b"their data")
    log._due = 0.0  # a second later
    for index in range(1, 5):
        log.scalar("a", "b", index, index, None)
    log.close()
    assert (tmp_path / "theirs").read_bytes() == b"their data"
    assert os.fstat(theirs).st_size == 10
    os.close(theirs)
    assert [point[3] for point in logged(run)] == list(range(5))


def test_a_folder_that_was_deleted_is_noticed_and_counted(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SpoolWriter(run)
    log.scalar("a", "b", 0.0, 0, None)
    run.remove()
    monkeypatch.setattr(module, "WAITING_BYTES", 1000)
    log._due = 0.0
    for index in range(100):
        log.scalar("a", "b", index, index, None)
    assert log.waiting > 0
    log.close()
    assert log.recorded == 101
    assert log.lost == {"disk": 100}


def test_a_file_of_the_program_s_own_does_not_get_our_number(tmp_path: Path) -> None:
    """Until we notice that it has closed everything, nothing may get into its own files."""
    code = """
import os, sys
from spooling import new_run, logged
from pathlib import Path
from tracelet.spool.writer import SpoolWriter
run = new_run(Path(sys.argv[1]))
log = SpoolWriter(run)
log.scalar("a", "b", 0.0, 0, None)
fd = log._segment.fd
os.close(fd)
flags = os.O_WRONLY | os.O_CREAT
theirs = [os.open(Path(sys.argv[1], f"theirs{n}"), flags) for n in range(20)]
assert fd not in theirs, (fd, theirs)
log.scalar("a", "b", 1.0, 1, None)
assert [os.fstat(each).st_size for each in theirs] == [0] * 20
assert len(logged(run)) == 2
"""
    program(code, tmp_path)


def test_the_standard_streams_are_not_ours(tmp_path: Path) -> None:
    """A segment must not get the number of a stream that the program has closed."""
    code = """
import os, sys
from spooling import new_run, logged
from pathlib import Path
from tracelet.spool.writer import SpoolWriter
os.close(0)
os.close(1)
run = new_run(Path(sys.argv[1]))
log = SpoolWriter(run)
assert log._segment.fd > 2, log._segment.fd
try:
    os.write(1, b"for standard output")
except OSError:
    pass
log.scalar("a", "b", 1.0, 1, None)
assert len(logged(run)) == 1
"""
    program(code, tmp_path)
