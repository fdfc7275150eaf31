"""
Delivery without a training: left-over runs, one or several drains, and what stays afterwards.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

import pytest
from tests.pipeline.depot import Depot, options, plugged_in
from tests.pipeline.programs import jsonl, left_over, wait_for

import tracelet
from tracelet.ship import elsewhere, state
from tracelet.ship.drain import drain
from tracelet.ship.state import BackendState
from tracelet.spool.reader import unfinished
from tracelet.spool.rundir import RunDir


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Depot]:
    with plugged_in(tmp_path, monkeypatch) as found:
        yield found


def start(name: str = "run", backend: str = "jsonl", **config: Any) -> tracelet.Run:
    config = {"silent": True, "mode": "offline", **config}
    return tracelet.start_logging(name, "project", backend, config=config)


def points(run: tracelet.Run, count: int, first: int = 0) -> None:
    for step in range(first, first + count):
        run.log_metric("loss", step / 7, step)


def folder(run: tracelet.Run) -> RunDir:
    return RunDir.open(Path.cwd() / ".tracelet" / run.info.run_id)


def check_sums(spooled: int, states: Mapping[str, BackendState]) -> None:
    for each in states.values():
        assert each.answered + each.pending == spooled


def expected(count: int) -> list[tuple[int, float]]:
    return [(step, step / 7) for step in range(count)]


# -- one drain ------------------------------------------------------------------------------------


def test_an_offline_run_is_delivered_whole(tmp_path: Path) -> None:
    """Numbers, parameters, files and the status; then it is gone from the spool."""
    (tmp_path / "weights").write_bytes(b"w" * 1000)
    with start() as run:
        points(run, 500)
        run.log_params({"lr": 0.1, "deep": {"er": 2}})
        run.log_artifact("weights")
    here = folder(run)
    assert state.spooled(here) == 503
    check_sums(503, state.read(here))

    states = drain(here)

    check_sums(503, states)
    assert (states["jsonl"].delivered, states["jsonl"].state) == (503, "closed")
    out = tmp_path / "tracelet-jsonl" / "project"
    assert jsonl(out / "run.jsonl") == (expected(500), "FINISHED")
    assert [path.read_bytes() for path in out.rglob("weights")] == [b"w" * 1000]
    assert left_over(tmp_path / ".tracelet") == []


def test_a_run_that_is_still_recorded_is_delivered_so_far(tmp_path: Path) -> None:
    """Its owner notices nothing, and the end comes with the next drain."""
    run = start()
    points(run, 100)
    states = drain(folder(run))
    check_sums(100, states)
    assert (states["jsonl"].delivered, states["jsonl"].status) == (100, None)
    out = tmp_path / "tracelet-jsonl" / "project" / "run.jsonl"
    assert jsonl(out) == (expected(100), None)
    # The lock that says "the owner lives" has not been lost over it.
    code = (
        "import sys; from pathlib import Path; from tracelet.spool.rundir import RunDir\n"
        "print(RunDir.open(Path(sys.argv[1])).owner_alive())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(folder(run).path)], capture_output=True, text=True
    )
    assert answer.stdout.strip() == "True"

    points(run, 100, first=100)
    run.stop()
    states = drain(folder(run))
    assert (states["jsonl"].delivered, states["jsonl"].status) == (200, "FINISHED")
    assert jsonl(out) == (expected(200), "FINISHED")


def test_a_server_that_stays_away_is_given_up_for_now(depot: Depot) -> None:
    """After the time that was allowed; nothing is lost and the reason is told."""
    depot.order(open=("retry", "away"))
    with start(backend="depot", **options(depot)) as run:
        points(run, 10)
    for limits in ({"away_s": 0.5}, {"timeout": 0.5}):
        began = time.monotonic()
        states = drain(folder(run), **limits)
        assert 0.4 < time.monotonic() - began < 3.0
        check_sums(10, states)
        assert (states["depot"].pending, states["depot"].state) == (10, "waiting")
        assert "away" in states["depot"].error
    depot.order()
    assert drain(folder(run))["depot"].delivered == 10


@pytest.mark.parametrize("source", ["argument", "variable"])
def test_a_secret_that_is_not_at_hand_is_named(
    depot: Depot, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """At once, in a sentence; with the secret everything is delivered."""
    if source == "variable":
        monkeypatch.setenv("TRACELET_DEPOT__TOKEN", "sesame-1")
        config = options(depot)
    else:
        config = options(depot, token="sesame-1")
    with start(backend="depot", **config) as run:
        points(run, 10)
    monkeypatch.delenv("TRACELET_DEPOT__TOKEN", raising=False)

    began = time.monotonic()
    states = drain(folder(run))
    assert time.monotonic() - began < 3.0
    assert (states["depot"].state, states["depot"].pending) == ("config", 10)
    wanted = "TRACELET_DEPOT__TOKEN" if source == "variable" else "'token'"
    assert wanted in states["depot"].error
    assert depot.calls("open") == []

    if source == "variable":
        monkeypatch.setenv("TRACELET_DEPOT__TOKEN", "sesame-1")
        states = drain(folder(run))
    else:
        states = drain(folder(run), {"depot": {"token": "sesame-1"}})
    assert states["depot"].delivered == 10
    assert depot.calls("open")[-1]["token"] == "sesame-1"


# -- several drains -------------------------------------------------------------------------------

DRAINS = """
import sys
from pathlib import Path
from tracelet.ship.drain import drain
from tracelet.spool.rundir import RunDir
states = drain(RunDir.open(Path(sys.argv[1])))
print(states["depot"].state, states["depot"].pending)
"""


def test_several_drains_at_once_deliver_once(depot: Depot) -> None:
    """In one process and in several: one ships, the others wait until it is done."""
    with start(backend="depot", **options(depot)) as run:
        points(run, 2000)
    depot.order(write=("sleep", "0.1"))
    path = folder(run).path
    others = [
        subprocess.Popen(
            [sys.executable, "-c", DRAINS, str(path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    ends: list[Mapping[str, BackendState]] = []
    threads = [
        threading.Thread(target=lambda: ends.append(drain(RunDir.open(path)))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [(each["depot"].state, each["depot"].pending) for each in ends] == [("closed", 0)] * 2
    for other in others:
        # Whoever came when everything was done has found no run.
        said = other.communicate(timeout=60)[0].split()
        assert said in (["closed", "0"], []) if other.returncode else said == ["closed", "0"]
    assert depot.values(run.info.run_id) == [step / 7 for step in range(2000)]
    assert len([call for call in depot.calls("close") if call["status"] == "FINISHED"]) == 1


def test_a_drain_may_be_killed_and_repeated(depot: Depot) -> None:
    """At any moment, between a request and its answer as well."""
    with start(backend="depot", **options(depot)) as run:
        for step in range(3000):
            run.log_metric(f"loss{step % 60}", float(step))
        run.log_text("note", "hello")
    path = folder(run).path
    depot.order(write=("sleep", "0.02"), after_light=("sleep", "0.02"))
    chance = random.Random(4)
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", DRAINS, str(path)], stdout=subprocess.DEVNULL
        )
        before = len(depot.calls("write"))
        wait_for(lambda before=before: len(depot.calls("write")) > before + 1)
        time.sleep(chance.random() * 0.1)
        process.kill()
        process.wait()
    depot.order()
    states = drain(RunDir.open(path))

    check_sums(3001, states)
    assert states["depot"].delivered == 3001
    stored = depot.stored()[run.info.run_id]
    for number in range(60):
        found = [each for each in stored if each.get("key") == f"loss{number}"]
        assert [each["value"] for each in found] == [float(v) for v in range(number, 3000, 60)]
        assert [each["step"] for each in found] == list(range(50))


# -- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["middle", "last", "torn"])
@pytest.mark.parametrize("interrupted", [False, True], ids=["", "interrupted"])
def test_what_is_damaged_is_counted_once(
    depot: Depot, tmp_path: Path, place: str, interrupted: bool
) -> None:
    """Wherever it lies and however often delivery is begun anew, the sum is right."""
    with start(backend="depot", **options(depot)) as run:
        points(run, 50)
    here = folder(run)
    (segment,) = here.segments.iterdir()
    raw = bytearray(segment.read_bytes())
    found = [at for at in range(len(raw)) if raw.startswith(b"\xf7\x1aTL\x20\0\0\0", at)]
    assert len(found) == 50
    if place == "torn":
        segment.write_bytes(raw[: found[-1] + 40])
    else:
        raw[found[25 if place == "middle" else -1] + 30] ^= 1
        segment.write_bytes(raw)
    if interrupted:
        depot.order(close=("retry", "not yet"))
        for _ in range(2):
            states = drain(here, away_s=0.5)
            assert (states["depot"].delivered, states["depot"].pending) == (49, 0)
            here = folder(run)
            check_sums(50, state.read(here))
        depot.order()
    states = drain(here)

    check_sums(50, states)
    assert (states["depot"].delivered, sum(states["depot"].damaged.values())) == (49, 1)
    assert states["depot"].status == ("KILLED" if place == "torn" else "FINISHED")
    assert left_over(tmp_path / ".tracelet") == []


# -- what stays -----------------------------------------------------------------------------------


def test_a_kept_run_is_compressed_and_can_be_delivered_again(tmp_path: Path) -> None:
    """Its bytes are all there: without a cursor everything goes out anew, the same."""
    (tmp_path / "weights").write_bytes(b"w" * 1000)
    with start(keep_runs="all") as run:
        points(run, 500)
        run.log_artifact("weights")
    here = folder(run)
    assert drain(here)["jsonl"].state == "closed"
    assert {path.suffix for path in here.segments.iterdir()} == {".gz"}
    assert state.spooled(here) == 501
    assert state.read(here)["jsonl"].complete
    out = tmp_path / "tracelet-jsonl"
    first = (out / "project" / "run.jsonl").read_text()
    # It is not delivered again by accident.
    assert drain(here)["jsonl"].delivered == 501
    assert (out / "project" / "run.jsonl").read_text() == first

    shutil.rmtree(out)
    for name in ("cursors/jsonl.json", "ship.json", "names.jsonl"):
        (here.path / name).unlink()
    states = drain(folder(run))
    check_sums(501, states)
    assert (out / "project" / "run.jsonl").read_text() == first
    assert [path.read_bytes() for path in out.rglob("weights")] == [b"w" * 1000]


def test_only_the_newest_runs_are_kept(tmp_path: Path) -> None:
    """By number; one that is undelivered, or at work, is never deleted."""
    root = tmp_path / ".tracelet"
    waiting = start("waiting", keep_runs=1)
    points(waiting, 1)
    waiting.stop()
    kept = []
    for number in range(3):
        with start(f"run{number}", keep_runs=2) as run:
            points(run, 3)
        drain(folder(run))
        kept.append(run.info.run_id)
    assert [path.name for path in left_over(root)] == [waiting.info.run_id, *kept[1:]]
    # Continued: a kept run that was delivered and is written to again.
    again = RunDir.open(root / kept[1])
    assert again.own()
    with start("run3", keep_runs=2) as run:
        points(run, 3)
    drain(folder(run))
    assert kept[1] in [path.name for path in left_over(root)]
    again.release()


def test_what_was_refused_is_kept(depot: Depot, tmp_path: Path) -> None:
    """The records with their reason, and who the run was; what was delivered is not."""
    (tmp_path / "weights").write_bytes(b"w" * 1000)
    depot.order(write_heavy=("reject", "no texts here"))
    with start(backend="depot", **options(depot)) as run:
        points(run, 50)
        run.log_text("note", "hello")
        run.log_artifact("weights")
    states = drain(folder(run))

    check_sums(52, states)
    assert (states["depot"].rejected, states["depot"].status) == (2, "FINISHED")
    here = folder(run)
    lines = (here.rejects / "depot.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == ["no texts here"] * 2
    assert json.loads(lines[0])["record"]["text"] == "hello"
    check_sums(52, state.read(here))
    assert state.read(here)["depot"].complete
    assert not unfinished(here)
    # The file that was refused is still there to be sent by somebody.
    assert [path.read_bytes() for path in here.blobs.iterdir()] == [b"w" * 1000]
    # Nothing happens to it any more.
    calls = len(depot.calls())
    assert drain(here)["depot"].rejected == 2
    assert len([call for call in depot.calls()[calls:] if call["call"] != "make"]) == 0


def test_a_blob_goes_once_every_backend_has_it(depot: Depot, tmp_path: Path) -> None:
    """A long run with many checkpoints does not hold all of them twice."""
    run = start(
        backend=["depot", "jsonl"],  # type: ignore[arg-type]
        mode="online",
        shipper="thread",
        **options(depot),
    )
    depot.order(write_heavy=("retry", "away"))
    (tmp_path / "weights").write_bytes(b"w" * 1000)
    for number in range(3):
        run.log_artifact("weights", f"epoch{number}")
        run.log_text("long", "x" * 300_000, number)
    here = folder(run)
    wait_for(lambda: len(list((tmp_path / "tracelet-jsonl").rglob("weights"))) == 3)
    time.sleep(2.5)
    assert len(list(here.blobs.iterdir())) == 6
    depot.order()
    wait_for(lambda: list(here.blobs.iterdir()) == [])
    report = run.stop()
    assert (report.complete, report.check()) == (True, [])
    stored = depot.stored()[run.info.run_id]
    assert [each["content"] for each in stored if "content" in each] == ["w" * 100] * 3
    assert [len(each["text"]) for each in stored if "text" in each] == [300_000] * 3


def test_progress_is_told(tmp_path: Path) -> None:
    """Whoever drains sees the numbers move, up to the last one."""
    with start() as run:
        points(run, 5000)
    seen: list[Optional[int]] = []

    def progress(states: Mapping[str, BackendState]) -> None:
        check_sums(5000, states)
        seen.append(states["jsonl"].delivered)

    drain(folder(run), progress=progress)
    assert seen == sorted(seen)
    assert seen[-1] == 5000
    assert os.listdir(tmp_path / ".tracelet") == [".gitignore"]


def test_whoever_has_not_heard_of_a_further_target_leaves_the_run_alone(tmp_path: Path) -> None:
    """He would delete what is still to go there."""
    with start() as run:
        points(run, 10)
    stale, here = folder(run), folder(run)
    assert here.shipping.acquire()
    elsewhere.add(here, "jsonl", {"path": str(tmp_path / "second")}, {}, None)
    here.shipping.release()
    states = drain(stale)
    assert states["jsonl"].pending == 10
    assert list(tmp_path.rglob("run.jsonl")) == []
    states = drain(folder(run))
    assert (states["jsonl"].delivered, states["jsonl@2"].delivered) == (10, 10)
    assert len(list(tmp_path.rglob("run.jsonl"))) == 2
    assert left_over(tmp_path / ".tracelet") == []
