"""A run as lines of JSON; ``backends.jsonl`` says what is in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional

from tracelet.backends.plain.appended import BLOCK_BYTES, AppendedFile, Entry
from tracelet.backends.plain.encoding import line, shown
from tracelet.backends.plain.journal import Journal
from tracelet.records import Artifact, Media, Record

#: How a record's line begins: with its place in the spool.
_PLACE = re.compile(rb'\{"lane": "(\w)\w*", "n": (\d+), ')
_LANES: Mapping[str, bytes] = {"l": b"light", "h": b"heavy"}
_LETTERS: Mapping[str, str] = {"run": "r", "end": "e"}


class LineFile(AppendedFile):
    """Lines in a file; one without an end is none."""

    def __iter__(self) -> Iterator[Entry]:
        """Read all lines from the beginning."""
        for text in self._lines():
            place = _PLACE.match(text)
            if place is None:
                yield Entry(_LETTERS.get(str(_parsed(text).get("type")), ""), -1, text)
            else:
                yield Entry(place[1].decode(), int(place[2]), text[place.end() :])

    @property
    def owner(self) -> Optional[str]:
        """The run that began the file; ``owner`` would cost an open file its lock."""
        return _run_id(next(self._lines(), b""))

    def _lines(self) -> Iterator[bytes]:
        position, rest = 0, b""
        while position < self._size:
            block = self._read(position, min(BLOCK_BYTES, self._size - position))
            if not block:
                return
            position += len(block)
            *lines, rest = (rest + block).split(b"\n")
            yield from lines

    def _end_of_last(self) -> int:
        end = self._size
        while end > 0:
            start = max(0, end - BLOCK_BYTES)
            found = self._read(start, end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0


class LineJournal(Journal):
    """A run's lines while they are written."""

    def entries(self) -> Iterator[dict[str, Any]]:
        """Return what each line says, from the beginning; lines may be added meanwhile."""
        for entry in self.file:
            found = _parsed(entry.content if entry.place < 0 else b"{" + entry.content)
            if found:
                yield dict(found)

    def _content(self, record: Record) -> bytes:
        values = shown(record)
        if isinstance(record, Media):
            values.update(self.files.media(record))
        elif isinstance(record, Artifact):
            values.update(self.files.artifact(record))
        return line(values)[1:-1]

    def _placed(self, letter: str, place: int, record: Record, content: bytes) -> bytes:
        return b'{"lane": "%s", "n": %d, %s\n' % (_LANES[letter], place, content)

    def _said(self, what: str, values: Mapping[str, Any], time: float) -> bytes:
        return line({"type": what, **values})

    def _run_id(self, entry: Entry) -> Optional[str]:
        return _parsed(entry.content).get("run_id")


def owner(path: Path) -> Optional[str]:
    """Return the run that began a file of lines; None when it has no whole first line."""
    try:
        with open(path, "rb") as file:
            first = file.readline()
    except OSError:
        return None
    return _run_id(first) if first.endswith(b"\n") else None


def _run_id(first: bytes) -> Optional[str]:
    found = _parsed(first).get("run_id")
    return found if isinstance(found, str) else None


def _parsed(text: bytes) -> Mapping[str, Any]:
    """Return what a line says; nothing when it is damaged."""
    try:
        values = json.loads(text)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
