"""How long stop waits, what it says meanwhile, and what a Ctrl-C does to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from tests.pipeline.programs import wait_for

import tracelet
from tracelet.backends import memory
from tracelet.errors import RetryableError
from tracelet.ship import state
from tracelet.spool.rundir import find_runs


@pytest.fixture(autouse=True)
def _store() -> Iterator[None]:
    memory.clear()
    yield
    memory.before_call = None
    memory.clear()


def start(**config: Any) -> tracelet.Run:
    config = {"shipper": "thread", "silent": True, **config}
    run = tracelet.start_logging("name", "project", "memory", config=config)
    run.log_metric("loss", 1)
    return run


def test_stop_says_what_it_waits_for(capsys: pytest.CaptureFixture[str]) -> None:
    run = start(silent=False)
    gate = threading.Event()
    memory.before_call = lambda call: gate.wait(30) and None
    run.log_metric("loss", 2)
    threading.Timer(2.0, gate.set).start()
    assert run.stop().complete
    said = capsys.readouterr().err
    assert said.count("waiting for memory: ") == 1
    assert "Ctrl-C ends the wait and loses nothing" in said


def test_stop_ends_in_time(tmp_path: Path) -> None:
    run = start()
    run.flush(30)
    gate = threading.Event()
    memory.before_call = lambda call: gate.wait(30) and None
    run.log_metric("loss", 2)
    began = time.monotonic()
    report = run.stop(timeout=0.5)
    assert time.monotonic() - began < 5
    assert (report.recorded, report.pending, report.check()) == (2, 1, [])
    assert "→ tracelet sync" in str(report)
    gate.set()


def test_a_ctrl_c_ends_the_wait_and_reaches_the_program() -> None:
    run = start()
    run.flush(30)
    gate = threading.Event()
    memory.before_call = lambda call: gate.wait(30) and None
    run.log_metric("loss", 2)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run.stop()
    assert time.monotonic() - began < 10
    assert tracelet.get_active_experiment() is None
    gate.set()
    assert run.stop().pending == 1  # the account that was made then


INTERRUPTED = """
import os, signal, threading, tracelet
from tracelet.backends import memory
run = tracelet.start_logging(backend="memory", config={"shipper": "thread"})
run.log_metric("loss", 1)
run.flush(30)
memory.before_call = lambda call: threading.Event().wait(30) and None
run.log_metric("loss", 2)
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
"""


def test_a_ctrl_c_while_the_program_ends_leaves_no_traceback(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60
    )
    assert time.monotonic() - began < 14
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "2 recorded · memory 1 delivered, 1 pending" in done.stderr


def test_a_backend_that_is_away_is_not_waited_for_by_the_process_beside(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    config = {"silent": True}
    run = tracelet.start_logging(backend="mlflow", backend_url="http://127.0.0.1:9", config=config)
    run.log_metric("loss", 1)
    (there,) = find_runs(tmp_path / ".tracelet")
    wait_for(lambda: state.read(there)["mlflow"].state == "waiting", timeout=90.0)
    began = time.monotonic()
    report = run.stop()
    assert time.monotonic() - began < 2.0
    assert report.pending == 1
    assert report.backends["mlflow"].detail


def test_a_busy_backend_does_not_hold_the_training() -> None:
    run = start()

    def away(call: str) -> None:
        raise RetryableError("busy")

    memory.before_call = away
    began = time.monotonic()
    for step in range(1000):
        run.log_metric("loss", 1, step)
    assert time.monotonic() - began < 2.0
    memory.before_call = None
    assert run.stop(timeout=60).complete


def test_two_threads_that_stop_get_the_same_account() -> None:
    run = start()
    reports: list[tracelet.Report] = []
    threads = [threading.Thread(target=lambda: reports.append(run.stop())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(reports) == 4
    assert all(report is reports[0] for report in reports)
