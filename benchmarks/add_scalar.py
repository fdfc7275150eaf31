"""Figure 3: what a run adds to `add_scalar`, for both families of writers."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import torch

from benchmarks.calls import Cost, compare, writers
from benchmarks.report import run, table
from benchmarks.stores import sqlite

VALUES = {"float": 0.25, "numpy": np.float32(0.25), "tensor": torch.tensor(0.25)}
KEYS = (1, 50)

HEAD = ["writer", "value", "keys", "plain, us", "added wall, us", "added wall, %"]
HEAD += ["added CPU, us", "p99.9 plain, us", "p99.9 with, us", "within"]


def measure(quick: bool) -> None:
    """Time every kind of value with one and with many keys, the sidecar shipping meanwhile."""
    uri = sqlite()
    rounds, calls = (30, 500) if quick else (150, 1000)
    rows = []
    for family, writer in writers("runs").items():
        for kind, value in VALUES.items():
            for keys in KEYS:
                call = _call(writer, value, keys)
                cost = compare(writer, call, uri=uri, rounds=rounds, calls=calls)
                rows.append([family, kind, str(keys), *_figures(cost)])
                print(f"{family} {kind} {keys}: {rows[-1][4]} us", flush=True)
    print()
    table(HEAD, rows)
    print(
        "\nus per call: medians of paired rounds in one process with 95 % intervals; p99.9 over all"
        "\ncalls. Within: CPU <= 3 us, wall <= the larger of 3 us and 10 %, p99.9 <= 1 ms more."
    )


def _call(writer: Any, value: Any, keys: int) -> Callable[[int], Any]:
    tags = [f"bench/key{index}" for index in range(keys)]

    def call(index: int) -> None:
        writer.add_scalar(tags[index % keys], value, index)

    return call


def _figures(cost: Cost) -> list[str]:
    wall, cpu = cost.wall.added.scaled(1e-3), cost.cpu.added.scaled(1e-3)
    tails = (cost.tail.plain[0] / 1000, cost.tail.ours[0] / 1000)
    within = (
        cpu.median <= 3.0
        and wall.median <= max(3.0, cost.plain_us * 0.1)
        and tails[1] <= tails[0] + 1000
    )
    return [
        f"{cost.plain_us:.1f}",
        wall.text(1),
        f"{(cost.wall.ratio.median - 1) * 100:+.0f}",
        cpu.text(1),
        *(f"{tail:.0f}" for tail in tails),
        "yes" if within else "NO",
    ]


if __name__ == "__main__":
    run("Figure 3: add_scalar", measure)
