"""
Forks: in the middle of whatever is going on, by whoever.

Each program is a process of its own, so that one that hangs can be ended. A child's records are in
segments of the child's; nothing is lost, doubled or mixed; nobody waits for a lock of a thread that
the child does not have.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from spooling import decoded, new_run, program, read

from tracelet.spool import frame
from tracelet.spool.reader import alive
from tracelet.spool.rundir import RunDir, is_main

START = """
import os, sys, time, threading, signal
from pathlib import Path
from spooling import Disk, number
from tracelet.spool.rundir import RunDir
from tracelet.spool.writer import SpoolWriter

run = RunDir.open(Path(sys.argv[1]))
run.own()

def steps(log, who, start, stop):
    for index in range(start, stop):
        log.scalar("a", who, float(index), index, None)

def child(work):
    "Fork; the child does its work and goes without a goodbye."
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid

def wait(*pids):
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return new_run(tmp_path)


def _found(run: RunDir) -> dict[str, dict[str, list[int]]]:
    """Return the steps of each writer by tag, and insist that nothing is damaged."""
    found: dict[str, dict[str, list[int]]] = {}
    for writer in run.segment_numbers():
        items, reader = read(run, writer)
        assert reader.damaged == {}, writer
        tags = found.setdefault(writer, {})
        for item in items:
            tag, step = ("event", 0) if item.type == frame.EVENT else decoded(item)[1::2][:2]
            tags.setdefault(tag, []).append(step)
    return found


def _mains_and_children(run: RunDir) -> tuple[dict[str, list[int]], list[dict[str, list[int]]]]:
    found = _found(run)
    (main,) = [tags for writer, tags in found.items() if is_main(writer)]
    return main, [tags for writer, tags in found.items() if not is_main(writer)]


def test_a_child_writes_to_segments_of_its_own(run: RunDir) -> None:
    program(
        START
        + """
log = SpoolWriter(run)
steps(log, "parent", 0, 50)

def work():
    assert (log.recorded, log.lost, log.waiting) == (0, {}, 0)
    assert not run.owned
    mine = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{fd}")]
    assert not [path for path in mine if "/seg/" in path], mine
    steps(log, "child", 0, 30)
    assert log.recorded == 30

wait(*[child(work) for _ in range(3)])
steps(log, "parent", 50, 100)
assert log.recorded == 100
log.close()
""",
        run.path,
    )
    main, children = _mains_and_children(run)
    assert main == {"parent": list(range(100))}
    assert children == [{"child": list(range(30))}] * 3


def test_a_child_that_logs_nothing_leaves_nothing(run: RunDir) -> None:
    program(
        START
        + """
log = SpoolWriter(run)
wait(child(lambda: None))
wait(child(log.close))
""",
        run.path,
    )
    assert [is_main(writer) for writer in run.segment_numbers()] == [True]


def test_grandchildren_and_rotation(run: RunDir) -> None:
    program(
        START
        + """
log = SpoolWriter(run, segment_bytes=3000)

def work():
    steps(log, "child", 0, 100)
    wait(child(lambda: steps(log, "grandchild", 0, 100)))
    steps(log, "child", 100, 200)

steps(log, "parent", 0, 100)
wait(child(work))
steps(log, "parent", 100, 200)
""",
        run.path,
    )
    main, children = _mains_and_children(run)
    assert main == {"parent": list(range(200))}
    assert sorted(children, key=str) == [
        {"child": list(range(200))},
        {"grandchild": list(range(100))},
    ]
    assert all(len(numbers) > 1 for numbers in run.segment_numbers().values())


def test_forks_while_other_threads_log(run: RunDir) -> None:
    program(
        START
        + """
sys.setswitchinterval(1e-5)
log = SpoolWriter(run, segment_bytes=100_000)
over = threading.Event()
counts = {}

def busy(name):
    index = 0
    while not over.is_set():
        log.scalar("a", name, float(index), index, None)
        if index % 20 == 0:
            log.event("a", b"event" * 100, None)
        index += 1
    counts[name] = index

threads = [threading.Thread(target=busy, args=(f"thread{n}",)) for n in range(3)]
for thread in threads:
    thread.start()
for index in range(40):
    wait(child(lambda: steps(log, "child", 0, 20)))
over.set()
for thread in threads:
    thread.join()
log.close()
import json
print(json.dumps(counts))
""",
        run.path,
    )
    main, children = _mains_and_children(run)
    assert children == [{"child": list(range(20))}] * 40
    for tag, steps in main.items():
        assert tag == "event" or steps == list(range(len(steps)))


def test_two_threads_that_fork_at_once(run: RunDir) -> None:
    program(
        START
        + """
sys.setswitchinterval(1e-6)
logs = [SpoolWriter(run), SpoolWriter(run, main=False), SpoolWriter(run, main=False)]

def forking(name):
    for index in range(25):
        wait(child(lambda: [steps(log, f"{name}-{index}", 0, 3) for log in logs]))
        steps(logs[index % 3], name, index, index + 1)

threads = [threading.Thread(target=forking, args=(f"thread{n}",)) for n in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
""",
        run.path,
    )
    found = _found(run)
    assert len(found) == 3 + 3 * 25 * 3
    forked = [tags for tags in found.values() if any("-" in tag for tag in tags)]
    assert all(list(tags.values()) == [[0, 1, 2]] for tags in forked)
    own: dict[str, list[int]] = {}
    for tags in found.values():
        for tag, numbers in tags.items():
            own.setdefault(tag, []).extend(numbers)
    assert all(sorted(own[f"thread{n}"]) == list(range(25)) for n in range(3))


@pytest.mark.parametrize("way", ["short", "long", "event", "rotation", "drain"])
def test_a_fork_from_within_a_log_call(run: RunDir, way: str) -> None:
    """A signal handler forks: the call that it interrupted goes on in both processes."""
    program(
        START
        + """
way = sys.argv[2]
disk = Disk()
log = SpoolWriter(run, files=disk, segment_bytes=2000 if way == "rotation" else 10**6)
steps(log, "known", 0, 5)
pids = []

def fork_now(*_):
    pid = os.fork()
    if pid == 0:
        global pids
        pids = None
    else:
        pids.append(pid)

signal.signal(signal.SIGUSR1, fork_now)

def during(call):
    if call == ("show" if way == "rotation" else "write"):
        disk.answer = lambda _call: None
        os.kill(os.getpid(), signal.SIGUSR1)

if way == "drain":
    disk.answer = lambda call: number("ENOSPC") if call == "write" else None
    steps(log, "known", 5, 10)
    log._retry_at = 0.0
disk.answer = during
if way == "drain":
    log.scalar("a", "known", 10.0, 10, None)
elif way == "short":
    log.scalar("a", "known", 5.0, 5, None)
elif way == "long":
    log.scalar("a", "unknown", 5.0, 5, None)
elif way == "event":
    log.event("a", b"event", None)
else:
    steps(log, "known", 5, 40)
steps(log, "child" if pids is None else "parent", 0, 10)
if pids is None:
    log.close()
    os._exit(0)
wait(*pids)
assert len(pids) == 1
log.close()
""",
        run.path,
        way,
    )
    found = _found(run)
    assert len(found) == 2
    main, (child,) = _mains_and_children(run)
    assert main.pop("parent") == list(range(10))
    assert child.pop("child") == list(range(10))
    if way == "rotation":
        # The loop went on in both: what came behind the fork was logged twice indeed.
        assert main.pop("known") == list(range(40))
        assert child.pop("known", [39])[-1] == 39
    elif way == "drain":
        # What had waited is the parent's alone, and so is the call.
        assert (main, child) == ({"known": list(range(11))}, {})
    elif way == "short":
        assert (main, child) == ({"known": list(range(6))}, {})
    else:
        assert main.pop("known") == list(range(5))
        assert sum(map(len, main.values())) == 1
        assert child == {}


def test_a_fork_that_python_is_not_told_of(run: RunDir) -> None:
    """By a C library: no hook runs. It is noticed within a second."""
    program(
        START
        + """
import ctypes
log = SpoolWriter(run)
steps(log, "parent", 0, 10)
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    try:
        time.sleep(1.2)
        steps(log, "child", 0, 10)
    finally:
        os._exit(0)
wait(pid)
steps(log, "parent", 10, 20)
log.close()
""",
        run.path,
    )
    main, children = _mains_and_children(run)
    assert main == {"parent": list(range(20))}
    assert children == [{"child": list(range(10))}]


def test_what_waits_for_the_disk_is_the_parent_s(run: RunDir) -> None:
    program(
        START
        + """
disk = Disk()
log = SpoolWriter(run, files=disk)
steps(log, "parent", 0, 5)
disk.answer = lambda call: number("ENOSPC") if call == "write" else None
steps(log, "parent", 5, 10)
assert log.waiting == 5

def work():
    assert log.waiting == 0
    disk.answer = lambda _call: None
    steps(log, "child", 0, 5)

wait(child(work))
disk.answer = lambda _call: None
log.close()
assert log.lost == {}
""",
        run.path,
    )
    main, children = _mains_and_children(run)
    assert main == {"parent": list(range(10))}
    assert children == [{"child": list(range(5))}]


def test_a_writer_that_was_closed_stays_closed_in_a_child(run: RunDir) -> None:
    program(
        START
        + """
log = SpoolWriter(run)
steps(log, "parent", 0, 5)
log.close()

def work():
    steps(log, "child", 0, 5)
    assert log.lost == {"stopped": 5}

wait(child(work))
""",
        run.path,
    )
    main, children = _mains_and_children(run)
    assert (main, children) == ({"parent": list(range(5))}, [])


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_multiprocessing(run: RunDir, tmp_path: Path, way: str) -> None:
    """Workers of ``fork`` inherit the writer; the others make one of their own for the folder."""
    script = tmp_path / "workers.py"
    script.write_text(
        START
        + """
import multiprocessing

def work(number):
    own = log if log is not None else SpoolWriter(run, main=False)
    steps(own, f"worker{number}", 0, 20)
    return own.recorded

log = None
if __name__ == "__main__":
    way = multiprocessing.get_context(sys.argv[2])
    log = SpoolWriter(run)
    steps(log, "parent", 0, 10)
    workers = [way.Process(target=work, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    with way.Pool(2) as pool:
        assert sum(pool.map(work, range(3, 7), chunksize=1)) >= 80
    steps(log, "parent", 10, 20)
    log.close()
""".replace("run.own()", "")
    )
    program(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')", run.path, way)
    main, children = _mains_and_children(run)
    assert main == {"parent": list(range(20))}
    own: dict[str, list[int]] = {}
    for tags in children:
        own.update(tags)
    assert own == {f"worker{n}": list(range(20)) for n in range(7)}


def test_a_child_outlives_its_parent(run: RunDir) -> None:
    """The owner is dead at once; its worker lives on, and is seen to."""
    code = (
        START
        + """
log = SpoolWriter(run)
steps(log, "parent", 0, 10)
def work():
    steps(log, "child", 0, 10)
    print(json.dumps([os.getpid(), log.name]), flush=True)
    sys.stdin.read()
    steps(log, "child", 10, 20)

import json
child(work)
time.sleep(60)
"""
    )
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": here},
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        pid, name = json.loads(parent.stdout.readline())
        assert run.owner_alive()
        assert alive(run, name, 1)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(30)
        assert not run.owner_alive()
        assert alive(run, name, 1)
        parent.stdin.close()
        deadline = time.monotonic() + 30
        while alive(run, name, 1):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert not _lives(pid)
    main, children = _mains_and_children(run)
    assert main == {"parent": list(range(10))}
    assert children == [{"child": list(range(20))}]


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(
    run: RunDir, tmp_path: Path
) -> None:
    """The program writes down in shared memory what has returned; then it is gone."""
    code = (
        START
        + """
import mmap
shared = mmap.mmap(os.open(sys.argv[2], os.O_RDWR), 8)
log = SpoolWriter(run, segment_bytes=20_000)
index = 0
while True:
    if index % 17 == 5:
        log.event("a", b"x" * (index % 3000), None)
    else:
        log.scalar("a", f"key{index % 4}", float(index), index, None)
    index += 1
    shared[:] = index.to_bytes(8, "little")  # at once; ``pack_into`` writes zeros first
"""
    )
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    total = 0
    for attempt in range(6):
        attempted = new_run(tmp_path / "kills")
        counter = tmp_path / f"counter{attempt}"
        counter.write_bytes(bytes(8))
        with subprocess.Popen(
            [sys.executable, "-c", code, str(attempted.path), str(counter)],
            env={**os.environ, "PYTHONPATH": here},
        ) as process:
            deadline = time.monotonic() + 30
            while not int.from_bytes(counter.read_bytes(), "little"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.1 + 0.07 * attempt)
            process.kill()
        acknowledged = int.from_bytes(counter.read_bytes(), "little")
        items, reader = read(attempted)
        steps: list[Any] = [
            None if item.type == frame.EVENT else decoded(item)[3] for item in items
        ]
        assert steps == [None if index % 17 == 5 else index for index in range(len(steps))]
        assert acknowledged <= len(steps) <= acknowledged + 1
        # At most the record that was being written, which nobody was told of.
        assert set(reader.damaged) <= {"torn"}
        total += acknowledged
    assert total > 1000


def test_a_fork_waits_for_a_call_that_is_being_written(run: RunDir) -> None:
    """So a child never begins in the middle of one: of the parent's file nothing is left to it."""
    program(
        START
        + """
import fcntl
log = SpoolWriter(run)
over = threading.Event()

def always():
    index = 0
    while not over.is_set():
        log.scalar("a", "thread", float(index), index, None)
        index += 1

thread = threading.Thread(target=always)
thread.start()

def nothing_of_the_parent_s():
    try:
        fcntl.fcntl(parents, fcntl.F_GETFD)
    except OSError:
        return
    raise AssertionError("a descriptor of the parent's is still open")

for _ in range(40):
    parents = log._segment.fd
    wait(child(nothing_of_the_parent_s))
over.set()
thread.join()
log.close()
""",
        run.path,
    )
    (counted,) = _found(run).values()
    assert counted["thread"] == list(range(len(counted["thread"])))
