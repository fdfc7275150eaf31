"""The trainer's end of the sidecar: starting it, talking to it, noticing that it is gone."""

from __future__ import annotations

import contextlib
import json
import os
import site
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Optional

import tracelet
from tracelet import registry
from tracelet.ship.host import wait_until_delivered
from tracelet.spool.rundir import RunDir

__all__ = ["SidecarHost"]

#: A sidecar that dies is started again so many times in one process.
RESTARTS = 3


#: Run by the sidecar. Python puts the working directory in front of its path, and in a spool that
#: the user has put among his programs a ``random.py`` may lie.
_BEGIN = """\
import sys
if sys.path and sys.path[0] == "": del sys.path[0]
from tracelet.ship.sidecar import main
main()
"""


class _Sidecar(subprocess.Popen[bytes]):
    """A child that is meant to outlive us: no warning, no wait when we go first."""

    def __del__(self, *_: Any) -> None:
        # At the very end of the interpreter nothing but builtins is left.
        try:
            if self.stdin is not None:
                self.stdin.close()
        except (AttributeError, OSError, ValueError):
            return


class SidecarHost:
    """
    Ships runs from a process that outlives this one.

    One process serves all runs, as long as the environment that matters to their backends stays
    the same. Raises ``OSError`` when no process can be started.
    """

    inside = False

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._process: Optional[_Sidecar] = None
        #: The environment that the process was started with.
        self._environ: Mapping[str, str] = {}
        #: Processes that we have hung up on; they end when they are done.
        self._former: list[_Sidecar] = []
        self._runs: list[tuple[RunDir, Mapping[str, Mapping[str, Any]]]] = []
        self._restarts = 0
        # Any thread of the training may notice that the sidecar is gone.
        self._turn = threading.RLock()
        _hosts.add(self)

    def add(self, run: RunDir, credentials: Mapping[str, Mapping[str, Any]]) -> None:
        """Ship a run. Raises OSError when no process can be started."""
        with self._turn:
            self._add(run, credentials)

    def _add(self, run: RunDir, credentials: Mapping[str, Mapping[str, Any]]) -> None:
        running = self._process is not None and self._process.poll() is None
        if not running or self._changed(run):
            self._start(run)
        self._runs = [each for each in self._runs if each[0].owned] + [(run, credentials)]
        self._say({"add": str(run.path), "credentials": _plain(credentials)})

    def wake(self) -> None:
        """Look at once."""
        if self.alive():
            self._say({})

    def alive(self) -> bool:
        """Return True while the process runs; one that died is started again, a few times."""
        if self._pid != os.getpid():
            return False
        with self._turn:
            return self._alive()

    def _alive(self) -> bool:
        if self._process is not None and self._process.poll() is None:
            return True
        if self._restarts >= RESTARTS or not self._runs:
            return False
        self._restarts += 1
        runs = list(self._runs)
        try:
            self._start(runs[-1][0])
        except OSError:
            return False
        for run, credentials in runs:
            self._say({"add": str(run.path), "credentials": _plain(credentials)})
        return True

    def publish(self, run: RunDir) -> None:
        """Nothing to do: the sidecar publishes by itself, whatever its other threads do."""

    def wait(self, run: RunDir, timeout: float, on_wait: Callable[[str], None]) -> None:
        """Wait for a stopped run as long as its backends answer; the sidecar does the rest."""
        self.wake()
        wait_until_delivered(run, timeout, on_wait, self.alive)

    def let_go(self, run: RunDir) -> None:
        """Let the sidecar look at once."""
        self.wake()

    def close(self) -> None:
        """Hang up; the sidecar ends once everything is delivered."""
        self._runs = []
        self._hang_up()

    def _hang_up(self) -> None:
        # Whoever has ended meanwhile leaves the table of processes when it is asked.
        self._former = [each for each in self._former if each.poll() is None]
        process, self._process = self._process, None
        if process is None:
            return
        self._former.append(process)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()

    def _changed(self, run: RunDir) -> bool:
        """Tell whether the environment says something else to a run's backends than it did."""
        prefixes = _prefixes(run.first.backends)
        return _relevant(prefixes, os.environ) != _relevant(prefixes, self._environ)

    def _start(self, run: RunDir) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            # Of a frozen program that is the program itself.
            raise OSError("there is no Python here that another process could be started with")
        self._hang_up()
        environ = dict(os.environ)
        place = str(Path(tracelet.__file__).resolve().parent.parent)
        if place not in (*site.getsitepackages(), site.getusersitepackages()):
            # Found where we were found, whatever the working directory is.
            path = environ.get("PYTHONPATH")
            environ["PYTHONPATH"] = f"{place}{os.pathsep}{path}" if path else place
        flags = 0
        if sys.platform == "win32":  # pragma: no cover
            flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS
        errors = os.open(run.path / "ship.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = _Sidecar(
                [sys.executable, "-c", _BEGIN],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=run.path.parent,
                env=environ,
                start_new_session=True,
                creationflags=flags,
            )
        finally:
            os.close(errors)
        self._environ = dict(os.environ)
        if self._process.stdin is not None and hasattr(os, "set_blocking"):
            # A sidecar that does not read must never hold up the trainer.
            os.set_blocking(self._process.stdin.fileno(), False)

    def _say(self, message: Mapping[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None or self._pid != os.getpid():
            return
        try:
            process.stdin.write(json.dumps(message, default=str).encode() + b"\n")
            process.stdin.flush()
        except (OSError, ValueError):
            # Gone or stuck: it finds what there is in the spool, or the next one does.
            return

    def _forget(self) -> None:
        """In a forked child: the pipe is the parent's."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            # Not the buffer: what is in there, the parent will say.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                process.stdin.raw.close()  # type: ignore[attr-defined]


def _plain(credentials: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            option: value.get_secret_value() if hasattr(value, "get_secret_value") else value
            for option, value in options.items()
        }
        for name, options in credentials.items()
    }


def _prefixes(backends: Iterable[str]) -> tuple[str, ...]:
    """Return how the variables begin that change what some backends do."""
    return tuple(prefix for name in backends for prefix in registry.backend_class(name).environment)


def _relevant(prefixes: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, str]:
    # These name a run or an experiment; a run in ``run.json`` has them already.
    passing = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
    return {
        name: value
        for name, value in environ.items()
        if prefixes and name.startswith(prefixes) and name not in passing
    }


_hosts: weakref.WeakSet[SidecarHost] = weakref.WeakSet()


def _in_child() -> None:
    for host in list(_hosts):
        host._forget()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
