"""
Keys that MLflow takes, one-to-one from keys of any kind, and the same again after a restart.

MLflow refuses most punctuation, more than 250 characters, and whatever would be another path if
it were one (``mlflow/utils/validation.py``). ``naming.KeyMap`` does the work; here are MLflow's
rules, and the file in which every choice is written down before it is used.
"""

from __future__ import annotations

import enum
import json
import os
import sys
import threading
from pathlib import Path, PurePosixPath
from typing import Callable, Iterable, Mapping

from tracelet.backends.mlflow.files import append_line, whole_lines
from tracelet.naming import KeyMap, posix_form

__all__ = ["KeyKind", "KeyNames"]

#: The longest part of a path: file systems end at 255 bytes.
_PART_BYTES = 240

#: Whether a disk of this machine takes ``A`` for ``a``.
_CASE_BLIND = sys.platform in ("darwin", "win32")


class KeyKind(enum.Enum):
    """Keys that live in different rooms and cannot meet."""

    METRIC = "metric"
    PARAM = "param"
    TAG = "tag"
    #: The part of an image's file name that the run page shows as its title.
    IMAGE = "image"
    #: A path below ``tensorboard/``.
    FILE = "file"
    #: The path that the user gave a file of their own.
    ARTIFACT = "artifact"


class KeyNames:
    """
    The names that were chosen for one run.

    Args:
        path: Where they are written down, one JSON line each.
        as_files: Metrics, parameters and tags are files, so that ``a`` keeps ``a/b`` out, and on
            some disks ``A`` is ``a``.
    """

    def __init__(self, path: Path, *, as_files: bool = False) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._maps = {kind: _map_for(kind, as_files=as_files) for kind in KeyKind}
        self._known: dict[KeyKind, dict[str, str]] = {kind: {} for kind in KeyKind}
        #: Grows with every name that is not what was asked for.
        self.changes = 0
        whole_lines(path)  # a name in a line that a crash cut was not used yet
        for text in path.read_bytes().splitlines() if path.exists() else ():
            line = json.loads(text)
            self._restore(KeyKind(line["kind"]), line["raw"], line["name"])

    def key(self, kind: KeyKind, raw: str) -> str:
        """Return the name of ``raw``."""
        return self._known[kind].get(raw) or self._choose(kind, raw)

    def of(self, kind: KeyKind) -> Callable[[str], str]:
        """Return ``key`` for one kind."""
        known = self._known[kind]

        def key(raw: str) -> str:
            return known.get(raw) or self._choose(kind, raw)

        return key

    def chosen(self, kind: KeyKind) -> Mapping[str, str]:
        """Return every name of a kind: raw → name, in the order of choice."""
        with self._lock:
            return dict(self._known[kind])

    def renamed(self, kind: KeyKind) -> Mapping[str, str]:
        """Return the names that are not what was asked for: name → raw, in the order of choice."""
        with self._lock:
            return self._maps[kind].originals()

    def adopt(self, kind: KeyKind, names: Iterable[str], originals: Mapping[str, str]) -> None:
        """Take over the names of a run that was begun elsewhere."""
        with self._lock:
            for name in names:
                raw = originals.get(name, name)
                if raw not in self._known[kind]:
                    self._write_down(kind, raw, name)
                    self._restore(kind, raw, name)

    def _choose(self, kind: KeyKind, raw: str) -> str:
        with self._lock:
            name = self._maps[kind].map(raw)
            if raw not in self._known[kind]:
                self._write_down(kind, raw, name)
                self._known[kind][raw] = name
                self.changes += raw != name
            return name

    def _restore(self, kind: KeyKind, raw: str, name: str) -> None:
        self._maps[kind].restore([[raw, name]])
        self._known[kind][raw] = name
        self.changes += raw != name

    def _write_down(self, kind: KeyKind, raw: str, name: str) -> None:
        line = json.dumps({"kind": kind.value, "raw": raw, "name": name})
        append_line(self._path, line.encode())


def _map_for(kind: KeyKind, *, as_files: bool) -> KeyMap:
    if kind is KeyKind.IMAGE:
        # As `mlflow.log_image` itself has it; step, time and uuid need about 100 of 255 bytes.
        return KeyMap(
            allowed=r"[A-Za-z0-9_\-./ ]",
            max_length=140,
            rules=[posix_form, _no_outer_spaces],
            case_blind=_CASE_BLIND,
        )
    if kind is KeyKind.FILE:
        return KeyMap(
            allowed=r"[\w\-. /]",
            max_length=180,
            max_bytes=180,
            rules=[posix_form, _no_outer_spaces],
            case_blind=_CASE_BLIND,
        )
    if kind is KeyKind.ARTIFACT:
        # A server cuts at "#" and "?", decodes "%41" as often as it can, and refuses "\"
        # (`mlflow/utils/uri.py`).
        return KeyMap(
            allowed=r"[^#?%\\\x00-\x1f\x7f\ud800-\udfff]",
            max_length=900,
            max_bytes=900,
            rules=[posix_form, _no_outer_spaces, _short_parts],
            case_blind=_CASE_BLIND,
            tree=True,
        )
    # The validator of a Windows machine refuses the colon as well.
    return KeyMap(
        allowed=r"[/\w.\- ]" if os.name == "nt" else r"[/\w.\- :]",
        max_length=250,
        max_bytes=250 if as_files else None,
        rules=[posix_form, _no_two_dots],
        case_blind=as_files and _CASE_BLIND,
        tree=as_files,
    )


def _no_two_dots(name: str) -> str:
    """``..a`` is a fine name, and refused as if it led out of a folder."""
    return "__" + name[2:] if name.startswith("..") else name


def _no_outer_spaces(path: str) -> str:
    """A server lists `` a`` as ``a`` and then does not find it; Windows drops the last space."""
    return "/".join(
        "_" * (len(part) - len(part.lstrip()))
        + part.strip()
        + "_" * (len(part.lstrip()) - len(part.strip()))
        for part in path.split("/")
    )


def _short_parts(path: str) -> str:
    """Cut parts that no disk takes; where two would meet then, the whole path gets a hash."""
    return "/".join(_cut(part) for part in path.split("/"))


def _cut(part: str) -> str:
    if len(part.encode()) <= _PART_BYTES:
        return part
    suffix = PurePosixPath(part).suffix[:20]
    room = _PART_BYTES - len(suffix.encode())
    return part.encode()[:room].decode(errors="ignore") + suffix
