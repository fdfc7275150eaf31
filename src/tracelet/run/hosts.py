"""Which host ships: one for all runs of a process, kept for the next run of a sweep."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Callable, Mapping, Optional

from tracelet._guard import Guard
from tracelet._ledger import Ledger
from tracelet.ship import state
from tracelet.ship.host import Host
from tracelet.spool.rundir import RunDir

__all__ = ["Beside", "Watch", "ship"]

#: How often the states of the backends are looked at.
STATES_S = 5.0

_lock = threading.RLock()
_hosts: dict[str, Host] = {}
_pid = 0


def ship(
    shipper: str, run: RunDir, credentials: Mapping[str, Mapping[str, Any]], ledger: Ledger
) -> Host:
    """
    Have a run shipped.

    Args:
        shipper: ``process`` or ``thread``. Where no process can be started it is a thread, too.
        run: The run.
        credentials: The secret options of each backend.
        ledger: Is told when the wish could not be granted.

    Returns:
        Who ships it: the one of this process that there was, or a new one.
    """
    global _pid  # noqa: PLW0603
    with _lock:
        if _pid != os.getpid():
            # A forked child has its parent's hosts in memory, and none of them at work.
            _hosts.clear()
            _pid = os.getpid()
        if shipper == "process":
            sidecar = _hosts.get("process")
            if sidecar is None:
                sidecar = _hosts["process"] = _process()
            beside = Beside(sidecar, ledger)
            try:
                beside.add(run, credentials)
            except OSError as error:
                ledger.warn(
                    f"no process could be started beside this one ({error.strerror or error}); a "
                    "thread delivers what is logged."
                )
            else:
                return beside
        host = _thread_host()
        host.add(run, credentials)
        return host


class Beside:
    """
    Ships one run from the sidecar; from a thread of this process when that cannot be kept alive.

    The two cannot both ship: a sidecar that is gone has let go of the run's lock, and one that has
    not is waited for.
    """

    def __init__(self, sidecar: Host, ledger: Ledger) -> None:
        self._host = sidecar
        self._ledger = ledger
        self._pid = os.getpid()
        self._run: Optional[RunDir] = None
        self._credentials: Mapping[str, Mapping[str, Any]] = {}
        #: Brings the thread that ships to life: that takes longer than a call may be held.
        self._heir: Optional[threading.Thread] = None
        # Any thread of the training may notice, or a signal handler within one that does.
        self._turn = threading.RLock()

    @property
    def inside(self) -> bool:
        """True once a thread ships, or is about to."""
        return self._heir is not None

    def add(self, run: RunDir, credentials: Mapping[str, Mapping[str, Any]]) -> None:
        """Ship the run. Raises OSError when no process can be started."""
        self._host.add(run, credentials)
        self._run, self._credentials = run, credentials

    def wake(self) -> None:
        """Look at once."""
        if self.alive():
            self._host.wake()

    def alive(self) -> bool:
        """Return True while somebody ships, or begins to."""
        if self._pid != os.getpid():
            return False  # a forked child; the lock may be held by a thread that it has not got
        with self._turn:
            if self._heir is not None and self._heir.is_alive():
                return True
            return self._host.alive() or self._begin_to_take_over()

    def _begin_to_take_over(self) -> bool:
        if self._heir is not None or self._run is None:
            return False
        heir = threading.Thread(target=self._take_over, name="tracelet-heir", daemon=True)
        try:
            heir.start()
        except RuntimeError:
            return False  # the program has ended: no thread can be started any more
        self._heir = heir
        return True

    def _take_over(self) -> None:
        assert self._run is not None
        with Guard("thread instead of sidecar"):
            thread = _thread_host()
            thread.add(self._run, self._credentials)
            self._host = thread
            self._ledger.warn(
                "the process that delivers has died and is not started again: a thread of this "
                f"program delivers from now on ({self._run.path / 'ship.log'} may say why)."
            )

    def publish(self, run: RunDir) -> None:
        """See to it that what ``state.read`` gives is of now."""
        self._host.publish(run)

    def wait(self, run: RunDir, timeout: float, on_wait: Callable[[str], None]) -> None:
        """Wait for the stopped run, also across a change of who ships it."""
        deadline = time.monotonic() + timeout
        waited_for = None
        while self.alive() and self._host is not waited_for:
            if self._heir is not None:
                self._heir.join(max(0.0, deadline - time.monotonic()))
            waited_for = self._host
            waited_for.wait(run, max(0.0, deadline - time.monotonic()), on_wait)

    def let_go(self, run: RunDir) -> None:
        """Have a delivered run put away."""
        self._host.let_go(run)

    def close(self) -> None:
        """Let go of whoever ships."""
        self._host.close()


class Watch:
    """
    What the training looks after while it logs, about once a second.

    A host that died is started again, not only when the run ends; and a backend that says no for
    good is told of once, while there is time to do something about it.
    """

    def __init__(self, host: Host, run: RunDir, ledger: Ledger) -> None:
        self._host, self._run, self._ledger = host, run, ledger
        self._due = 0.0

    def __call__(self) -> None:
        """Look."""
        self._host.alive()
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + STATES_S
        for name, found in state.read(self._run).items():
            if found.thinned:
                self._ledger.warn(
                    f"{name} is behind, and what waits for it has grown to its bound: the oldest "
                    "images go first (max_run_bytes, max_spool_bytes, min_free_bytes); tracelet "
                    "status counts what is given up.",
                    once=f"{name} is behind",
                )
            if found.state == "config":
                self._ledger.warn(
                    f"{name} cannot go on: {found.error or found.detail} What is logged waits on "
                    "disk; tracelet sync delivers it once this is mended.",
                    once=f"{name} cannot go on",
                )


def _thread_host() -> Host:
    """Return the thread of this process that ships."""
    with _lock:
        host = _hosts.get("thread")
        if host is None or not host.alive():
            host = _hosts["thread"] = _thread()
        return host


def _process() -> Host:
    from tracelet.ship.launch import SidecarHost

    return SidecarHost()


def _thread() -> Host:
    from tracelet.ship.thread import ThreadHost

    return ThreadHost()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
