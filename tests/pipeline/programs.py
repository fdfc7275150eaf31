"""Starting the trainer, finding its sidecar, and ending what was started, by id."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Optional

import psutil

import tracelet

SOURCE = Path(tracelet.__file__).resolve().parent.parent


class Trainer:
    """The program of ``trainer.py``, running in a folder of its own."""

    def __init__(self, folder: Path, **plan: Any) -> None:
        self.folder = folder
        self.ack = folder / "ack"
        plan = {"config": {}, "ack": str(self.ack), **plan}
        environ = {**os.environ, "PYTHONPATH": str(SOURCE)}
        program = Path(__file__).with_name("trainer.py")
        self._stderr = folder / f"stderr-{plan.get('name', 'victim')}"
        with open(self._stderr, "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, str(program), json.dumps(plan)],
                cwd=folder,
                env=environ,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )

    @property
    def acknowledged(self) -> int:
        """How many calls are known to have returned."""
        return acknowledged(self.ack)

    def logging(self, at_least: int = 1) -> None:
        """Wait until it has logged something."""
        wait_for(lambda: self.acknowledged >= at_least or self.process.poll() is not None)
        if self.process.poll() is not None and self.acknowledged < at_least:
            raise AssertionError(self.errors())

    def sidecar(self) -> Optional[int]:
        """Return the id of its sidecar, when there is one (Linux)."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for child in children.read_text().split():
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes()
            except OSError:
                continue
            if b"tracelet.ship.sidecar" in command:
                return int(child)
        return None

    def kill(self, *, sidecar: Optional[int] = None) -> None:
        """SIGKILL it, and its sidecar before it if that is asked for."""
        if sidecar is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(sidecar, signal.SIGKILL)
        self.process.kill()
        self.end()

    def end(self, timeout: float = 60.0) -> int:
        """Wait for its end; return the exit code."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        return code

    def errors(self) -> str:
        """Return what it wrote to stderr."""
        return self._stderr.read_text()


def acknowledged(path: Path) -> int:
    """Return what a trainer has written down: how many calls have returned."""
    try:
        raw = path.read_bytes()
    except OSError:
        return 0
    return int(struct.unpack("<Q", raw[:8])[0]) if len(raw) >= 8 else 0


def wait_for(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    """Return when the condition holds; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("this did not happen in time")
        time.sleep(0.01)


def left_over(spool: Path) -> list[Path]:
    """Return the runs that are still in a spool."""
    return sorted(path.parent for path in spool.glob("*/run.json"))


def sidecars(pid: Optional[int] = None) -> list[int]:
    """Return the ids of the living sidecars of a process; of this one, if none is given."""
    found = []
    for child in psutil.Process(pid).children():
        try:
            if "tracelet.ship.sidecar" in " ".join(child.cmdline()):
                found.append(child.pid)
        except psutil.Error:
            continue  # ended in this moment
    return found


def gone(pid: int) -> bool:
    """
    Return True when no process has this id any more (a zombie is none).

    The first thread of a killed process may be a zombie while another one still keeps the files,
    and with them the locks.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
        threads = len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z" and threads <= 1


def jsonl(path: Path) -> tuple[list[tuple[int, float]], Optional[str]]:
    """Read a file of the jsonl backend: (step, value) of ``loss`` in order, and the status."""
    points, status = [], None
    for line in path.read_text().rpartition("\n")[0].splitlines():
        content = json.loads(line)
        if content["type"] == "metric" and content["key"] == "loss":
            points.append((content["step"], content["value"]))
        elif content["type"] == "run":
            status = None
        elif content["type"] == "end":
            status = content["status"]
    return points, status
