"""
The names of a run's keys, the same for every backend and after every restart.

A name depends on the order of records in the spool and on nothing else. Whoever ships first
writes the decision down before it uses it; everybody else finds it there. The file is
append-only, so that a run with many keys does not rewrite them with every batch.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from typing import Any, Optional

from tracelet.naming import Names
from tracelet.spool.rundir import RunDir

__all__ = ["Catalog", "below_rank"]

log = logging.getLogger("tracelet")


def below_rank(rank: int, name: str) -> str:
    """Return the name of what a rank logged, in a run into which all ranks record."""
    return f"rank{rank}/{name}"


class _Part:
    """The names of one rank; of the whole run, where there are none."""

    def __init__(self, cwd: str) -> None:
        self.names = Names(cwd=cwd)
        self.streams: set[str] = set()
        self.has_main = False

    def restore(self, entry: list[Any]) -> None:
        self.names.restore([entry])
        # Whichever stream came first, it has been decided which one is the plain one.
        self.has_main = self.has_main or (entry[0] == "stream" and bool(entry[1]))


def _of_rank(entry: Any) -> tuple[Optional[int], Any]:
    """Part a line from the rank that it is for. Raises ValueError."""
    if not isinstance(entry, list) or entry[:1] != ["rank"]:
        return None, entry
    if len(entry) < 3 or type(entry[1]) is not int:
        raise ValueError("no rank")
    return entry[1], entry[2:]


class Catalog:
    """Streams and keys of one run; safe to use from every lane of every backend."""

    def __init__(self, run: RunDir) -> None:
        self._path = run.path / "names.jsonl"
        self._lock = threading.Lock()
        self._cwd = run.info.cwd
        #: Of each rank its own, so that it does not matter which rank was faster.
        self._parts: dict[Optional[int], _Part] = {}
        #: Decisions that are not on disk yet.
        self._unsaved: list[Any] = []
        for entry in self._entries():
            try:
                rank, decision = _of_rank(entry)
                self._part(rank).restore(decision)
            except ValueError:
                log.warning("%s holds a line that is none of ours", self._path)

    def _entries(self) -> list[Any]:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return []
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) != len(raw):
            # The last line was being written when its writer died; it was never used.
            os.truncate(self._path, len(whole))
        entries = []
        for line in whole.splitlines():
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        return entries

    def _part(self, rank: Optional[int]) -> _Part:
        part = self._parts.get(rank)
        if part is None:
            part = self._parts[rank] = _Part(self._cwd)
        return part

    def seen(self, stream: str, *, main: bool, rank: Optional[int] = None) -> None:
        """Take note of the stream of a record, in the order of the spool."""
        part = self._part(rank)
        if stream in part.streams:
            return
        with self._lock:
            part.names.stream(stream, main=main)
            part.streams.add(stream)
            part.has_main = part.has_main or (main and bool(stream))

    def has_main(self, rank: Optional[int] = None) -> bool:
        """
        Tell whether the owner's process (or that of a rank) has logged to a stream, so that the
        plain one is known.
        """
        return self._part(rank).has_main

    def key(self, kind: str, stream: str, tag: str, rank: Optional[int] = None) -> str:
        """Return the name of a tag in a stream; below ``rank<N>/`` where all ranks record."""
        with self._lock:
            key = self._part(rank).names.key(kind, stream, tag)
        return key if rank is None else below_rank(rank, key)

    def save(self) -> None:
        """
        Write down what was decided since the last time; before a batch that uses it is sent.

        Raises:
            OSError: The disk does not take it; the next call tries again.
        """
        with self._lock:
            for rank, part in self._parts.items():
                new = part.names.journal()
                self._unsaved += new if rank is None else [["rank", rank, *each] for each in new]
            if not self._unsaved:
                return
            lines = "".join(json.dumps(entry) + "\n" for entry in self._unsaved).encode()
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
            with open(os.open(self._path, flags, 0o600), "wb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if file.write(lines) != len(lines):
                    # A line that is cut would spoil the next one, too.
                    file.truncate(size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
                # A cursor that survives the machine is worth nothing without the names.
                os.fsync(file.fileno())
            self._unsaved.clear()
