"""
Programs that are born quickly, to be killed: one process imports everything once, and forks them.

Started here as a module, it is that process: each line of its input is a JSON object that says
what is to be done, and is answered with the id of the child that does it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Iterable, Optional

from tests.pipeline.programs import SOURCE, acknowledged, gone, sidecars, wait_for

ROOT = Path(__file__).resolve().parent.parent.parent


class Life:
    """One program: a trainer, or one that delivers what others left."""

    def __init__(self, pid: int, folder: Path, name: str) -> None:
        self.pid = pid
        self.folder = folder
        self.name = name

    @property
    def acknowledged(self) -> int:
        """How many of its calls are known to have returned."""
        return acknowledged(self.folder / f"ack-{self.name}")

    @property
    def over(self) -> bool:
        """True when it has ended."""
        return gone(self.pid)

    def sidecar(self) -> Optional[int]:
        """Return the id of its sidecar, if it has one now."""
        found = [] if self.over else sidecars(self.pid)
        return found[0] if found else None

    def kill(self) -> None:
        """SIGKILL it; return when it is gone."""
        kill(self.pid)

    def errors(self) -> str:
        """Return what it wrote to stderr."""
        return (self.folder / f"stderr-{self.name}").read_text()


class Mother:
    """
    The process that forks them.

    Args:
        modules: What it imports before anything else.
    """

    def __init__(self, modules: Iterable[str] = ()) -> None:
        # How many kills there are to be is no setting of a run.
        environ = {name: os.environ[name] for name in os.environ if name != "TRACELET_KILLS"}
        environ["PYTHONPATH"] = os.pathsep.join([str(SOURCE), str(ROOT)])
        # Warnings about forks of a process with threads are not what is looked at here.
        command = [sys.executable, "-W", "ignore", "-m", "tests.pipeline.lives", *modules]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
        )

    def trainer(self, folder: Path, name: str, **plan: Any) -> Life:
        """Start a training that logs under this name; ``plan`` as in ``trainer.py``."""
        ack = folder / f"ack-{name}"
        return self._born(folder, name, train={"config": {}, "name": name, "ack": str(ack), **plan})

    def deliverer(self, folder: Path, **fault: Any) -> Life:
        """Start what ``tracelet sync`` does, in the spool of a folder; ``fault`` of ``faults``."""
        return self._born(folder, "sync", fault=fault)

    def _born(self, folder: Path, name: str, **order: Any) -> Life:
        line = {"folder": str(folder), "stderr": str(folder / f"stderr-{name}"), **order}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        self._process.stdin.flush()
        return Life(int(self._process.stdout.readline()), folder, name)

    def __enter__(self) -> Mother:  # noqa: PYI034 - Self is younger than the oldest Python
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(60)


def kill(pid: Optional[int]) -> bool:
    """SIGKILL a process and wait until it is gone; False when it was gone before."""
    if pid is None or gone(pid):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: gone(pid), timeout=60.0)
    return True


@dataclass
class Tally:
    """What a loop of kills has shown."""

    case: str
    kills: int = 0
    acknowledged: int = 0
    stored: int = 0
    lost: int = 0
    doubled: int = 0

    def count(self, steps: list[int], acknowledged: int) -> None:
        """Take note of the steps that are in the store, and of how many calls had returned."""
        self.acknowledged += acknowledged
        self.stored += len(steps)
        self.lost += len(set(range(acknowledged)) - set(steps))
        self.doubled += len(steps) - len(set(steps))

    def __str__(self) -> str:
        return (
            f"{self.case}: {self.kills} kills, {self.acknowledged:,} points acknowledged, "
            f"{self.stored:,} stored, {self.lost} lost, {self.doubled} doubled"
        )


#: Between two points, in seconds: from some hundred points a second to as many as can be.
PAUSES = (0.0, 0.0, 0.0001, 0.0003, 0.001)


def pause(chance: random.Random) -> float:
    """Return how long a training waits between two points."""
    return chance.choice(PAUSES)


# -- the process ----------------------------------------------------------------------------


def _main() -> None:
    for module in ("tensorboardX", "tracelet", "tracelet.ship.drain", *sys.argv[1:]):
        importlib.import_module(module)
    for line in sys.stdin.buffer:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        pid = os.fork()
        if not pid:
            _live(json.loads(line))
            return
        os.write(1, b"%d\n" % pid)


def _live(order: dict[str, Any]) -> None:
    os.chdir(order["folder"])
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.dup2(os.open(order["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    if "train" in order:
        from tests.pipeline.trainer import train

        train(order["train"])
        return
    from tests.pipeline import faults

    if order["fault"]:
        faults.inject(Path.cwd() / ".tracelet", **order["fault"])
    faults.deliver()


if __name__ == "__main__":
    _main()
