"""
How far one backend has got: what it said yes to, and what was on the way when we last knew.

The file is replaced as a whole, so that it is always one state or the next. It is written after
the backend's answer, never before; losing the last state means that a range is sent again, and
sending a range again changes nothing.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Mapping, Optional

from tracelet.records import RemoteRun
from tracelet.spool.reader import Position
from tracelet.spool.rundir import RunDir, load_json, write_private

__all__ = ["LANES", "Cursor", "LaneState"]

LANES = ("light", "heavy")
#: A state that must survive the machine is forced to disk no more often than this.
SYNC_EVERY_S = 1.0


@dataclass
class LaneState:
    """
    One lane of one backend.

    ``at`` is the position behind the last answered record for each writer; ``sending`` the
    positions behind each batch that is on the way, in order. ``offset`` counts the records
    handed over, ``delivered``, ``rejected`` and ``unsupported`` the frames by their outcome;
    ``steps`` holds the next step of keys that are logged without one.
    """

    at: dict[str, Position] = field(default_factory=dict)
    sending: list[dict[str, Position]] = field(default_factory=list)
    offset: int = 0
    delivered: int = 0
    rejected: int = 0
    unsupported: int = 0
    steps: dict[str, int] = field(default_factory=dict)


class Cursor:
    """A backend's file in the run's folder; safe to use from the threads of both lanes."""

    def __init__(self, run: RunDir, backend: str) -> None:
        self.path: Path = run.cursors / f"{backend}.json"
        self.lock = threading.RLock()
        self.lanes = {lane: LaneState() for lane in LANES}
        self.remote: Optional[RemoteRun] = None
        #: The status the remote run was ended with, once it was.
        self.closed: Optional[str] = None
        #: The session of the owner that it was ended for; a later one opens it again.
        self.session: Optional[str] = None
        #: Records lost to damage, by reason; counted by the light lane, which reads everything. And
        #: those that were given up for lack of room (``spool.thinned``), by the lane they were for.
        self.damaged: dict[str, int] = {}
        #: Things a person should know that cost no record (a file changed before it was sent).
        self.warnings: dict[str, int] = {}
        #: Which bytes of the backend's rejects were sent once more, and arrived.
        self.resent: list[tuple[int, int]] = []
        #: What the remote run was told that it lacks, by kind.
        self.told: dict[str, int] = {}
        #: There is a cursor that cannot be read: all that is sent may have arrived already.
        self.doubtful = False
        self._synced = 0.0
        self._load()

    def _load(self) -> None:
        content = load_json(self.path)
        if content is None:
            self.doubtful = self.path.exists()
            return
        self.remote = _remote(content.get("remote"))
        try:
            lanes = {lane: _lane(content["lanes"][lane]) for lane in LANES}
            damaged, warnings = _counts(content["damaged"]), _counts(content["warnings"])
            resent = [(int(begin), int(end)) for begin, end in content.get("resent", ())]
            told = _counts(content.get("told", {}))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            # Unreadable is not fatal: everything is read and sent again, and arrives once.
            self.doubtful = True
            return
        self.lanes, self.damaged, self.warnings = lanes, damaged, warnings
        self.resent = resent
        self.told = told
        self.closed, self.session = _word(content.get("closed")), _word(content.get("session"))

    def save(self, *, sync: bool = False) -> None:
        """
        Put the state on disk.

        Args:
            sync: Force it to the disk itself; at most once a second that happens anyway.
        """
        with self.lock:
            now = time.monotonic()
            sync = sync or now - self._synced > SYNC_EVERY_S
            text = json.dumps(self._content(), ensure_ascii=False)
            write_private(self.path, text.encode("utf-8", "surrogatepass"), sync=sync)
            if sync:
                self._synced = now

    def _content(self) -> Mapping[str, Any]:
        remote = self.remote
        return {
            "format": 1,
            "remote": None if remote is None else {**vars(remote), "facts": dict(remote.facts)},
            "closed": self.closed,
            "session": self.session,
            "damaged": self.damaged,
            "warnings": self.warnings,
            "resent": self.resent,
            "told": self.told,
            "lanes": {lane: vars(state) for lane, state in self.lanes.items()},
        }

    def passed(self, writer: str) -> Position:
        """Return the position up to which *every* lane is done with a writer."""
        with self.lock:
            return min(state.at.get(writer, Position()) for state in self.lanes.values())


def _remote(content: Any) -> Optional[RemoteRun]:
    """Return the remote run, without what a later version may have added to it."""
    try:
        known = {each.name for each in fields(RemoteRun)}
        return RemoteRun(**{name: value for name, value in content.items() if name in known})
    except (AttributeError, TypeError):
        return None


def _counts(content: Mapping[str, Any]) -> dict[str, int]:
    return {str(reason): int(count) for reason, count in content.items()}


def _word(value: Any) -> Optional[str]:
    return value if isinstance(value, str) else None


def _lane(content: Mapping[str, Any]) -> LaneState:
    def positions(found: Mapping[str, Any]) -> dict[str, Position]:
        places = {writer: Position(*map(int, place)) for writer, place in found.items()}
        if any(number < 0 for place in places.values() for number in place):
            raise ValueError("a position before the beginning")
        return places

    return LaneState(
        at=positions(content["at"]),
        sending=[positions(each) for each in content["sending"]],
        offset=int(content["offset"]),
        delivered=int(content["delivered"]),
        rejected=int(content["rejected"]),
        unsupported=int(content["unsupported"]),
        steps={str(key): int(step) for key, step in content["steps"].items()},
    )
