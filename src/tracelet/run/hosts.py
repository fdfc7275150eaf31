"""Which host ships: one for all runs of a process, kept for the next run of a sweep."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Mapping

from tracelet._ledger import Ledger
from tracelet.ship import state
from tracelet.ship.host import Host
from tracelet.spool.rundir import RunDir

__all__ = ["Watch", "ship"]

#: How often the states of the backends are looked at.
STATES_S = 5.0

_lock = threading.Lock()
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
            beside = _hosts.get("process")
            if beside is None:
                beside = _hosts["process"] = _process()
            try:
                beside.add(run, credentials)
            except OSError as error:
                ledger.warn(
                    f"no process could be started beside this one ({error.strerror or error}); a "
                    "thread delivers what is logged."
                )
            else:
                return beside
        host = _hosts.get("thread")
        if host is None or not host.alive():
            host = _hosts["thread"] = _thread()
        host.add(run, credentials)
        return host


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


def _process() -> Host:
    from tracelet.ship.launch import SidecarHost

    return SidecarHost()


def _thread() -> Host:
    from tracelet.ship.thread import ThreadHost

    return ThreadHost()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
