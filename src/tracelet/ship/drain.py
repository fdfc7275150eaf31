"""The shipper without a training: deliver what a run has left, here and now."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any, Callable, Mapping, Optional

from tracelet.ship import state
from tracelet.ship.credentials import maker
from tracelet.ship.rounds import Rounds
from tracelet.ship.shipment import Shipment
from tracelet.ship.shipper import Delivery
from tracelet.spool.rundir import RunDir

__all__ = ["drain"]

#: A run that somebody else ships is left to them when its owner lives for longer than this.
OWNER_S = 1.0


def drain(
    run: RunDir,
    credentials: Optional[Mapping[str, Mapping[str, Any]]] = None,
    timeout: Optional[float] = None,
    *,
    away_s: float = 30.0,
    progress: Optional[Callable[[Mapping[str, state.BackendState]], None]] = None,
) -> Mapping[str, state.BackendState]:
    """
    Deliver a run.

    Args:
        run: The run; if its owner still lives, what it has written so far is delivered.
        credentials: Secret options for each backend, where the environment does not have them.
        timeout: The longest it may take in seconds; None for as long as it goes forward.
        away_s: Give up after so many seconds in which nothing could be delivered.
        progress: Called several times a second with where every backend stands.

    Returns:
        Where every backend stands at the end; ``pending`` says what is left.
    """
    makers = {
        name: maker(run.info, name, credentials or {}, os.environ) for name in run.info.backends
    }
    rounds = Rounds()
    shipment = Shipment(run, makers)
    rounds.add(shipment)
    started = moved = time.monotonic()
    before: object = None
    last: Mapping[str, state.BackendState] = {}
    while True:
        pause = rounds.turn()
        if rounds.empty:
            break
        # Until it is ours, somebody else is at it, and this is what they say.
        begun = bool(shipment.deliveries)
        last = shipment.states() if begun else state.read(run)
        if progress:
            progress(last)
        now = time.monotonic()
        progressed = [(each.state, each.answered) for each in last.values()]
        if progressed != before:
            before, moved = progressed, now
        over = timeout is not None and now - started > timeout
        caught_up = not any(each.pending for each in last.values()) and run.owner_alive()
        if not begun:
            # Whoever puts a run away owns it for that moment; an owner who lives stays.
            caught_up = caught_up and now - moved > OWNER_S
        if over or now - moved > away_s or (begun and shipment.stuck) or caught_up:
            break
        time.sleep(min(pause, 0.1))
    if not rounds.empty:
        rounds.leave()
        last = state.read(run) or last
    elif shipment.deliveries:
        last = {name: _delivered(each) for name, each in shipment.deliveries.items()}
    else:
        # Somebody else has put it away, and that is done with what is delivered.
        last = {
            name: dataclasses.replace(each, state="closed", pending=0)
            for name, each in last.items()
        }
    if progress:
        progress(last)
    return last


def _delivered(delivery: Delivery) -> state.BackendState:
    # The folder may be gone, and with it what was spooled; but it is what was answered.
    return state.of_cursor(delivery.cursor, 0, state="closed", damaged=delivery.damaged())
