"""The host of a run that another process has shipped: it looks often enough by itself."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from tracelet.ship.host import Host
from tracelet.spool.rundir import RunDir

__all__ = ["Elsewhere"]


class Elsewhere(Host):
    """Does nothing, for another rank's run or a parent's: whoever owns the run has a host."""

    inside = False

    def add(self, run: RunDir, credentials: Mapping[str, Mapping[str, Any]]) -> None:
        """Do nothing."""

    def wake(self) -> None:
        """Do nothing."""

    def alive(self) -> bool:
        """Return True: it is not ours to start again."""
        return True

    def wait(self, run: RunDir, timeout: float, on_wait: Callable[[str], None]) -> None:
        """Do nothing."""

    def let_go(self, run: RunDir) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
