"""Figure 5: what a run adds to `add_histogram` and `add_image`."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable

import torch

from benchmarks.calls import compare, writers
from benchmarks.report import run, table
from benchmarks.stores import sqlite


def measure(quick: bool) -> None:
    """Time both kinds of calls in a small and in a usual size."""
    uri = sqlite()
    rounds, calls = (15, 20) if quick else (75, 40)
    rows = []
    for family, writer in writers("runs").items():
        for name, call in _calls(writer).items():
            cost = compare(writer, call, uri=uri, rounds=rounds, calls=calls)
            wall, cpu = cost.wall.ratio, cost.cpu.ratio
            within = "yes" if wall.median <= 1.1 else "NO"
            row = [family, name, f"{cost.plain_us:,.0f}"]
            rows.append([*row, wall.text(3), cpu.text(3), within])
            print(f"{family} {name}: wall x {rows[-1][3]}", flush=True)
    print()
    table(["writer", "call", "plain, us", "wall, times", "CPU, times", "<= 1.10"], rows)


def _calls(writer: Any) -> dict[str, Callable[[int], Any]]:
    torch.manual_seed(1)
    weights = {"1,280 values": torch.randn(10, 128), "100,352 values": torch.randn(128, 784)}
    pictures = {"3x64x64": torch.rand(3, 64, 64), "3x256x256": torch.rand(3, 256, 256)}
    calls: dict[str, Callable[[int], Any]] = {}
    for size, values in weights.items():
        calls[f"add_histogram {size}"] = partial(writer.add_histogram, "weights", values)
    for size, picture in pictures.items():
        calls[f"add_image {size}"] = partial(writer.add_image, "picture", picture)
    return calls


if __name__ == "__main__":
    run("Figure 5: add_histogram, add_image", measure)
