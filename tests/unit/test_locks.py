"""Locks: with real processes, because nothing else knows what a kernel does."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from spooling import program

from tracelet.spool import locks
from tracelet.spool.locks import ProcessLock, lives, lock_descriptor, passport, try_lock

TIMEOUT_S = 30

HOLDER = r"""
    import os, sys, time
    from pathlib import Path
    from tracelet.spool.locks import ProcessLock
    lock = ProcessLock(Path(sys.argv[1]))
    assert lock.acquire(b"mine")
    if "fork" in sys.argv and os.fork() == 0:
        os.write(1, b"child %d %r\n" % (os.getpid(), lock.held))
        time.sleep(60)
        os._exit(0)
    os.write(1, b"held %d\n" % os.getpid())
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "owner.lock"


@pytest.fixture
def holder(path: Path) -> Iterator[Any]:
    """Start a process that holds the lock; return it and what it has said."""
    started: list[subprocess.Popen[str]] = []
    children: list[int] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], list[str]]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HOLDER), str(path), *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        words = [process.stdout.readline().split() for _ in range(1 + len(arguments))]
        said = sorted(words)
        children.extend(int(line[1]) for line in said if line[0] == "child")
        return process, [" ".join(line) for line in said]

    yield start
    for process in started:
        process.kill()
        process.wait(TIMEOUT_S)
        assert process.stdout is not None
        process.stdout.close()
    for pid in children:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _until(what: Any) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_process_has_it(path: Path, holder: Any) -> None:
    process, _ = holder()
    lock = ProcessLock(path)
    assert lock.taken_elsewhere()
    assert not lock.acquire()
    assert not lock.held
    assert path.read_bytes() == b"mine"
    process.kill()
    process.wait(TIMEOUT_S)
    # Free at once: the kernel lets go before the parent learns of the death.
    assert not lock.taken_elsewhere()
    assert lock.acquire(b"other")
    assert lock.held
    assert path.read_bytes() == b"other"
    lock.release()
    lock.release()
    assert not lock.held


def test_a_forked_child_does_not_keep_it(path: Path, holder: Any) -> None:
    process, said = holder("fork")
    assert said[0].startswith("child")
    assert said[0].endswith("False")
    lock = ProcessLock(path)
    assert lock.taken_elsewhere()
    process.kill()
    process.wait(TIMEOUT_S)
    assert not lock.taken_elsewhere()
    os.kill(int(said[0].split()[1]), 0)  # the child is there all the same


def test_the_child_of_a_holder_costs_it_nothing(path: Path) -> None:
    """Whatever a forked child does to the file, its parent's lock stays."""
    program(
        """
import os, sys
from pathlib import Path
from spooling import program
from tracelet.spool.locks import ProcessLock

lock = ProcessLock(Path(sys.argv[1]))
assert lock.acquire()
pid = os.fork()
if pid == 0:
    code = 1
    try:
        other = ProcessLock(lock.path)
        if other.taken_elsewhere() and not other.acquire() and not lock.held:
            lock.release()
            code = 0
    finally:
        os._exit(code)
assert os.waitpid(pid, 0)[1] == 0
assert lock.held
look = "import sys; from pathlib import Path; from tracelet.spool.locks import ProcessLock;"
look += "print(ProcessLock(Path(sys.argv[1])).taken_elsewhere())"
assert program(look, lock.path) == "True\\n"
lock.release()
assert program(look, lock.path) == "False\\n"
""",
        path,
    )


def _taken_as_seen_by_others(path: Path) -> bool:
    code = (
        "import sys; from pathlib import Path; from tracelet.spool.locks import ProcessLock\n"
        "sys.exit(10 + ProcessLock(Path(sys.argv[1])).taken_elsewhere())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], timeout=TIMEOUT_S)
    assert done.returncode in (10, 11)
    return done.returncode == 11


def test_a_lock_file_is_never_opened_twice_in_a_process(path: Path) -> None:
    """Closing any descriptor of it would let go of the lock, without a word."""
    lock = ProcessLock(path)
    assert lock.acquire()
    again = ProcessLock(path.parent / "." / path.name)
    assert not again.acquire()
    assert again.taken_elsewhere()
    link = path.parent / "folder"
    link.symlink_to(path.parent)
    assert ProcessLock(link / path.name).taken_elsewhere()
    assert _taken_as_seen_by_others(path)
    with pytest.raises(RuntimeError, match="held by this process"):
        lock.taken_elsewhere()
    assert lock.acquire()
    lock.release()
    assert again.acquire()
    again.release()


def test_threads_cannot_take_it_twice(path: Path) -> None:
    got = []

    def take() -> None:
        lock = ProcessLock(path)
        got.append(lock.acquire())

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert sorted(got) == [False] * 15 + [True]
    assert _taken_as_seen_by_others(path)
    (fd_identity,) = [key for key in locks._held if key == locks._identity(path)]
    del locks._held[fd_identity]  # its object is gone with its thread


def test_nobody_has_what_is_not_there(path: Path) -> None:
    assert not ProcessLock(path).taken_elsewhere()
    assert not path.exists()


def test_the_file_is_private_and_no_link_is_followed(path: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        lock = ProcessLock(path)
        lock.acquire()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    lock.release()
    (tmp_path / "other").write_text("precious")
    planted = tmp_path / "planted.lock"
    planted.symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic"):
        ProcessLock(planted).acquire(b"note")
    assert (tmp_path / "other").read_text() == "precious"


def test_a_note_that_cannot_be_written_costs_no_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    lock = ProcessLock(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", full)
        assert lock.acquire(b"note")
    assert _taken_as_seen_by_others(path)
    lock.release()


# -- file systems without locks -------------------------------------------------------------


@pytest.fixture
def lockless(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_fd: int) -> bool:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(locks, "_try", none)


@pytest.mark.usefixtures("lockless")
def test_without_locks_the_file_says_who_has_it(path: Path) -> None:
    lock = ProcessLock(path)
    assert lock.acquire(b"ignored")
    assert json.loads(path.read_bytes()) == passport()
    # As a process sees it that does not know that it is itself.
    locks._held.clear()
    assert ProcessLock(path).taken_elsewhere()
    assert not ProcessLock(path).acquire()
    lock.release()
    assert not ProcessLock(path).taken_elsewhere()
    assert lock.acquire()
    lock.release()


@pytest.mark.usefixtures("lockless")
def test_without_locks_the_dead_are_known_by_their_start(path: Path) -> None:
    path.write_text(json.dumps({**passport(), "start": 1}))  # our number, but not we
    assert not ProcessLock(path).taken_elsewhere()
    path.write_text(json.dumps({**passport(), "boot": "an earlier one"}))
    assert not ProcessLock(path).taken_elsewhere()
    path.write_text("no JSON")
    assert not ProcessLock(path).taken_elsewhere()
    path.write_text("[]")
    assert not ProcessLock(path).taken_elsewhere()


@pytest.mark.usefixtures("lockless")
def test_without_locks_a_holder_elsewhere_counts_while_it_gives_signs(path: Path) -> None:
    path.write_text(json.dumps({**passport(), "host": "another"}))
    assert ProcessLock(path).taken_elsewhere()
    os.utime(path, (time.time() - 700, time.time() - 700))
    assert not ProcessLock(path).taken_elsewhere()
    lock = ProcessLock(path)
    assert lock.acquire()
    os.utime(path, (0, 0))
    lock.beat()
    assert time.time() - path.stat().st_mtime < 60
    lock.release()


def test_with_locks_nobody_touches_the_file(path: Path) -> None:
    lock = ProcessLock(path)
    lock.acquire()
    os.utime(path, (0, 0))
    lock.beat()
    assert path.stat().st_mtime == 0
    lock.release()


@pytest.mark.usefixtures("lockless")
def test_a_descriptor_that_cannot_be_locked(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    assert try_lock(fd) is None
    assert lock_descriptor(fd) is False
    os.close(fd)


def test_other_errors_come_through_and_leave_nothing_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_fd: int) -> bool:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(locks, "_try", broken)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="broken"):
        ProcessLock(path).acquire()
    with pytest.raises(OSError, match="broken"):
        ProcessLock(path).taken_elsewhere()
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_lives() -> None:
    assert lives(passport()) is True
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = passport(child.pid)
    assert lives(found) is True
    child.kill()
    child.wait(TIMEOUT_S)
    assert child.stdin is not None
    child.stdin.close()
    assert lives(found) is False
    assert lives({**passport(), "host": "another"}) is None
    assert lives({**passport(), "space": "a container's"}) is None
    assert lives({**passport(), "pid": "1"}) is None
    assert lives({}) is None
