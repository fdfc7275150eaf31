"""What `import tracelet` adds to a bare interpreter."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measure import Pairs, interleaved
from benchmarks.report import run, table

CLOCK = "import time; begin = time.perf_counter(); {}; print(time.perf_counter() - begin)"


def measure(quick: bool) -> None:
    """Time the statement alone in fresh interpreters, against the same without it."""
    bare, ours = interleaved(
        7 if quick else 31,
        lambda: _milliseconds("pass"),
        lambda: _milliseconds("import tracelet"),
    )
    added = Pairs(bare, ours).added
    within = "yes" if added.median <= 30 else "NO"
    table(["statement", "added, ms", "<= 30"], [["import tracelet", added.text(1), within]])


def _milliseconds(statement: str) -> float:
    code = CLOCK.format(statement)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout) * 1000


if __name__ == "__main__":
    run("Import", measure)
