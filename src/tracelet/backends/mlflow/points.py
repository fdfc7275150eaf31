"""
Metrics as MLflow's points, and the road around what its stores do with a point sent twice.

A point is identified by run, key, step, timestamp and value: the primary key of the table. Sent
again, a server from 3.16 on takes it; older ones refuse the whole batch as soon as it has more
than 100 keys or a NaN; a file store has it twice. So: after a refusal in smaller pieces, down to
the one point that is there already; and into a file store only what is not there.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Callable, Iterable, NamedTuple, Sequence

from tracelet.backends.mlflow.answers import DuplicateError
from tracelet.backends.mlflow.store import Point, Store
from tracelet.backends.mlflow.strands import dealt, together
from tracelet.records import Metric

__all__ = ["Converted", "convert", "deliver"]

_INT64 = 2**63
#: What a ``NamedTuple`` calls in the end; its own way there takes three times as long.
_tuple = tuple.__new__
#: Seconds whose milliseconds still fit into 64 bits.
_LATEST = 2.0**53

#: The most entries that servers from 3.1 to 3.9 take twice.
_SAFE = 100


class Converted(NamedTuple):
    """
    Metrics as MLflow holds them.

    ``fractions`` are the keys whose steps were cut; ``refused`` says for positions that cannot be
    held why not. A 200 from the server would not tell: it stores 0.
    """

    points: list[Point]
    fractions: set[str]
    refused: dict[int, str]


def convert(metrics: Iterable[tuple[int, Metric]], key_of: Callable[[str], str]) -> Converted:
    """
    Return the metrics as points.

    The time is cut to milliseconds as MLflow's own TensorBoard hook cuts it, so that both write
    the same row. A fraction of a step is cut down to the integer below it.

    Args:
        metrics: Each with its position.
        key_of: Makes the legal key.
    """
    points: list[Point] = []
    fractions: set[str] = set()
    refused: dict[int, str] = {}
    keys: dict[str, str] = {}
    for index, metric in metrics:
        step, time, raw, value = metric.step, metric.time, metric.key, metric.value
        key = keys.get(raw)
        if key is None:
            key = keys[raw] = key_of(raw)
        if type(step) is int and -_INT64 <= step < _INT64 and 0.0 <= time < _LATEST:
            # What almost all of them are.
            number = value if type(value) is float else float(value)
            points.append(_tuple(Point, (key, number, int(time * 1000), step)))
            continue
        if not -_LATEST < time < _LATEST:
            refused[index] = f"the time {time} is none"
            continue
        if step is None:
            step = 0
        elif not -_INT64 <= step < _INT64:
            refused[index] = f"the step {step} does not fit into 64 bits"
            continue
        elif isinstance(step, float):
            if not step.is_integer():
                fractions.add(key)
            step = math.floor(step)
        stamp = int(time * 1000)
        points.append(_tuple(Point, (key, float(value), max(0, stamp), step)))
    return Converted(points, fractions, refused)


def deliver(store: Store, run_id: str, points: Sequence[Point], *, appends: bool) -> None:
    """
    Write the points, each once in the end.

    Args:
        store: Where to.
        run_id: Into which run.
        points: In the order in which they were logged.
        appends: The store keeps doubles, and these points may have arrived before.
    """
    if appends:
        points = _missing(store, run_id, points)
    if not points:
        return

    def send(part: Sequence[Point]) -> None:
        store.log_metrics(run_id, part)

    def send_once(part: Sequence[Point]) -> None:
        try:
            send(part)
        except DuplicateError:
            for piece in _pieces(part):
                _piecewise(send, piece)

    together(send_once, dealt(points, store.at_once))


def _missing(store: Store, run_id: str, points: Sequence[Point]) -> list[Point]:
    present: Counter[tuple[object, ...]] = Counter()
    for key in {point.key for point in points}:
        present.update(map(_identity, store.history(run_id, key)))
    missing = []
    for point in points:
        identity = _identity(point)
        if present[identity] > 0:
            present[identity] -= 1
        else:
            missing.append(point)
    return missing


def _identity(point: Point) -> tuple[object, ...]:
    value = "nan" if math.isnan(point.value) else point.value
    return point.key, value, point.timestamp, point.step


def _pieces(points: Sequence[Point]) -> Iterable[Sequence[Point]]:
    """Numbers by the hundred, then the NaNs so that no two of one key are together."""
    numbers = [point for point in points if not math.isnan(point.value)]
    for start in range(0, len(numbers), _SAFE):
        yield numbers[start : start + _SAFE]
    rounds: list[list[Point]] = []
    seen: Counter[str] = Counter()
    for point in points:
        if math.isnan(point.value):
            if seen[point.key] == len(rounds) or len(rounds[seen[point.key]]) >= _SAFE:
                seen[point.key] = len(rounds)
                rounds.append([])
            rounds[seen[point.key]].append(point)
            seen[point.key] += 1
    yield from rounds


def _piecewise(send: Callable[[Sequence[Point]], None], points: Sequence[Point]) -> None:
    try:
        send(points)
    except DuplicateError:
        if len(points) == 1:
            return  # it is there already, which is all we want
        half = len(points) // 2
        _piecewise(send, points[:half])
        _piecewise(send, points[half:])
