"""Figure 7: how much slower a training becomes, its tracker being fed on the same cores."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from typing import Any, Callable, Iterator, NamedTuple

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from benchmarks.measure import Pairs, interleaved, percentile
from benchmarks.report import run, table
from benchmarks.stores import shipping, sqlite, tracked

SCALARS = 5
STEPS_MS = (2.0, 0.3)


def measure(quick: bool) -> None:
    """Train with plain TensorBoard and with a run, in turn, for two lengths of step."""
    # One thread, as each rank of a real job has its cores; the other core is the sidecar's.
    torch.set_num_threads(1)
    uri = sqlite()
    pairs, seconds = (20, 0.6) if quick else (40, 1.5)
    rows = [_row(aim_ms, pairs, seconds, uri) for aim_ms in STEPS_MS]
    print()
    head = ["step without logging", "measured", "plain, ms", "with, ms", "slower, %", "limit"]
    table([*head, "in its calls, us", "sidecar at rest, %"], rows)
    print(
        f"\n{SCALARS} scalars per step, torch's writer, SQLite sidecar delivering meanwhile. In its"
        "\ncalls: what the logging itself takes more, per step. Sidecar at rest: slower by so much"
        "\nwhere it is stopped for as long as the training takes; the rest is what it disturbs."
    )


def _row(aim_ms: float, pairs: int, seconds: float, uri: str) -> list[str]:
    for _ in range(4):
        batches, step = _calibrated(aim_ms)
        alone_ms = _alone(step)
        if abs(alone_ms / aim_ms - 1) <= 0.2:
            break
    count = max(50, int(seconds * 1000 / alone_ms))

    def plain() -> _Trained:
        return _train(step, count)

    def ours() -> tuple[_Trained, _Trained]:
        with tracked(uri):
            delivering = _train(step, count)
        with tracked(uri), _at_rest():
            return delivering, _train(step, count)

    first, second = interleaved(pairs, plain, ours)
    without, with_run = [each.seconds for each in first], [each.seconds for each, _ in second]
    slower = _percent(Pairs(without, with_run))
    at_rest = _percent(Pairs(without, [each.seconds for _, each in second]))
    calls = Pairs([each.logging for each in first], [each.logging for each, _ in second]).added
    row = [
        f"{alone_ms:.2f} ms ({batches} batches)",
        f"{pairs} pairs of {count} steps",
        f"{statistics.median(without) / count * 1000:.3f}",
        f"{statistics.median(with_run) / count * 1000:.3f}",
        slower,
        "<= 1" if aim_ms == STEPS_MS[0] else "",
        calls.scaled(1e6 / count).text(1),
        at_rest,
    ]
    print(f"{alone_ms:.2f} ms: {row[4]} %", flush=True)
    return row


def _percent(pairs: Pairs) -> str:
    slower = pairs.ratio
    median, low, high = [(each - 1) * 100 for each in (slower.median, slower.low, slower.high)]
    return f"{median:+.2f} [{low:+.2f}, {high:+.2f}]"


@contextlib.contextmanager
def _at_rest() -> Iterator[None]:
    """Stop the process that ships, and have it go on afterwards."""
    process = shipping()
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def _model(batches: int) -> Callable[[], float]:
    """
    Return one step of a small network: gradients of some batches, descent, loss as a number.

    All of it fits into a core's own cache: a larger network's time depends on what everybody else
    on the machine does with the memory, by far more than what is looked for here.
    """
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    cross_entropy = nn.CrossEntropyLoss()
    points, labels = torch.randn(64, 64), torch.randint(10, (64,))

    def step() -> float:
        optimizer.zero_grad()
        for _ in range(batches):
            loss = cross_entropy(model(points), labels)
            loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


def _alone(step: Callable[[], float]) -> float:
    """Return what one step takes in ms when nothing else disturbs it: the lower quartile."""
    for _ in range(20):
        step()
    times = []
    for _ in range(300):
        begin = time.perf_counter()
        step()
        times.append((time.perf_counter() - begin) * 1000)
    return percentile(times, 0.25)


def _calibrated(aim_ms: float) -> tuple[int, Callable[[], float]]:
    """Find how many batches take ``aim_ms`` on this machine, or the nearest there is."""
    batches = 1
    for _ in range(4):
        batches = max(1, round(batches * aim_ms / _alone(_model(batches))))
    return batches, _model(batches)


class _Trained(NamedTuple):
    """The seconds that a training took, and those of them in which it logged."""

    seconds: float
    logging: float


def _train(step: Callable[[], float], count: int) -> _Trained:
    """Train for ``count`` steps, their scalars logged."""
    writer, clock = SummaryWriter("runs/training"), time.perf_counter
    gc.collect()
    logging = 0.0
    begin = clock()
    for index in range(count):
        loss = step()
        before = clock()
        _log(writer, loss, index)
        logging += clock() - before
    seconds = clock() - begin
    writer.close()
    return _Trained(seconds, logging)


def _log(writer: Any, loss: float, step: int) -> None:
    for index in range(SCALARS):
        writer.add_scalar(f"train/metric{index}", loss + index, step)


if __name__ == "__main__":
    run("Figure 7: training slowed", measure)
