"""The shipper without a training: deliver what a run has left, here and now."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any, Callable, Collection, Mapping, NamedTuple, Optional

from tracelet.ship import state
from tracelet.ship.credentials import makers
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
    only: Optional[Collection[str]] = None,
    progress: Optional[Callable[[Mapping[str, state.BackendState]], None]] = None,
) -> Mapping[str, state.BackendState]:
    """
    Deliver a run.

    Args:
        run: The run; if its owner still lives, what it has written so far is delivered.
        credentials: Secret options for each backend, where the environment does not have them.
        timeout: The longest it may take in seconds; None for as long as it goes forward.
        away_s: Give up on a backend after so many seconds in which nothing could be delivered to
            it.
        only: Of the run's backends, those to deliver to; all when None. The others are asked
            nothing.
        progress: Called several times a second with where every backend stands.

    Returns:
        Where every backend stands at the end; ``pending`` says what is left.
    """
    rounds = Rounds()
    made = makers(run.info, credentials or {}, os.environ)
    shipment = Shipment(run, made, only=only, bounded=False)
    rounds.add(shipment)
    try:
        last = _serve(rounds, shipment, timeout, away_s, progress or (lambda _: None))
    except BaseException:
        # Ctrl-C: what was on its way is sent again by the next one, and arrives once.
        rounds.leave()
        raise
    if not rounds.empty:
        rounds.leave()
        last = state.read(run) or last
    elif shipment.deliveries:
        last = {name: _delivered(each) for name, each in shipment.deliveries.items()}
    elif run.exists():
        # It goes elsewhere, too, since we have opened it: the next one sees that.
        last = state.read(run)
    else:
        # Somebody else has put it away, and that is done with what is delivered.
        last = {
            name: dataclasses.replace(each, state="closed", pending=0)
            for name, each in last.items()
        }
    if progress:
        progress(last)
    return last


def _serve(
    rounds: Rounds,
    shipment: Shipment,
    timeout: Optional[float],
    away_s: float,
    progress: Callable[[Mapping[str, state.BackendState]], None],
) -> Mapping[str, state.BackendState]:
    """Work until all is done, or nothing is gained by going on; return what was seen last."""
    run = shipment.run
    started = time.monotonic()
    seen: dict[str, _Seen] = {}
    last: Mapping[str, state.BackendState] = {}
    while True:
        pause = rounds.turn()
        if rounds.empty:
            return last
        # Until it is ours, somebody else is at it, and this is what they say.
        begun = bool(shipment.deliveries)
        last = shipment.states() if begun else state.read(run)
        progress(last)
        now = time.monotonic()
        asked = {name: last[name] for name in last if shipment.asks(name)}
        for name, each in asked.items():
            mark = (each.state, each.answered)
            if name not in seen or seen[name].mark != mark:
                seen[name] = _Seen(mark, now)
        still = {name: now - each.since for name, each in seen.items()}
        in_vain = all(
            each.complete or (begun and each.state == "config") or still[name] > away_s
            for name, each in asked.items()
        ) and any(seconds > away_s for seconds in still.values())
        over = timeout is not None and now - started > timeout
        caught_up = not any(each.pending for each in asked.values()) and run.owner_alive()
        if not begun:
            # Whoever puts a run away owns it for that moment; an owner who lives stays.
            caught_up = caught_up and min(still.values(), default=0.0) > OWNER_S
        # Nothing comes after it for those that were asked, and the others wait for another day.
        if over or in_vain or (begun and shipment.stuck) or caught_up:
            return last
        time.sleep(min(pause, 0.1))


class _Seen(NamedTuple):
    """How a backend looked, and since when, on the monotonic clock."""

    mark: tuple[str, int]
    since: float


def _delivered(delivery: Delivery) -> state.BackendState:
    # The folder may be gone, and with it what was spooled; but it is what was answered.
    return state.of_cursor(delivery.cursor, 0, state="closed", damaged=delivery.damaged())
