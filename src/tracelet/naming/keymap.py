"""
What a backend allows as a name, one-to-one.

A key that is allowed stays as it is. In any other, what is not allowed is replaced; a short hash of
the raw key is added only where it is needed: the name had to be cut, or another raw key has it
already. So ``loss (train)`` reads ``loss _train_``, and only a ``loss [train]`` beside it gets a
hash. Who has a name is therefore state, which is stored (``journal``) and restored; a run that is
continued from elsewhere can restore it from the originals that the backend stored.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Callable, Final, Iterable, Mapping, NamedTuple, Optional, Sequence, Union

from tracelet.naming.hashes import short_hashes

#: A further rule: takes a name made of allowed characters, returns one that keeps the rule.
Rule = Callable[[str], str]
#: Tells who has a name: a mapping from names to raw keys, or a function like its ``get``.
Taken = Union[Mapping[str, str], Callable[[str], Optional[str]]]

_SEPARATORS: Final = "~-_."
#: Room for a separator, a hash, and something to read.
_SHORTEST: Final = 16


class _Room(NamedTuple):
    """How long a name may be."""

    characters: int
    bytes: Optional[int]

    def holds(self, name: str) -> bool:
        """Tell whether a name is short enough."""
        return len(name) <= self.characters and (
            self.bytes is None or len(_utf8(name)) <= self.bytes
        )

    def cut(self, name: str, tail: str) -> str:
        """Return as much of a name as leaves room for a tail, and the tail."""
        tail = tail[: min(self.characters, self.bytes or self.characters)]
        name = name[: self.characters - len(tail)]
        if self.bytes is not None:
            name = _utf8(name)[: self.bytes - len(tail)].decode("utf-8", "ignore")
        return name.rstrip("/") + tail


def posix_form(name: str) -> str:
    """Return a name as a relative POSIX path in normal form: no empty part, no ``.``, no ``..``."""
    parts = [part for part in name.split("/") if part]
    return "/".join("_" * len(part) if part in {".", ".."} else part for part in parts)


def mapped(
    raw: str,
    *,
    allowed: str,
    max_length: int,
    taken: Taken = {},  # noqa: B006 - only ever read
    rules: Sequence[Rule] = (),
    replacement: str = "_",
) -> str:
    """
    Return the name of a raw key in a backend.

    Args:
        raw: The key.
        allowed: A regular expression for one allowed character.
        max_length: The longest name, in characters; at least 16.
        taken: Who has which name already.
        rules: Further rules, applied in their order after the characters were replaced.
        replacement: What a character that is not allowed becomes; must be allowed itself.

    Returns:
        A name that is allowed and that no other raw key has.
    """
    owner = taken if callable(taken) else taken.get
    base = _legal(raw, allowed, rules, replacement)
    room = _Room(max_length, None)
    return _settle(raw, base, _separator(allowed), room, lambda name: owner(name) in {None, raw})


class KeyMap:
    """
    The names of all keys of one kind in one remote run.

    Args:
        allowed: A regular expression for one allowed character.
        max_length: The longest name, in characters; at least 16.
        rules: Further rules, see ``mapped``.
        replacement: See ``mapped``.
        case_blind: Keep apart what differs only in case or in the form of accents, for trackers
            that make files of names on a disk that cannot tell them apart.
        tree: Names become files and what stands before a ``/`` a folder, so none may be the
            beginning of another: ``train/loss`` next to ``train``.
        max_bytes: The longest name in UTF-8, for trackers that make files of names.

    Raises:
        ValueError: No name can keep these limits.
    """

    def __init__(
        self,
        *,
        allowed: str,
        max_length: int,
        rules: Sequence[Rule] = (),
        replacement: str = "_",
        case_blind: bool = False,
        tree: bool = False,
        max_bytes: Optional[int] = None,
    ) -> None:
        if min(max_length, max_bytes or max_length) < _SHORTEST:
            raise ValueError(f"a name needs room for {_SHORTEST} characters")
        if not re.fullmatch(allowed, replacement):
            raise ValueError("the replacement is not allowed itself")
        self._allowed = allowed
        self._room = _Room(max_length, max_bytes)
        self._rules = tuple(rules)
        self._replacement = replacement
        self._case_blind = case_blind
        self._tree = tree
        self._separator = _separator(allowed)
        self._names: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._folders: set[str] = set()
        self._entries: list[list[str]] = []
        self._told = 0

    def map(self, raw: str) -> str:
        """Return the name of a raw key; one dictionary lookup when it is known."""
        name = self._names.get(raw)
        if name is not None:
            return name
        base = _legal(raw, self._allowed, self._rules, self._replacement)
        if self._tree:
            base = self._beside_files(base)
        name = _settle(raw, base, self._separator, self._room, lambda name: self._free(name, raw))
        self._enter(raw, name)
        return name

    def originals(self) -> dict[str, str]:
        """Return the raw key of every name that is not the raw key itself."""
        return {name: raw for raw, name in self._names.items() if name != raw}

    def journal(self) -> list[list[str]]:
        """Return the new pairs (raw key, name) since the last call, as JSON values."""
        new = self._entries[self._told :]
        self._told = len(self._entries)
        return [list(entry) for entry in new]

    def dump(self) -> list[list[str]]:
        """Return all pairs (raw key, name), as JSON values for ``restore``."""
        return [list(entry) for entry in self._entries]

    def restore(self, entries: Iterable[Sequence[Any]]) -> None:
        """
        Take back what ``journal`` or ``dump`` gave, or pairs that the backend had stored.

        Raises:
            ValueError: An entry is no pair of texts.
        """
        for entry in entries:
            if [type(part) for part in entry] != [str, str]:
                raise ValueError("not a pair of a raw key and its name")
            if entry[0] not in self._names:
                self._enter(entry[0], entry[1])
        self._told = len(self._entries)

    def _enter(self, raw: str, name: str) -> None:
        self._names[raw] = name
        folded = self._fold(name)
        self._owners.setdefault(folded, raw)
        if self._tree:
            self._folders.update(_above(folded))
        self._entries.append([raw, name])

    def _free(self, name: str, raw: str) -> bool:
        folded = self._fold(name)
        if self._tree and (
            folded in self._folders or any(above in self._owners for above in _above(folded))
        ):
            return False
        return self._owners.get(folded, raw) == raw

    def _fold(self, name: str) -> str:
        if not self._case_blind:
            return name
        return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())

    def _beside_files(self, name: str) -> str:
        """Rename the folders of a name that are files already."""
        parts = name.split("/")
        for index in range(len(parts) - 1):
            if self._fold("/".join(parts[: index + 1])) in self._owners:
                parts[index] += self._separator + next(short_hashes("/", *parts[: index + 1]))
        return "/".join(parts)


def _legal(raw: str, allowed: str, rules: Sequence[Rule], replacement: str) -> str:
    name = raw
    if not re.fullmatch(f"(?:{allowed})*", raw):
        fits = re.compile(allowed).fullmatch
        name = "".join(char if fits(char) else replacement for char in raw)
    for rule in rules:
        name = rule(name)
    return name or replacement


def _settle(raw: str, base: str, separator: str, room: _Room, free: Callable[[str], bool]) -> str:
    """Return the base, or with a hash what of it fits, so that nobody else has it."""
    if room.holds(base) and free(base):
        return base
    names = (
        room.cut(start, separator + short)
        for short in short_hashes(raw)
        # The other two are for a tree whose files stand where this name needs folders.
        for start in (base, base.replace("/", separator), "")
    )
    return next(name for name in names if free(name))


def _separator(allowed: str) -> str:
    """Return what stands before a hash: ``~`` where it is allowed."""
    for char in _SEPARATORS:
        if re.fullmatch(allowed, char):
            return char
    return ""


def _above(name: str) -> list[str]:
    """Return the folders that a name lies in."""
    parts = name.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
