"""
A run that cannot be delivered, and less room than it needs.

What has to be there in the end is read from the far end: the store, MLflow's own client.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from click.testing import CliRunner
from tests.pipeline.depot import options, plugged_in
from tests.pipeline.programs import sidecars, wait_for
from tests.pipeline.stores import FaultyBackend, Store, new_run

import tracelet
from tracelet import registry
from tracelet.backends.base import BatchLimits
from tracelet.cli import status
from tracelet.cli.commands import tracelet as command_line
from tracelet.errors import RetryableError
from tracelet.records import (
    Artifact,
    Histogram,
    Media,
    Param,
    RunEnd,
    RunStatus,
    Tag,
    Text,
)
from tracelet.ship import elsewhere, state, thinner
from tracelet.ship.bounds import Bounds, run_bytes
from tracelet.ship.shipment import Shipment
from tracelet.spool import packing
from tracelet.spool.cursor import Cursor
from tracelet.spool.reader import Position
from tracelet.spool.rundir import RunDir
from tracelet.spool.writer import INLINE_BYTES, SpoolWriter

SEGMENT = 16 * 1024
STEPS = 600


class Careful(FaultyBackend):
    """Takes little at a time, so that a batch on its way holds few segments."""

    limits = BatchLimits(max_records=20, max_keys=10)
    # What is not confirmed yet is on its way, too.
    deferred = frozenset()


class Outage:
    """A backend that is away until somebody says otherwise."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.away = True
        store.before = self._refuse

    def _refuse(self, batch: Any) -> None:
        if self.away:
            raise RetryableError("away")


def log_everything(writer: SpoolWriter, steps: int = STEPS) -> int:
    """Log two curves, one of them rarely, and something of every kind; return how many records."""
    chance = random.Random(11)
    writer.record(Param("lr", 0.1, 1.0))
    writer.record(Tag("team", "vision", 1.0))
    writer.scalar("/logs", "once", 7.0, 0, 1.0)
    for step in range(steps):
        writer.scalar("/logs", "loss", chance.gauss(0, 1), step, float(step))
        if step % 10 == 0:
            when = float(step)
            pixels = chance.randbytes(3000)
            writer.record(Media("image", "card", pixels, "image/png", step, when, "/logs"))
            writer.record(
                Histogram("h", [0.0, 1.0, 2.0], [1.0, 3.0], 0.0, 2.0, 5.0, 9.0, step, when, "/logs")
            )
            writer.record(Text("note", f"step {step}", step, when, "/logs"))
    writer.record(Param("late", "yes", 2.0))
    return writer.spooled


def bounded(root: Path, most: int, **more: Any) -> RunDir:
    return new_run(root, bounds={"max_run_bytes": most, **more})


def shipment(run: RunDir, *stores: Store) -> Shipment:
    """A shipment to one store, or to several under other names."""
    names = run.info.backends
    made = {
        name: (lambda store=store: Careful(store))  # type: ignore[misc]
        for name, store in zip(names, stores)
    }
    found = Shipment(run, made)
    assert found.begin()
    return found


def thin(found: Shipment, *, growing: bool = True, most: int = 1000) -> None:
    """Let it do what there is to do about its size."""
    assert found._thinner is not None
    for _ in range(most):
        if not found._thinner.turn(growing=growing):
            return
    raise AssertionError("there is no end to it")


def step(found: Shipment, times: int = 1) -> None:
    for _ in range(times):
        for delivery in found.all():
            for lane in delivery.lanes.values():
                delivery._blocked_until = lane._blocked_until = 0.0
                found.work(delivery, lane)


def deliver(found: Shipment, patience_s: float = 60.0) -> None:
    """Go on until every backend is closed."""
    deadline = time.monotonic() + patience_s
    while not all(each.state == "closed" for each in found.all()):
        assert time.monotonic() < deadline
        step(found)
        found.watch()


def adds_up(found: Shipment, total: int) -> dict[str, state.BackendState]:
    states = dict(found.states())
    for each in states.values():
        assert each.pending == 0
        answered = each.delivered + each.rejected + each.unsupported
        assert answered + sum(each.damaged.values()) == total
        assert sum(each.thinned.values()) == sum(each.damaged.values()), "nothing else is lost"
    return states


def of(store: Store, kind: type) -> list[Any]:
    return [each for each in store.others if isinstance(each, kind)]


def what_must_be_there(store: Store) -> None:
    """Parameters, tags, and the last value of every key; no point that nobody logged."""
    chance = random.Random(11)
    logged = {}
    for number in range(STEPS):
        logged[number] = chance.gauss(0, 1)
        if number % 10 == 0:
            chance.randbytes(3000)
    curve = {step: value for key, value, step, _ in store.metrics if key == "loss"}
    assert curve.items() <= logged.items()
    assert curve[STEPS - 1] == logged[STEPS - 1]
    assert len([1 for key, *_ in store.metrics if key == "loss"]) == len(curve), "none twice"
    assert [value for key, value, *_ in store.metrics if key == "once"] == [7.0]
    assert {each.key for each in of(store, Param)} == {"lr", "late"}
    assert {each.key: each.value for each in of(store, Tag)}["team"] == "vision"
    last = (STEPS - 1) // 10 * 10
    for kind in (Media, Histogram, Text):
        assert max(each.step for each in of(store, kind)) == last
    assert store.closed[-1] is RunStatus.FINISHED


def finish(run: RunDir, writer: SpoolWriter) -> None:
    writer.record(RunEnd(RunStatus.FINISHED, time.time()))
    writer.close()
    run.release()


@pytest.mark.parametrize("most", [160_000, 60_000, 1])
def test_a_run_keeps_to_its_bound_and_says_what_it_gave_up(tmp_path: Path, most: int) -> None:
    """The order of the documents, the counts, the tags; at the narrowest still what matters."""
    run = bounded(tmp_path, most)
    writer, store = SpoolWriter(run, segment_bytes=SEGMENT), Store()
    outage = Outage(store)
    found = shipment(run, store)
    total = log_everything(writer)
    before = run_bytes(run)
    step(found, 3)

    thin(found)

    # The segment that is written to, and the one that a batch on its way is from, stay.
    assert run_bytes(run) <= max(most, 90_000) < before
    finish(run, writer)
    outage.away = False
    deliver(found)
    (told,) = adds_up(found, total).values()
    what_must_be_there(store)
    assert told.thinned
    if most == 160_000:
        assert set(told.thinned) == {"media"}, "images are enough"
    elif most == 1:
        assert set(told.thinned) == {"media", "histogram", "text", "scalar"}
    found.publish(force=True)
    shown = status.describe(run)["backends"]["faulty"]
    assert (shown["thinned"], shown["damaged"]) == (told.thinned, 0)
    tags = {each.key: each.value for each in of(store, Tag)}
    for kind, count in told.thinned.items():
        assert tags[f"tracelet.dropped.{kind}"] == str(count)
    found.leave()


def test_what_was_given_up_is_told_to_a_new_remote_run_and_in_an_export(tmp_path: Path) -> None:
    run = bounded(tmp_path, 60_000)
    writer, store = SpoolWriter(run, segment_bytes=SEGMENT), Store()
    outage = Outage(store)
    found = shipment(run, store)
    log_everything(writer)
    step(found, 3)
    thin(found)
    finish(run, writer)
    outage.away = False
    deliver(found)
    given_up = found.states()["faulty"].thinned
    found.leave()
    output = str(tmp_path / "out")
    kept = CliRunner().invoke(
        command_line, ["export", str(run.path), "--format", "jsonl", "-o", output]
    )
    assert kept.exit_code == 1, "it is not there as a whole"
    assert f"{sum(given_up.values())} thinned →" in kept.output
    assert "damaged" not in kept.output

    assert run.shipping.acquire()
    elsewhere.begin_again(run, "faulty", None)
    run.shipping.release()
    another = Store()
    found = shipment(run, another)
    deliver(found)
    found.leave()
    tags = {each.key: each.value for each in of(another, Tag)}
    assert {kind: tags.get(f"tracelet.dropped.{kind}") for kind in given_up} == {
        kind: str(count) for kind, count in given_up.items()
    }


def test_what_was_given_up_hides_nothing_that_was_deleted(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    writer = SpoolWriter(run)
    writer.scalar("", "loss", 1.0, 1, None)
    writer.record(Text("long", "x" * (INLINE_BYTES + 1), 1, 1.0))
    finish(run, writer)
    cursor = Cursor(run, "faulty")
    cursor.damaged = {"thinned-media": 50}
    cursor.lanes["light"].at[writer.name] = Position(1, 0, 0)
    cursor.save()
    assert not elsewhere.lacking(run)
    [blob] = run.blobs.iterdir()
    blob.unlink()
    assert elsewhere.lacking(run)


def test_thinning_between_batches_of_lanes_that_stand_elsewhere(tmp_path: Path) -> None:
    """
    At every moment of a delivery: nothing is lost but what is counted, nothing comes twice.

    One backend takes everything, one is away, one takes no images and histograms for a while.
    """
    made = bounded(tmp_path, 1)
    run = RunDir(made.path, dataclasses.replace(made.info, backends=["one", "two", "three"]))
    made.release()
    assert run.own()
    writer = SpoolWriter(run, segment_bytes=SEGMENT)
    stores = [Store(), Store(), Store()]
    chance = random.Random(5)
    away = Outage(stores[1])

    def no_heavy(batch: Any) -> None:
        if batch.lane == "heavy" and chance.random() < 0.5:
            raise RetryableError("away")

    def cut(_: Any) -> None:
        if chance.random() < 0.3:
            raise RetryableError("the answer was cut")

    stores[2].before, stores[2].after = no_heavy, cut
    found = shipment(run, *stores)
    total = log_everything(writer)
    for number in range(60):
        step(found, chance.randrange(3))
        if number % 7 == 6:
            # A successor has nothing but the cursors: positions within segments, and what was on
            # its way.
            found.leave()
            found = shipment(run, *stores)
        thin(found)
    finish(run, writer)
    away.away = False
    deliver(found)
    states = adds_up(found, total)
    for store in stores:
        there: dict[Any, Any] = {}
        for batch in store.batches:
            for place, record in enumerate(batch.records, batch.offset):
                if not getattr(record, "key", "").startswith("tracelet."):
                    assert there.setdefault((batch.lane, place), record) == record
    for store in stores:
        what_must_be_there(store)
    assert sum(states["two"].thinned.values()) > sum(states["one"].thinned.values())
    found.leave()


def test_large_payloads_go_with_their_files(tmp_path: Path) -> None:
    """What lies beside the segments counts, is deleted, and closes a segment early."""
    run = bounded(tmp_path, 3_000_000)
    writer, store = SpoolWriter(run, segment_bytes=1_000_000), Store()
    outage = Outage(store)
    found = shipment(run, store)
    for number in range(20):
        pixels = bytes([number]) * 400_000
        writer.record(Media("image", "card", pixels, "image/png", number, 1.0, "/logs"))
    (tmp_path / "model.pt").write_bytes(b"weights" * 1000)
    writer.artifact(tmp_path / "model.pt", "models")
    total = writer.spooled
    assert run_bytes(run) > 8_000_000
    step(found, 3)

    thin(found)

    assert run_bytes(run) < 3_000_000
    finish(run, writer)
    outage.away = False
    deliver(found)
    (told,) = adds_up(found, total).values()
    steps = [each.step for each in of(store, Media)]
    assert steps[-1] == 19
    assert told.thinned == {"media": 20 - len(steps)}
    assert [each.path for each in of(store, Artifact)] == ["models/model.pt"]
    found.leave()


def test_segments_are_compressed_while_a_backend_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a bound nothing is given up; what is delivered goes, compressed or not."""
    monkeypatch.setattr(thinner, "PACK_AFTER_S", 0.0)
    run = new_run(tmp_path)
    writer, store = SpoolWriter(run, segment_bytes=SEGMENT), Store()
    outage = Outage(store)
    found = shipment(run, store)
    total = log_everything(writer)
    before = run_bytes(run)
    step(found, 3)
    thin(found)
    packed = list(run.segments.glob("*.gz"))
    assert len(packed) > 5
    assert run_bytes(run) < before
    finish(run, writer)
    outage.away = False
    deliver(found)
    (told,) = adds_up(found, total).values()
    assert told.delivered == total
    what_must_be_there(store)
    found._sweep()
    assert not list(run.segments.glob("*.gz"))
    found.leave()


def test_what_is_kept_on_purpose_is_not_thinned(tmp_path: Path) -> None:
    """A run that is delivered and stays in the spool is whole, whatever the bound."""
    run = new_run(tmp_path, keep=3, bounds={"max_run_bytes": 1})
    writer, store = SpoolWriter(run, segment_bytes=SEGMENT), Store()
    found = shipment(run, store)
    total = log_everything(writer)
    for _ in range(200):
        step(found)
    thin(found)
    finish(run, writer)
    deliver(found)
    (told,) = adds_up(found, total).values()
    assert told.delivered == total
    found.leave()


def test_a_run_that_has_ended_keeps_what_it_has(tmp_path: Path) -> None:
    """Its own bound is for what grows; and a run without bounds has none."""
    for bounds in ({"max_run_bytes": 1}, {}, {"max_run_bytes": "many", "min_free_bytes": -3}, "x"):
        run = new_run(tmp_path, bounds=bounds)
        writer, store = SpoolWriter(run, segment_bytes=SEGMENT), Store()
        outage = Outage(store)
        found = shipment(run, store)
        total = log_everything(writer, steps=200)
        step(found, 3)
        thin(found, growing=bounds != {"max_run_bytes": 1})
        finish(run, writer)
        outage.away = False
        deliver(found)
        assert adds_up(found, total)["faulty"].delivered == total
        found.leave()


@pytest.mark.parametrize(
    ("bounds", "thinned"),
    [
        ({"max_spool_bytes": 150_000}, True),
        ({"max_spool_bytes": 50_000_000}, False),
        ({"min_free_bytes": 1 << 60}, False),
        ({"min_free_bytes": 1}, False),
    ],
)
def test_the_spool_and_the_disk_have_bounds_too(
    tmp_path: Path, bounds: dict[str, Optional[int]], thinned: bool
) -> None:
    """The runs beside count, kept ones do not; a small run is not what fills a disk."""
    beside = new_run(tmp_path)
    log_everything(SpoolWriter(beside), steps=300)
    run = new_run(tmp_path, bounds=bounds)
    writer, store = SpoolWriter(run, segment_bytes=SEGMENT), Store()
    Outage(store)
    found = shipment(run, store)
    log_everything(writer, steps=300)
    step(found, 3)
    before = run_bytes(run)
    thin(found, growing=False)
    assert (run_bytes(run) < before) == thinned
    found.leave()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: kills a forked child")
def test_thinning_may_be_killed_anywhere(tmp_path: Path) -> None:
    """
    SIGKILL's equivalent at each system call that changes a file, again and again; then delivery.

    Each round a successor goes a little further before it dies, until one comes to its end.
    """
    run = bounded(tmp_path, 1)
    writer, store = SpoolWriter(run, segment_bytes=SEGMENT), Store()
    outage = Outage(store)
    total = log_everything(writer)
    for number in range(3):
        pixels = random.Random(number).randbytes(300_000)
        writer.record(Media("image", "large", pixels, "image/png", number, 1.0, "/logs"))
    total += 3
    found = shipment(run, store)
    step(found, 3)
    found.leave()

    codes: Counter[int] = Counter()
    for round_ in itertools.count(1):
        assert round_ < 400
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(_thin_and_die(run.path, store, after=round_ % 23 + 1))
            finally:
                os._exit(3)
        codes[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])] += 1
        if 0 in codes:
            break
    assert codes[9] > 5, codes
    assert set(codes) == {0, 9}, codes

    finish(run, writer)
    outage.away = False
    found = shipment(run, store)
    deliver(found)
    adds_up(found, total)
    what_must_be_there(store)
    assert max(each.step for each in of(store, Media) if each.key == "large") == 2
    left = {path.name for path in run.blobs.iterdir()}
    found._sweep()
    assert len(left) <= 2, "files of what was given up are gone"
    found.leave()


def _thin_and_die(path: Path, store: Store, after: int) -> int:
    """Thin in a forked child; end like a killed process after so many changes to the disk."""
    left = after

    def dying(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(9)
            return change(*arguments, **more)

        return changed

    Path.replace = dying(Path.replace)  # type: ignore[method-assign]
    Path.unlink = dying(Path.unlink)  # type: ignore[method-assign]
    os.fsync = dying(os.fsync)
    run = RunDir.open(path)
    found = Shipment(run, {"faulty": lambda: Careful(store)})
    if not found.begin():
        return 4
    thin(found)
    return 0


def test_a_disk_that_refuses_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that cannot be replaced stays; the run goes on."""
    run = bounded(tmp_path, 1)
    writer, store = SpoolWriter(run, segment_bytes=SEGMENT), Store()
    outage = Outage(store)
    found = shipment(run, store)
    total = log_everything(writer, steps=STEPS)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing.os, "fsync", full)
    found._bounded_at = 0.0
    found.watch()
    for _ in range(30):
        found._bounded_at = 0.0
        found.watch()
    monkeypatch.undo()
    assert not list(run.segments.glob(".*.gz"))
    finish(run, writer)
    outage.away = False
    deliver(found)
    assert adds_up(found, total)["faulty"].delivered == total
    found.leave()


def test_mlflow_has_what_matters_and_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with MLflow's SQLite store, read back by MLflow's own client."""
    import mlflow
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    away = [True]

    class Away(registry.backend_class("mlflow")):  # type: ignore[misc]
        limits = BatchLimits(max_records=100)

        def write(self, batch: Any) -> None:
            if away[0]:
                raise RetryableError("away")
            super().write(batch)

    options, _ = Away.resolve({"url": uri}, os.environ, tmp_path)
    run = new_run(tmp_path, bounds={"max_run_bytes": 1}, cwd=str(tmp_path))
    writer = SpoolWriter(run, segment_bytes=SEGMENT)
    found = Shipment(run, {"faulty": lambda: Away(options)})
    assert found.begin()
    total = log_everything(writer)
    step(found, 3)
    thin(found)
    finish(run, writer)
    away[0] = False
    deliver(found)
    states = adds_up(found, total)
    told = states["faulty"]
    assert told.remote is not None
    found.leave()

    client = MlflowClient(tracking_uri=uri)
    there = client.get_run(told.remote.id)
    history = client.get_metric_history(told.remote.id, "loss")
    assert there.info.status == "FINISHED"
    assert there.data.params == {"lr": "0.1", "late": "yes"}
    assert there.data.tags["team"] == "vision"
    assert there.data.metrics["once"] == 7.0
    assert len(history) == len({point.step for point in history}) < STEPS
    assert max(point.step for point in history) == STEPS - 1
    dropped = {
        key.rpartition(".")[2]: int(value)
        for key, value in there.data.tags.items()
        if key.startswith("tracelet.dropped.")
    }
    assert dropped == told.thinned
    assert dropped["scalar"] == STEPS - len(history)
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: looks for processes")
def test_a_training_beside_its_sidecar_keeps_to_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real thing: 40 MB into a spool for 20, the sidecar killed on the way; all adds up."""
    with plugged_in(tmp_path, monkeypatch) as depot:
        depot.order(open=("retry", "away"))
        config = {**options(depot), "max_run_bytes": 20_000_000, "min_free_bytes": 0}
        run = tracelet.start_logging("run", "project", "depot", config=config)
        folder = tmp_path / ".tracelet" / run.info.run_id
        for number in range(420):
            run.log_text("note", random.Random(number).randbytes(50_000).hex(), number)
            run.log_metric("loss", float(number), number)
            if number == 300:
                for sidecar in sidecars():
                    os.kill(sidecar, signal.SIGKILL)

        def small() -> bool:
            # It is the training that starts another sidecar, while it logs.
            run.log_metric("alive", 1.0)
            return run_bytes(RunDir.open(folder)) < 30_000_000

        wait_for(small, timeout=300.0)
        depot.order()
        report = run.stop()
        assert report.check() == []
        wait_for(lambda: depot.status() == "FINISHED", timeout=300.0)
        stored = depot.stored()[run.info.run_id]
    texts = [each["step"] for each in stored if each["type"] == "Text"]
    points = [each["step"] for each in stored if each.get("key") == "loss"]
    tags = {each["key"]: each["value"] for each in stored if each["type"] == "Tag"}
    assert texts == sorted(set(texts))
    assert (texts[-1], points) == (419, list(range(420)))
    assert tags["tracelet.dropped.text"] == str(420 - len(texts))
    assert set(tags) == {"tracelet.dropped.text"}


def test_a_very_small_disk_does_not_have_a_run_thinned_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit there waits in memory first; where a person set a bound, it holds."""
    run = new_run(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(total=6_000_000, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    own = 1_000_000
    assert Bounds(spool=None, free=None).exceeded(run, own, growing=True) == ""
    assert Bounds(spool=0, free=500_000).exceeded(run, own, growing=True) == "free"
    assert Bounds(spool=500_000, free=0).exceeded(run, own, growing=True) == "spool"
