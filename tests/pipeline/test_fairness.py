"""
Nobody waits for somebody else: neither the curves for a checkpoint, nor one tracker for another.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from tests.pipeline.depot import Depot, options, plugged_in
from tests.pipeline.programs import gone, jsonl, left_over, sidecars, wait_for
from tests.pipeline.stores import Line, Store, log_points, new_run

import tracelet
from tracelet.errors import ConfigError
from tracelet.records import Text
from tracelet.spool.writer import SpoolWriter


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Depot]:
    with plugged_in(tmp_path, monkeypatch) as found:
        yield found


def start(*backends: str, depot: Depot, **config: Any) -> tracelet.Run:
    config = {"silent": True, **options(depot), **config}
    return tracelet.start_logging("run", "project", list(backends), config=config)


def seen_soon(run: tracelet.Run, depot: Depot, count: int, first: int = 0) -> None:
    """Log points; each of them is at the far end within two seconds."""
    for step in range(first, first + count):
        run.log_metric("loss", float(step), step)
        began = time.monotonic()
        wait_for(lambda step=step: depot.values(run.info.run_id)[-1:] == [step], timeout=2.0)
        assert time.monotonic() - began < 2.0
        time.sleep(0.2)


# -- the heavy and the light ----------------------------------------------------------------------


def test_an_upload_that_hangs_does_not_hold_up_the_curves(depot: Depot) -> None:
    """Not even a stop: what hangs is delivered once it can be."""
    run = start("depot", depot=depot)
    seen_soon(run, depot, 1)
    depot.order(write_heavy=("hang", ""))
    run.log_text("note", "hello")
    seen_soon(run, depot, 5, first=1)
    began = time.monotonic()
    report = run.stop(timeout=1.0)
    assert time.monotonic() - began < 2.0
    assert (report.pending, report.check()) == (1, [])
    depot.order()
    wait_for(lambda: depot.status() == "FINISHED")
    texts = [each["text"] for each in depot.stored()[run.info.run_id] if each["type"] == "Text"]
    assert texts == ["hello"]


@pytest.mark.parametrize("order", ["retry", "config", "bug"])
def test_an_artifact_store_that_is_away_does_not_hold_up_the_curves(
    depot: Depot, tmp_path: Path, order: str
) -> None:
    """Whatever is wrong with it; and a stop does not wait for it longer than for any other."""
    run = start("depot", depot=depot)
    depot.order(write_heavy=(order, "no bucket"))
    run.log_text("note", "hello")
    seen_soon(run, depot, 5)
    if order == "bug":
        assert run.flush(30)
    began = time.monotonic()
    report = run.stop()
    assert report.check() == []
    if order == "bug":
        # Nobody knows what that is: it is tried, and set aside.
        assert report.backends["depot"].rejected == 1
        return
    assert time.monotonic() - began < 3.0
    counts = report.backends["depot"]
    state = "config" if order == "config" else "waiting"
    assert (counts.pending, counts.state, counts.detail) == (1, state, "no bucket")
    if order == "retry":
        depot.order()
        wait_for(lambda: depot.status() == "FINISHED", timeout=60.0)
        wait_for(lambda: left_over(tmp_path / ".tracelet") == [])


def test_wrong_credentials_for_artifacts_alone_do_not_keep_the_sidecar(depot: Depot) -> None:
    """It has nothing to do any more that time could mend, and goes with the program."""
    from tracelet.run import hosts

    run = start("depot", depot=depot)
    depot.order(write_heavy=("config", "no bucket"))
    run.log_text("note", "hello")
    seen_soon(run, depot, 1)
    run.stop()
    (sidecar,) = sidecars()
    hosts._hosts.pop("process").close()
    wait_for(lambda: gone(sidecar), timeout=10.0)


def test_many_heavy_things_do_not_hold_up_the_curves(depot: Depot) -> None:
    """While a slow store takes one text after the other."""
    run = start("depot", depot=depot)
    depot.order(write_heavy=("sleep", "0.3"))
    for number in range(2000):
        run.log_text(f"note{number}", "x" * 2000)
    seen_soon(run, depot, 5)


def test_a_lane_that_needs_a_person_asks_now_and_then(tmp_path: Path) -> None:
    """The heavy one by itself: the light one goes on as if nothing was."""
    run = new_run(tmp_path)
    writer, store = SpoolWriter(run), Store()
    writer.record(Text("note", "hello", 0, time.time()))

    def refuse(batch: Any) -> None:
        if batch.lane == "heavy":
            raise ConfigError("no bucket")

    store.before = refuse
    line = Line(run, store)
    for number in range(50):
        log_points(writer, 10, start=number * 10)
        line.step()
        line.step("heavy")
        line.now += 1.0
    line.step()
    assert len(store.metrics) == 500
    assert line.delivery.shown()[2] == "no bucket"
    line.delivery.state = "idle"
    assert line.delivery.shown() == ("config", "no bucket", "no bucket")
    store.before = None
    line.now += 60.0
    line.settle()
    assert line.counts() == (501, 0, 0)
    assert line.delivery.shown()[2] == ""
    run.release()


# -- one tracker and another ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "order",
    [
        {"open": ("hang", "")},
        {"open": ("retry", "away")},
        {"open": ("config", "wrong key")},
        {"open": ("missing", "pip install it")},
        {"write": ("hang", "")},
        {"write": ("retry", "away")},
    ],
    ids=lambda order: " ".join(f"{call} {kind}" for call, (kind, _) in order.items()),
)
def test_a_tracker_that_is_dead_does_not_hold_up_the_other(
    tmp_path: Path, depot: Depot, order: Any
) -> None:
    """Each has a cursor and threads of its own; the sum is right for both."""
    depot.order(**order)
    run = start("depot", "jsonl", depot=depot)
    out = tmp_path / "tracelet-jsonl" / "project" / "run.jsonl"
    run.log_metric("loss", 0.0, 0)
    wait_for(lambda: out.exists() and len(jsonl(out)[0]) == 1)
    for step in range(1, 5):
        run.log_metric("loss", float(step), step)
        wait_for(lambda step=step: len(jsonl(out)[0]) == step + 1, timeout=2.0)
    report = run.stop(timeout=2.0)
    assert report.check() == []
    assert (report.backends["jsonl"].delivered, report.backends["depot"].pending) == (5, 5)
    assert jsonl(out) == ([(step, float(step)) for step in range(5)], "FINISHED")


def test_a_record_that_one_tracker_refuses_is_the_others_all_the_same(
    tmp_path: Path, depot: Depot
) -> None:
    """Rejected is said of a tracker, not of a record."""
    depot.order(write_heavy=("reject", "no texts here"))
    run = start("depot", "jsonl", depot=depot)
    run.log_text("note", "hello")
    run.log_metric("loss", 1.0, 1)
    report = run.stop()
    assert report.check() == []
    assert [each.rejected for each in report.backends.values()] == [1, 0]
    lines = (tmp_path / "tracelet-jsonl" / "project" / "run.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines if '"text"' in line] == ["hello"]


# -- one writer and another -----------------------------------------------------------------------


def test_a_busy_writer_does_not_starve_the_others(tmp_path: Path) -> None:
    """A child's only point does not wait for all of its parent's."""
    run = new_run(tmp_path)
    writer, child, store = SpoolWriter(run), SpoolWriter(run, main=False), Store()
    log_points(writer, 5000)
    child.scalar("/logs", "child", 1.0, 1, None)
    line = Line(run, store)
    for _ in range(6):
        line.step()
    assert [value for key, value, _, _ in store.metrics if key == "child"] == [1.0]
    line.settle()
    assert line.counts() == (5001, 0, 0)
    run.release()
