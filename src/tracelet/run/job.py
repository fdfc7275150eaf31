"""
How the ranks of a job find their one run: a note in the spool that all of them see.

Whoever comes first writes it, with a lock on it. A note may be years old: launchers repeat
addresses, ports and names. It counts as one of this start when the run that it names (or its
writer, as long as that run has no owner) is alive; or when the very process that started its writer
has started us, and it was written in our time. Nobody waits here for more than a moment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import time
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

from tracelet._process import Rank
from tracelet.records import RemoteRun
from tracelet.spool.locks import ProcessLock, lives, passport
from tracelet.spool.rundir import RunDir, find_runs, load_json, make_root, write_private

__all__ = ["Job", "Note"]

_FOLDER = ".jobs"
#: The lock is held for milliseconds; a process that was stopped with it is not waited for.
_TURN_S = 1.0
#: Notes are forgotten after this.
_KEPT_S = 30 * 86400.0

#: How often this process has started a run of a job: the ranks' second runs belong together.
_starts = (0, 0)


def count_start() -> int:
    """Return the number of this start in this process, from 1."""
    global _starts  # noqa: PLW0603
    pid, number = _starts
    _starts = (os.getpid(), number + 1 if pid == os.getpid() else 1)
    return _starts[1]


@dataclasses.dataclass(frozen=True)
class Note:
    """
    What one rank tells the others.

    ``rank`` is who made the run: another one than 0 has only prepared it. ``status`` and
    ``remotes`` are there once rank 0 has ended it.
    """

    run_id: str
    rank: int
    who: Mapping[str, Any]
    launcher: Mapping[str, Any]
    status: str = ""
    remotes: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def remote(self, backend: str) -> Optional[RemoteRun]:
        """Return the run as a backend knew it when rank 0 had ended it."""
        with contextlib.suppress(KeyError, TypeError):
            return RemoteRun(**self.remotes[backend])
        return None


class Job:
    """
    The meeting of the ranks for one start.

    Args:
        root: The folder that holds runs.
        rank: Who we are.
        start: The number of the start, as ``count_start`` says.
    """

    def __init__(self, root: Path, rank: Rank, start: int) -> None:
        self.root = root
        self.rank = rank
        self._folder = root / _FOLDER
        self._path = self._folder / f"{rank.job}-{start}.json"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """
        Let no other rank read and write the note meanwhile.

        Where nothing can be written, whoever makes the run will say so.
        """
        lock = ProcessLock(self._folder / "lock")
        with contextlib.suppress(OSError):
            make_root(self.root)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            deadline = time.monotonic() + _TURN_S
            while not lock.acquire() and time.monotonic() < deadline:
                time.sleep(0.005)
        try:
            yield
        finally:
            lock.release()

    def read(self) -> Optional[Note]:
        """Return the note of this start; None when there is none (yet)."""
        try:
            # Somebody else's would send what we log to a run of theirs.
            if hasattr(os, "getuid") and os.lstat(self._path).st_uid != os.getuid():
                return None
        except OSError:
            return None
        content = load_json(self._path) or {}
        known = {field.name for field in dataclasses.fields(Note)}
        try:
            if not isinstance(content.get("run_id"), str):
                return None
            note = Note(**{key: value for key, value in content.items() if key in known})
        except TypeError:
            return None
        plain = Path(note.run_id).name == note.run_id
        return note if plain and self._is_ours(note) else None

    def _is_ours(self, note: Note) -> bool:
        run = self.folder(note)
        if run is not None and (run.owner_alive() or (note.rank and lives(note.who) is not False)):
            return True
        if passport(os.getppid()) != note.launcher:
            return False
        try:
            return self._path.stat().st_mtime >= _born()
        except OSError:
            return False

    def folder(self, note: Note) -> Optional[RunDir]:
        """Return the run of a note, as long as it is in the spool."""
        try:
            return RunDir.open(self.root / note.run_id)
        except (OSError, ValueError, TypeError):
            return None

    def write(
        self, run_id: str, status: str = "", remotes: Optional[Mapping[str, Any]] = None
    ) -> None:
        """Leave the note. Raises OSError."""
        note = Note(
            run_id, self.rank.number, passport(), passport(os.getppid()), status, remotes or {}
        )
        text = json.dumps(dataclasses.asdict(note), default=str)
        write_private(self._path, text.encode())
        if not status:
            self._forget()

    def _forget(self) -> None:
        now = time.time()
        with contextlib.suppress(OSError):
            for path in self._folder.glob("*.json"):
                if now - path.stat().st_mtime > _KEPT_S:
                    path.unlink()

    def parents(self) -> Optional[RunDir]:
        """
        Return the run that the process that started us owns: Lightning's first process, or a
        program that has spawned its ranks, did not know that it would be rank 0.
        """
        for run in reversed(find_runs(self.root)):
            same = run.info.pid == os.getppid() and run.info.host == platform.node()
            if same and run.owner_alive():
                return run
        return None


def _born() -> float:
    """Return when this process was started, in seconds since the epoch; 0.0 when not known."""
    ticks = passport()["start"]
    try:
        up = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return time.time() - up + ticks / os.sysconf("SC_CLK_TCK") - 0.1 if ticks else 0.0
    except (OSError, ValueError, IndexError):
        return 0.0
