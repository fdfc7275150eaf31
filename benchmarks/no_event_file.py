"""Figure 4: `keep_tensorboard=False`, against what TensorBoard takes to write its own file."""

from __future__ import annotations

from typing import Any, Callable

from benchmarks.calls import compare, writers
from benchmarks.report import run, table
from benchmarks.stores import sqlite


def measure(quick: bool) -> None:
    """Time `add_scalar` with TensorBoard writing and no run, and with a run that writes nothing."""
    uri = sqlite()
    rounds, calls = (30, 500) if quick else (150, 1000)
    rows = []
    for family, writer in writers("runs").items():
        cost = compare(
            writer, _call(writer), uri=uri, rounds=rounds, calls=calls, keep_tensorboard=False
        )
        ratio = cost.wall.ratio
        within = "yes" if ratio.median <= 0.25 else "NO"
        share = ratio.scaled(100).text(0)
        rows.append([family, f"{cost.plain_us:.1f}", f"{cost.ours_us:.1f}", share, within])
    table(["writer", "TensorBoard, us", "without its file, us", "share, %", "<= 25 %"], rows)


def _call(writer: Any) -> Callable[[int], Any]:
    return lambda step: writer.add_scalar("loss", 0.25, step)


if __name__ == "__main__":
    run("Figure 4: keep_tensorboard=False", measure)
