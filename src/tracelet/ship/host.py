"""
What a host of the shipper is, and how anybody waits for one.

There are three: a sidecar process (the default), a thread in the training process (where no
process can be started), and ``drain`` (``tracelet sync``). They run the very same shipments.
"""

from __future__ import annotations

import time
from typing import Any, Callable, Mapping, Optional, Protocol

from tracelet.ship import state
from tracelet.spool.rundir import RunDir

__all__ = ["Host", "wait_until_delivered"]

#: A backend that is away is waited for no longer than this, from the moment when it went away.
AWAY_S = 0.5
#: After so long the person at the terminal is told what is being waited for.
SPEAK_S = 1.0


class Host(Protocol):
    """Where the shipper lives."""

    @property
    def inside(self) -> bool:
        """True when that is this process: what it has not delivered at its end, nobody does."""

    def add(self, run: RunDir, credentials: Mapping[str, Mapping[str, Any]]) -> None:
        """Ship a run; ``credentials`` are its secret options for each backend."""

    def wake(self) -> None:
        """Look at once: there is something to ship."""

    def alive(self) -> bool:
        """Return True while it ships."""

    def publish(self, run: RunDir) -> None:
        """See to it that what ``state.read`` gives is of now, where nobody else does."""
        return

    def wait(self, run: RunDir, timeout: float, on_wait: Callable[[str], None]) -> None:
        """Wait until a stopped run is delivered, as long as that makes sense."""

    def let_go(self, run: RunDir) -> None:
        """The owner has released a run it waited for: put it away if everything is delivered."""

    def close(self) -> None:
        """Let go of it; a sidecar goes on until everything is delivered."""


def wait_until_delivered(
    run: RunDir,
    timeout: float,
    on_wait: Callable[[str], None],
    alive: Callable[[], bool],
    *,
    away_s: float = AWAY_S,
    patient: bool = False,
    publish: Optional[Callable[[RunDir], None]] = None,
) -> None:
    """
    Return when every backend has everything, or when waiting longer would be in vain.

    Args:
        run: A run whose owner has written its last word.
        timeout: The longest to wait, in seconds, while something moves.
        on_wait: Called once, after a second, with what is being waited for.
        alive: Says whether there is still a host.
        away_s: How long a backend that does not answer is waited for.
        patient: As long also when it has been away for a while.
        publish: Called before each look at what the host says.
    """
    started = time.monotonic()
    away_since: Optional[float] = None
    spoken = False
    while True:
        now = time.monotonic()
        if publish is not None:
            publish(run)
        states = state.read(run)
        open_ones = {
            name: each
            for name, each in states.items()
            if not each.complete and each.state != "config"
        }
        if not open_ones or now - started > timeout or not alive():
            return
        if all(each.state == "waiting" for each in open_ones.values()):
            if away_since is None:
                away_since = now
                if now - started < away_s and not patient:
                    # It may have been away for long when we came.
                    since = max(each.since for each in open_ones.values())
                    away_since -= max(0.0, time.time() - since)
            if now - away_since >= away_s:
                return
        else:
            away_since = None
        if not spoken and now - started > SPEAK_S:
            spoken = True
            on_wait(describe(open_ones, state.spooled(run)))
        time.sleep(0.02)


def describe(states: Mapping[str, state.BackendState], spooled: int) -> str:
    """
    Return a few words on what is under way: ``mlflow: 1,204 records to go (sending)``.

    Args:
        states: What the host said last; it may be in a call that hangs since before that.
        spooled: How many records there are by now.
    """
    parts = []
    for name, each in states.items():
        doing = f"{each.state}: {each.detail}" if each.detail else each.state
        # Also a run without records has to be opened and ended.
        pending = spooled - each.answered
        left = f"{name}: {pending:,} records to go" if pending > 0 else name
        parts.append(f"{left} ({doing})")
    return ", ".join(parts)
