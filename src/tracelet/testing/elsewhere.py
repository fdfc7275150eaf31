"""What the suite lets another process do, so that nothing of this one can help or hinder it."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional, Protocol, Sequence

from tracelet.backends.base import Backend, BackendOptions, Batch
from tracelet.errors import MissingPackageError, UnknownBackendError
from tracelet.records import RemoteRun, RunInfo, RunStatus

#: Begins the lines that are for us; what an SDK prints does not.
_MARK = "tracelet-suite "
_CODE = "from tracelet.testing.elsewhere import main; main()"


class Job(Protocol):
    """Something that can be done in another process: pickled there, run, its words sent back."""

    def run(self) -> None:
        """Do it; talk through ``tell``."""


@dataclass(frozen=True)
class Visit:
    """
    Open a run, write batches, and leave.

    Args:
        backend: The class; importable.
        options: Its options, secrets included: they travel by pipe.
        resume: As in ``Backend.open``.
        batches: Written one after the other. The number of those whose delivery is certain (after a
            ``barrier`` where the backend needs one) is told.
        status: With what ``close`` is called.
        die_after: SIGKILL as soon as this many batches are written, before anything is told of the
            last one.
        die_within_s: SIGKILL at the latest this many seconds after the first call of ``write``.
    """

    backend: type[Backend]
    options: BackendOptions
    info: RunInfo
    resume: Optional[RemoteRun]
    workdir: Path
    batches: Sequence[Batch] = ()
    status: RunStatus = RunStatus.RUNNING
    die_after: Optional[int] = None
    die_within_s: Optional[float] = None

    def run(self) -> None:
        """Do what the fields say."""
        backend = self.backend(self.options)
        tell("remote", asdict(backend.open(self.info, self.resume, self.workdir)))
        if self.die_within_s is not None:
            timer = threading.Timer(self.die_within_s, _die)
            timer.daemon = True
            timer.start()
        for number, batch in enumerate(self.batches, start=1):
            backend.write(batch)
            if number == self.die_after:
                _die()
            if backend.deferred:
                backend.barrier()
            tell("delivered", number)
        backend.barrier()
        backend.close(self.status)


@dataclass(frozen=True)
class AskForBackend:
    """Import a backend's module and ask for the backend; run with its package hidden."""

    module: str
    class_name: str
    name: str
    options: str = field(repr=False)

    def run(self) -> None:
        """Tell what the user would be told."""
        from importlib import import_module

        from tracelet.registry import backend_class

        backend = getattr(import_module(self.module), self.class_name)
        tell("imported", True)
        try:
            try:
                backend_class(self.name)
            except UnknownBackendError:
                # Not registered in this environment: the next to notice is the preflight.
                backend(backend.Options.model_validate_json(self.options)).preflight()
        except MissingPackageError as error:
            tell("sentence", str(error))


@dataclass(frozen=True)
class Outcome:
    """What a process said, and how it ended."""

    said: dict[str, Any]
    exit_code: int
    errors: str

    @property
    def remote(self) -> RemoteRun:
        """The run that was opened."""
        return RemoteRun(**self.said["remote"])

    @property
    def delivered(self) -> int:
        """How many batches are certain to be in the store."""
        return int(self.said.get("delivered", 0))


def in_another_process(job: Job, *, hidden: Sequence[str] = (), timeout_s: float = 180) -> Outcome:
    """
    Run ``job`` in a fresh interpreter and wait for its end.

    Args:
        job: What to do.
        hidden: Packages that shall look as if they were not installed.
        timeout_s: When to give up.

    Raises:
        subprocess.TimeoutExpired: It did not end in time.
    """
    process = subprocess.run(  # noqa: S603 - our own interpreter, our own code
        [sys.executable, "-c", _CODE, *hidden],
        input=pickle.dumps(job),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        timeout=timeout_s,
        check=False,
    )
    said: dict[str, Any] = {}
    for line in process.stdout.decode(errors="replace").splitlines():
        if line.startswith(_MARK):
            said.update(json.loads(line[len(_MARK) :]))
    return Outcome(said, process.returncode, process.stderr.decode(errors="replace"))


def tell(word: str, value: Any) -> None:
    """Say something to the process that waits; it gets there even if this one dies right after."""
    os.write(1, f"\n{_MARK}{json.dumps({word: value})}\n".encode())


def main() -> None:
    """Run the job that comes through stdin, with the packages of the arguments hidden."""
    for package in sys.argv[1:]:
        sys.modules[package] = None  # type: ignore[assignment] # Python's way to say "not there"
    job: Job = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    job.run()


def _die() -> None:
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
