"""
A pytest plug-in for other projects' tests: it records how each ended, and may have a run around it.

``SWITCHED_ON`` says what is around: nothing, ``session`` (one run), ``test`` (a run for each test);
``OUTCOMES`` names the file for how they ended, ``SPOOLED`` the folder for what is recorded.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Optional

import pytest

if TYPE_CHECKING:
    from tracelet import Report

MODE = os.environ["SWITCHED_ON"]
OUTCOMES = Path(os.environ["OUTCOMES"])
FOLDER = Path(os.environ["SPOOLED"])

outcomes: dict[str, str] = {}
reports: list[Report] = []


def _start(name: str) -> None:
    import tracelet

    config = {
        "jsonl": {"path": str(FOLDER / "out")},
        "spool_dir": str(FOLDER / "spool"),
        "silent": True,
    }
    tracelet.start_logging(exp_name=name, project="foreign", backend="jsonl", config=config)


def _stop() -> None:
    import tracelet

    report: Optional[Report] = tracelet.stop_logging()
    # A test may have ended the run itself, as one does that replaces what is imported.
    if report is not None:
        reports.append(report)


def pytest_sessionstart() -> None:
    """Begin the one run."""
    if MODE == "session":
        _start("session")


@pytest.fixture(autouse=True)
def _switched_on(request: pytest.FixtureRequest) -> Iterator[None]:
    if MODE == "test":
        _start(request.node.name)
    yield
    if MODE == "test":
        _stop()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the worst outcome of a test's phases."""
    before = outcomes.get(report.nodeid, "passed")
    how = "xfailed" if hasattr(report, "wasxfail") and report.skipped else report.outcome
    outcomes[report.nodeid] = how if before == "passed" else before


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be collected is an outcome as well."""
    if report.failed:
        outcomes[report.nodeid] = "not collected"


def pytest_sessionfinish() -> None:
    """End the one run; write down what was seen."""
    if MODE == "session":
        _stop()
    found: dict[str, Any] = {
        "outcomes": outcomes,
        "recorded": sum(report.recorded for report in reports),
        "wrong": [text for report in reports for text in report.check()],
        "incomplete": [str(report) for report in reports if not report.complete],
    }
    if MODE:
        from tracelet import _guard

        found["failures"] = dict(_guard.failures())
    OUTCOMES.write_text(json.dumps(found))
