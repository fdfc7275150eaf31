"""
Runs that nobody owns any more: what a killed process, or one without a network, left in a spool.

Only runs for the very targets that our own runs go to are taken up: a folder that somebody put
there must not make us talk to another server.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, Collection, Mapping, Optional

from tracelet.ship import state
from tracelet.ship.credentials import Credentials
from tracelet.spool.rundir import RunDir

__all__ = ["Orphans"]

log = logging.getLogger("tracelet")

#: Our own runs come first: nothing is taken up in their first moments.
PATIENCE_S = 2.0
#: So many are served at a time.
AT_ONCE = 2


class Orphans:
    """Finds left-over runs beside those that are served, each one once."""

    def __init__(self) -> None:
        self._roots: dict[Path, dict[str, Mapping[str, Any]]] = {}
        self._taken: set[Path] = set()
        #: Of those that are of no interest: what would change if they came to be.
        self._passed: dict[Path, tuple[int, ...]] = {}
        self._look_at = 0.0

    def beside(self, run: RunDir, credentials: Credentials) -> None:
        """Look in the spool of a run of ours; what goes to its targets may use its credentials."""
        targets = self._roots.setdefault(run.path.parent, {})
        for name, target in zip(run.info.backends, _targets(run)):
            if target not in targets:
                self._passed.clear()
            targets[target] = credentials.get(name, {})
        self._look_at = time.monotonic() + PATIENCE_S

    def due(self, served: Collection[Path]) -> list[tuple[RunDir, Credentials]]:
        """Return the runs to take up now, newest first."""
        now = time.monotonic()
        if now < self._look_at:
            return []
        self._look_at = now + PATIENCE_S
        room = AT_ONCE - len(self._taken & set(served))
        found = self.left(served)[: max(0, room)]
        self._taken.update(run.path for run, _ in found)
        return found

    def left(self, served: Collection[Path]) -> list[tuple[RunDir, Credentials]]:
        """Return the runs that could be taken up and have not been, newest first."""
        found: list[tuple[RunDir, Credentials]] = []
        for root, known in list(self._roots.items()):
            for path in sorted(_folders(root), reverse=True):
                if path in served or path in self._taken:
                    continue
                mark = _mark(path)
                if self._passed.get(path) == mark:
                    continue
                try:
                    run = RunDir.open(path)
                    credentials = self._credentials(run, known)
                    if credentials is None or not _left(run):
                        self._passed[path] = mark
                    elif not run.busy():
                        found.append((run, credentials))
                except Exception as error:
                    # Whatever lies there: it must not keep us from our own runs.
                    self._passed[path] = mark
                    log.info("%s is no run that could be taken up", path, exc_info=error)
        return found

    @staticmethod
    def _credentials(run: RunDir, known: Mapping[str, Mapping[str, Any]]) -> Optional[Credentials]:
        """Return what it needs to be delivered; None when it goes where none of ours goes."""
        targets = _targets(run)
        if not set(targets) <= set(known):
            return None
        return {name: known[target] for name, target in zip(run.info.backends, targets)}


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if (path / "run.json").exists()]
    except OSError:
        return []


def _mark(path: Path) -> tuple[int, ...]:
    """Return what changes when something is written to a run, or answered for it."""
    times = []
    for each in (path / "seg", path / "cursors", path / "ship.json"):
        try:
            times.append(each.stat().st_mtime_ns)
        except OSError:
            times.append(0)
    return tuple(times)


def _left(run: RunDir) -> bool:
    """Tell whether there is something to deliver, or at least to put away."""
    return not (state.is_put_away(run) and all(each.complete for each in state.read(run).values()))


def _targets(run: RunDir) -> list[str]:
    """Return what says where each backend of a run delivers to; there is no secret in it."""
    return [
        json.dumps([name, run.info.options.get(name, {})], default=str, sort_keys=True)
        for name in run.info.backends
    ]
