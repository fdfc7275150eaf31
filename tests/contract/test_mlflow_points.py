"""Points, once each, in stores that refuse or double what they are sent twice."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Sequence

import pytest

from tracelet.backends.mlflow.answers import DuplicateError, of_code, of_response, retry_after
from tracelet.backends.mlflow.points import convert, deliver
from tracelet.backends.mlflow.rest import metrics_body
from tracelet.backends.mlflow.store import Point
from tracelet.errors import (
    BackendError,
    ConfigError,
    RejectedError,
    RetryableError,
    RunGoneError,
)
from tracelet.records import Metric

NAN = float("nan")


class OldStore:
    """
    Refuses as servers from 3.1 to 3.9 do.

    A batch with a point that is there already, or with two NaN points of one key at one place, is
    refused as a whole if it holds a NaN or more than 100 points of more than one key.
    """

    at_once = 1

    def __init__(self, *, appends: bool = False) -> None:
        self.rows: Counter[tuple[object, ...]] = Counter()
        self.calls: list[int] = []
        self.appends_points = appends

    def log_metrics(self, run_id: str, points: Sequence[Point]) -> None:
        self.calls.append(len(points))
        found = [_row(point) for point in points]
        if self.appends_points:
            self.rows.update(found)
            return
        clash = any(row in self.rows for row in found) or len(set(found)) < len(found)
        large = len(points) > 100 and len({point.key for point in points}) > 1
        if clash and (large or any(math.isnan(point.value) for point in points)):
            raise DuplicateError((), "UNIQUE constraint failed: metrics.key, metrics.timestamp")
        self.rows.update(set(found) - set(self.rows))

    def history(self, run_id: str, key: str) -> Sequence[Point]:
        return [
            Point(str(row[0]), NAN if row[1] == "nan" else float(str(row[1])), row[2], row[3])
            for row, count in self.rows.items()
            for _ in range(count)
            if row[0] == key
        ]


def _row(point: Point) -> tuple[object, ...]:
    value = "nan" if math.isnan(point.value) else point.value
    return point.key, value, point.timestamp, point.step


def points(count: int, keys: int, nans: int = 0) -> list[Point]:
    found = [Point(f"k{n % keys}", float(n), 1000 + n, n // keys) for n in range(count)]
    return found + [Point(f"k{n % keys}", NAN, 9000 + n, n) for n in range(nans)]


@pytest.mark.parametrize(
    ("count", "keys", "nans"),
    [
        (1000, 300, 0),
        (1000, 1, 0),
        (1000, 10, 50),
        (3, 3, 3),
        (0, 1, 1),
        (0, 1, 400),
        (250, 250, 2),
    ],
)
@pytest.mark.parametrize("there", [0.0, 0.5, 1.0])
def test_old_servers_have_every_point_once(count: int, keys: int, nans: int, there: float) -> None:
    store, sent = OldStore(), points(count, keys, nans)
    for point in sent[: int(len(sent) * there)]:
        store.rows[_row(point)] = 1
    deliver(store, "run", sent, appends=False)
    assert store.rows == Counter({_row(point): 1 for point in sent})


def test_two_nans_at_one_place_are_one() -> None:
    store = OldStore()
    twice = [Point("loss", NAN, 1000, 5), Point("loss", NAN, 1000, 5), Point("loss", 1.0, 1001, 6)]
    deliver(store, "run", twice, appends=False)
    assert sorted(map(str, store.rows)) == ["('loss', 'nan', 1000, 5)", "('loss', 1.0, 1001, 6)"]


def test_without_trouble_there_is_one_call() -> None:
    store = OldStore()
    deliver(store, "run", points(995, 10, 5), appends=False)
    assert store.calls == [1000]


@pytest.mark.parametrize("there", [0, 7, 40])
def test_a_store_that_appends_is_read_first(there: int) -> None:
    store, sent = OldStore(appends=True), points(30, 3, 10)
    store.log_metrics("run", sent[:there])
    deliver(store, "run", sent, appends=True)
    assert store.rows == Counter({_row(point): 1 for point in sent})


def test_two_equal_points_of_one_batch_stay_two_where_they_can() -> None:
    store, twice = OldStore(appends=True), [Point("loss", 1.0, 1000, 5)] * 2
    deliver(store, "run", twice, appends=True)
    deliver(store, "run", twice, appends=True)
    assert list(store.rows.values()) == [2]


# -- as MLflow holds them ----------------------------------------------------------------------


def test_steps_and_times() -> None:
    metrics = [
        Metric("a", 1, None, 1.9999),
        Metric("b", 2.0, 2**40, 1_700_000_000.0625),
        Metric("c", 3.0, -3, -5.0),
        Metric("d", 4.0, 1.75, 0.0),
        Metric("d", 4.0, -1.75, 0.0),
        Metric("e", 4.0, 7.0, 0.0),
    ]
    found = convert(enumerate(metrics), str.upper)
    assert found.points == [
        Point("A", 1.0, 1999, 0),
        Point("B", 2.0, 1_700_000_000_062, 2**40),
        Point("C", 3.0, 0, -3),
        Point("D", 4.0, 0, 1),
        Point("D", 4.0, 0, -2),
        Point("E", 4.0, 0, 7),
    ]
    assert found.fractions == {"D"}
    assert found.refused == {}
    assert all(type(point.value) is float and type(point.step) is int for point in found.points)


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1, 1e300, math.inf, NAN])
def test_a_step_that_is_none_is_refused_by_place(step: float) -> None:
    found = convert([(7, Metric("a", 1.0, step, 1.0)), (9, Metric("a", 1.0, 1, 1.0))], str)
    assert set(found.refused) == {7}
    assert len(found.points) == 1


@pytest.mark.parametrize("time", [math.inf, -math.inf, NAN, 1e300])
def test_a_time_that_is_none_is_refused_by_place(time: float) -> None:
    assert set(convert([(3, Metric("a", 1.0, 1, time))], str).refused) == {3}


def test_the_body_is_json_that_a_server_reads_right() -> None:
    odd = [
        Point('quote " \\ ü', 0.1, 1, 2**62),
        Point("a", NAN, 2, -1),
        Point("a", math.inf, 3, 0),
        Point("a", -math.inf, 4, 0),
        Point("a", 5e-324, 5, 0),
        Point("a", -0.0, 6, 0),
    ]

    def refuse(word: str) -> None:
        raise AssertionError(f"a bare {word} is stored as 0 by the server")

    body = json.loads(metrics_body("run", odd), parse_constant=refuse)
    assert body["run_id"] == "run"
    assert [tuple(item.values()) for item in body["metrics"]] == [
        ('quote " \\ ü', 0.1, 1, 2**62),
        ("a", "NaN", 2, -1),
        ("a", "Infinity", 3, 0),
        ("a", "-Infinity", 4, 0),
        ("a", 5e-324, 5, 0),
        ("a", -0.0, 6, 0),
    ]


# -- what a "no" means -------------------------------------------------------------------------


def error_body(code: str, message: str) -> str:
    return json.dumps({"error_code": code, "message": message})


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (408, "", RetryableError),
        (425, "", RetryableError),
        (429, error_body("REQUEST_LIMIT_EXCEEDED", "slow"), RetryableError),
        (500, error_body("INTERNAL_ERROR", "x"), RetryableError),
        (502, "<html>", RetryableError),
        (503, "", RetryableError),
        (504, "", RetryableError),
        (500, error_body("FEATURE_DISABLED", "x"), ConfigError),
        (401, "", ConfigError),
        (403, error_body("PERMISSION_DENIED", "no"), ConfigError),
        (407, "", ConfigError),
        (404, "<html>", ConfigError),
        (404, error_body("ENDPOINT_NOT_FOUND", "no"), ConfigError),
        (404, error_body("RESOURCE_DOES_NOT_EXIST", "Run 'x' not found"), RunGoneError),
        (
            400,
            error_body("INVALID_PARAMETER_VALUE", "must be in the 'active' state. Is deleted."),
            RunGoneError,
        ),
        (400, error_body("INVALID_PARAMETER_VALUE", "bad name"), RejectedError),
        (400, "gibberish", RejectedError),
        (413, "", RejectedError),
        (422, "", RejectedError),
        (400, error_body("BAD_REQUEST", "(sqlite3) UNIQUE constraint failed: x"), DuplicateError),
        (
            400,
            error_body("BAD_REQUEST", 'duplicate key value violates "metric_pk"'),
            DuplicateError,
        ),
        (400, error_body("BAD_REQUEST", "database is locked"), RetryableError),
    ],
)
def test_answers(status: int, text: str, expected: type[BackendError]) -> None:
    found = of_response(status, {}, text, "runs/log-batch")
    assert type(found) is expected or isinstance(found, expected)
    assert isinstance(found, ConfigError) == issubclass(expected, ConfigError)


def test_a_long_answer_is_cut() -> None:
    assert len(str(of_response(400, {}, "x" * 100_000, "path"))) < 500


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[Errno 28] No space left on device", RetryableError),
        ("[Errno 27] File too large", RetryableError),
        ("(sqlite3.OperationalError) disk I/O error", RetryableError),
        ("attempt to write a readonly database", ConfigError),
        ("[Errno 13] Permission denied: '/x'", ConfigError),
    ],
)
def test_what_a_disk_says(text: str, expected: type[BackendError]) -> None:
    assert isinstance(of_code("INTERNAL_ERROR", text, "metrics"), expected)


def test_an_error_that_nobody_knows_is_neither_later_nor_never() -> None:
    found = of_code("INTERNAL_ERROR", "AttributeError: 'NoneType' has no x", "metrics")
    assert type(found) is BackendError


def test_retry_after() -> None:
    assert retry_after("7") == 7.0
    assert retry_after("0.5") == 0.5
    assert retry_after("-3") == 0.0
    assert retry_after("soon") is None
    assert retry_after(None) is None
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
