"""Run every benchmark, each in a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys

MODULES = (
    "import_time",
    "add_scalar",
    "no_event_file",
    "heavy_calls",
    "heavy_delivery",
    "throughput",
    "throughput_aim",
    "throughput_postgres",
    "throughput_clearml",
    "throughput_wandb",
    "several",
    "training_step",
    "start",
    "doctor",
    "memory",
    "outage_memory",
    "sweep",
    "beside",
    "outage",
    "end_status",
    "disk_faults",
)


def main() -> int:
    """Run them in order; the exit status is the number of those that could not be run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)}")
    given = parser.parse_args()
    unknown = set(given.names) - set(MODULES)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    failed = 0
    for name in given.names or MODULES:
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        failed += (
            subprocess.run([*command, *(["--quick"] * given.quick)], check=False).returncode != 0
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
