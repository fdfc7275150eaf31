"""Figure 14: many short runs in one process."""

from __future__ import annotations

import time

import tracelet
from benchmarks.measure import spread
from benchmarks.report import run, table
from benchmarks.stores import PROJECT, sqlite

SCALARS = 100


def measure(quick: bool) -> None:
    """Start, log 100 scalars and stop, over and over; the first time is reported apart."""
    from torch.utils.tensorboard import SummaryWriter

    uri = sqlite()
    seconds = []
    for number in range(6 if quick else 21):
        begin = time.perf_counter()
        tracelet.start_logging(
            f"trial{number}",
            PROJECT,
            "mlflow",
            backend_url=uri,
            config={"silent": True, "tags": {"trial": number}},
        )
        writer = SummaryWriter(f"runs/trial{number}")
        for step in range(SCALARS):
            writer.add_scalar("loss", 1 / (step + 1), step)
        writer.close()
        tracelet.stop_logging()
        seconds.append(time.perf_counter() - begin)
    later = spread(seconds[1:])
    within = "yes" if later.median <= 1 else "NO"
    head = ["start + 100 scalars + stop", "first, s", "from the second on, s", "<= 1"]
    table(head, [["SQLite", f"{seconds[0]:.2f}", later.text(2), within]])


if __name__ == "__main__":
    run("Figure 14: a sweep", measure)
