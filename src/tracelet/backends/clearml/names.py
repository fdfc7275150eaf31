"""
Keys as ClearML has them: a title and a series, one-to-one, under its server's own rule.

``train/loss`` is the series ``loss`` of the chart ``train``; a key without a slash is a chart with
a series of its name. The server knows a point by the MD5 of ``task-iteration-title-series``:
``a-b/c`` and ``a/b-c`` would be one. So what counts as taken is the joined text, and who comes
second gets a short hash. Who has which name is written down in the run's own folder; every key that
cannot be told from its title and series is listed in the task (see ``renamed``).
"""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Optional

from tracelet.naming.hashes import short_hashes

__all__ = ["FRACTION", "Names", "Place", "key_of", "parameter", "segment"]

#: Iterations are whole numbers: steps with a fraction go into a series of their own, so many times
#: as large.
FRACTION = 1_000_000
_FRACTION_MARK = " (step x 1000000)"

#: A term of Elasticsearch ends at 32,766 bytes, a reader's patience much earlier.
_MOST = 500
_HASHED = re.compile(r"~[0-9a-f]{6,}$")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._+=@, ()-]")
_MOST_OF_SEGMENT = 120


class Place(NamedTuple):
    """Where the points of a key go. ``factor``: what a step is multiplied with."""

    title: str
    series: str
    factor: int = 1


class Names:
    """
    The titles and series of a run.

    Args:
        path: The journal: a line for each key, written before anything is sent under its name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[tuple[str, bool], Place] = {}
        self._taken: dict[str, tuple[str, bool]] = {}
        self._lock = threading.Lock()
        for key, fraction, title, series in _entries(path):
            self._take((key, fraction), title, series)

    def place(self, key: str, *, fraction: bool = False) -> Place:
        """Return the place of a key; with ``fraction`` that of its steps with a fraction."""
        found = self._places.get((key, fraction))
        if found is not None:
            return found
        with self._lock:
            found = self._places.get((key, fraction))
            return found if found is not None else self._new(key, fraction=fraction)

    def renamed(self) -> list[Mapping[str, Any]]:
        """Return the keys that their title and series do not tell, as the task lists them."""
        with self._lock:
            places = list(self._places.items())
        return [
            {"key": key, "title": place.title, "series": place.series, "step_factor": place.factor}
            for (key, _), place in places
            if place.factor != 1 or key_of(place.title, place.series) != key
        ]

    def adopt(self, pairs: Iterable[tuple[str, str]], listed: Iterable[Mapping[str, Any]]) -> None:
        """
        Learn the names of a task that somebody else began.

        Args:
            pairs: Titles and series that it has.
            listed: What ``renamed`` returned there.
        """
        with self._lock:
            for each in listed:
                identity = (str(each["key"]), each.get("step_factor", 1) != 1)
                self._enter(identity, str(each["title"]), str(each["series"]))
            for title, series in pairs:
                if f"{title}-{series}" not in self._taken:
                    self._enter((key_of(title, series), False), title, series)

    def _new(self, key: str, *, fraction: bool) -> Place:
        title, series = _natural(key)
        if fraction:
            series += _FRACTION_MARK
        title, series = _shown(title), _shown(series)
        for candidate in _candidates(series, key, str(fraction)):
            if self._taken.get(f"{title}-{candidate}") in (None, (key, fraction)):
                return self._enter((key, fraction), title, candidate)
        raise AssertionError  # hashes never end

    def _enter(self, identity: tuple[str, bool], title: str, series: str) -> Place:
        if identity not in self._places:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps([*identity, title, series])
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
            self._take(identity, title, series)
        return self._places[identity]

    def _take(self, identity: tuple[str, bool], title: str, series: str) -> None:
        self._places[identity] = Place(title, series, FRACTION if identity[1] else 1)
        self._taken[f"{title}-{series}"] = identity


def key_of(title: str, series: str) -> str:
    """Return the key that a title and a series mean, if nothing else is listed for them."""
    return title if title == series else f"{title}/{series}"


def parameter(key: str) -> tuple[str, Optional[str]]:
    """
    Return a parameter's name, and the key itself where that is not the same.

    The server strips blanks, and a name that begins with ``__`` is its own business
    (``apiserver/bll/task/param_utils.py``).
    """
    name = _CONTROL.sub("_", _encodable(key)).strip()
    plain = name == key and name and not name.startswith("__") and not _HASHED.search(name)
    if plain and len(name) <= _MOST and "\n" not in name and "\t" not in name:
        return name, None
    name = re.sub(r"\s", " ", name).lstrip("_")[: _MOST - 20]
    return f"{name}~{next(short_hashes(key))}", key


def segment(text: str) -> str:
    """
    Return one part of a file's path for a text, one-to-one.

    The file server, addresses and disks each refuse something else; what is left is what all take.
    """
    name = _NOT_PLAIN.sub("_", text[:_MOST_OF_SEGMENT])
    if name == text and name.strip(". ") == name and not _HASHED.search(name):
        return name
    hidden = re.fullmatch(r"\.[A-Za-z0-9_-][A-Za-z0-9._-]*[A-Za-z0-9_-]", text)
    if hidden and name == text:
        return name
    stem, dot, ending = name.rpartition(".")
    short = next(short_hashes(text))
    if dot and stem.strip(". ") and re.fullmatch(r"[A-Za-z0-9]{1,8}", ending):
        return f"{stem.strip('. ')}~{short}.{ending}"
    return f"{name.strip('. ')}~{short}"


def _natural(key: str) -> tuple[str, str]:
    head, _, tail = key.rpartition("/")
    return (head, tail) if head and tail else (key or "_", key or "_")


def _shown(text: str) -> str:
    shown = _CONTROL.sub("_", _encodable(text))
    if shown == text and len(text) <= _MOST:
        return text
    return f"{shown[: _MOST - 20]}~{next(short_hashes(text))}"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _candidates(series: str, *parts: str) -> Iterator[str]:
    yield series
    for short in short_hashes(*parts):
        yield f"{series}~{short}"


def _entries(path: Path) -> Iterator[tuple[str, bool, str, str]]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return
    whole, end, torn = text.rpartition(b"\n")
    if torn:
        # Whoever wrote it died over it, and sent nothing under this name.
        with open(path, "rb+") as file:
            file.truncate(len(whole) + len(end))
    for line in whole.splitlines():
        key, fraction, title, series = json.loads(line)
        yield key, fraction, title, series
