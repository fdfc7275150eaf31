"""
The two places where the shipper lives, seen through the public functions.

What is delivered is read from the far end: the file of the jsonl backend, or the depot's notes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import psutil
import pytest
from tests.pipeline.depot import Depot, options, plugged_in
from tests.pipeline.programs import gone, jsonl, left_over, sidecars, wait_for
from tests.pipeline.stores import new_run

import tracelet
from tracelet.backends import memory
from tracelet.run import hosts
from tracelet.ship import state
from tracelet.ship.host import wait_until_delivered
from tracelet.ship.launch import RESTARTS, SidecarHost
from tracelet.spool.rundir import RunDir

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="platform: looks at processes through /proc"
)

HOSTS = pytest.mark.parametrize("host", ["process", "thread"])


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Depot]:
    with plugged_in(tmp_path, monkeypatch) as found:
        yield found


def start(name: str = "run", backend: str = "jsonl", **config: Any) -> tracelet.Run:
    return tracelet.start_logging(name, "project", backend, config={"silent": True, **config})


def program(code: str, folder: Path, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    """Start a training program."""
    script = folder / "program.py"
    script.write_text(textwrap.dedent(code))
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def finished(process: subprocess.Popen[str], timeout: float = 60.0) -> str:
    """Wait for a program's good end; return what it printed."""
    try:
        out, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return out


# -- the common case --------------------------------------------------------------------------


@HOSTS
def test_a_point_is_seen_within_two_seconds(tmp_path: Path, host: str) -> None:
    """Also after a while in which nothing was logged."""
    run = start(shipper=host)
    run.log_metric("loss", 0.0, 0)
    assert run.flush(30)
    out = tmp_path / "tracelet-jsonl" / "project" / "run.jsonl"
    for number in (1, 2):
        time.sleep(1.5)
        began = time.monotonic()
        run.log_metric("loss", float(number), number)
        wait_for(lambda number=number: len(jsonl(out)[0]) > number, timeout=2.0)
        assert time.monotonic() - began < 2.0
    report = run.stop()
    assert (report.complete, report.check()) == (True, [])


@HOSTS
def test_points_that_trickle_in_go_as_few_batches(depot: Depot, host: str) -> None:
    """Each batch costs the tracker, and the machine of the training, much more than its points."""
    run = start(backend="depot", shipper=host, **options(depot))
    run.remote()
    for number in range(600):
        run.log_metric("loss", float(number), number)
        time.sleep(0.005)
    assert run.flush(30)
    assert run.stop().complete
    assert depot.values(run.info.run_id) == [float(number) for number in range(600)]
    assert len(depot.calls("write")) < 30


def test_the_disk_confirms_segments_and_blobs(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a second or so, also while nobody takes them: power may be cut."""
    confirmed, original = set(), os.fdatasync

    def fdatasync(fd: int) -> None:
        original(fd)
        confirmed.add(Path(os.readlink(f"/proc/self/fd/{fd}")).parent.name)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    depot.order(open=("retry", "away"))
    run = start(backend="depot", shipper="thread", **options(depot))
    run.log_image("image", b"\x89PNG\r\n\x1a\n" + os.urandom(1024**2), 1)
    wait_for(lambda: confirmed >= {"seg", "blobs"}, timeout=10.0)
    depot.order()
    assert run.stop().complete


def test_a_segment_that_the_disk_does_not_confirm_is_left(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked again the disk would say yes: it has forgotten what it could not write."""
    asked, original = [], os.fdatasync

    def fdatasync(fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path.parent.name == "seg":
            asked.append(path.name)
            if len(asked) == 1:
                raise OSError(errno.EIO, "bad sector")
        original(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    run = start(backend="depot", shipper="thread", **options(depot))
    logged = 0

    def two_segments() -> bool:
        nonlocal logged
        run.log_metric("loss", float(logged), logged)
        logged += 1
        return len(set(asked)) > 1

    wait_for(two_segments)
    assert asked.count(asked[0]) <= 2  # once more at most: it had grown before it was left
    assert run.stop().complete
    assert depot.values(run.info.run_id) == [float(number) for number in range(logged)]


@HOSTS
def test_a_no_that_comes_late_is_told_once(
    depot: Depot, host: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is time to mend it, and not at the end of a day of training."""
    monkeypatch.setattr(hosts, "STATES_S", 0.5)
    depot.order(open=("config", "There is no run 'deadbeef'."))
    run = start(backend="depot", shipper=host, **{**options(depot), "silent": False})
    said = ""

    def told() -> list[str]:
        nonlocal said
        run.log_metric("loss", 0.5)
        said += capfd.readouterr().err
        return [line for line in said.splitlines() if "cannot go on" in line]

    wait_for(lambda: bool(told()))
    for _ in range(30):
        run.log_metric("loss", 0.5)
        time.sleep(0.1)
    [line] = told()
    assert line == (
        "tracelet: depot cannot go on: There is no run 'deadbeef'. What is logged waits on disk; "
        "tracelet sync delivers it once this is mended."
    )
    assert not run.stop(timeout=1.0).complete


def test_what_is_kept_in_memory_is_kept_in_ours() -> None:
    """A process beside the training would take it along when it ends."""
    run = start(backend="memory")
    run.log_metric("loss", 0.5, 1)
    assert run.stop().complete
    assert memory.runs()[run.info.run_id].metrics["loss"]


@HOSTS
def test_a_run_in_which_nothing_was_logged_is_a_run(tmp_path: Path, host: str) -> None:
    """It is opened and ended as any other, and nothing of it stays behind."""
    report = start(shipper=host).stop()
    assert (report.recorded, report.complete) == (0, True)
    assert jsonl(tmp_path / "tracelet-jsonl" / "project" / "run.jsonl") == ([], "FINISHED")
    wait_for(lambda: not left_over(tmp_path / ".tracelet"))


def test_one_process_serves_a_sweep_and_ends_after_the_program(tmp_path: Path) -> None:
    """Five runs have one sidecar; it outlives the program by a moment."""
    code = """
        import psutil, tracelet
        for number in range(5):
            with tracelet.start_logging(f"run{number}", "project", "jsonl") as run:
                for step in range(100):
                    run.log_metric("loss", step / 7, step)
                print(*[child.pid for child in psutil.Process().children()])
    """
    lines = finished(program(code, tmp_path)).split()
    assert len(lines) == 5
    assert len(set(lines)) == 1
    for number in range(5):
        points, status = jsonl(tmp_path / "tracelet-jsonl" / "project" / f"run{number}.jsonl")
        assert points == [(step, step / 7) for step in range(100)]
        assert status == "FINISHED"
    wait_for(lambda: gone(int(lines[0])), timeout=10.0)
    assert left_over(tmp_path / ".tracelet") == []


@pytest.mark.figure(9)
@HOSTS
def test_an_idle_host_costs_next_to_nothing(tmp_path: Path, host: str) -> None:
    """At most one per cent of a core, and a process of moderate size."""
    code = """
        import sys, time, psutil, tracelet
        config = {"shipper": sys.argv[1]}
        with tracelet.start_logging("run", "project", "jsonl", config=config) as run:
            run.log_metric("loss", 1.0, 0)
            assert run.flush(30)
            host, = psutil.Process().children() or [psutil.Process()]
            time.sleep(1.0)
            before, began = host.cpu_times(), time.monotonic()
            time.sleep(6.0)
            after, passed = host.cpu_times(), time.monotonic() - began
            print((after.user + after.system - before.user - before.system) / passed)
            print(host.memory_info().rss / 1024**2)
    """
    # A program of its own: the threads of other tests would be counted with the thread.
    cores, mebibytes = map(float, finished(program(code, tmp_path, host)).split())
    assert cores <= 0.01
    if host == "process":
        assert mebibytes <= 80


def test_the_training_has_the_processors_first(tmp_path: Path) -> None:
    """Linux looks at the session's group before it looks at how nice a task of it is."""
    run = start()
    run.remote()
    [pid] = sidecars()
    assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
    group = Path(f"/proc/{pid}/autogroup")
    if group.exists():  # a kernel may have no such groups
        assert int(group.read_text().split()[-1]) > 0


@pytest.mark.figure(9)
def test_a_backlog_of_large_things_does_not_fill_the_memory(tmp_path: Path) -> None:
    """However much has gathered while the sidecar could not go on."""
    run = start()
    run.remote()
    process = psutil.Process(sidecars()[0])
    process.suspend()
    picture = b"\x89PNG\r\n\x1a\n" + os.urandom(1024**2)
    for step in range(100):
        run.log_image("image", picture, step)
    process.resume()
    largest = 0
    while not run.flush(0.02):
        largest = max(largest, process.memory_info().rss)
    assert largest <= 80 * 1024**2
    assert run.stop().complete


# -- stop waits ---------------------------------------------------------------------------------


def test_a_sidecar_that_stands_still_holds_a_stop_no_longer_than_its_timeout(
    tmp_path: Path,
) -> None:
    """What it has not sent it sends when it goes on."""
    run = start()
    run.remote()
    (sidecar,) = sidecars()
    os.kill(sidecar, signal.SIGSTOP)
    try:
        for step in range(100):
            run.log_metric("loss", step / 7, step)
        began = time.monotonic()
        report = run.stop(timeout=1.0)
        assert time.monotonic() - began < 2.0
        assert (report.spooled, report.pending, report.check()) == (100, 100, [])
    finally:
        os.kill(sidecar, signal.SIGCONT)
    out = tmp_path / "tracelet-jsonl" / "project" / "run.jsonl"
    wait_for(lambda: jsonl(out) == ([(step, step / 7) for step in range(100)], "FINISHED"))
    wait_for(lambda: not left_over(tmp_path / ".tracelet"))


def test_a_server_that_is_away_is_hardly_waited_for(depot: Depot) -> None:
    """Half a second, and not at all where it has been away for long; nothing is lost."""
    config = options(depot)
    run = start(backend="depot", **config)
    run.log_metric("loss", 0.0, 0)
    assert run.flush(30)
    depot.order(write=("retry", "out for lunch"), open=("retry", "out for lunch"))
    run.log_metric("loss", 1.0, 1)
    began = time.monotonic()
    report = run.stop()
    assert 0.4 < time.monotonic() - began < 3.0
    assert (report.pending, report.check()) == (1, [])
    assert "out for lunch" in report.backends["depot"].detail

    away = start("second", backend="depot", **config)
    away.log_metric("loss", 2.0, 2)
    wait_for(lambda: _state(away) == "waiting")
    time.sleep(0.6)
    began = time.monotonic()
    assert away.stop().pending == 1
    assert time.monotonic() - began < 0.5

    depot.order()
    wait_for(lambda: len(_ended(depot)) == 2)
    assert depot.values(run.info.run_id) == [0.0, 1.0]
    assert depot.values(away.info.run_id) == [2.0]
    assert set(_ended(depot)) == {"FINISHED"}


def test_a_slow_server_is_waited_for(depot: Depot, capsys: pytest.CaptureFixture[str]) -> None:
    """As long as it opens or takes something; after a second we say what we wait for."""
    depot.order(open=("sleep", "2.5"))
    run = start(backend="depot", silent=False, **options(depot))
    for step in range(500):
        run.log_metric("loss", float(step), step)
    report = run.stop()
    assert (report.complete, report.check()) == (True, [])
    assert capsys.readouterr().err.count("waiting for depot: 500 records to go (opening)") == 1
    assert depot.values(run.info.run_id) == [float(step) for step in range(500)]


def test_a_server_that_hangs_is_waited_for_until_the_time_is_up(depot: Depot) -> None:
    """And delivered to later."""
    run = start(backend="depot", **options(depot))
    run.remote()
    depot.order(write=("hang", ""))
    run.log_metric("loss", 1.0, 1)
    began = time.monotonic()
    report = run.stop(timeout=1.0)
    assert 0.9 < time.monotonic() - began < 2.0
    assert report.pending == 1
    depot.order()
    wait_for(lambda: depot.status() == "FINISHED")
    assert depot.values(run.info.run_id) == [1.0]


@pytest.mark.parametrize("order", ["config", "missing"])
def test_what_a_person_has_to_mend_is_not_waited_for(depot: Depot, order: str) -> None:
    """It is said once and not tried again every moment; a missing package is such a thing."""
    depot.order(open=(order, "pip install depot"))
    run = start(backend="depot", **options(depot))
    run.log_metric("loss", 1.0, 1)
    wait_for(lambda: _state(run) == "config")
    time.sleep(1.5)
    log = _run_folder(run) / "ship.log"
    assert log.read_text().count("pip install depot") == 1
    began = time.monotonic()
    report = run.stop()
    assert time.monotonic() - began < 0.5
    assert (report.pending, report.backends["depot"].state) == (1, "config")
    # The sidecar has nothing to stay for once we are gone.
    (sidecar,) = sidecars()
    _hang_up()
    wait_for(lambda: gone(sidecar), timeout=10.0)


def test_the_rules_of_waiting(tmp_path: Path) -> None:
    """By what is published alone: who is waited for, and how long."""
    run = new_run(tmp_path)

    def waited(states: dict[str, Any], alive: bool = True, timeout: float = 1.0) -> float:
        state.publish(run, {"faulty": state.BackendState(**states)})
        began = time.monotonic()
        wait_until_delivered(run, timeout, lambda what: None, lambda: alive)
        return time.monotonic() - began

    now = time.time()
    assert waited({"state": "closed"}) < 0.2
    assert waited({"state": "config", "pending": 1}) < 0.2
    assert waited({"state": "sending", "pending": 1}, alive=False) < 0.2
    assert waited({"state": "waiting", "pending": 1, "since": now - 60}) < 0.2
    assert 0.4 < waited({"state": "waiting", "pending": 1, "since": now}) < 0.8
    # The clock was put back meanwhile.
    assert 0.4 < waited({"state": "waiting", "pending": 1, "since": now + 3600}) < 0.8
    for moving in ("starting", "opening", "sending", "idle"):
        assert waited({"state": moving, "pending": 1}, timeout=0.3) >= 0.3
    run.release()


# -- the sidecar outlives the program -----------------------------------------------------------


def test_what_is_left_is_delivered_after_the_end_of_the_program(
    tmp_path: Path, depot: Depot
) -> None:
    """The server was away when the program ended; the sidecar stays until it has everything."""
    depot.order(open=("retry", "away"))
    code = f"""
        import psutil, tracelet
        config = {{"silent": True, **{dict(options(depot))!r}}}
        run = tracelet.start_logging("name", "project", "depot", config=config)
        for step in range(300):
            run.log_metric("loss", float(step), step)
        print(run.info.run_id, psutil.Process().children()[0].pid)
    """
    began = time.monotonic()
    run_id, sidecar = finished(program(code, tmp_path)).split()
    assert time.monotonic() - began < 30.0
    assert not gone(int(sidecar))
    assert depot.calls("open") == []

    depot.order()

    wait_for(lambda: gone(int(sidecar)), timeout=60.0)
    assert depot.values(run_id) == [float(step) for step in range(300)]
    assert depot.status() == "FINISHED"
    assert left_over(tmp_path / ".tracelet") == []


def test_a_lifetime_ends_where_nothing_moves(
    tmp_path: Path, depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone with a server that stays away it goes in the end; the spool waits longer."""
    monkeypatch.setenv("TRACELET_SIDECAR_LIFETIME_S", "2")
    depot.order(open=("retry", "away"))
    code = f"""
        import psutil, tracelet
        config = {{"silent": True, **{dict(options(depot))!r}}}
        run = tracelet.start_logging("name", "project", "depot", config=config)
        run.log_metric("loss", 1.0, 1)
        print(psutil.Process().children()[0].pid)
    """
    sidecar = int(finished(program(code, tmp_path)))
    began = time.monotonic()
    wait_for(lambda: gone(sidecar), timeout=20.0)
    assert time.monotonic() - began > 1.0
    assert len(left_over(tmp_path / ".tracelet")) == 1


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_that_lives_on_does_not_keep_up_the_appearance(
    tmp_path: Path, kill: signal.Signals
) -> None:
    """A forked worker has inherited the pipe and lives on: the run is over all the same."""
    code = """
        import os, time, psutil, tracelet
        run = tracelet.start_logging("name", "project", "jsonl", config={"silent": True})
        run.log_metric("loss", 0.5, 1)
        sidecar = psutil.Process().children()[0].pid
        child = os.fork()
        if child == 0:
            os.close(1)
            os.close(2)
            time.sleep(60)
            os._exit(0)
        print(sidecar, child, flush=True)
        time.sleep(60)
    """
    trainer = program(code, tmp_path)
    assert trainer.stdout is not None
    sidecar, child = map(int, trainer.stdout.readline().split())
    try:
        trainer.send_signal(kill)
        trainer.communicate()
        wait_for(lambda: gone(sidecar), timeout=15.0)
        assert not gone(child)
    finally:
        os.kill(child, signal.SIGKILL)
    out = tmp_path / "tracelet-jsonl" / "project" / "name.jsonl"
    assert jsonl(out) == ([(1, 0.5)], "KILLED")
    assert left_over(tmp_path / ".tracelet") == []


def test_hanging_up_ends_a_sidecar_that_has_nothing_to_do(tmp_path: Path) -> None:
    """Its standard input is the only thing that ties it to us."""
    run, host = new_run(tmp_path), SidecarHost()
    host.add(run, {})
    (sidecar,) = sidecars()
    host.close()
    run.remove()
    wait_for(lambda: gone(sidecar), timeout=10.0)
    run.release()


# -- the sidecar is replaced --------------------------------------------------------------------


def test_a_sidecar_is_started_again_a_few_times_only(tmp_path: Path) -> None:
    """A program that kills it again and again is not fought with; the next run tries anew."""
    run, host = new_run(tmp_path), SidecarHost()
    host.add(run, {})
    for _ in range(RESTARTS):
        (sidecar,) = sidecars()
        os.kill(sidecar, signal.SIGKILL)
        wait_for(lambda sidecar=sidecar: gone(sidecar))
        assert host.alive()
    (sidecar,) = sidecars()
    os.kill(sidecar, signal.SIGKILL)
    wait_for(lambda: gone(sidecar))
    assert not host.alive()
    assert sidecars() == []
    host.add(run, {})
    assert host.alive()
    host.close()
    run.release()


def test_a_sidecar_that_dies_is_missed_while_the_training_goes_on(tmp_path: Path) -> None:
    """Not only at the end: what is logged is seen again after a few seconds."""
    run = start()
    run.log_metric("loss", 0.0, 0)
    assert run.flush(30)
    (sidecar,) = sidecars()
    os.kill(sidecar, signal.SIGKILL)
    out = tmp_path / "tracelet-jsonl" / "project" / "run.jsonl"
    began, step = time.monotonic(), 0
    while len(jsonl(out)[0]) < 2:
        assert time.monotonic() - began < 10.0
        step += 1
        run.log_metric("loss", float(step), step)
        time.sleep(0.1)
    (other,) = sidecars()
    assert other != sidecar
    assert run.stop().complete
    assert jsonl(out) == ([(number, float(number)) for number in range(step + 1)], "FINISHED")


def test_a_thread_delivers_once_the_sidecar_has_died_too_often(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Killed four times: nothing is lost or doubled, one line tells, the end is as usual."""
    _hang_up()  # restarts are counted for all runs of a process
    run = start(silent=False)
    out = tmp_path / "tracelet-jsonl" / "project" / "run.jsonl"
    logged = 0

    def delivered() -> bool:
        nonlocal logged
        run.log_metric("loss", float(logged), logged)
        logged += 1
        time.sleep(0.005)
        return out.exists() and len(jsonl(out)[0]) > before + 1

    for _ in range(RESTARTS + 1):
        before = logged
        wait_for(delivered)
        (sidecar,) = sidecars()
        os.kill(sidecar, signal.SIGKILL)
        wait_for(lambda sidecar=sidecar: gone(sidecar))
    # Somebody else, a `tracelet sync`, takes up the run in this moment: two never ship.
    other = _holding(run)
    try:
        before = logged
        wait_for(lambda: _shipping_thread() or delivered())
        for _ in range(50):
            assert not delivered()
    finally:
        other.kill()
        other.communicate()
    wait_for(delivered)
    assert sidecars() == []
    command = [sys.executable, "-m", "tracelet", "status", "--json"]
    status = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    (told,) = json.loads(status.stdout)["runs"]
    assert told["shipper"]["pid"] == os.getpid()
    report = run.stop()
    assert (report.complete, report.spooled, report.check()) == (True, logged, [])
    assert jsonl(out) == ([(step, float(step)) for step in range(logged)], "FINISHED")
    said = capfd.readouterr().err.splitlines()
    (line,) = [line for line in said if "thread of this program delivers" in line]
    assert line.startswith("tracelet: the process that delivers has died and is not started again:")
    assert said[-1].startswith(f"tracelet: {logged:,} recorded · jsonl {logged:,} delivered")
    assert left_over(tmp_path / ".tracelet") == []
    # The next run of the program has a sidecar again.
    with start("second") as second:
        second.log_metric("loss", 0.5, 1)
        assert len(sidecars()) == 1
    assert jsonl(out.with_name("second.jsonl")) == ([(1, 0.5)], "FINISHED")
    _hang_up()


@pytest.mark.parametrize("server", ["there", "away"])
def test_a_thread_takes_over_also_in_the_last_moment(
    tmp_path: Path, depot: Depot, server: str
) -> None:
    """The sidecar is missed when the program ends, and nobody is there to be waited for later."""
    if server == "away":
        depot.order(open=("retry", "away"))
    code = f"""
        import os, signal, time, psutil, tracelet
        from tracelet.ship import launch
        launch.RESTARTS = 0
        config = {dict(options(depot))!r}
        run = tracelet.start_logging("run", "project", "depot", config=config)
        for step in range(300):
            run.log_metric("loss", float(step), step)
        (sidecar,) = psutil.Process().children()
        sidecar.kill()
        while sidecar.is_running() and sidecar.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        print(run.info.run_id)
    """
    trainer = program(code, tmp_path)
    out, errors = trainer.communicate(timeout=60.0)
    assert trainer.returncode == 0, errors
    assert errors.count("a thread of this program delivers") == 1
    closing = errors.splitlines()[-1]
    if server == "there":
        assert closing.startswith("tracelet: 300 recorded · depot 300 delivered")
        assert depot.values(out.strip()) == [float(step) for step in range(300)]
        assert depot.status() == "FINISHED"
        assert left_over(tmp_path / ".tracelet") == []
    else:
        assert closing.startswith("tracelet: 300 recorded · depot 300 pending")
        assert closing.endswith("→ tracelet sync")
        assert len(left_over(tmp_path / ".tracelet")) == 1


def test_a_backend_gets_the_environment_of_its_run(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes a variable that a backend reads gets another sidecar; others do not count."""
    seen: list[tuple[int, dict[str, str]]] = []

    def sweep(name: str) -> None:
        with start(name, backend="depot", **options(depot)) as run:
            run.log_metric("loss", 1.0, 1)
        opened = depot.calls("open")[-1]
        seen.append((opened["pid"], opened["environ"]))

    monkeypatch.setenv("DEPOT_PLACE", "here")
    sweep("first")
    monkeypatch.setenv("UNRELATED", "1")
    sweep("second")
    monkeypatch.setenv("DEPOT_PLACE", "there")
    sweep("third")
    monkeypatch.delenv("DEPOT_PLACE")
    sweep("fourth")

    pids, environs = zip(*seen)
    assert pids[0] == pids[1]
    assert len(set(pids)) == 3
    assert environs == (
        {"DEPOT_PLACE": "here"},
        {"DEPOT_PLACE": "here"},
        {"DEPOT_PLACE": "there"},
        {},
    )
    # Those that were hung up on have gone, and left no entry in the table of processes.
    wait_for(lambda: gone(pids[0]) and gone(pids[2]))
    assert sidecars() == [pids[3]]


# -- what must not be written -------------------------------------------------------------------


@pytest.mark.figure(15)
def test_no_secret_is_written_or_shown(
    tmp_path: Path, depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given as an option, in an address or by the environment, and quoted in a server's errors."""
    token, password, hidden = "tok-5ecret-1", "pa5s%2Fword-2", "5ecret-in-env-3"
    monkeypatch.setenv("TRACELET_DEPOT__TOKEN", hidden)
    said = f"cannot log in to http://me:{password}@server with {token} or {hidden}"
    run = start(
        backend="depot",
        keep_runs="all",
        **options(depot, token=token, url=f"http://me:{password}@server"),
    )
    run.log_metric("loss", 1.0, 1)
    assert run.flush(30)
    fresh = start("fromenv", backend="depot", keep_runs="all", **options(depot))
    assert depot.calls("open")[0]["token"] == token
    assert depot.calls("open")[0]["url"] == f"http://me:{password}@server"

    depot.order(open=("print", said), write_light=("retry", said))
    fresh.log_metric("loss", 2.0, 2)
    wait_for(lambda: _state(fresh) == "waiting")
    shown = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (os.getpid(), *sidecars())]
    depot.order(write_light=("reject", said))
    wait_for(lambda: list((_run_folder(fresh) / "rejects").iterdir()) != [])
    report = fresh.stop()

    assert report.backends["depot"].rejected == 1
    assert depot.calls("open")[-1]["token"] == hidden
    assert report.check() == []
    written = {path: _content(path) for path in (tmp_path / ".tracelet").glob("*/**/*")}
    assert any(path.name == "ship.log" and b"[secret]" in raw for path, raw in written.items())
    assert any(
        path.parent.name == "rejects" and b"[secret]" in raw for path, raw in written.items()
    )
    for secret in (token, password, "pa5s/word-2", hidden):
        assert [path for path, raw in written.items() if secret.encode() in raw] == []
        assert not any(secret.encode() in line for line in shown)
        assert secret not in str(report)


# -- what others do to a spool --------------------------------------------------------------------


@HOSTS
def test_a_folder_that_is_deleted_harms_nobody_else(tmp_path: Path, host: str) -> None:
    """The run is lost, nobody says that it was killed, and the next one is delivered."""
    run = start("first", shipper=host)
    run.log_metric("loss", 1.0, 1)
    assert run.flush(30)
    helpers = sidecars()
    shutil.rmtree(tmp_path / ".tracelet")
    time.sleep(1.0)
    run.log_metric("loss", 2.0, 2)
    began = time.monotonic()
    run.stop(timeout=2.0)
    assert time.monotonic() - began < 6.0
    with start("second", shipper=host) as second:
        second.log_metric("loss", 3.0, 3)
    assert sidecars() == helpers
    out = tmp_path / "tracelet-jsonl" / "project"
    assert jsonl(out / "first.jsonl") == ([(1, 1.0)], None)
    assert jsonl(out / "second.jsonl") == ([(3, 3.0)], "FINISHED")
    wait_for(lambda: not left_over(tmp_path / ".tracelet"))


JUNK = {
    "empty": b"",
    "list": b"[1, 2]",
    "deep": b"[" * 100_000,
    "number": b'{"format": 1, "run_id": "x", "backends": 5}',
    "path": b'{"format": 1, "run_id": "x", "backends": ["../../x"]}',
    "newer": b'{"format": 99, "run_id": "x", "backends": ["jsonl"]}',
    "text": b'{"format": 1, "run_id": "x", "project": null, "name": null, "created": 0, '
    b'"tags": {}, "backends": ["jsonl"], "options": {"jsonl": 7}}',
}


@HOSTS
def test_what_lies_in_a_spool_and_cannot_be_read_is_in_nobodys_way(
    tmp_path: Path, host: str
) -> None:
    """Left-over runs that are no runs, or that are damaged, are passed over."""
    with start("first", mode="offline") as left:
        left.log_metric("loss", 1.0, 1)
    root = tmp_path / ".tracelet"
    for name, content in JUNK.items():
        folder = root / f"99990101-000000-{name}"
        folder.mkdir(mode=0o700)
        (folder / "run.json").write_bytes(content)
    good = json.loads((root / left.info.run_id / "run.json").read_text())
    damaged = root / "99990101-000000-damaged"
    shutil.copytree(root / left.info.run_id, damaged)
    (damaged / "run.json").write_text(
        json.dumps({**good, "run_id": damaged.name, "name": "damaged"})
    )
    (damaged / "names.jsonl").write_bytes(b'["key", 5]\n{"x": 1}\nnonsense\n["key", "metric"')
    (damaged / "cursors" / "jsonl.json").write_bytes(b"nonsense")
    (damaged / "ship.json").write_bytes(b'{"jsonl": {"state": "closed", "damaged": 3}}')

    with start("second", shipper=host) as run:
        for step in range(3):
            run.log_metric("loss", float(step), step)
            time.sleep(1.0)
    out = tmp_path / "tracelet-jsonl" / "project"
    assert jsonl(out / "second.jsonl") == ([(0, 0.0), (1, 1.0), (2, 2.0)], "FINISHED")
    # The first run is taken up as well, and so is what can be read of the damaged one.
    wait_for(lambda: len(left_over(root)) == len(JUNK))
    assert jsonl(out / "first.jsonl") == ([(1, 1.0)], "FINISHED")
    assert jsonl(out / "damaged.jsonl") == ([(1, 1.0)], "FINISHED")
    assert {path.name[16:] for path in left_over(root)} == set(JUNK)


def _holding(run: tracelet.Run) -> subprocess.Popen[str]:
    """Return a process that is the one who ships a run."""
    code = """
        import sys, time
        from pathlib import Path
        from tracelet.spool.rundir import RunDir
        run = RunDir.open(Path(sys.argv[1]))
        while not run.shipping.acquire(b"1"):
            time.sleep(0.01)
        print("mine", flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(_run_folder(run))],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def _shipping_thread() -> bool:
    return any(thread.name == "tracelet-shipper" for thread in threading.enumerate())


def _run_folder(run: tracelet.Run) -> Path:
    return Path.cwd() / ".tracelet" / run.info.run_id


def _content(path: Path) -> bytes:
    try:
        assert path.stat().st_mode & 0o077 == 0
        return path.read_bytes() if path.is_file() else b""
    except FileNotFoundError:  # replaced in this moment
        return b""


def _state(run: tracelet.Run) -> str:
    return state.read(RunDir.open(_run_folder(run)))["depot"].state


def _ended(depot: Depot) -> list[str]:
    return [call["status"] for call in depot.calls("close") if call["status"] != "RUNNING"]


def _hang_up() -> None:
    from tracelet.run import hosts

    for host in hosts._hosts.values():
        host.close()
    hosts._hosts.clear()
