"""No other thread gets a turn while a point is written, where the disk is this machine's own."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Iterator

import pytest
from spooling import Disk, logged, new_run, program

from tracelet.spool import holding, relay
from tracelet.spool import writer as writing
from tracelet.spool.rundir import file_system
from tracelet.spool.writer import SpoolWriter

POINTS = 5000

here = pytest.mark.skipif(
    holding.write_for(Path(tempfile.gettempdir())) is None,
    reason="platform: no file system where it is done",
)


@pytest.fixture
def patient() -> Iterator[None]:
    """Nobody is made to give up the interpreter lock; whoever has a turn was let in."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(60.0)
    yield
    sys.setswitchinterval(before)


def turns_of_another(log: SpoolWriter) -> int:
    """Return how many turns a thread had that always wants one, while points were recorded."""
    over, turns = threading.Event(), 0

    def wait() -> None:
        nonlocal turns
        while not over.is_set():
            turns += 1
            time.sleep(0)

    thread = threading.Thread(target=wait)
    log.scalar("runs", "loss", 0.0, 0, None)
    thread.start()
    try:
        before = turns
        for step in range(1, POINTS):
            log.scalar("runs", "loss", step / 7, step, None)
        return turns - before
    finally:
        over.set()
        thread.join()


@here
@pytest.mark.usefixtures("patient")
def test_no_other_thread_has_a_turn_while_points_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "TIGHT", 10**9)
    run, other = new_run(tmp_path / "a"), new_run(tmp_path / "b")
    log = SpoolWriter(run)
    held = turns_of_another(log)
    log.close()
    # The same with a disk of which nothing is known.
    elsewhere = SpoolWriter(other, files=Disk())
    let_go = turns_of_another(elsewhere)
    elsewhere.close()
    # A look at the segment's age, now and then, lets go of the lock.
    assert held * 20 < POINTS
    assert held * 5 < let_go
    for each in (run, other):
        assert [step for _, _, _, step, _ in logged(each)] == list(range(POINTS))


@here
def test_a_program_that_does_nothing_but_log_lets_go(tmp_path: Path) -> None:
    log = SpoolWriter(new_run(tmp_path))
    segment, step, deadline = log._segment, 0, time.monotonic() + 60
    assert segment is not None
    for pause, tight in ((0.0, True), (0.001, False), (0.0, True)):
        while (segment.write is os.write) is not tight:
            log.scalar("runs", "loss", step / 7, step, None)
            step += 1
            if pause:
                time.sleep(pause)
            assert time.monotonic() < deadline
    log.close()
    assert [step for _, _, _, step, _ in logged(log.run)] == list(range(step))


@here
def test_who_closes_every_descriptor_loses_nothing(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    program(
        """
import os, sys
from pathlib import Path
from tracelet.spool.rundir import RunDir
from tracelet.spool.writer import SpoolWriter
run = RunDir.open(Path(sys.argv[1]))
log = SpoolWriter(run)
for step in range(10):
    log.scalar("runs", "loss", step / 7, step, None)
os.closerange(3, 4096)
for step in range(10, 20):
    log.scalar("runs", "loss", step / 7, step, None)
log.close()
""",
        run.path,
    )
    assert [(value, step) for _, _, value, step, _ in logged(run)] == [
        (step / 7, step) for step in range(20)
    ]


@here
def test_a_disk_that_has_stalled_is_not_waited_for_with_everybody_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "CALM_S", 0.2)
    log = SpoolWriter(new_run(tmp_path))
    assert log._segment is not None
    assert log._segment.write is not os.write
    log._stall(1.0)
    deadline = time.monotonic() + 60
    while log._relay is not None and time.monotonic() < deadline:
        log.scalar("runs", "loss", 0.5, 1, None)
        time.sleep(0.05)
    assert log._relay is None
    assert log.stalls == 1
    assert log._segment.write is os.write
    log.close()


@pytest.mark.parametrize("kind", ["nfs4", "fuse.sshfs", "fuseblk", "9p", "lustre", ""])
def test_where_somebody_else_may_have_to_answer_the_lock_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(holding, "file_system", lambda _folder: kind)
    assert holding.write_for(tmp_path) is None
    log = SpoolWriter(new_run(tmp_path))
    assert log._segment is not None
    assert log._segment.write is os.write
    log.close()


@here
def test_an_error_is_a_number_that_no_write_returns(tmp_path: Path) -> None:
    write = holding.write_for(tmp_path)
    assert write is not None
    buffer = bytearray(b"abc")
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY)
    point = holding.arguments(fd, buffer)
    assert write(*point) == 3
    buffer[:] = b"xyz"
    assert write(*point) == 3
    os.close(fd)
    assert write(*point) == -1
    assert (tmp_path / "file").read_bytes() == b"abcxyz"
    assert file_system(tmp_path) in holding._LOCAL
