"""
What is on its way: numbered rows and everything beside them, on this machine's disk.

Each batch becomes one line of ``pending.jsonl``, forced to the disk before anything of it is sent.
The number of a row is given there, in the order in which batches come, whichever lane brings them;
the same batch again is recognised by its place and gets nothing new. What the server has confirmed
is folded into ``state.json`` and leaves the file. A shipper that begins anew finds here all that
its predecessor may have sent in part, so that no row is ever missing between others.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence

from tracelet.backends.wandb.names import STEP
from tracelet.backends.wandb.rows import Row

__all__ = ["Entry", "Outbox", "digest"]

#: Of so many heavy records is remembered that they were here.
_REMEMBERED = 5_000


class Entry(NamedTuple):
    """
    What a batch says.

    ``rows`` in their order; ``config`` and ``tags`` are changes; ``artifacts`` are paths with the
    files that hold the bytes, ``files`` what of the work folder is needed until it is confirmed.
    """

    rows: Sequence[Row] = ()
    config: Mapping[str, Any] = MappingProxyType({})
    tags: Mapping[str, str] = MappingProxyType({})
    artifacts: Sequence[Sequence[Any]] = ()
    files: Sequence[str] = ()


class Outbox:
    """
    The outbox of one run.

    Args:
        folder: Where it is kept.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._pending = folder / "pending.jsonl"
        self._kept = folder / "state.json"
        #: The number of the first row; None until the server was asked.
        self.base: Optional[int] = None
        #: The number of the first row that is not confirmed.
        self.first = 0
        #: Everything that was ever said, confirmed or not.
        self.config: dict[str, Any] = {}
        self.tags: dict[str, str] = {}
        #: Further facts of the backend, JSON values.
        self.facts: dict[str, Any] = {}
        #: For each metric its value at the largest step.
        self.last: dict[str, list[Any]] = {}
        self.entries: list[Entry] = []
        self._ends: dict[str, int] = {}
        self._digests: list[str] = []
        self._restore()
        self._file = self._opened()

    @property
    def next(self) -> int:
        """The number of the next row to come."""
        return self.first + self._rows

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def begin(self, base: int) -> None:
        """Take note of the number of the first row."""
        self.base = self.first = base
        self._save()

    def place(self, lane: str, offset: int) -> int:
        """Return how many records of a batch at ``offset`` of a lane are here already."""
        return max(0, self._ends.get(lane, 0) - offset)

    def unknown(self, digests: Sequence[str]) -> Iterator[int]:
        """Return which heavy records, by their digests, are not here."""
        known = Counter(self._digests)
        for index, each in enumerate(digests):
            if known[each] > 0:
                known[each] -= 1
            else:
                yield index

    def add(self, lane: str, end: int, entry: Entry, digests: Sequence[str] = ()) -> None:
        """
        Keep what a batch says, on disk when this returns.

        Args:
            lane: The batch's.
            end: The place behind its last record.
            entry: What is new in it.
            digests: Of its new records, in the heavy lane.
        """
        serial = self._serial + len(self.entries)
        line = json.dumps(
            [serial, lane, end, _plain(entry), digests], separators=(",", ":")
        ).encode()
        size = self._file.tell()
        try:
            self._file.write(line + b"\n")
            self._file.flush()
            getattr(os, "fdatasync", os.fsync)(self._file.fileno())
        except OSError:
            self._cut(size)
            raise
        self._take(lane, end, entry, digests)

    def note(self, **facts: Any) -> None:
        """Keep further facts, on disk when this returns."""
        self.facts.update(facts)
        self._save()

    def numbered(self, start: int, count: int) -> Iterator[tuple[int, Row]]:
        """Return the rows of the first ``count`` entries, from number ``start`` on."""
        number = self.first
        for entry in self.entries[:count]:
            if number + len(entry.rows) <= start:
                number += len(entry.rows)
                continue
            for row in entry.rows:
                if number >= start:
                    yield number, row
                number += 1

    def confirm(self, count: int) -> list[str]:
        """
        Take note that the first ``count`` entries are in W&B.

        Returns:
            The files that nobody needs any more.
        """
        gone, self.entries = self.entries[:count], self.entries[count:]
        done = sum(len(entry.rows) for entry in gone)
        self.first += done
        self._rows -= done
        self._serial += count
        # First the number, then the file: lines of lower numbers mean nothing any more.
        self._save()
        lines = self._pending.read_bytes().splitlines(keepends=True)[count:]
        self._file.close()
        _replace(self._pending, lines)
        self._file = self._opened()
        needed = {name for entry in self.entries for name in entry.files}
        return [name for entry in gone for name in entry.files if name not in needed]

    def _take(self, lane: str, end: int, entry: Entry, digests: Iterable[str]) -> None:
        self._ends[lane] = max(self._ends.get(lane, 0), end)
        self._digests = [*self._digests, *digests][-_REMEMBERED:]
        self.entries.append(entry)
        self._rows += len(entry.rows)
        self.config.update(entry.config)
        self.tags.update(entry.tags)
        for row in entry.rows:
            self._remember(row)

    def _remember(self, row: Row) -> None:
        step = row.get(STEP, -math.inf)
        for name, value in row.items():
            if type(value) is float and name != "_timestamp":
                known = self.last.get(name)
                if known is None or not step < known[0]:
                    self.last[name] = [step, value]

    def _restore(self) -> None:
        self._rows = self._serial = 0
        kept: dict[str, Any] = {}
        if self._kept.exists():
            kept = json.loads(self._kept.read_bytes())
        for name in ("base", "first", "config", "tags", "facts", "last"):
            setattr(self, name, kept.get(name, getattr(self, name)))
        self._ends, self._digests = kept.get("ends", {}), kept.get("digests", [])
        self._serial = kept.get("serial", 0)
        data = self._pending.read_bytes() if self._pending.exists() else b""
        # The last line may be torn: its batch was never answered.
        lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
        wanted = []
        for line in lines:
            serial, lane, end, entry, digests = json.loads(line)
            if serial >= self._serial:
                wanted.append(line)
                self._take(lane, end, Entry(*entry), digests)
        if len(wanted) < len(lines) or sum(map(len, lines)) < len(data):
            _replace(self._pending, wanted)

    def _save(self) -> None:
        kept = {
            "base": self.base,
            "first": self.first,
            "config": self.config,
            "tags": self.tags,
            "facts": self.facts,
            "last": self.last,
            "ends": self._ends,
            "digests": self._digests,
            "serial": self._serial,
        }
        _replace(self._kept, [json.dumps(kept).encode()])

    def _cut(self, size: int) -> None:
        """Undo a line that the disk did not take whole."""
        self._file.close()
        os.truncate(self._pending, size)
        self._file = self._opened()

    def _opened(self) -> IO[bytes]:
        return open(self._pending, "ab")


def _replace(path: Path, lines: Sequence[bytes]) -> None:
    new = path.with_suffix(".new")
    with open(new, "wb") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _plain(entry: Entry) -> list[Any]:
    rows, config, tags, artifacts, files = entry
    return [rows, dict(config), dict(tags), artifacts, files]


def digest(*parts: Any) -> str:
    """Return what tells a record from another."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode("utf-8", "surrogatepass")
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()
