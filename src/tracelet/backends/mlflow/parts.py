"""
Data files of a run that are complete: numbered parts, with every record in exactly one of them.

A part grows on this machine's disk, in the work folder of the run, and is uploaded by every
barrier that finds it grown. How large a part becomes depends on its number and on the records in
it, never on the time: whoever sends the same records again, from wherever, makes the same parts.
A full part is uploaded a last time, forgotten here, and never written again. What a crash leaves
half done is done once more, with the same bytes under the same name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional

from tracelet.backends.mlflow.artifacts import Artifacts
from tracelet.backends.mlflow.files import append, make_folder, private, refusing, replace_file

__all__ = ["APART", "Entry", "Parts", "digest_of"]

#: The first parts are small, so that what grows is cheap to upload again; eight parts later they
#: may be twice as large, so that a long run does not make very many.
_SMALLEST_BYTES = 8_000_000
_LARGEST_BYTES = 64_000_000
_PARTS_OF_A_SIZE = 8
#: Records that are remembered one by one; a part ends here as well.
_MOST_RECORDS = 20_000

_DIGEST = 12

#: The size of a record that is not in a part, because it is a file of its own.
APART = -1


class Entry(NamedTuple):
    """A record of the part that grows: its line, and how many bytes of data belong to it."""

    digest: bytes
    size: int
    line: bytes


#: Makes the file that is uploaded, of the records and of the file that holds their data.
Packing = Callable[[Iterator[Entry], Path, Path], None]


class Parts:
    """
    The parts of one kind of data.

    Args:
        folder: Where the part that grows is kept over a restart; made when it is not there.
        path: Gives the artifact's path for a part's number.
        pack: Makes the uploaded file: ``pack(entries, data, target)``.
    """

    def __init__(self, folder: Path, path: Callable[[int], str], pack: Packing) -> None:
        make_folder(folder)
        self._folder = folder
        self._path = path
        self._pack = pack
        #: What the owner gave with the last part that ended.
        self.state: Mapping[str, Any] = {}
        #: The number of the part that grows.
        self.number = 1
        self._turn = 0
        self._remembered = 0
        self._former: set[bytes] = set()
        self._load_state()
        self._digests: dict[bytes, None] = {}
        self._size = self._data_size = 0
        self._load_part()
        self._uploaded = self._read_mark()
        self._past = _Past(folder / "taken", _DIGEST)

    @property
    def waiting(self) -> bool:
        """True when the part that grows has what the tracker has not."""
        return self._size > self._uploaded

    @property
    def full(self) -> bool:
        """True when the next record belongs to another part."""
        return self._size >= _capacity(self.number) or len(self._digests) >= _MOST_RECORDS

    @property
    def records(self) -> int:
        """How many records there were, in all parts."""
        return self._remembered // _DIGEST + len(self._digests)

    def knows(self, digest: bytes, *, resend: bool) -> bool:
        """
        Tell whether a record was taken.

        Args:
            digest: Which one.
            resend: It may be from any time; otherwise the last two parts are looked through.
        """
        if digest in self._digests or digest in self._former:
            return True
        if not resend:
            self._past.forget()
            return False
        return self._past.holds(digest, self._remembered)

    def add(self, digest: bytes, line: bytes, data: Optional[bytes] = b"") -> None:
        """
        Take a record, on disk when this returns; the part must not be full.

        Args:
            digest: Which one.
            line: What is to be known of it, JSON without a line break.
            data: Its bytes; None when they are in a file of their own, and this is only a note.
        """
        if data:
            append(self._data, data, at=self._data_size)
        size = APART if data is None else len(data)
        # This is the moment at which the record is taken: data without a line is overwritten.
        append(self._lines, b"%s %d %s\n" % (digest.hex().encode(), size, line))
        self._count(Entry(digest, size, line))

    def entries(self) -> Iterator[Entry]:
        """Yield the records of the part that grows, those that are files of their own as well."""
        if self._lines.exists():
            with refusing(self._lines), open(self._lines, "rb") as file:
                for text in file:
                    yield _entry(text)

    def upload(self, artifacts: Artifacts) -> None:
        """Bring the part that grows into the tracker, as far as it is not there."""
        if self._digests:
            # Once the cursor has moved, this is the only place that knows them.
            for path in (self._data, self._lines):
                if path.exists():
                    _sync(path)
        if not self.waiting:
            return
        append(self._data, b"")  # there, even when nothing has any data
        packed = self._folder / "packed"
        inside = (entry for entry in self.entries() if entry.size != APART)
        with refusing(packed):
            self._pack(inside, self._data, packed)
        artifacts.put(self._path(self.number), packed)
        replace_file(self._mark, f"{self._turn} {self._size}".encode())
        self._uploaded = self._size
        with contextlib.suppress(OSError):
            packed.unlink()

    def turn(self, artifacts: Artifacts, state: Mapping[str, Any]) -> None:
        """
        Bring the part that grows into the tracker and begin the next one.

        Args:
            artifacts: Where to.
            state: What the owner has to know of all records so far, for ``self.state``.
        """
        self.upload(artifacts)
        self._past.append(self._digests, self._remembered)
        remembered = self._remembered + _DIGEST * len(self._digests)
        number = self.number + 1 if self._size else self.number
        content = {
            "turn": self._turn + 1,
            "number": number,
            "remembered": remembered,
            "state": state,
        }
        replace_file(self._folder / "state.json", json.dumps(content).encode())
        done = (self._data, self._lines)
        self._turn, self.number, self._remembered = self._turn + 1, number, remembered
        self.state = state
        self._former = set(self._digests)
        self._digests = {}
        self._size = self._data_size = self._uploaded = 0
        for path in done:
            with contextlib.suppress(OSError):
                path.unlink()

    def _count(self, entry: Entry) -> None:
        self._digests[entry.digest] = None
        if entry.size != APART:
            self._data_size += entry.size
            self._size += entry.size + len(entry.line) + 1

    # -- what is on this machine's disk -----------------------------------------------------

    @property
    def _lines(self) -> Path:
        return self._folder / f"{self._turn:06}.lines"

    @property
    def _data(self) -> Path:
        return self._folder / f"{self._turn:06}.data"

    @property
    def _mark(self) -> Path:
        return self._folder / "uploaded"

    def _load_state(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            found = json.loads((self._folder / "state.json").read_bytes())
            self._turn, self.number = found["turn"], found["number"]
            self._remembered, self.state = found["remembered"], found["state"]
        for path in (*self._folder.glob("*.lines"), *self._folder.glob("*.data")):
            if int(path.stem) < self._turn:
                path.unlink()

    def _load_part(self) -> None:
        if not self._lines.exists():
            return
        whole = 0
        there = self._data.stat().st_size if self._data.exists() else 0
        with open(self._lines, "rb") as file:
            for text in file:
                if not text.endswith(b"\n"):  # a crash cut it
                    break
                entry = _entry(text)
                if self._data_size + entry.size > there:  # the machine's crash took its data
                    break
                whole += len(text)
                self._count(entry)
        os.truncate(self._lines, whole)

    def _read_mark(self) -> int:
        try:
            turn, size = self._mark.read_text().split()
            return int(size) if int(turn) == self._turn else 0
        except (FileNotFoundError, ValueError):
            return 0


class _Past:
    """
    The digests of the parts that ended, one after the other in a file.

    They are wanted when something is sent again, and then mostly in the order they are in.
    """

    def __init__(self, path: Path, width: int) -> None:
        self._path = path
        self._width = width
        self._all: Optional[bytes] = None
        self._next = 0

    def append(self, digests: Mapping[bytes, None], at: int) -> None:
        """Add digests at a place; what is behind it was left by a crash."""
        self.forget()
        append(self._path, b"".join(digests), at=at)
        _sync(self._path)

    def holds(self, digest: bytes, size: int) -> bool:
        """Tell whether a digest is among the first ``size`` bytes."""
        if self._all is None:
            with refusing(self._path):
                self._all = self._path.read_bytes()[:size] if size else b""
        found = self._next
        if self._all[found : found + self._width] != digest:
            found = self._all.find(digest)
            while found % self._width and found >= 0:
                found = self._all.find(digest, found + 1)
        if found < 0:
            return False
        self._next = found + self._width
        return True

    def forget(self) -> None:
        """Free the memory."""
        self._all = None
        self._next = 0


def digest_of(*pieces: bytes) -> bytes:
    """Return what tells a record from all others."""
    digest = hashlib.blake2b(digest_size=_DIGEST)
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "big"))
        digest.update(piece)
    return digest.digest()


def _capacity(number: int) -> int:
    return min(_LARGEST_BYTES, _SMALLEST_BYTES << min((number - 1) // _PARTS_OF_A_SIZE, 16))


def _entry(text: bytes) -> Entry:
    digest, size, line = text.rstrip(b"\n").split(b" ", 2)
    return Entry(bytes.fromhex(digest.decode()), int(size), line)


def _sync(path: Path) -> None:
    with refusing(path), open(path, "ab", opener=private) as file:
        os.fsync(file.fileno())
