"""How a benchmark starts, where it runs, and how it prints."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Callable, Sequence

__all__ = ["run", "table"]

_PACKAGES = ("torch", "tensorboard", "tensorboardX", "mlflow", "numpy", "protobuf")
_REPOSITORY = Path(__file__).parents[1]


def run(figure: str, measure: Callable[[bool], None]) -> None:
    """
    Run a benchmark from the command line, in a folder and with a home that vanish afterwards.

    Args:
        figure: The heading: which figure it is, and of what.
        measure: Called with True for a short look.
    """
    parser = argparse.ArgumentParser(description=figure)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    quick = parser.parse_args().quick
    print(f"\n## {figure}{' (quick)' if quick else ''}\n\n{_machine()}\n", flush=True)
    for name in [name for name in os.environ if name.startswith(("TRACELET_", "MLFLOW_"))]:
        del os.environ[name]
    before = Path.cwd()
    folder = tempfile.mkdtemp(prefix="tracelet-bench-")
    try:
        os.environ.update(
            XDG_STATE_HOME=str(Path(folder, "state")),
            MLFLOW_DISABLE_TELEMETRY="true",
            DO_NOT_TRACK="true",
            MLFLOW_LOGGING_LEVEL="WARNING",
            MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
            # Children start in the folder made here and still find what we found.
            PYTHONPATH=os.pathsep.join([str(_REPOSITORY), *_python_path()]),
        )
        os.chdir(folder)
        measure(quick)
    finally:
        os.chdir(before)
        # A sidecar may be putting its last run away in there just now.
        time.sleep(1.0)
        shutil.rmtree(folder, ignore_errors=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a Markdown table whose columns are as wide as they need to be."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, ["-" * width for width in widths], *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths))
        print(f"| {' | '.join(cells)} |")
    sys.stdout.flush()


def _python_path() -> list[str]:
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [str(Path(folder).resolve()) for folder in given if folder]


def _machine() -> str:
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{platform.system()} {platform.machine()}, {cores} cores{load}, "
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )
