"""
The ranks of a job make one run, whoever is faster and whoever dies.

The launchers are played by their variables: a rank is one process that was started with them. The
real ``torchrun`` is in ``test_torchrun``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

import pytest
from tests.pipeline.depot import Depot, options, plugged_in
from tests.pipeline.programs import left_over, wait_for

import tracelet
from tracelet.records import RunInfo
from tracelet.ship.catalog import Catalog
from tracelet.ship.drain import drain
from tracelet.spool.rundir import RunDir, find_runs, leads, new_run_id, rank_of

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="platform: looks at processes through /proc"
)

LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}),
    "Slurm": (
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",
        {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8"},
    ),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", {"PMIX_NAMESPACE": "prte-1@1"}),
    "MPI": ("PMI_RANK", "PMI_SIZE", {}),
}

#: What every rank says at its end: the run's id and that of the remote run, how long the start
#: took, what is patched, which processes it has started, and its account.
BEGIN = """
import json, os, sys, time
import psutil, tracelet
from tensorboardX import SummaryWriter

RANK = int(sys.argv[2])
plain = SummaryWriter.add_scalar

def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.01)

def start():
    began = time.monotonic()
    run = tracelet.start_logging("name", "project", "depot", config=json.loads(sys.argv[1]))
    run.took = time.monotonic() - began
    return run

def log(run, points=20):
    writer = SummaryWriter(f"runs/rank{RANK}/val")
    for step in range(points):
        writer.add_scalar("loss", RANK * 100.0 + step, step)
        run.log_metric("speed", RANK * 100.0 + step, step)
    writer.close()
    run.log_params({"lr": 0.1, "seed": RANK})
    run.set_tags({"host": f"h{RANK}"})
    open(f"file{RANK}.txt", "w").close()
    run.log_artifact(f"file{RANK}.txt")

def say(run, report):
    print(json.dumps({
        "rank": RANK,
        "id": run.info.run_id,
        "took": run.took,
        "patched": run.patched,
        "started": run.started,
        "status": report.status.value,
        "check": report.check(),
        "active": tracelet.get_active_experiment() is not None,
    }), flush=True)

def together():
    # As the first collective does: on a busy machine ranks are seconds apart.
    open(f"here {RANK}", "w").close()
    for number in range(int(sys.argv[3])):
        wait_for(f"here {number}")

def look(run):
    run.patched = SummaryWriter.add_scalar is not plain
    run.started = [" ".join(each.cmdline()) for each in psutil.Process().children()]
    assert tracelet.get_active_experiment() is run
"""

ALONE = """
run = start()
log(run)
look(run)
say(run, tracelet.stop_logging())
"""
PLAIN = ALONE.replace("log(run)", "together()\nlog(run)")


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Depot]:
    with plugged_in(tmp_path, monkeypatch) as found:
        yield found


class Ranks:
    """Processes that a launcher has started."""

    def __init__(self, folder: Path, depot: Depot, code: str, **config: Any) -> None:
        (folder / "program.py").write_text(BEGIN + textwrap.dedent(code))
        self.folder = folder
        self.config = {"collect": False, **options(depot), **config}
        self.processes: dict[int, subprocess.Popen[str]] = {}
        self.errors: dict[int, str] = {}

    def start(
        self,
        number: int,
        size: int,
        launcher: Optional[str] = "torchrun",
        more: Mapping[str, str] = {},
    ) -> subprocess.Popen[str]:
        environ = dict(os.environ)
        if launcher is not None:
            rank, count, others = LAUNCHERS[launcher]
            environ.update({rank: str(number), count: str(size), **others, **more})
        process = subprocess.Popen(
            [sys.executable, "program.py", json.dumps(self.config), str(number), str(size)],
            cwd=self.folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes[number] = process
        return process

    def said(self, number: int) -> dict[str, Any]:
        process = self.processes[number]
        try:
            out, self.errors[number] = process.communicate(timeout=120)
        finally:
            process.kill()
        assert process.returncode == 0, self.errors[number]
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found


def run_all(
    folder: Path,
    depot: Depot,
    launcher: Optional[str],
    code: str = PLAIN,
    size: int = 2,
    **config: Any,
) -> dict[int, dict[str, Any]]:
    """Start some at once in one fresh folder; return what each of them said."""
    ranks = Ranks(folder, depot, code, **config)
    for number in (3, 1, 0, 2):
        if number < size:
            ranks.start(number, size, launcher)
    return {number: ranks.said(number) for number in range(size)}


def curves(depot: Depot) -> dict[str, list[float]]:
    """Return the points of every key of the one remote run, in the order of their steps."""
    found: dict[str, list[tuple[int, float]]] = {}
    remotes = {call["resume"] or f"remote-{call['run']}" for call in depot.calls("open")}
    assert len(remotes) == 1
    for rows in depot.stored().values():
        for each in rows:
            if each["type"] == "Metric":
                found.setdefault(each["key"], []).append((each["step"], each["value"]))
    return {key: [value for _, value in sorted(points)] for key, points in found.items()}


def values(number: int, points: int = 20) -> list[float]:
    return [number * 100.0 + step for step in range(points)]


@pytest.mark.parametrize("launcher", ["Open MPI", "MPI"])
def test_rank_0_records_and_the_others_know(tmp_path: Path, depot: Depot, launcher: str) -> None:
    """Four at once in a fresh folder: one run; nothing is patched, started or sent elsewhere."""
    said = run_all(tmp_path, depot, launcher, size=4)
    assert curves(depot) == {"val/loss": values(0), "speed": values(0)}
    (run,) = depot.stored()
    assert {each["id"] for each in said.values()} == {run}
    assert [each["status"] for each in said.values()] == ["FINISHED"] * 4
    assert [each["check"] for each in said.values()] == [[]] * 4
    assert not any(each["active"] for each in said.values())
    assert [each["patched"] for each in said.values()] == [True, False, False, False]
    assert [len(each["started"]) for each in said.values()] == [1, 0, 0, 0]
    assert depot.status() == "FINISHED"
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [])


def test_all_ranks_record_into_one_run(tmp_path: Path, depot: Depot) -> None:
    """Each below its own prefix; what describes the run is rank 0's, that of others is below."""
    said = run_all(tmp_path, depot, "torchrun", size=4, ranks="all")
    expected: dict[str, list[float]] = {}
    wait_for(lambda: len(curves(depot)) == 8 and left_over(tmp_path / ".tracelet") == [], 60.0)
    for number in range(4):
        expected[f"rank{number}/val/loss"] = values(number)
        expected[f"rank{number}/speed"] = values(number)
    assert curves(depot) == expected
    assert len({each["id"] for each in said.values()}) == 1
    rows = [each for rows in depot.stored().values() for each in rows]
    params = {each["key"]: each["value"] for each in rows if each["type"] == "Param"}
    assert (params["lr"], params["seed"]) == (0.1, 0)
    assert (params["rank3/lr"], params["rank3/seed"]) == (0.1, 3)
    assert {each["key"] for each in rows if each["type"] == "Tag"} >= {"host", "rank1/host"}
    files = {each["path"] for each in rows if each["type"] == "Artifact"}
    assert files == {"file0.txt", *(f"rank{n}/file{n}.txt" for n in (1, 2, 3))}
    assert depot.status() == "FINISHED"
    assert all(each["patched"] for each in said.values())


@pytest.mark.parametrize("how", ["no launcher", "each"])
def test_each_has_a_run_of_its_own(tmp_path: Path, depot: Depot, how: str) -> None:
    """Without a launcher, or where every task of it is a training: four at once, all alive."""
    launcher, config = (None, {}) if how == "no launcher" else ("Slurm", {"ranks": "each"})
    said = run_all(tmp_path, depot, launcher, size=4, **config)
    assert len({each["id"] for each in said.values()}) == 4
    stored = depot.stored()
    assert set(stored) == {each["id"] for each in said.values()}
    for number, each in said.items():
        assert depot.values(each["id"], "val/loss") == values(number)
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [])


def test_nobody_waits_for_a_rank_0_that_does_not_come(tmp_path: Path, depot: Depot) -> None:
    """Not in the start; the id is asked for within a second or so, and is empty."""
    ranks = Ranks(tmp_path, depot, ALONE)
    ranks.start(1, 2)
    said = ranks.said(1)
    assert said["id"] == ""
    assert said["took"] < 30.0
    assert left_over(tmp_path / ".tracelet") == []
    assert depot.calls("open") == []


LATE = """
if RANK == 0:
    wait_for("rank 1 has logged")
run = start()
log(run)
look(run)
if RANK == 1:
    open("rank 1 has logged", "w").close()
    wait_for("go on")
report = tracelet.stop_logging()
run.remote_id = run.remote("depot").id if RANK == 0 else ""
if RANK == 0:
    open("go on", "w").close()
say(run, report)
"""


def test_rank_0_comes_late_and_leaves_early(tmp_path: Path, depot: Depot) -> None:
    """It owns the run that rank 1 has begun, and the rest of rank 1 is delivered after its end."""
    ranks = Ranks(tmp_path, depot, LATE, ranks="all")
    ranks.start(1, 2)
    ranks.start(0, 2)
    said = [ranks.said(0), ranks.said(1)]
    assert said[0]["id"] == said[1]["id"]
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [], 60.0)
    assert curves(depot)["rank1/val/loss"] == values(1)
    assert curves(depot)["rank0/val/loss"] == values(0)
    assert depot.status() == "FINISHED"


def test_a_rank_that_comes_when_all_is_over(tmp_path: Path, depot: Depot) -> None:
    """Its records go to the same remote run, which stays as rank 0 has ended it."""
    code = """
        if RANK == 1:
            wait_for("rank 0 is gone")
        run = start()
        log(run)
        look(run)
        status = "FAILED" if RANK == 0 else "FINISHED"
        say(run, run.stop(status))
    """
    ranks = Ranks(tmp_path, depot, code, ranks="all")
    ranks.start(1, 2)
    ranks.start(0, 2)
    ranks.said(0)
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [])
    (tmp_path / "rank 0 is gone").touch()
    ranks.said(1)
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [], 60.0)
    assert curves(depot)["rank1/speed"] == values(1)
    assert curves(depot)["rank0/speed"] == values(0)
    assert depot.status() == "FAILED"


def test_ranks_of_a_machine_that_rank_0_cannot_be_seen_from(tmp_path: Path, depot: Depot) -> None:
    """They make a run of their own, which is delivered at their end, and say so."""
    ranks = Ranks(tmp_path, depot, ALONE, ranks="all")
    for number in (2, 3):
        ranks.start(number, 4)
    said = [ranks.said(number) for number in (2, 3)]
    assert said[0]["id"] == said[1]["id"]
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [], 60.0)
    found = curves(depot)
    assert set(found) == {f"rank{n}/{key}" for n in (2, 3) for key in ("val/loss", "speed")}
    assert depot.status() == "FINISHED"
    assert "rank 0 has started no run" in ranks.errors[2] + ranks.errors[3]


def test_ranks_that_are_killed(tmp_path: Path, depot: Depot) -> None:
    """All of them, rank 0's sidecar too: the next one who looks delivers everything."""
    code = """
        run = start()
        log(run)
        open(f"logged {RANK}", "w").close()
        time.sleep(100)
    """
    ranks = Ranks(tmp_path, depot, code, ranks="all", mode="offline")
    for number in range(3):
        ranks.start(number, 3)
    wait_for(lambda: all((tmp_path / f"logged {number}").exists() for number in range(3)), 60.0)
    for process in ranks.processes.values():
        process.kill()
        process.communicate()
    (run,) = find_runs(tmp_path / ".tracelet")
    assert drain(run)["depot"].pending == 0
    assert {f"rank{n}/speed": values(n) for n in range(3)}.items() <= curves(depot).items()
    assert depot.status() == "KILLED"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")
@pytest.mark.parametrize("place", ["main", "top"])
def test_what_a_rank_forks_or_spawns_is_that_rank(tmp_path: Path, depot: Depot, place: str) -> None:
    """Also where the start is run again by every child that is started anew."""
    top = "run = start()" if place == "top" else ""
    code = f"""
        import multiprocessing

        {top}

        def spawned():
            tracelet.get_active_experiment().log_metric("spawned", float(RANK), 1)

        if __name__ == "__main__":
            run = tracelet.get_active_experiment() or start()
            together()
            pid = os.fork()
            if pid == 0:
                run.log_metric("forked", float(RANK), 1)
                os._exit(0)
            os.waitpid(pid, 0)
            child = multiprocessing.get_context("spawn").Process(target=spawned)
            child.start()
            child.join()
            assert child.exitcode == 0
            look(run)
            say(run, tracelet.stop_logging())
    """
    run_all(tmp_path, depot, "torchrun", code, ranks="all")
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [], 60.0)
    assert curves(depot) == {
        f"rank{number}/{how}": [float(number)]
        for number in range(2)
        for how in ("forked", "spawned")
    }


def test_a_program_that_a_rank_starts(tmp_path: Path, depot: Depot) -> None:
    """It has the variables of its rank: of rank 0 a run of its own, of another rank none."""
    code = """
        import subprocess
        run = start()
        together()
        log(run)
        look(run)
        inner = "import tracelet, json, sys; run = tracelet.start_logging('inner', 'project',"\\
            " 'depot', config=json.loads(sys.argv[1])); run.log_metric('inner', 1.0, 1); run.stop()"
        subprocess.run([sys.executable, "-c", inner, sys.argv[1]], check=True)
        say(run, tracelet.stop_logging())
    """
    said = run_all(tmp_path, depot, "torchrun", code)
    assert len({each["id"] for each in said.values()}) == 1
    stored = depot.stored()
    assert len(stored) == 2
    assert depot.values(said[0]["id"], "speed") == values(0)
    (inner,) = set(stored) - {said[0]["id"]}
    assert depot.values(inner, "inner") == [1.0]


def test_a_note_of_a_former_job_is_not_believed(tmp_path: Path, depot: Depot) -> None:
    """The same address and port, on the same machine, from the same shell."""
    first = run_all(tmp_path, depot, "torchrun")
    time.sleep(0.2)
    ranks = Ranks(tmp_path, depot, ALONE)
    ranks.start(1, 2)
    assert ranks.said(1)["id"] == ""
    for path in tmp_path.glob("here *"):
        path.unlink()
    second = run_all(tmp_path, depot, "torchrun")
    assert len({each["id"] for each in second.values()}) == 1
    assert first[0]["id"] != second[0]["id"]


def test_several_runs_one_after_the_other(tmp_path: Path, depot: Depot) -> None:
    """The ranks' second runs are one run, too."""
    code = """
        ids = []
        for number in range(3):
            run = start()
            run.log_metric("loss", float(number), 0)
            together()
            while not run.info.run_id:
                time.sleep(0.01)
            ids.append(run.info.run_id)
            look(run)
            report = tracelet.stop_logging()
        print(json.dumps(ids))
    """
    said = run_all(tmp_path, depot, "Slurm", code)
    assert len({tuple(each) for each in said.values()}) == 1
    assert set(said[0]) == set(depot.stored())


def test_a_silent_rank_knows_the_remote_run(tmp_path: Path, depot: Depot) -> None:
    """From the spool, while rank 0 is at it and when it has gone; nobody is asked for it."""
    code = """
        run = start()
        look(run)
        run.log_metric("loss", 1.0, 1)
        first = run.remote().id
        if RANK == 1:
            open("asked", "w").close()
            wait_for("ended")
        else:
            wait_for("asked")
            run.stop()
            open("ended", "w").close()
        second = run.remote().id
        print(json.dumps([first, second, run.flush()]))
    """
    ranks = Ranks(tmp_path, depot, code)
    for number in range(2):
        ranks.start(number, 2)
    said = [ranks.said(number) for number in range(2)]
    (run,) = depot.stored()
    assert said == [[f"remote-{run}", f"remote-{run}", True]] * 2


def test_a_job_that_slurm_requeues(tmp_path: Path, depot: Depot) -> None:
    """The same run, without a setting; another job, and one that says never, has its own."""
    code = """
        run = start()
        log(run)
        run.flush(30)
        print(json.dumps(run.info.run_id), flush=True)
        os.kill(os.getpid(), 9)
    """
    ranks = Ranks(tmp_path, depot, code)

    def session(job: str, restarts: str, **config: Any) -> str:
        ranks.config.update(config)
        more = {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": restarts}
        process = ranks.start(0, 2, "Slurm", more)
        said, errors = process.communicate(timeout=120)
        assert said, errors
        return str(json.loads(said.splitlines()[-1]))

    first = session("7", "0")
    assert session("8", "0") != first
    assert session("7", "1") == first
    assert session("7", "2") == first
    assert session("7", "3", resume="never") != first


def test_the_names_of_a_rank_are_its_own_and_found_again(tmp_path: Path) -> None:
    """Whoever ships next; and a line of a rank that makes no sense costs itself."""
    info = RunInfo(new_run_id(), "project", "name", time.time(), {}, ["depot"], ranks=3)
    run = RunDir.create(tmp_path, info)
    catalog = Catalog(run)
    catalog.seen("runs/a", main=True, rank=1)
    assert catalog.key("metric", "runs/b", "loss", 1) == "rank1/b/loss"
    catalog.save()
    with open(run.path / "names.jsonl", "a") as file:
        file.write('["rank", "x", "stream", "", ""]\n["rank"]\n')
    again = Catalog(run)
    assert again.key("metric", "runs/b", "loss", 1) == "rank1/b/loss"
    assert again.key("metric", "runs/b", "loss", 2) == "rank2/loss"
    assert again.has_main(1)
    assert not again.has_main(0)


def test_a_writer_s_name_tells_its_rank(tmp_path: Path) -> None:
    run = RunDir(tmp_path, RunInfo(new_run_id(), None, None, 0.0, {}, []))
    process = run.new_writer(main=False, rank=12)
    fork = run.new_writer(main=False, rank=12, forked=True)
    child = run.new_writer(main=False, forked=True)
    main = run.new_writer(main=True)
    assert [rank_of(each) for each in (process, fork, child, main)] == [12, 12, None, None]
    assert [leads(each) for each in (process, fork, child, main)] == [True, False, False, True]


@pytest.mark.parametrize(("ranks", "number"), [("zero", 0), ("all", 0), ("all", 1), ("zero", 1)])
def test_a_spool_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: str, number: int
) -> None:
    """Is said by every rank that would write to it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("RANK", str(number))
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = {"silent": True, "spool_dir": "file/spool", "ranks": ranks, "collect": False}
    if (ranks, number) != ("zero", 1):
        with pytest.raises(tracelet.SpoolError, match="spool_dir"):
            tracelet.start_logging(backend="jsonl", config=config)
        assert tracelet.get_active_experiment() is None
        return
    with tracelet.start_logging(backend="jsonl", config=config) as run:
        run.log_metric("loss", 1.0, 1)
        assert run.info.run_id == ""
        assert list(tmp_path.iterdir()) == [tmp_path / "file"]
