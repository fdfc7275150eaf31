"""The loop from the spool to a backend, one step at a time and without a thread."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Iterator

import pytest
from tests.pipeline.stores import Line, Store, log_points, new_run

from tracelet.errors import ConfigError, RejectedError, RetryableError
from tracelet.records import Histogram, Metric, Param, RunEnd, RunStatus, Text
from tracelet.spool.rundir import RunDir
from tracelet.spool.writer import SpoolWriter


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    found = new_run(tmp_path)
    yield found
    found.release()


def test_everything_arrives_once_and_in_order(run: RunDir) -> None:
    """What was logged is what is stored: values, steps, order, and the counts say so."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 1000, keys=3)
    line = Line(run, store)

    line.settle()

    assert [value for _, value, _, _ in store.metrics] == [float(n) for n in range(1000)]
    assert line.counts() == (1000, 0, 0)


def test_a_batch_keeps_the_limits_of_the_backend(run: RunDir) -> None:
    """Neither too many records nor too many different keys in one call."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 500, keys=25)

    Line(run, store).settle()

    assert max(len(batch.records) for batch in store.batches) <= 100
    assert max(len({r.key for r in batch.records}) for batch in store.batches) <= 10  # type: ignore[union-attr]
    assert len(store.metrics) == 500


def test_what_is_left_to_send_decides_how_long_a_lane_rests(run: RunDir) -> None:
    """Behind a full batch there is more at once; behind the last one it gathers, if it may."""
    writer = SpoolWriter(run)
    lane = Line(run, Store()).delivery.lanes["light"]
    log_points(writer, 250)
    assert lane.step().seconds == 0.0  # opens
    full, second, rest = (lane.step() for _ in range(3))
    assert [full.seconds, second.seconds] == [0.0, 0.0]
    assert 0.0 < rest.seconds < 1.0
    log_points(writer, 1)
    assert lane.step(hurry=True).seconds == 0.0


def test_an_answer_that_got_lost_costs_nothing_and_doubles_nothing(run: RunDir) -> None:
    """The same batch goes again, marked, and the position moves only after a yes."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 100)
    cuts = iter([True, True, False])

    def cut(_: object) -> None:
        if next(cuts, False):
            raise RetryableError("the answer was cut")

    store.after = cut
    line = Line(run, store)
    line.settle()

    assert [batch.resend for batch in store.batches] == [False, True, True]
    assert len({batch.offset for batch in store.batches}) == 1
    assert len(store.metrics) == 100
    assert line.counts() == (100, 0, 0)


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "unanswered"])
def test_a_killed_shipper_is_continued_by_the_next(run: RunDir, answered: bool) -> None:
    """The range that was on the way goes again as the same batch; then what is new."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 60)
    first = Line(run, store)
    assert first.step() == "sent"  # opens
    if answered:
        first.step()
    else:
        store.before = _raise(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            first.step()
        store.before = None
    log_points(writer, 60, start=60)

    # Nothing of ``first`` was told that it would die: its state is what is on disk.
    second = Line(run, store)
    second.settle()

    resent = [batch for batch in store.batches if batch.resend]
    assert [len(batch.records) for batch in resent] == [60]
    assert resent[0].offset == 0
    assert store.points("loss0") == [float(n) for n in range(120)]
    assert second.counts() == (120, 0, 0)


def test_missing_steps_are_counted_per_key_also_across_a_restart(run: RunDir) -> None:
    """No step is not step 0; and a batch that goes again has the same steps."""
    writer, store = SpoolWriter(run), Store()
    for number in range(5):
        writer.scalar("/logs", "a", float(number), None, None)
    first = Line(run, store)
    first.step()
    store.after = _raise(RetryableError())
    first.step()
    store.after = None
    writer.scalar("/logs", "a", 5.0, None, None)
    writer.scalar("/logs", "b", 0.0, None, None)

    Line(run, store).settle()

    assert [step for key, _, step, _ in store.metrics if key == "a"] == [0, 1, 2, 3, 4, 5]
    assert [step for key, _, step, _ in store.metrics if key == "b"] == [0]


def test_a_record_that_is_refused_by_name_is_set_aside(run: RunDir) -> None:
    """The rest of the batch arrives; the bad one lies in ``rejects`` with its reason."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 50)

    def refuse(batch: object) -> None:
        bad = [i for i, record in enumerate(batch.records) if record.value == 17.0]  # type: ignore[attr-defined]
        if bad:
            raise RejectedError(bad, "not 17")

    store.before = refuse
    line = Line(run, store)
    line.settle()

    assert len(store.metrics) == 49
    assert line.counts() == (49, 1, 0)
    (reject,) = _rejects(run)
    assert reject["reason"] == "not 17"
    assert reject["record"]["value"] == 17.0


@pytest.mark.parametrize("error", [RejectedError((), "one of them"), KeyError("bug")])
def test_a_bad_record_that_nobody_names_is_found_by_halving(run: RunDir, error: Exception) -> None:
    """A 400 without a name, or an exception that nobody understands: only one record pays."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 64)

    def refuse(batch: object) -> None:
        if any(record.value == 17.0 for record in batch.records):  # type: ignore[attr-defined]
            raise error

    store.before = refuse
    line = Line(run, store)
    line.settle()

    assert len(store.metrics) == 63
    assert line.counts() == (63, 1, 0)


def test_what_is_refused_now_and_then_is_not_set_aside(run: RunDir) -> None:
    """Something between us and the tracker says 400 to one request in two, whatever is in it."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 300)
    numbers = iter(range(10_000))

    def refuse(_: object) -> None:
        if next(numbers) % 2 == 0:
            raise RejectedError((), "no")

    store.before = refuse
    line = Line(run, store)
    line.settle(most=1000)

    assert line.counts() == (300, 0, 0)
    assert store.remarks == []


def test_a_record_that_a_server_stumbles_over_is_found_and_set_aside(run: RunDir) -> None:
    """A 500 is an outage, unless the same server takes everything but this one record."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 64)

    def stumble(batch: object) -> None:
        if any(record.value == 17.0 for record in batch.records):  # type: ignore[attr-defined]
            raise RetryableError("500: password=hunter2secret", doubtful=True)

    store.before = stumble
    line = Line(run, store)
    line.settle()

    assert len(store.metrics) == 63
    assert line.counts() == (63, 1, 0)
    (reject,) = _rejects(run)
    assert reject["record"]["value"] == 17.0  # type: ignore[index]
    assert "hunter2secret" not in json.dumps(reject)
    assert store.remarks[-1][0] == "light"
    assert store.remarks[-1][1].startswith("1 record was refused; the last one: 500")
    assert "hunter2secret" not in str(store.remarks)


@pytest.mark.parametrize("lane", ["light", "heavy"])
def test_a_server_that_stumbles_over_everything_is_away(run: RunDir, lane: str) -> None:
    """It takes not even a remark: nothing is set aside, however long that lasts."""
    writer, store = SpoolWriter(run), Store()
    if lane == "light":
        log_points(writer, 20)
    else:
        for number in range(20):
            writer.record(Text(f"note{number}", "hello", 0, time.time()))
    store.before = _raise(RetryableError("disk full", doubtful=True))
    store.remarking = _raise(RetryableError("disk full", doubtful=True))
    line = Line(run, store)
    for _ in range(200):
        for each in ("light", "heavy"):
            line.step(each)
        line.now += 61.0
    assert line.counts() == (0, 0, 0)
    store.before = store.remarking = None
    line.settle()
    assert line.counts() == (20, 0, 0)
    assert not list(run.rejects.iterdir())


def test_a_file_that_a_server_stumbles_over_does_not_stop_the_others(run: RunDir) -> None:
    """The remark goes the way of the files."""
    writer, store = SpoolWriter(run), Store()
    for number in range(5):
        writer.record(Text(f"note{number}", "hello", 0, time.time()))

    def stumble(batch: object) -> None:
        if any(getattr(record, "key", "") == "note0" for record in batch.records):  # type: ignore[attr-defined]
            raise RetryableError("500", doubtful=True)

    store.before = stumble
    line = Line(run, store)
    for _ in range(100):
        line.settle()
    assert line.counts() == (4, 1, 0)
    assert [lane for lane, _ in store.remarks] == ["heavy"]


def test_the_run_says_how_many_records_were_refused(run: RunDir) -> None:
    """Once, at the next rest; a tracker that takes no remark is asked no more."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 50)

    def refuse(batch: object) -> None:
        bad = [i for i, record in enumerate(batch.records) if record.value % 10 == 7.0]  # type: ignore[attr-defined]
        if bad:
            raise RejectedError(bad, "not seven")

    store.before = refuse
    line = Line(run, store)
    line.settle()
    line.settle()
    assert store.remarks == [("light", "5 records were refused; the last one: not seven")]

    store.remarking = _raise(RejectedError((), "no remarks"))
    log_points(writer, 10, start=50)
    line.settle()
    assert line.counts() == (54, 6, 0)


def test_a_dead_server_is_asked_now_and_then_and_believed(run: RunDir) -> None:
    """What is logged in an outage of an hour is on its way four seconds after it."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 10)
    line = Line(run, store)
    line.step()
    store.before = _raise(RetryableError("refused"))
    backend = line.delivery.instance()
    backend.ping = _raise(RetryableError("refused"))  # type: ignore[method-assign]
    until = line.now + 3600.0
    while line.now < until:
        line.now += line.delivery.light.step().seconds
    store.before = None
    backend.ping = lambda: None  # type: ignore[method-assign]
    back = line.now
    while not store.metrics:
        line.now += line.delivery.light.step().seconds
    assert line.now - back <= 4.0


def test_offsets_are_dense_over_what_was_taken(run: RunDir) -> None:
    """A backend may use them as row numbers: rejected records leave no hole."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 150)

    def refuse(batch: object) -> None:
        bad = [i for i, record in enumerate(batch.records) if record.value % 10 == 7.0]  # type: ignore[attr-defined]
        if bad:
            raise RejectedError(bad, "seven")

    store.before = refuse
    Line(run, store).settle()

    expected = 0
    for batch in store.batches:
        assert batch.offset == expected
        expected += len(batch.records)
    assert expected == 135


def test_what_a_backend_does_not_take_is_counted(run: RunDir) -> None:
    """An unsupported kind is neither lost silently nor in anybody's way."""
    writer, store = SpoolWriter(run), Store()
    writer.record(Text("note", "hello", 0, time.time()))
    log_points(writer, 3)
    line = Line(run, store)
    line.delivery.instance().accepts = frozenset({Metric})  # type: ignore[misc]
    line.settle()

    assert line.counts() == (3, 0, 1)


def test_an_outage_is_waited_out_whatever_it_takes(run: RunDir) -> None:
    """No number of failures is too many; the first retry comes within a second."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 10)
    line = Line(run, store)
    line.step()
    store.before = _raise(RetryableError("refused"))
    waits = []
    for _ in range(50):
        waits.append(line.delivery.light.step().seconds)
        line.now += waits[-1]
    assert line.delivery.state == "waiting"
    store.before = None
    line.settle()

    assert 0 < waits[0] <= 1.0
    assert max(waits) <= 30.0
    assert line.counts() == (10, 0, 0)


def test_the_wait_a_server_asks_for_is_kept(run: RunDir) -> None:
    """``Retry-After`` is the least that is waited."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 1)
    line = Line(run, store)
    line.step()
    store.before = _raise(RetryableError("busy", retry_after=45.0))

    assert line.delivery.light.step().seconds >= 45.0


def test_wrong_credentials_stop_this_backend_and_keep_everything(run: RunDir) -> None:
    """A person has to mend it: said once, asked again only now and then, nothing lost."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 5)
    store.opening = _raise(ConfigError("wrong password"))
    line = Line(run, store)
    wait = line.delivery.light.step()

    assert (wait.kind, line.delivery.state, line.delivery.error) == (
        "wait",
        "config",
        "wrong password",
    )
    assert wait.seconds >= 30.0
    store.opening = None
    line.now += wait.seconds
    line.settle()
    assert line.counts() == (5, 0, 0)


def test_heavy_records_never_hold_up_the_curves(run: RunDir) -> None:
    """A text that cannot be delivered leaves the lane of the metrics alone."""
    writer, store = SpoolWriter(run), Store()
    writer.record(Text("note", "hello", 0, time.time()))
    log_points(writer, 10)

    def refuse(batch: object) -> None:
        if batch.lane == "heavy":  # type: ignore[attr-defined]
            raise RetryableError("the artifact store is away")

    store.before = refuse
    line = Line(run, store)
    line.step()
    line.step("heavy")
    line.step()

    assert len(store.metrics) == 10
    assert store.others == []


def test_deferred_kinds_count_only_after_the_barrier(run: RunDir) -> None:
    """Until the barrier has returned the position stays; a crash before it sends them again."""
    writer, store = SpoolWriter(run), Store()
    histogram = Histogram("w", [0.0, 1.0], [3.0], 0.0, 1.0, 1.5, 1.0, 0, time.time())
    writer.record(histogram)
    line = Line(run, store)
    line.step()
    line.step("heavy")

    assert len(store.others) == 1
    assert line.counts() == (0, 0, 0)
    again = Line(run, store)
    again.settle(hurry=False)
    assert store.batches[-1].resend
    assert again.counts() == (0, 0, 0)
    again.now += 10.0
    again.settle(hurry=False)
    assert store.barriers == 1
    assert again.counts() == (1, 0, 0)


def test_damaged_records_are_counted_as_such(run: RunDir) -> None:
    """A flipped bit costs one record, and everybody can see which reason it was lost for."""
    writer, store = SpoolWriter(run), Store()
    log_points(writer, 20)
    writer.record(RunEnd(RunStatus.FINISHED, time.time()))
    writer.close()
    (segment,) = run.segments.iterdir()
    raw = bytearray(segment.read_bytes())
    raw[len(raw) // 2] ^= 1
    segment.write_bytes(raw)
    line = Line(run, store, dead=True)
    line.settle()

    assert len(store.metrics) == 19
    assert line.delivery.cursor.damaged == {"damaged": 1}


def test_params_travel_with_the_curves_and_end_is_not_a_record(run: RunDir) -> None:
    """The lifecycle's records share the light lane; ``RunEnd`` reaches nobody's ``write``."""
    writer, store = SpoolWriter(run), Store()
    writer.record(Param("lr", 0.1, time.time()))
    writer.record(RunEnd(RunStatus.FAILED, time.time()))
    line = Line(run, store)
    line.settle()

    assert [type(record) for record in store.others] == [Param]
    assert line.delivery.light.assembly is not None
    end = line.delivery.light.assembly.end(writer.name)
    assert end is not None
    assert end.status is RunStatus.FAILED


def _raise(error: BaseException):  # type: ignore[no-untyped-def]
    def fail(*_: object) -> None:
        raise error

    return fail


def _rejects(run: RunDir) -> list[dict[str, object]]:
    text = (run.rejects / "faulty.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]
