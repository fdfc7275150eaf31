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
from typing import Any

from tracelet.naming import Names
from tracelet.spool.rundir import RunDir

__all__ = ["Catalog"]

log = logging.getLogger("tracelet")


class Catalog:
    """Streams and keys of one run; safe to use from every lane of every backend."""

    def __init__(self, run: RunDir) -> None:
        self._path = run.path / "names.jsonl"
        self._lock = threading.Lock()
        self._names = Names(cwd=run.info.cwd)
        self._streams: set[str] = set()
        self._has_main = False
        #: Decisions that are not on disk yet.
        self._unsaved: list[Any] = []
        for entry in self._entries():
            try:
                self._names.restore([entry])
            except ValueError:
                log.warning("%s holds a line that is none of ours", self._path)
                continue
            # Whichever stream came first, it has been decided which one is the plain one.
            self._has_main = self._has_main or (entry[0] == "stream" and bool(entry[1]))
        # What has just been restored is on disk already.
        self._names.journal()

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

    def seen(self, stream: str, *, main: bool) -> None:
        """Take note of the stream of a record, in the order of the spool."""
        if stream in self._streams:
            return
        with self._lock:
            self._names.stream(stream, main=main)
            self._streams.add(stream)
            self._has_main = self._has_main or (main and bool(stream))

    @property
    def has_main(self) -> bool:
        """True once the owner's process has logged to a stream, so that the plain one is known."""
        return self._has_main

    def key(self, kind: str, stream: str, tag: str) -> str:
        """Return the name of a tag in a stream."""
        with self._lock:
            return self._names.key(kind, stream, tag)

    def originals(self) -> dict[str, tuple[str, str]]:
        """Return what the user wrote for every name that differs from it."""
        with self._lock:
            return dict(self._names.originals())

    def save(self) -> None:
        """
        Write down what was decided since the last time; before a batch that uses it is sent.

        Raises:
            OSError: The disk does not take it; the next call tries again.
        """
        with self._lock:
            self._unsaved += self._names.journal()
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
