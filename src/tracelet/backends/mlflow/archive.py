"""
Pictures, sounds, films and tables: some as files that the pages show, all others in ZIP archives.

Each is whole in exactly one place. ``tensorboard/data/media-0001.zip`` … hold what was left out of
the pages, uncompressed (the data is, mostly), each under the name it would have had, with a line
for each in their ``index.jsonl``. A run of a few pictures has no archive.
"""

from __future__ import annotations

import json
import math
import time
import zipfile
from pathlib import Path
from typing import Any, Callable, Iterator, Union

from tracelet.backends.mlflow.artifacts import Artifacts
from tracelet.backends.mlflow.files import private
from tracelet.backends.mlflow.media import file_name, table_json
from tracelet.backends.mlflow.parts import Entry, Parts, digest_of
from tracelet.backends.mlflow.sieve import Sieve
from tracelet.backends.mlflow.values import text_of
from tracelet.records import Media, Table

__all__ = ["Archive"]

Kept = Union[Media, Table]

#: What a ZIP archive can say of a time, in years.
_FIRST_YEAR, _LAST_YEAR = 1980, 2107


class Archive:
    """
    The media and tables of one run.

    Args:
        folder: Where its notes are kept over a restart.
        label: Follows ``media`` in the names of the archives.
        file_key: Makes a legal path from any text.
    """

    def __init__(self, folder: Path, label: str, file_key: Callable[[str], str]) -> None:
        self._file_key = file_key
        self._parts = Parts(
            folder, lambda number: f"tensorboard/data/media{label}-{number:04}.zip", _zip
        )
        self._sieves = {
            name: Sieve(*found) for name, found in self._parts.state.get("sieves", {}).items()
        }
        for entry in self._parts.entries():
            facts = json.loads(entry.line)
            name = _name(facts["kind"], facts["key"])
            before = self._sieves.get(name, Sieve())
            self._sieves[name] = before.after(facts["step"], facts["time"], facts["index"])

    @property
    def waiting(self) -> bool:
        """True when something is not in the tracker yet."""
        return self._parts.waiting

    def add(
        self, record: Kept, artifacts: Artifacts, show: Callable[[], None], *, resend: bool
    ) -> None:
        """
        Take a record, once.

        Args:
            record: What to keep.
            artifacts: Where to, should an archive be full.
            show: Makes the record a file of its own; called when it is to be one.
            resend: The record may have been taken at any time before.
        """
        data = table_json(record) if isinstance(record, Table) else record.data
        facts = _facts(record)
        digest = digest_of(json.dumps(facts).encode(), data)
        if self._parts.knows(digest, resend=resend):
            return
        if self._parts.full:
            self._parts.turn(artifacts, self._state())
        name = _name(facts["kind"], facts["key"])
        place = record.index if isinstance(record, Media) else 0
        sieve = self._sieves.get(name, Sieve()).after(record.step, record.time, place)
        if sieve.shown:
            show()
        else:
            folder = f"{facts['kind']}/{self._file_key(record.key)}"
            facts = {"file": f"{folder}/{file_name(record)}", **facts}
        line = json.dumps(facts).encode()
        self._parts.add(digest, line, None if sieve.shown else data)
        self._sieves[name] = sieve

    def upload(self, artifacts: Artifacts) -> None:
        """Bring what is collected into the tracker."""
        self._parts.upload(artifacts)

    def _state(self) -> dict[str, Any]:
        return {"sieves": {name: sieve.as_json() for name, sieve in self._sieves.items()}}


def _name(kind: str, key: str) -> str:
    return f"{kind}/{key}"


def _facts(record: Kept) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "kind": "table" if isinstance(record, Table) else record.kind,
        "key": text_of(record.key),
        "step": record.step,
        "time": record.time,
        "index": 0,
    }
    if isinstance(record, Media):
        facts["index"] = record.index
        facts["mime"] = record.mime
        facts["meta"] = {str(name): _plain(value) for name, value in record.meta.items()}
    return facts


def _plain(value: Any) -> Any:
    """JSON has no NaN, and knows four kinds of things."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def _zip(entries: Iterator[Entry], data: Path, target: Path) -> None:
    """Write the archive; the same records make the same bytes, on every machine."""
    index: list[bytes] = []
    with (
        open(target, "wb", opener=private) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        open(data, "rb") as source,
    ):
        for entry in entries:
            facts = json.loads(entry.line)
            archive.writestr(_member(facts["file"], facts["time"]), source.read(entry.size))
            index.append(entry.line + b"\n")
        archive.writestr(_member("index.jsonl", 0.0), b"".join(index))


def _member(name: str, when: float) -> zipfile.ZipInfo:
    first, last = (_FIRST_YEAR, 1, 1, 0, 0, 0), (_LAST_YEAR, 12, 31, 23, 59, 58)
    try:
        date = max(first, min(last, time.gmtime(when)[:6]))
    except (ValueError, OverflowError, OSError):
        date = first
    member = zipfile.ZipInfo(name, date)
    member.create_system = 3  # Unix, wherever this runs
    member.external_attr = 0o644 << 16
    return member
