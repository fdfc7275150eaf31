r"""
Keys of streams and tags: one fixed rule that never looks at the clock.

* A log directory whose last part is a known split (``train``, ``val``, …) prefixes with it.
* The plain stream, whose tags are keys as they are, is the first other one of the main process.
* Any other prefixes with its path below the plain stream, or below the parent that both share.
* A directory name that is only a time stamp never enters a key: ``writer2``, ``writer3``, … stand
  for further ones, in the order in which they came.
* Where the prefix is taken already (``runs/b/val`` after ``runs/a/val``) the longer path is tried
  (``b/val``), then a short hash is put behind it.
* Where two pairs of stream and tag would give one key, the later one gets a short hash.

The first stream decides; so the same spool gives the same keys, whoever reads it and when.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import Any, Final, Iterable, Iterator, Mapping, Optional, Sequence

from tracelet.naming.directories import Directory, directory, is_timestamp, shared_parts
from tracelet.naming.hashes import short_hashes

#: Between main tag and series of ``add_scalars``: ``a`` with a series ``b`` is no tag ``a/b``.
_SERIES: Final = "\0"
#: Stream of explicit calls (``run.log_metric``); it has the keys of the plain stream.
EXPLICIT: Final = ""


def series_tag(main: str, series: str) -> str:
    """Return the tag of one series of ``add_scalars``; its key is ``main/series``."""
    return f"{main}{_SERIES}{series}"


def _spoken(tag: str) -> str:
    """Return a tag as a person reads it."""
    return tag.replace(_SERIES, "/")


class Names:
    """
    The keys of one run.

    Streams are announced in the order of their first records in the spool. Everything that was
    decided can be stored: ``journal`` gives what is new since the last time, ``restore`` takes it
    back, in the same order. Not for several threads at once.

    Args:
        state: What ``dump`` returned.
        cwd: The working directory of the training, so that ``runs/a`` and ``/home/me/runs/a`` are
            one stream. Without it they are two.
    """

    def __init__(self, state: Optional[Mapping[str, Any]] = None, *, cwd: str = "") -> None:
        self._cwd = cwd
        self._keys: dict[tuple[str, str, str], str] = {}
        self._owners: dict[tuple[str, str], tuple[str, str]] = {}
        self._originals: dict[str, tuple[str, str]] = {}
        self._prefixes: dict[str, str] = {EXPLICIT: ""}
        self._places: dict[Directory, str] = {}
        self._writers: dict[Directory, int] = {}
        self._plain: Optional[Directory] = None
        self._first: Optional[Directory] = None
        self._entries: list[list[Any]] = []
        self._told = 0
        if state is not None:
            self.restore(state.get("entries", ()))

    def stream(self, logdir: str, *, main: bool = True) -> None:
        """
        Announce a log directory; twice is once.

        Args:
            logdir: As the writer has it.
            main: Whether the main process writes there. The stream of a child becomes the plain
                one only when no stream was announced before it: announce it when the main process
                has written something, or is known to write nothing.
        """
        if logdir in self._prefixes:
            return
        place = directory(logdir, self._cwd)
        prefix = self._places.get(place)
        if prefix is None:
            prefix = self._new_prefix(place, main=main)
        self._enter(["stream", logdir, prefix])

    def key(self, kind: str, logdir: str, tag: str) -> str:
        """
        Return the key of a tag; one dictionary lookup when it is known.

        Args:
            kind: What the record is (``"metric"``, ``"media"``, ``"param"``, …). Keys collide only
                within one kind.
            logdir: The stream; announced as one of the main process if it was not. Empty for what
                was logged by an explicit call.
            tag: As raw as it is known.
        """
        found = self._keys.get((kind, logdir, tag))
        if found is not None:
            return found
        self.stream(logdir)
        prefix = self._prefixes[logdir]
        plain = f"{prefix}/{_spoken(tag)}" if prefix else _spoken(tag)
        key = next(
            name
            for name in _alternatives(plain, prefix, tag)
            if self._owners.get((kind, name), (prefix, tag)) == (prefix, tag)
        )
        self._enter(["key", kind, logdir, tag, key])
        return key

    def originals(self) -> Mapping[str, tuple[str, str]]:
        """
        Return stream and tag of every key that is not simply the tag.

        Where one key means different things in two kinds, the later one stands under
        ``<kind>:<key>``.
        """
        return dict(self._originals)

    def journal(self) -> list[list[Any]]:
        """Return what was decided since the last call, as JSON values for ``restore``."""
        new = self._entries[self._told :]
        self._told = len(self._entries)
        return [list(entry) for entry in new]

    def restore(self, entries: Iterable[Sequence[Any]]) -> None:
        """
        Take back what ``journal`` gave, in its order. It is not given again by ``journal``.

        Raises:
            ValueError: An entry is none of ours.
        """
        for given in entries:
            entry = _checked(given)
            if entry[0] == "key" and entry[2] not in self._prefixes:
                raise ValueError("a journal of names with a key of an unknown stream")
            self._enter(entry)
        self._told = len(self._entries)

    def dump(self) -> dict[str, Any]:
        """Return everything that was decided, as JSON values for ``Names(state)``."""
        return {"entries": [list(entry) for entry in self._entries]}

    def _enter(self, entry: list[Any]) -> None:
        """Let a decision take effect: the one way for new and for restored ones."""
        self._entries.append(entry)
        if entry[0] == "writer":
            _, root, parts, number = entry
            self._writers[Directory(root, tuple(parts))] = number
            return
        if entry[0] == "stream":
            _, logdir, prefix = entry
            place = directory(logdir, self._cwd)
            self._prefixes[logdir] = prefix
            self._places.setdefault(place, prefix)
            self._first = self._first or place
            if not prefix and self._plain is None:
                self._plain = place
            return
        _, kind, logdir, tag, key = entry
        self._keys[kind, logdir, tag] = key
        self._owners.setdefault((kind, key), (self._prefixes.get(logdir, ""), tag))
        tag = _spoken(tag)
        if key != tag:
            original = self._originals.setdefault(key, (logdir, tag))
            if original[1] != tag or self._prefixes[original[0]] != self._prefixes[logdir]:
                self._originals.setdefault(f"{kind}:{key}", (logdir, tag))

    def _new_prefix(self, place: Directory, *, main: bool) -> str:
        if not place.is_split and self._plain is None and (main or self._first is None):
            return ""
        taken = set(self._places.values()) | {""}
        if place.is_split and place.last not in taken:
            return place.last
        up, path = self._relative(place)
        names = chain(
            islice(_alternatives(path, str(up), path), 2), _alternatives(path, *place.parts)
        )
        return next(name for name in names if name not in taken)

    def _relative(self, place: Directory) -> tuple[int, str]:
        """
        Return the way from the stream that names are relative to.

        How many parts up (-1: there is no way), then the parts down, time stamps replaced.
        """
        reference = self._plain
        if reference is None and self._first is not None:
            reference = self._first.parent() if self._first.is_split else self._first
        shared = -1 if reference is None else shared_parts(place, reference)
        up = -1 if reference is None or shared < 0 else len(reference.parts) - shared
        if shared < 0 or shared == len(place.parts):
            shared = max(len(place.parts) - 1, 0)
        names = []
        for index in range(shared, len(place.parts)):
            if not is_timestamp(place.parts, index):
                names.append(place.parts[index])
            elif index + 1 == len(place.parts) or not is_timestamp(place.parts, index + 1):
                names.append(self._writer(Directory(place.root, place.parts[: index + 1])))
        return up, "/".join(name for name in names if name != "..") or self._writer(place)

    def _writer(self, place: Directory) -> str:
        if place not in self._writers:
            self._enter(["writer", place.root, list(place.parts), len(self._writers) + 2])
        return f"writer{self._writers[place]}"


def _alternatives(name: str, *parts: str) -> Iterator[str]:
    yield name
    for short in short_hashes(*parts):
        yield f"{name}~{short}"


def _checked(entry: Sequence[Any]) -> list[Any]:
    kinds = {"stream": [str, str], "key": [str] * 4, "writer": [str, list, int]}
    if isinstance(entry, (list, tuple)) and entry and isinstance(entry[0], str):
        wanted = kinds.get(entry[0])
        if wanted == [type(part) for part in entry[1:]]:
            return list(entry)
    raise ValueError(f"not an entry of a journal of names: {entry!r:.80}")
