"""
What ``start_logging`` returns on the ranks of a job that are not the first.

As a rule they record nothing, and know which run it is. With ``ranks="all"`` they write into the
run of rank 0, as its forked children do; whoever ships for that one ships theirs.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any, Callable, Optional, Sequence

from tracelet._guard import Guard
from tracelet._ledger import Report
from tracelet.capture.base import Integration
from tracelet.errors import ConfigError, TraceletError
from tracelet.records import RemoteRun, RunEnd, RunInfo, RunStatus
from tracelet.run import Run
from tracelet.run.disabled import DisabledRun
from tracelet.run.elsewhere import Elsewhere
from tracelet.run.ending import EXIT_S
from tracelet.run.job import Job
from tracelet.ship.host import Host
from tracelet.spool.rundir import RunDir, is_main
from tracelet.spool.writer import SpoolWriter

__all__ = ["JoinedRun", "SilentRun"]

#: Who asks for the run's id waits for rank 0 so long, once.
PATIENCE_S = 1.0
#: A rank that ends before rank 0 has come gives it so long.
OWNER_S = 5.0
_LOOK_S = 0.02


class _Nowhere:
    """A sink that keeps nothing."""

    def scalar(self, *_: Any) -> None:
        """Do nothing."""

    event = file = scalar


class SilentRun(DisabledRun):
    """
    A rank that does not record. Every call is harmless, and ``info`` is that of the job's run.

    Args:
        info: What is known without rank 0: everything but the id.
        find: Finds the spool, and the meeting in it; called at the first question.
        on_stop: Called once, when the run has ended.
    """

    def __init__(
        self, info: RunInfo, find: Callable[[], Job], on_stop: Callable[[Run], None]
    ) -> None:
        super().__init__(on_stop=on_stop)
        self._known = info
        self._find = find
        self._job: Optional[Job] = None
        self._there_is: Optional[RunDir] = None
        self._host = Elsewhere()
        self._asked = False
        self._integrations: list[Integration] = []

    def __repr__(self) -> str:
        return f"<tracelet run {self._known.name or self._known.run_id!r} of rank 0>"

    @property
    def info(self) -> RunInfo:
        """Who the run is. Its ``run_id`` is empty while rank 0 has not started it."""
        if not self._known.run_id:
            self._meet(0.0 if self._asked else PATIENCE_S)
            self._asked = True
        return self._known

    @info.setter
    def info(self, info: RunInfo) -> None:
        self._known = info

    def _meet(self, patience_s: float) -> bool:
        """Look for the run of rank 0; True when it is known."""
        deadline = time.monotonic() + patience_s
        while not self._is_known() and time.monotonic() <= deadline:
            time.sleep(_LOOK_S)
        return bool(self._known.run_id)

    def _is_known(self) -> bool:
        if not self._known.run_id:
            with Guard("ranks"):
                self._look_around()
        return bool(self._known.run_id)

    def _look_around(self) -> None:
        job = self._job = self._job or self._find()
        note = job.read()
        run = job.folder(note) if note is not None else job.parents()
        if run is not None:
            self._there_is, self._known = run, run.info
        elif note is not None:
            # Delivered and put away already.
            self._known = dataclasses.replace(self._known, run_id=note.run_id)

    def remote(self, backend: Optional[str] = None, timeout: float = 60.0) -> RemoteRun:
        """
        Return the run as a backend knows it, once rank 0 has it there; see ``Run.remote``.

        Nothing is asked but the spool.
        """
        deadline = time.monotonic() + timeout
        if not self._meet(timeout):
            raise TraceletError("Rank 0 has not started a run in time.")
        names = self._known.backends
        wanted = names[0] if backend is None and len(names) == 1 else backend or ""
        while True:
            # What rank 0 said at its end stays when the run has been put away.
            note = self._job.read() if self._job is not None else None
            ended = note.remote(wanted) if note is not None else None
            if ended is not None:
                return ended
            if self._there_is is None:
                raise TraceletError("Rank 0 has ended the run.")
            self._run_dir = self._there_is
            left = deadline - time.monotonic()
            try:
                return Run.remote(self, backend, max(0.0, min(left, PATIENCE_S)))
            except ConfigError:
                raise
            except TraceletError:
                if left <= PATIENCE_S or wanted not in names:
                    raise

    def silence(self, integrations: Sequence[Integration]) -> None:
        """Have no event files written here either."""
        for integration in integrations:
            integration.install(_Nowhere(), keep=False)
            self._integrations.append(integration)

    def stop(self, status: RunStatus = RunStatus.FINISHED, timeout: float = EXIT_S) -> Report:
        """Return an empty account: the run is that of rank 0, which ends it."""
        if self._report is None:
            for integration in reversed(self._integrations):
                with Guard(f"{integration.name} uninstall"):
                    integration.uninstall()
            self._meet(0.0)
            self._report = Report(self._known.run_id, RunStatus(status), 0)
            self._forget()
        return self._report


class JoinedRun(Run):
    """
    A rank that records into the run of rank 0, below its own prefix.

    Args:
        number: Which rank.
        run_dir: The run.
        writer: What this rank writes with.
        host: Makes one that ships, should rank 0 be gone or never come; None: nothing is shipped.
        ended: How rank 0 had ended the run when this rank came.
        more: As for ``Run``.
    """

    def __init__(
        self,
        number: int,
        run_dir: RunDir,
        writer: SpoolWriter,
        *,
        host: Optional[Callable[[], Host]],
        ended: str = "",
        **more: Any,
    ) -> None:
        super().__init__(run_dir, writer, Elsewhere() if host else None, **more)
        self._number = number
        self._make_host = host
        self._rank0_ended = ended

    def _stop(self, status: RunStatus, timeout: float) -> Report:
        if self._ended:
            return self._account(RunStatus.RUNNING)
        for integration in reversed(self._integrations):
            with Guard(f"{integration.name} uninstall"):
                integration.uninstall()
        self._ending.unwatch()
        if os.getpid() == self._pid:
            self._await_owner(min(timeout, OWNER_S))
        self._writer.close(patience_s=min(timeout, 5.0))
        self._ended = True
        if os.getpid() == self._pid:
            with Guard("ranks"):
                self._see_off(status, timeout)
        self._forget()
        return self._account(RunStatus.RUNNING)

    def _await_owner(self, patience_s: float) -> None:
        """Give rank 0 a moment, where it has not been there yet: the run is still held open."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and not self._rank0_ended:
            if any(map(is_main, self._run_dir.segment_numbers())) or self._run_dir.owner_alive():
                return
            time.sleep(_LOOK_S)

    def _see_off(self, status: RunStatus, timeout: float) -> None:
        """Have what is left delivered where rank 0 is not there to do it."""
        run = self._run_dir
        if run.owner_alive() or not run.exists():
            return
        end = RunStatus(self._rank0_ended) if self._rank0_ended else status
        if not any(map(is_main, run.segment_numbers())) and run.own():
            if not self._rank0_ended:
                self._ledger.warn(
                    f"rank 0 has started no run in {run.path.parent}, so what rank {self._number} "
                    "logged is a run of its own; with several machines give a folder that all of "
                    "them see with spool_dir."
                )
            writer = SpoolWriter(run, main=True)
            writer.record(RunEnd(end, writer.now()))
            writer.close(patience_s=1.0)
        if self._make_host is not None and not run.shipping.taken_elsewhere():
            host = self._make_host()
            host.wait(run, timeout, self._waiting)
            if self._on_end is not None and run.owned:
                self._on_end(end)
            run.release()
            host.let_go(run)
        run.release()
