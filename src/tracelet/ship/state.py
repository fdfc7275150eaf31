"""What the shipper is doing, for the trainer that waits and for people who ask."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional

from tracelet.records import RemoteRun
from tracelet.spool import thinned
from tracelet.spool.cursor import Cursor
from tracelet.spool.reader import lost, waiting_since, written
from tracelet.spool.rundir import RunDir, is_sampler, load_json, write_private

__all__ = [
    "BackendState",
    "is_put_away",
    "lost",
    "of_cursor",
    "publish",
    "read",
    "spooled",
    "waits_since",
]

_FILE = "ship.json"


@dataclass(frozen=True)
class BackendState:
    """
    Where one backend stands.

    ``state`` is ``starting``, ``opening``, ``sending``, ``waiting``, ``idle``, ``config`` (a person
    has to mend something; ``error`` says what) or ``closed``. The counts are records of the spool:
    ``delivered + pending + rejected + unsupported + damaged = spooled`` (a record that was cut or
    scrambled on disk aside: it may be counted as damaged without having been counted as spooled).
    ``since`` is when the state began, in seconds since the epoch. ``gone``: the remote run was
    deleted over there.
    """

    state: str = "starting"
    detail: str = ""
    delivered: int = 0
    rejected: int = 0
    unsupported: int = 0
    pending: int = 0
    damaged: Mapping[str, int] = field(default_factory=dict)
    warnings: Mapping[str, int] = field(default_factory=dict)
    remote: Optional[RemoteRun] = None
    status: Optional[str] = None
    error: str = ""
    since: float = 0.0
    gone: bool = False

    @property
    def thinned(self) -> Mapping[str, int]:
        """What of ``damaged`` was given up for lack of room, by kind."""
        return thinned.counted(self.damaged)

    @property
    def answered(self) -> int:
        """How many records nothing more will happen to."""
        return self.delivered + self.rejected + self.unsupported + sum(self.damaged.values())

    @property
    def complete(self) -> bool:
        """True when everything has been dealt with and the remote run has been ended."""
        return self.state == "closed" and not self.pending

    @property
    def left(self) -> bool:
        """
        True while something is left to do once the training has ended: records, or the run itself,
        which a backend has to hear of, and of its end, also when it has no record.
        """
        return not self.complete

    @property
    def absent(self) -> bool:
        """True while the backend has nothing, not even the run, and there is nothing to count."""
        return self.left and not (self.answered or self.pending)


def spooled(run: RunDir) -> int:
    """Return how many records all processes of a run have logged so far."""
    numbers = run.segment_numbers()
    return sum(
        written(run, writer, found[-1])
        for writer, found in numbers.items()
        if not is_sampler(writer)
    )


def of_cursor(
    cursor: Cursor,
    total: int,
    *,
    state: str,
    detail: str = "",
    error: str = "",
    damaged: Optional[Mapping[str, int]] = None,
    since: float = 0.0,
    gone: bool = False,
) -> BackendState:
    """
    Return the state that a cursor shows.

    Args:
        cursor: The cursor.
        total: How many records have been spooled.
        state: What whoever ships says.
        detail: Why.
        error: What went wrong last.
        since: Since when, in seconds since the epoch.
        damaged: What could not be read, where somebody has looked; else what the cursor knows.
        gone: The remote run was deleted.
    """
    with cursor.lock:
        lanes = cursor.lanes.values()
        found = BackendState(
            state=state,
            detail=detail,
            delivered=sum(lane.delivered for lane in lanes),
            rejected=sum(lane.rejected for lane in lanes),
            unsupported=sum(lane.unsupported for lane in lanes),
            damaged=dict(cursor.damaged if damaged is None else damaged),
            warnings=dict(cursor.warnings),
            remote=cursor.remote,
            status=cursor.closed,
            error=error,
            since=since,
            gone=gone,
        )
    return dataclasses.replace(found, pending=max(0, total - found.answered))


def waits_since(run: RunDir, backend: str) -> Optional[float]:
    """Return when the oldest record was logged that a backend does not have, if there is one."""
    return waiting_since(run, Cursor(run, backend).passed)


def publish(run: RunDir, states: Mapping[str, BackendState]) -> None:
    """Write the states where ``read`` finds them."""
    text = json.dumps(
        {name: dataclasses.asdict(state) for name, state in states.items()}, default=str
    )
    write_private(run.path / _FILE, text.encode("utf-8", "surrogatepass"))


def read(run: RunDir) -> dict[str, BackendState]:
    """
    Return the state of each backend of a run.

    Where nobody has published one yet it is derived from the cursor. One that was published is
    taken at its word, but for "everything is delivered": whoever said so may have died before more
    was written.
    """
    found = load_json(run.path / _FILE) or {}
    states = {}
    for name in run.info.backends:
        content = found.get(name)
        state = _state(content) if isinstance(content, dict) else None
        if state is None:
            cursor = Cursor(run, name)
            said = "closed" if cursor.closed else "starting"
            state = of_cursor(cursor, spooled(run), state=said)
        elif state.complete and not is_put_away(run):
            state = dataclasses.replace(state, pending=max(0, spooled(run) - state.answered))
        states[name] = state
    return states


def is_put_away(run: RunDir) -> bool:
    """Tell whether a delivered run was compressed, and nobody has written to it since."""
    try:
        return all(path.suffix == ".gz" for path in run.segments.iterdir())
    except FileNotFoundError:
        return True


def _state(content: Mapping[str, Any]) -> Optional[BackendState]:
    """Return what was published, without what a later version may have added to it."""
    known = {each.name for each in dataclasses.fields(BackendState)}
    remote = content.get("remote")
    try:
        values = {name: value for name, value in content.items() if name in known}
        state = BackendState(**{**values, "remote": RemoteRun(**remote) if remote else None})
        return state if _is_sound(state) else None
    except (TypeError, AttributeError):
        return None


def _is_sound(state: BackendState) -> bool:
    """Tell whether numbers are numbers and texts texts; raises where that cannot even be asked."""
    counts = (state.delivered, state.rejected, state.unsupported, state.pending)
    told = (*state.damaged.values(), *state.warnings.values())
    texts = (state.state, state.detail, state.error)
    return (
        all(type(count) is int and count >= 0 for count in (*counts, *told))
        and all(isinstance(text, str) for text in texts)
        and type(state.since) in (int, float)
        and (state.status is None or isinstance(state.status, str))
    )
