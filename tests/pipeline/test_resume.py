"""
A run that goes on in another process: after a kill, a failure, or by its id.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, Optional

import pytest
from tests.pipeline.depot import Depot, options, plugged_in
from tests.pipeline.programs import gone, left_over, wait_for

import tracelet
from tracelet.ship.drain import drain
from tracelet.spool.rundir import find_runs

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="platform: looks at processes through /proc"
)

PROGRAM = """
import json, os, signal, sys, time
import psutil, tracelet

plan = json.loads(sys.argv[1])
run = tracelet.start_logging("name", "project", "depot", config=plan["config"])
for step in range(plan["first"], plan["first"] + 100):
    run.log_metric("loss", float(step), step)
    run.log_metric("counted", float(step))
if plan["flush"]:
    run.flush(30)
sidecars = [child.pid for child in psutil.Process().children()]
print(run.info.run_id, *sidecars, flush=True)
if plan["end"] == "both":
    for pid in sidecars:
        os.kill(pid, signal.SIGKILL)
if plan["end"] in ("both", "trainer"):
    os.kill(os.getpid(), signal.SIGKILL)
if plan["end"] == "raise":
    raise RuntimeError("as planned")
report = run.stop()
print(report.check(), report.complete, report.recorded)
"""


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Depot]:
    with plugged_in(tmp_path, monkeypatch) as found:
        yield found


def session(
    depot: Depot, first: int, end: str = "stop", *, flush: bool = False, **config: Any
) -> tuple[str, Optional[int], str]:
    """Run the program to its end; return the run's id, its sidecar, and what it said last."""
    config = {"silent": True, "resume": "auto", **options(depot), **config}
    plan = {"config": config, "first": first, "end": end, "flush": flush}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(plan)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == {"stop": 0, "raise": 1}.get(end, -signal.SIGKILL), done.stderr
    lines = done.stdout.splitlines()
    run, *pids = lines[0].split()
    return run, int(pids[0]) if pids else None, lines[-1]


def check(depot: Depot, run: str, count: int) -> None:
    """Everything is in one remote run, once, in order; and it is over."""
    assert list(depot.stored()) == [run]
    stored = depot.stored()[run]
    values = [float(step) for step in range(count)]
    assert depot.values(run) == values
    counted = [each for each in stored if each["key"] == "counted"]
    assert [each["value"] for each in counted] == values
    assert [each["step"] for each in counted] == list(range(count))
    assert {call["resume"] for call in depot.calls("open")} <= {None, f"remote-{run}"}
    assert depot.status() == "FINISHED"


@pytest.mark.parametrize("flush", [False, True], ids=["", "delivered"])
@pytest.mark.parametrize("end", ["trainer", "trainer, at once", "both"])
def test_a_job_that_is_requeued(tmp_path: Path, depot: Depot, end: str, flush: bool) -> None:
    """Three times killed, and one run in the end: nothing lost, nothing doubled, FINISHED."""
    runs = []
    for number in range(3):
        run, sidecar, _ = session(depot, number * 100, end.partition(",")[0], flush=flush)
        runs.append(run)
        if end == "trainer":
            # Its sidecar has delivered everything, said that it was killed, and gone.
            assert sidecar is not None
            wait_for(lambda sidecar=sidecar: gone(sidecar))
            assert depot.status() == "KILLED"
            assert len(depot.values(run)) == (number + 1) * 100
    run, _, said = session(depot, 300)

    assert {*runs, run} == {run}
    assert said == "[] True 800"
    check(depot, run, 400)
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [])


def test_a_run_that_failed_is_taken_up_again_in_a_thread(tmp_path: Path, depot: Depot) -> None:
    """By the other host, too; and a run that has finished is not."""
    run, _, _ = session(depot, 0, "raise", shipper="thread")
    assert depot.status() == "FAILED"
    assert session(depot, 100, shipper="thread")[0] == run
    check(depot, run, 200)
    assert left_over(tmp_path / ".tracelet") == []
    assert session(depot, 0)[0] != run


def test_a_killed_thread_is_followed_by_a_process(tmp_path: Path, depot: Depot) -> None:
    """What the killed program had not sent comes first."""
    run, _, _ = session(depot, 0, "trainer", shipper="thread")
    assert session(depot, 100)[0] == run
    check(depot, run, 200)


def test_the_sidecar_of_the_first_session_may_still_be_at_it(tmp_path: Path, depot: Depot) -> None:
    """The server was away when the job was killed, and comes back when it runs again."""
    depot.order(open=("retry", "away"))
    run, sidecar, _ = session(depot, 0, "trainer")
    assert sidecar is not None
    again, _, said = session(depot, 100)
    assert again == run
    assert said == "[] False 400"
    assert not gone(sidecar)
    depot.order()
    wait_for(lambda: depot.status() == "FINISHED", timeout=40.0)
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [])
    check(depot, run, 200)
    assert {call["status"] for call in depot.calls("close")} == {"FINISHED"}


def test_only_who_wants_to_be_continued_leaves_something(tmp_path: Path, depot: Depot) -> None:
    """Without ``resume`` a killed run is delivered and gone; with it, its name is kept."""
    for resume, expected in (("never", 0), ("auto", 1)):
        _, sidecar, _ = session(depot, 0, "trainer", resume=resume)
        assert sidecar is not None
        wait_for(lambda sidecar=sidecar: gone(sidecar))
        assert len(left_over(tmp_path / ".tracelet")) == expected
    (run,) = find_runs(tmp_path / ".tracelet")
    # Nothing of what was delivered is still there.
    assert sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file()) < 50_000
    # It is delivered: nobody has to do anything about it.
    calls = len(depot.calls("write"))
    assert drain(run)["depot"].complete
    assert len(depot.calls("write")) == calls


def test_the_status_goes_back_to_running(tmp_path: Path) -> None:
    """A run that was ended as KILLED is running as long as it is continued."""
    out = tmp_path / "tracelet-jsonl" / "project" / "name.jsonl"

    def types() -> list[str]:
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        return [
            line.get("status", line["type"]) for line in lines if line["type"] in ("run", "end")
        ]

    code = (
        "import os, tracelet\n"
        "run = tracelet.start_logging('name', 'project', 'jsonl', config={'resume': 'auto'})\n"
        "run.log_metric('loss', 0.0, 0)\nos._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True)
    wait_for(lambda: out.exists() and types() == ["run", "KILLED"])
    config = {"silent": True, "resume": "auto"}
    run = tracelet.start_logging("name", "project", "jsonl", config=config)
    run.log_metric("loss", 1.0, 1)
    assert run.flush(30)
    assert types() == ["run", "KILLED", "run"]
    report = run.stop()
    assert (report.complete, report.check(), report.recorded) == (True, [], 2)
    assert types() == ["run", "KILLED", "run", "FINISHED"]


def test_a_run_is_continued_by_its_id(depot: Depot) -> None:
    """The one that the tracker knows it by, from whichever spool."""
    config = {"silent": True, "run_id": "remote-7", **options(depot)}
    with tracelet.start_logging("name", "project", "depot", config=config) as run:
        run.log_metric("loss", 1.0, 1)
        assert run.remote().id == "remote-7"
    assert [call["resume"] for call in depot.calls("open")] == ["remote-7"]


def test_two_that_want_the_same_run(tmp_path: Path, depot: Depot) -> None:
    """One gets it, the other begins a run of its own."""
    _, sidecar, _ = session(depot, 0, "both")
    assert sidecar is not None
    config = {"silent": True, "resume": "auto", **options(depot)}
    plan = {"config": config, "first": 100, "end": "stop", "flush": False}
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(plan)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    runs = [each.communicate(timeout=60)[0].split()[0] for each in pair]
    assert len(set(runs)) == 2
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [])
    lengths = sorted(len(depot.values(run)) for run in runs)
    assert lengths == [100, 200]
