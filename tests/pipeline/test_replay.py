"""
What goes again after a crash is the same batch; what goes on behind it is what has not gone yet.

The shipper is driven by hand. A crash is a line that is dropped: the next one knows what is on
disk and nothing else.
"""

from __future__ import annotations

import errno
import os
import random
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import pytest
from tests.pipeline.stores import FaultyBackend, Line, Store, log_points, new_run

from tracelet import tfevents
from tracelet.errors import RejectedError, RetryableError
from tracelet.records import Histogram, Metric, Param, RunInfo, Text
from tracelet.ship import shipment
from tracelet.ship.shipment import Shipment
from tracelet.ship.shipper import BARRIER_S
from tracelet.spool.rundir import RunDir, new_run_id
from tracelet.spool.writer import SpoolWriter


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    found = new_run(tmp_path)
    yield found
    found.release()


def appended(store: Store) -> dict[str, list[Any]]:
    """
    Return for each lane what a store has that only appends, and check that it could be one.

    A batch that comes again is marked, and is the same batch.
    """
    rows: dict[tuple[str, int], Any] = {}
    for batch in store.batches:
        for number, record in enumerate(batch.records, batch.offset):
            if (batch.lane, number) in rows:
                assert batch.resend
            assert rows.setdefault((batch.lane, number), record) == record
    lanes: dict[str, list[Any]] = {}
    for lane, number in sorted(rows):
        assert number == len(lanes.setdefault(lane, []))
        lanes[lane].append(rows[lane, number])
    return lanes


def histogram(number: int) -> Histogram:
    return Histogram("w", [0.0, 1.0], [3.0], 0.0, 1.0, 1.5, 1.0, number, time.time())


# -- one thing at a time --------------------------------------------------------------------------


def test_a_batch_of_several_writers_goes_again_whole(run: RunDir) -> None:
    """Also its share of a child, for which the new shipper would wait a moment otherwise."""
    writer, child, store = SpoolWriter(run), SpoolWriter(run, main=False), Store()
    log_points(writer, 30)
    for number in range(30):
        child.scalar("/logs", "child", float(number), None, None)
    store.after = _raise(RetryableError("the answer was cut"))
    first = Line(run, store)
    first.step()
    assert first.step() == "wait"
    assert len(store.batches[0].records) == 60
    store.after = None
    log_points(writer, 30, start=30)

    Line(run, store).settle()

    assert store.batches[1].resend
    assert list(store.batches[1].records) == list(store.batches[0].records)
    assert len(appended(store)["light"]) == 90


def test_an_owner_that_logs_nothing_does_not_hold_its_children_for_long(run: RunDir) -> None:
    """After a restart not at all: it has been decided which stream is the plain one."""
    SpoolWriter(run)
    child, store = SpoolWriter(run, main=False), Store()
    child.scalar("/logs", "a", 1.0, 1, None)
    line = Line(run, store)
    line.step()
    assert line.step() == "idle"
    deadline = time.monotonic() + 10.0
    while not store.metrics and time.monotonic() < deadline:
        line.step()
        time.sleep(0.05)
    assert len(store.metrics) == 1
    child.scalar("/logs", "a", 2.0, 2, None)
    again = Line(run, store)
    again.settle()
    assert [value for _, value, _, _ in store.metrics] == [1.0, 2.0]


def test_the_barrier_comes_also_when_there_is_always_more(run: RunDir) -> None:
    """A busy lane confirms every few seconds, and its notes do not grow without end."""
    writer, store = SpoolWriter(run), Store()
    line = Line(run, store)
    line.step()
    for number in range(100):
        writer.record(histogram(number))
        line.step("heavy")
        line.now += BARRIER_S / 10
        assert len(line.delivery.heavy.state.sending) <= 12
    assert store.barriers >= 8
    assert line.counts()[0] >= 80


def test_a_barrier_that_takes_long_comes_less_often(run: RunDir) -> None:
    """It brings large files up to date: no more than one part in twenty of the time is its."""
    writer, store = SpoolWriter(run), Store()
    line = Line(run, store)
    line.step()

    def slow() -> None:
        line.now += 2.0

    store.at_barrier = slow
    for number in range(100):
        writer.record(histogram(number))
        line.step("heavy")
        line.now += 1.0
    assert 2 <= store.barriers <= 4
    # And who waits for it need not wait so long.
    before = store.barriers
    writer.record(histogram(100))
    line.delivery.heavy.await_all()
    for _ in range(4):
        line.step("heavy")
    assert store.barriers == before + 1
    assert line.counts()[0] == 101


def test_a_barrier_comes_before_very_much_is_unconfirmed(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracelet.ship.shipper.MOST_UNCONFIRMED", 7)
    writer, store = SpoolWriter(run), Store()
    line = Line(run, store)
    line.step()
    for number in range(50):
        writer.record(histogram(number))
        line.step("heavy")
        assert len(line.delivery.heavy.state.sending) <= 8
    assert store.barriers >= 5


def test_all_batches_before_a_barrier_go_again(run: RunDir) -> None:
    """In the same cut, and each counts once."""
    writer, store = SpoolWriter(run), Store()
    line = Line(run, store)
    line.step()
    for number in range(5):
        for _ in range(number + 1):
            writer.record(histogram(number))
        line.step("heavy")
    assert [len(batch.records) for batch in store.batches] == [1, 2, 3, 4, 5]
    again = Line(run, store)
    again.settle()
    assert [len(batch.records) for batch in store.batches[5:]] == [1, 2, 3, 4, 5]
    assert len(appended(store)["heavy"]) == 15
    assert again.counts() == (15, 0, 0)
    assert again.delivery.heavy.state.sending == []


def test_a_frame_with_more_than_a_backend_takes_at_once(run: RunDir) -> None:
    """It is cut by the backend's limits, the same way when it goes again; it counts as one."""
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=f"key{n}", simple_value=float(n)) for n in range(350)]
    event = Event(wall_time=1.0, step=1, summary=Summary(value=values)).SerializeToString()
    writer, store = SpoolWriter(run), Store()
    writer.event("/logs", event, None)
    cuts = iter([False] * 7 + [True])

    def cut(_: object) -> None:
        if next(cuts, False):
            raise KeyboardInterrupt

    store.after = cut
    with pytest.raises(KeyboardInterrupt):
        Line(run, store).settle()
    line = Line(run, store)
    line.settle()
    assert max(len({r.key for r in batch.records}) for batch in store.batches) <= 10  # type: ignore[union-attr]
    assert [record.value for record in appended(store)["light"]] == [float(n) for n in range(350)]
    assert line.counts() == (1, 0, 0)


@pytest.mark.parametrize("missing", ["cursors", "names.jsonl"])
def test_notes_that_cannot_be_written_lose_nothing(run: RunDir, missing: str) -> None:
    """The disk is full, say: delivery waits, tells why, and goes on where it was."""
    writer, store = SpoolWriter(run), Store()
    line = Line(run, store)
    log_points(writer, 10)
    line.step()
    place = run.path / missing
    if missing == "cursors":
        place.rename(run.path / "elsewhere")
    else:
        place.mkdir()
    for _ in range(3):
        assert line.step() == "wait"
        line.now += 31.0
    assert line.delivery.shown()[0] == "waiting"
    assert store.batches == []
    log_points(writer, 10, start=10)
    if missing == "cursors":
        (run.path / "elsewhere").rename(place)
    else:
        place.rmdir()
    line.settle()
    assert [record.value for record in appended(store)["light"]] == [float(n) for n in range(20)]
    assert line.counts() == (20, 0, 0)
    assert line.delivery.shown()[0] != "waiting"


@pytest.mark.parametrize("error", ["EIO", "ESTALE", "EMFILE", "ENOSPC", "EACCES"])
def test_a_copy_that_cannot_be_looked_at_just_now_is_waited_for(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    """It is in the spool: nobody has taken it away."""
    writer, store = SpoolWriter(run), Store()
    (tmp_path / "weights").write_bytes(b"as they were")
    writer.artifact(tmp_path / "weights")
    line = Line(run, store)
    line.step()
    look, code = os.stat, getattr(errno, error)

    def stat(path: Any, *more: Any, **named: Any) -> os.stat_result:
        if str(path).startswith(str(run.blobs / "")):
            raise OSError(code, os.strerror(code))
        return look(path, *more, **named)

    monkeypatch.setattr(os, "stat", stat)
    for _ in range(3):
        assert line.step("heavy") == "wait"
        line.now += 31.0
    monkeypatch.setattr(os, "stat", look)
    line.settle()
    assert [Path(each.source).read_bytes() for each in store.others] == [b"as they were"]
    assert line.counts() == (1, 0, 0)


def test_a_record_that_breaks_the_decoder_breaks_nothing_else(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted as what it is for us: unreadable."""
    real = tfevents.decode

    def broken(data: bytes, stream: str, hint: Any = None) -> Any:
        if b"poison" in data:
            raise ZeroDivisionError
        return real(data, stream, hint)

    monkeypatch.setattr(tfevents, "decode", broken)
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 10)
    writer.event("/logs", b"poison", None)
    log_points(writer, 10, start=10)
    line = Line(run, store)
    line.settle()
    assert len(store.metrics) == 20
    assert line.counts() == (20, 0, 0)
    assert line.delivery.damaged() == {"unreadable": 1}


def test_a_backend_that_names_records_which_are_not_there(run: RunDir) -> None:
    """A plug-in's mistake costs at most the record that it does not take."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 10)

    def refuse(batch: Any) -> None:
        if any(record.value == 7.0 for record in batch.records):
            raise RejectedError([99], "not 7")

    store.before = refuse
    line = Line(run, store)
    line.settle()
    assert line.counts() == (9, 1, 0)


def test_a_lost_cursor_sends_everything_again_and_says_so(run: RunDir) -> None:
    """A store that only appends can then see what it has."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 300)
    Line(run, store).settle()
    (run.cursors / "faulty.json").write_bytes(b"nonsense")
    log_points(writer, 10, start=300)
    line = Line(run, store)
    line.settle()
    again = store.batches[3:]
    assert all(batch.resend for batch in again)
    assert [record.value for record in appended(store)["light"]] == [float(n) for n in range(310)]
    log_points(writer, 10, start=310)
    line.settle()
    assert not store.batches[-1].resend


# -- all at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_in_whatever_order(run: RunDir, seed: int) -> None:
    """Several writers, both lanes, faults before and after, crashes at any step; refusals."""
    chance = random.Random(seed)
    writers = [SpoolWriter(run, segment_bytes=3000)]
    writers += [
        SpoolWriter(run, main=False, segment_bytes=3000) for _ in range(chance.randrange(3))
    ]
    # The owner is first, so that nobody waits for it.
    writers[0].scalar("/logs", "first", -1.0, 0, None)
    store = Store()
    logged: dict[str, list[float]] = {"first": [-1.0]}
    refused = chance.random() < 0.5

    def fault(kind: str) -> Any:
        def fail(batch: Any = None) -> None:
            if refused and batch is not None and kind == "before":
                bad = [i for i, record in enumerate(batch.records) if _bad(record)]
                if bad:
                    raise RejectedError(bad if chance.random() < 0.5 else [], "seven")
            draw = chance.random()
            if draw < 0.1:
                raise RetryableError(kind)
            if draw < 0.15:
                raise KeyboardInterrupt

        return fail

    store.before, store.after = fault("before"), fault("after")
    store.at_barrier, store.opening = fault("barrier"), fault("open")
    line, count = Line(run, store), 0
    for _ in range(300):
        move = chance.random()
        if move < 0.4:
            number = chance.randrange(len(writers))
            for _ in range(chance.randrange(1, 40)):
                count += 1
                writers[number].scalar("/logs", f"w{number}", float(count), None, None)
                logged.setdefault(f"w{number}", []).append(float(count))
        elif move < 0.5:
            number = chance.randrange(len(writers))
            count += 1
            writers[number].record(
                histogram(count) if chance.random() < 0.5 else Text("t", str(count), None, 0.0)
            )
        elif move < 0.55:
            line = Line(run, store)
        else:
            try:
                line.step(chance.choice(["light", "heavy"]), hurry=chance.random() < 0.1)
            except KeyboardInterrupt:
                line = Line(run, store)
            line.now += chance.random()
    store.before = store.after = store.at_barrier = store.opening = None
    if refused:
        store.before = _refuse
    line.settle()

    lanes = appended(store)
    for key, values in logged.items():
        points = [each for each in lanes["light"] if isinstance(each, Metric) and each.key == key]
        wanted = [value for value in values if not (refused and value % 7 == 0)]
        assert [each.value for each in points] == wanted
        if key != "first" and not refused:
            assert [each.step for each in points] == list(range(len(values)))
    spooled = sum(writer.spooled for writer in writers)
    delivered, rejected, unsupported = line.counts()
    assert (delivered + rejected, unsupported) == (spooled, 0)
    assert line.delivery.damaged() == {}


def _bad(record: Any) -> bool:
    return isinstance(record, Metric) and record.value % 7 == 0


def _refuse(batch: Any) -> None:
    bad = [index for index, record in enumerate(batch.records) if _bad(record)]
    if bad:
        raise RejectedError(bad, "seven")


def _raise(error: BaseException) -> Any:
    def fail(*_: Optional[object]) -> None:
        raise error

    return fail


def test_parameters_in_one_event_are_one_record(run: RunDir) -> None:
    """What is counted is what the program has logged."""
    writer, store = SpoolWriter(run), Store()
    writer.record(Param("a", 1, 0.0))
    log_points(writer, 3)
    line = Line(run, store)
    line.settle()
    assert line.counts() == (4, 0, 0)


def test_a_segment_goes_once_every_backend_is_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tracker is away: what the other one has is kept for it."""
    monkeypatch.setattr(shipment, "SWEEP_S", 0.0)
    info = {"project": "p", "name": "n", "created": 1.0, "tags": {}, "backends": ["near", "far"]}
    run = RunDir.create(tmp_path, RunInfo(run_id=new_run_id(), **info), owned=True)
    writer = SpoolWriter(run, segment_bytes=3000)
    log_points(writer, 500)
    near, far = Store(), Store(before=_raise(RetryableError("it is away")))
    stores = {"near": near, "far": far}
    shipping = Shipment(run, {name: partial(FaultyBackend, stores[name]) for name in stores})
    assert shipping.begin()
    try:

        def until(done: Callable[[], bool]) -> None:
            deadline = time.monotonic() + 60.0
            while not done():
                assert time.monotonic() < deadline
                for delivery in shipping.all():
                    for lane in delivery.lanes.values():
                        shipping.work(delivery, lane)
                shipping.watch()

        (numbers,) = run.segment_numbers().values()
        assert len(numbers) > 5
        until(lambda: len(near.metrics) == 500)
        shipping.watch()
        assert list(run.segment_numbers().values()) == [numbers]
        far.before = None
        until(lambda: list(run.segment_numbers().values()) == [numbers[-1:]])
        assert [value for _, value, _, _ in far.metrics] == [float(n) for n in range(500)]
    finally:
        shipping.leave()
        writer.close()
        run.release()
