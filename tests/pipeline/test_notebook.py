"""A run in a notebook, through a real kernel, which is interrupted, restarted and killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from queue import Empty
from typing import Any, Optional

import pytest
from tests.pipeline.programs import wait_for

pytest.importorskip("ipykernel")
manager = pytest.importorskip("jupyter_client.manager")

START = """
import os, sys, time, tracelet
run = tracelet.start_logging({name!r}, "project", {backend!r}, config={config!r})
run.log_metric("loss", 0.5, 1)
"""


class Kernel:
    """A kernel of its own process, and somebody who runs cells in it."""

    def __init__(self, folder: Path) -> None:
        self.manager = manager.KernelManager()
        self.manager.start_kernel(cwd=str(folder))
        self.client: Any = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def restart(self, *, now: bool = False) -> None:
        self.manager.restart_kernel(now=now)
        self.client.wait_for_ready(timeout=120)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def run(self, cell: str, interrupt_at: str = "") -> str:
        """
        Run a cell.

        Args:
            cell: Its code.
            interrupt_at: Interrupt the kernel once the cell has said this.

        Returns:
            What it printed, and the name of its exception.
        """
        asked = self.client.execute(cell)
        said, deadline = "", time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                message = self.client.get_iopub_msg(timeout=1.0)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != asked:
                continue
            content = message["content"]
            said += content.get("text", "") + content.get("ename", "")
            if interrupt_at and interrupt_at in said:
                self.manager.interrupt_kernel()
                interrupt_at = ""
            if content.get("execution_state") == "idle":
                return said
        raise AssertionError(f"the cell does not come to its end; it said {said!r}")


def status(folder: Path, name: str) -> Optional[str]:
    """Return the status that the run's file ends with, if it has one."""
    path = folder / "tracelet-jsonl" / "project" / f"{name}.jsonl"
    last = json.loads(path.read_text().splitlines()[-1]) if path.exists() else {}
    return last.get("status") if last.get("type") == "end" else None


def points(folder: Path, name: str) -> int:
    path = folder / "tracelet-jsonl" / "project" / f"{name}.jsonl"
    return sum(json.loads(line)["type"] == "metric" for line in path.read_text().splitlines())


def start(name: str, backend: str = "jsonl", **config: Any) -> str:
    return START.format(name=name, backend=backend, config=config)


def test_a_run_lives_as_long_as_the_kernel_and_no_cell_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    kernel = Kernel(tmp_path)
    try:
        assert "recording 'first' → jsonl: " in kernel.run(start("first"))
        # An error, an interruption and an exit end a cell.
        assert kernel.run("1 / 0") == "ZeroDivisionError"
        loop = "print('ready', flush=True)\nwhile True: run.log_metric('fast', 1.0)"
        assert kernel.run(loop, interrupt_at="ready") == "ready\nKeyboardInterrupt"
        assert kernel.run("print(tracelet.get_active_experiment() is run)") == "True\n"
        assert "SystemExit" in kernel.run("sys.exit(3)")
        assert status(tmp_path, "first") is None

        # The start cell once more.
        said = kernel.run(start("second"))
        assert "the run 'first' was still active; it is ended now" in said
        assert "recorded · jsonl" in said
        assert "recording 'second'" in said
        assert status(tmp_path, "first") == "FINISHED"
        assert "1 recorded · jsonl 1 delivered" in kernel.run("tracelet.stop_logging()")
        assert status(tmp_path, "second") == "FINISHED"
        assert kernel.run("print(tracelet.stop_logging())") == "None\n"

        # An interruption while a stop waits ends the wait, and the next cell finds no run.
        kernel.run(start("waiting", "memory", shipper="thread"))
        kernel.run(
            "import threading\n"
            "from tracelet.backends import memory\n"
            "run.flush(30)\n"
            "memory.before_call = lambda call: threading.Event().wait(5) and None\n"
            "run.log_metric('loss', 2)"
        )
        said = kernel.run("tracelet.stop_logging()", interrupt_at="Ctrl-C ends the wait")
        assert "1 pending" in said
        assert said.endswith("KeyboardInterrupt")
        assert kernel.run("print(tracelet.get_active_experiment())") == "None\n"
        kernel.run("memory.before_call = None")

        # A restart and a shutdown that are orderly, whatever the cells did.
        kernel.run(start("third"))
        kernel.run("1 / 0")
        assert "SystemExit" in kernel.run("sys.exit(3)")
        kernel.restart()
        wait_for(lambda: status(tmp_path, "third") is not None)
        assert status(tmp_path, "third") == "FINISHED"
        assert points(tmp_path, "third") == 1

        # What nobody in the kernel hears of.
        kernel.run(start("fourth"))
        kernel.restart(now=True)
        wait_for(lambda: status(tmp_path, "fourth") is not None)
        assert status(tmp_path, "fourth") == "KILLED"
        assert points(tmp_path, "fourth") == 1
    finally:
        kernel.close()


def test_a_script_under_ipython_fails_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(start("script", silent=True) + "raise ValueError('mine')")
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "ValueError" in done.stdout + done.stderr
    wait_for(lambda: status(tmp_path, "script") is not None)
    assert status(tmp_path, "script") == "FAILED"
