"""Several requests at once: what goes together, what happens when some of them fail."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Sequence

import pytest

from tracelet.backends.mlflow.points import deliver
from tracelet.backends.mlflow.store import Point
from tracelet.backends.mlflow.strands import dealt, together
from tracelet.errors import BackendError, ConfigError, RejectedError, RetryableError


def points(count: int, keys: int) -> list[Point]:
    return [Point(f"k{n % keys}", float(n), 1000 + n, n // keys) for n in range(count)]


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500, 8000])
@pytest.mark.parametrize("keys", [1, 2, 3, 10, 100])
def test_each_point_once_and_each_key_in_one_strand(count: int, keys: int) -> None:
    sent = points(count, keys)
    strands = dealt(sent, 4)
    assert Counter(p for strand in strands for part in strand for p in part) == Counter(sent)
    assert all(len(part) <= 1000 for strand in strands for part in strand)
    homes = [{p.key for part in strand for p in part} for strand in strands]
    assert sum(map(len, homes)) == len(set().union(*homes)) if homes else not sent
    for strand in strands:
        ordered = [p for part in strand for p in part]
        own = {p.key for p in ordered}
        assert ordered == [p for p in sent if p.key in own]


def test_what_fits_into_one_request_is_one() -> None:
    (strand,) = dealt(points(1000, 10), 4)
    assert [len(part) for part in strand] == [1000]


def test_strands_are_of_about_the_same_length() -> None:
    lengths = [sum(map(len, strand)) for strand in dealt(points(8000, 10), 4)]
    assert sorted(lengths) == [1600, 1600, 2400, 2400]


def test_they_are_written_at_the_same_time() -> None:
    """Each waits for the others: one after the other this would never end."""
    meeting = threading.Barrier(4, timeout=20)
    firsts = [strand[:1] for strand in dealt(points(8000, 8), 4)]
    together(lambda part: (meeting.wait(), None)[1], firsts)


@pytest.mark.parametrize(
    ("errors", "decides"),
    [
        ((RejectedError((), "bad"), RetryableError("away")), RetryableError),
        ((RetryableError("away"), ConfigError("no right")), ConfigError),
        ((BackendError("strange"), RetryableError("away")), RetryableError),
        ((RejectedError((), "bad"), BackendError("strange")), BackendError),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_of_several_failures_the_weightiest_counts(
    errors: Sequence[Exception], decides: type[Exception], turned: bool
) -> None:
    meeting = threading.Barrier(2, timeout=20)
    found = iter(errors[::-1] if turned else errors)

    def fail(part: Sequence[Point]) -> None:
        meeting.wait()
        raise next(found)

    with pytest.raises(decides) as caught:
        together(fail, [[points(1, 1)], [points(1, 1)]])
    assert type(caught.value) is decides


def test_the_longest_wait_counts() -> None:
    waits = iter((1.0, 7.0, None))
    meeting = threading.Barrier(3, timeout=20)

    def busy(part: Sequence[Point]) -> None:
        meeting.wait()
        raise RetryableError("busy", retry_after=next(waits))

    with pytest.raises(RetryableError) as caught:
        together(busy, [[points(1, 1)]] * 3)
    assert caught.value.retry_after == 7.0


class Halfway:
    """A store that appends, and loses its way after so many requests."""

    at_once = 4

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows: list[Point] = []
        self._lock = threading.Lock()

    def log_metrics(self, run_id: str, part: Sequence[Point]) -> None:
        with self._lock:
            if self.most == 0:
                raise RetryableError("away")
            self.most -= 1
            self.rows.extend(part)

    def history(self, run_id: str, key: str) -> Sequence[Point]:
        return [row for row in self.rows if row.key == key]


@pytest.mark.parametrize("most", range(11))
def test_a_half_done_batch_is_completed(most: int) -> None:
    store, sent = Halfway(most), points(8000, 10)
    if most < 10:
        with pytest.raises(RetryableError):
            deliver(store, "run", sent, appends=False)
    else:
        deliver(store, "run", sent, appends=False)
    store.most = -1
    deliver(store, "run", sent, appends=True)
    assert Counter(store.rows) == Counter(sent)
