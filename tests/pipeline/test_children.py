"""
Forked children log into their parent's run: everything arrives once, whoever lives longer.

The programs run by themselves, so that pytest is not forked.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.depot import Depot, options, plugged_in
from tests.pipeline.programs import gone, left_over, wait_for

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")

HOSTS = pytest.mark.parametrize("host", ["process", "thread"])

BEGIN = """
import json, multiprocessing, os, sys, time
import psutil, tracelet

def sidecar():
    return [child.pid for child in psutil.Process(trainer).children()
            if "tracelet.ship.sidecar" in " ".join(child.cmdline())]

trainer = os.getpid()
run = tracelet.start_logging("run", "project", "depot", config=json.loads(sys.argv[1]))
before = None
for step in range(20):
    run.log_metric("main", float(step), step)
assert run.flush(30)
before = sidecar()
"""


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with plugged_in(tmp_path, monkeypatch) as found:
        yield found


def begin(code: str, folder: Path, depot: Depot, **config: Any) -> subprocess.Popen[str]:
    script = folder / "program.py"
    script.write_text(BEGIN + textwrap.dedent(code))
    config = {"silent": True, **options(depot), **config}
    return subprocess.Popen(
        [sys.executable, str(script), json.dumps(config)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> list[str]:
    try:
        out, errors = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return out.splitlines()


def curves(depot: Depot) -> dict[str, list[float]]:
    """Return the values of each key, in the order of arrival."""
    (stored,) = depot.stored().values()
    found: dict[str, list[float]] = {}
    for record in stored:
        # (What is measured on a slow machine is not what the program logs.)
        if record["type"] == "Metric" and not record["key"].startswith("system/"):
            found.setdefault(record["key"], []).append(record["value"])
    return found


STEPS = [float(step) for step in range(20)]


@HOSTS
def test_workers_of_every_kind_log_into_the_run(tmp_path: Path, depot: Depot, host: str) -> None:
    """Forked by hand, by multiprocessing, by a pool and by a child; nothing is lost or doubled."""
    code = """
        def work(name):
            for step in range(20):
                run.log_metric(name, float(step), step)
            return os.getpid()

        pid = os.fork()
        if pid == 0:
            work("forked")
            grandchild = os.fork()
            if grandchild == 0:
                work("grandchild")
                os._exit(0)
            os.waitpid(grandchild, 0)
            os._exit(0)
        os.waitpid(pid, 0)
        context = multiprocessing.get_context("fork")
        process = context.Process(target=work, args=("process",))
        process.start()
        process.join()
        with context.Pool(2) as pool:
            pool.map(work, [f"pool{number}" for number in range(6)])
        assert sidecar() == before
        work("parent")
        report = tracelet.stop_logging()
        counts = report.backends["depot"]
        print(report.status.value, report.recorded, report.check(), counts.delivered)
        print(os.listdir(".tracelet"))
    """
    process = begin(code, tmp_path, depot, shipper=host)
    said = finished(process)
    assert said[0] == f"FINISHED {11 * 20} [] {11 * 20}"
    names = ["main", "forked", "grandchild", "process", "parent", *(f"pool{n}" for n in range(6))]
    assert curves(depot) == dict.fromkeys(names, STEPS)
    assert depot.status() == "FINISHED"
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [])


def test_a_flush_waits_for_what_it_was_called_for(tmp_path: Path, depot: Depot) -> None:
    """What a child has logged, and what it was answered, are in the same counts."""
    code = """
        pid = os.fork()
        if pid == 0:
            for step in range(200):
                run.log_metric("child", 1.0, step)
            print(run.flush(60), arrived("child"), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        for step in range(5):
            run.log_metric("parent", 1.0, step)
            print(run.flush(60), arrived("parent"), flush=True)
        tracelet.stop_logging()
    """
    arrived = f"""
        def arrived(key):
            calls = map(json.loads, open({str(depot.folder / "calls.jsonl")!r}))
            records = [each for call in calls for each in call.get("records", ())]
            return sum(each.get("key") == key for each in records)
    """
    process = begin(arrived + code, tmp_path, depot, shipper="thread")
    assert finished(process) == ["True 200", *(f"True {count}" for count in range(1, 6))]


def test_a_child_that_outlives_the_run_is_delivered(tmp_path: Path, depot: Depot) -> None:
    """The run ends with its owner's word; what the child logs afterwards arrives all the same."""
    code = """
        pid = os.fork()
        if pid == 0:
            os.close(1)
            os.close(2)
            run.log_metric("child", 0.0, 0)
            while not os.path.exists("go"):
                time.sleep(0.01)
            for step in range(1, 20):
                run.log_metric("child", float(step), step)
                time.sleep(0.01)
            os._exit(0)
        while run.flush(5) and len(os.listdir(f".tracelet/{run.info.run_id}/seg")) < 2:
            time.sleep(0.01)
        began = time.monotonic()
        report = tracelet.stop_logging()
        print(report.status.value, time.monotonic() - began < 5, report.check(), pid, *before)
    """
    process = begin(code, tmp_path, depot)
    status, quick, checked, child, sidecar = finished(process)[0].split()
    assert (status, quick, checked) == ("FINISHED", "True", "[]")
    assert depot.status() == "FINISHED"
    assert not gone(int(child))
    assert not gone(int(sidecar))

    (tmp_path / "go").touch()

    wait_for(lambda: gone(int(sidecar)), timeout=20.0)
    assert curves(depot) == {"main": STEPS, "child": STEPS}
    # Opened again for the child, and ended again as before.
    assert depot.status() == "FINISHED"
    assert {call["status"] for call in depot.calls("close")} == {"FINISHED"}
    assert left_over(tmp_path / ".tracelet") == []


@pytest.mark.parametrize("sidecar_too", [False, True], ids=["trainer", "trainer and sidecar"])
def test_workers_live_on_when_the_trainer_is_killed(
    tmp_path: Path, depot: Depot, sidecar_too: bool
) -> None:
    """The run is KILLED, and what the workers still log is in it, now or after a drain."""
    code = """
        children = []
        for number in range(3):
            pid = os.fork()
            if pid == 0:
                os.close(1)
                os.close(2)
                for step in range(20):
                    run.log_metric(f"child{number}", float(step), step)
                    while step == 9 and not os.path.exists("go"):
                        time.sleep(0.01)
                os._exit(0)
            children.append(pid)
        while len(os.listdir(f".tracelet/{run.info.run_id}/seg")) < 4:
            time.sleep(0.01)
        print(*before, *children, flush=True)
        time.sleep(60)
    """
    process = begin(code, tmp_path, depot)
    assert process.stdout is not None
    sidecar, *children = map(int, process.stdout.readline().split())
    if sidecar_too:
        os.kill(sidecar, signal.SIGKILL)
    process.kill()
    process.communicate()
    if not sidecar_too:
        wait_for(lambda: depot.status() == "KILLED")
    (tmp_path / "go").touch()
    wait_for(lambda: all(map(gone, children)))
    if sidecar_too:
        from tracelet.ship.drain import drain
        from tracelet.spool.rundir import find_runs

        (run,) = find_runs(tmp_path / ".tracelet")
        assert drain(run)["depot"].pending == 0

    wait_for(lambda: left_over(tmp_path / ".tracelet") == [])
    assert curves(depot) == {"main": STEPS, **{f"child{number}": STEPS for number in range(3)}}
    assert depot.status() == "KILLED"
    wait_for(lambda: gone(sidecar))


def test_a_child_may_stop_and_start_runs_of_its_own(tmp_path: Path, depot: Depot) -> None:
    """It ends nobody else's run, and its own run has a sidecar of its own."""
    code = """
        pid = os.fork()
        if pid == 0:
            run.log_metric("child", 1.0, 1)
            assert tracelet.stop_logging().status.value == "RUNNING"
            own = tracelet.start_logging("own", "project", "jsonl", config={"silent": True})
            own.log_metric("loss", 2.0, 2)
            report = own.stop()
            os._exit(0 if report.complete else 1)
        assert os.waitpid(pid, 0)[1] == 0
        run.log_metric("main", 20.0, 20)
        assert sidecar() == before
        print(run.stop().complete)
    """
    assert finished(begin(code, tmp_path, depot)) == ["True"]
    assert curves(depot) == {"main": [*STEPS, 20.0], "child": [1.0]}
    assert (tmp_path / "tracelet-jsonl" / "project" / "own.jsonl").exists()
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [])


def test_many_children_cost_little(tmp_path: Path, depot: Depot) -> None:
    """A hundred workers that are silent do not keep the sidecar busy."""
    code = """
        children = []
        for number in range(100):
            pid = os.fork()
            if pid == 0:
                run.log_metric(f"child{number}", 1.0, 1)
                time.sleep(60)
                os._exit(0)
            children.append(pid)
        while run.flush(5) and len(os.listdir(f".tracelet/{run.info.run_id}/seg")) < 101:
            time.sleep(0.1)
        run.flush(30)
        time.sleep(2.0)
        process = psutil.Process(before[0])
        first, began = process.cpu_times(), time.monotonic()
        time.sleep(5.0)
        last, passed = process.cpu_times(), time.monotonic() - began
        print((last.user + last.system - first.user - first.system) / passed)
        for pid in children:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        print(run.stop().backends["depot"].delivered)
    """
    share, delivered = finished(begin(code, tmp_path, depot))
    assert float(share) < 0.1
    assert int(delivered) == 120


def test_a_child_that_says_its_first_word_too_late(tmp_path: Path, depot: Depot) -> None:
    """
    Nobody knew of it: the run was delivered and put away. The child is not harmed.

    (A child is known by its first record; to know it by its fork would cost every worker that
    never logs a file.)
    """
    code = """
        pid = os.fork()
        if pid == 0:
            while not os.path.exists("go"):
                time.sleep(0.01)
            run.log_metric("child", 1.0, 1)
            os._exit(7)
        run.stop()
        while os.listdir(".tracelet") != [".gitignore"]:
            time.sleep(0.01)
        open("go", "w").close()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert finished(begin(code, tmp_path, depot)) == ["7"]
    assert curves(depot) == {"main": STEPS}


SPAWNED = """
import json, multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
import tracelet

def begin():
    return tracelet.start_logging("run", "project", "depot", config=json.loads(sys.argv[1]))

if "top" in sys.argv:
    begin()  # in every child once more

def work(name):
    run = tracelet.get_active_experiment()
    for step in range(20):
        run.log_metric(name, float(step), step)

def captured(name):
    from tensorboardX import SummaryWriter
    writer = SummaryWriter("logs")
    for step in range(20):
        writer.add_scalar(name, float(step), step)
    writer.close()

def family(name):
    child = multiprocessing.get_context("spawn").Process(target=work, args=(name + " child",))
    child.start()
    child.join()
    work(name)

def leaves(name):
    work(name)
    assert tracelet.stop_logging().status.value == "RUNNING"
    own = tracelet.start_logging("own", "project", "jsonl", config={"silent": True})
    own.log_metric("own", 1.0, 1)
    assert own.stop().complete

if __name__ == "__main__":
    run = tracelet.get_active_experiment() or begin()
    work("main")
    context = multiprocessing.get_context
    for way, target in (("spawn", family), ("forkserver", captured), ("spawn", leaves)):
        child = context(way).Process(target=target, args=(target.__name__,))
        child.start()
        child.join()
        assert child.exitcode == 0, target
    with ProcessPoolExecutor(2, mp_context=context("forkserver")) as pool:
        list(pool.map(work, ["pool0", "pool1"]))
    report = run.stop()
    assert "TRACELET_RUN_DIR" not in os.environ
    if "top" not in sys.argv:
        child = context("spawn").Process(target=work, args=("afterwards",))
        child.start()
        child.join()
        assert child.exitcode == 1  # there is no run that could be joined
    print(report.status.value, report.recorded, report.check())
"""


@pytest.mark.parametrize("place", ["main", "top"])
def test_children_that_are_started_anew_join_the_run(
    tmp_path: Path, depot: Depot, place: str
) -> None:
    """Also where the start stands outside of ``__main__``, and so is run again by every child."""
    script = tmp_path / "program.py"
    script.write_text(SPAWNED)
    config = {"silent": True, "keep_tensorboard": False, **options(depot)}
    process = subprocess.Popen(
        [sys.executable, str(script), json.dumps(config), place],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    names = ["main", "family", "family child", "captured", "leaves", "pool0", "pool1"]
    assert finished(process) == [f"FINISHED {len(names) * 20} []"]
    assert curves(depot) == dict.fromkeys(names, STEPS)
    assert not (tmp_path / "logs").exists(), "settings are those of the run, in children, too"
    assert (tmp_path / "tracelet-jsonl" / "project" / "own.jsonl").exists()
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [])


def test_a_program_that_the_training_starts_has_a_run_of_its_own(
    tmp_path: Path, depot: Depot
) -> None:
    """And so has the program that takes the place of the training, which is then over."""
    code = """
        import subprocess
        own = (
            "import tracelet, sys\\n"
            "run = tracelet.start_logging(sys.argv[1], 'project', 'jsonl', config={'silent': True})"
            "\\nrun.log_metric('loss', 1.0, 1)"
        )
        subprocess.run([sys.executable, "-c", own, "other"], check=True)
        subprocess.run([sys.executable, "silent.py"], check=True)
        run.log_metric("main", 20.0, 20)
        os.execv(sys.executable, [sys.executable, "-c", own, "next"])
    """
    # One that records nothing, and whose own children must not find the training's run either.
    (tmp_path / "silent.py").write_text(
        "import multiprocessing, tracelet\n"
        "run = tracelet.start_logging('no', 'project', 'jsonl', config={'mode': 'disabled'})\n"
        "def work(): run.log_metric('stray', 1.0, 1)\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=work)\n"
        "    child.start()\n"
        "    child.join()\n"
        "    assert child.exitcode == 0\n"
    )
    finished(begin(code, tmp_path, depot))
    for name in ("other", "next"):
        assert (tmp_path / "tracelet-jsonl" / "project" / f"{name}.jsonl").exists()
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [])
    assert curves(depot) == {"main": [*STEPS, 20.0]}
    assert depot.status() == "KILLED"


def test_a_daemon_logs_on(tmp_path: Path, depot: Depot) -> None:
    """Its run ended with the process that had begun it; what it logs is in the run all the same."""
    code = """
        if os.fork():
            os._exit(0)
        os.setsid()
        if os.fork():
            os._exit(0)
        os.closerange(0, 256)
        for step in range(20):
            run.log_metric("daemon", float(step), step)
            time.sleep(0.05)
    """
    process = begin(code, tmp_path, depot)
    process.communicate(timeout=60)
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [])
    assert curves(depot) == {"main": STEPS, "daemon": STEPS}
    assert depot.status() == "KILLED"


LOADERS = """
import json, sys, threading
from torch import zeros
from torch.utils.data import DataLoader, Dataset
import tracelet

class Digits(Dataset):
    def __init__(self, name):
        self.name = name

    def __len__(self):
        return 20

    def __getitem__(self, number):
        tracelet.get_active_experiment().log_metric(self.name, float(number), number)
        return zeros(1)

def thread(number):
    for step in range(500):
        run.log_metric(f"thread{number}", float(step), step)

if __name__ == "__main__":
    run = tracelet.start_logging("run", "project", "depot", config=json.loads(sys.argv[1]))
    threads = [threading.Thread(target=thread, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for way in ("fork", "spawn"):
        for _ in DataLoader(Digits(way), num_workers=2, multiprocessing_context=way):
            pass
    for each in threads:
        each.join()
    print(run.stop().check())
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_of_data_loaders_while_threads_log(tmp_path: Path, depot: Depot) -> None:
    pytest.importorskip("torch")
    script = tmp_path / "program.py"
    script.write_text(LOADERS)
    process = subprocess.Popen(
        [sys.executable, str(script), json.dumps({"silent": True, **options(depot)})],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert finished(process) == ["[]"]
    found = curves(depot)
    # (Each of two workers takes every second item, and who is faster comes first.)
    assert sorted(found.pop("fork")) == STEPS
    assert sorted(found.pop("spawn")) == STEPS
    assert found == {f"thread{n}": [float(step) for step in range(500)] for n in range(8)}
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [])


def test_four_programs_that_start_in_one_fresh_folder(tmp_path: Path) -> None:
    code = (
        "import sys, time, tracelet\n"
        "time.sleep(max(0.0, float(sys.argv[2]) - time.time()))\n"
        "config = {'silent': True}\n"
        "run = tracelet.start_logging('run', 'project', 'jsonl', config=config)\n"
        "for step in range(20): run.log_metric('loss', float(step), step)\n"
        "report = run.stop()\n"
        "sys.exit(str(report) if report.check() or report.recorded != 20 else 0)\n"
    )
    begin = repr(time.time() + 2.0)
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number), begin],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for each in programs:
        finished(each)
    wait_for(lambda: left_over(tmp_path / ".tracelet") == [])
    files = list((tmp_path / "tracelet-jsonl" / "project").glob("*.jsonl"))
    assert len(files) == 4
    for file in files:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        values = [line["value"] for line in lines if line.get("key") == "loss"]
        assert (values, lines[-1]["status"]) == (STEPS, "FINISHED")
