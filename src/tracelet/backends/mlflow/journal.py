"""
Lines that survive a restart, in chunks that are each uploaded whole.

What can only be shown in aggregate (all steps of a text) is collected here. The
same line again is kept once; a chunk grows until it is full and has been uploaded, and is
rewritten in the tracker under the same name as long as it grows.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Iterator

from tracelet.backends.mlflow.files import (
    append_line,
    make_folder,
    private,
    replace_file,
    whole_lines,
)

__all__ = ["Journal"]


class Journal:
    """
    Lines in a folder, in the files ``0001.jsonl``, ``0002.jsonl`` and so on.

    Args:
        folder: Made when it is not there.
        chunk_bytes: When a chunk is full.
    """

    def __init__(self, folder: Path, chunk_bytes: int) -> None:
        make_folder(folder)
        self._folder = folder
        self._chunk_bytes = chunk_bytes
        numbers = [int(path.stem) for path in folder.glob("*.jsonl")]
        self.number = max(numbers, default=1)
        # A batch that was sent before a crash and comes again reaches back into the chunk before
        # this one at most: chunks are changed when all of them was delivered, never in between.
        self._seen: set[bytes] = set()
        self._former: set[bytes] = set()
        if self.number - 1 in numbers:
            self._former = {_digest(line) for line in self.lines(self.number - 1)}
        self._size = whole_lines(self.current)
        self._seen = {_digest(line) for line in self.lines(self.number)}
        self._uploaded = self._read_mark()

    @property
    def current(self) -> Path:
        """The file of the chunk that grows."""
        return self._path(self.number)

    @property
    def dirty(self) -> bool:
        """True when the chunk that grows has lines that were not uploaded."""
        return self._size > self._uploaded

    def append(self, line: bytes) -> bool:
        """Keep a line, which holds no line break. Return False when it is there already."""
        digest = _digest(line)
        if digest in self._seen or digest in self._former:
            return False
        append_line(self.current, line)
        self._size += len(line) + 1
        self._seen.add(digest)
        return True

    def lines(self, number: int) -> Iterator[bytes]:
        """Yield the lines of a chunk."""
        path = self._path(number)
        if path.exists():
            with open(path, "rb") as file:
                for line in file:
                    yield line.rstrip(b"\n")

    def sync(self) -> None:
        """Return when the chunk that grows is on the disk."""
        with open(self.current, "ab", opener=private) as file:
            os.fsync(file.fileno())

    def uploaded(self) -> None:
        """Say that the chunk that grows is in the tracker as it is; a full one ends here."""
        self._uploaded = self._size
        if self._size < self._chunk_bytes:
            replace_file(self._mark, f"{self.number} {self._size}".encode())
            return
        old = self._path(self.number - 1)
        self.number += 1
        self._former, self._seen = self._seen, set()
        self._size = self._uploaded = 0
        self.current.touch()
        replace_file(self._mark, f"{self.number} 0".encode())
        if old.exists():
            old.unlink()

    @property
    def _mark(self) -> Path:
        return self._folder / "uploaded"

    def _read_mark(self) -> int:
        try:
            number, size = self._mark.read_text().split()
            return int(size) if int(number) == self.number else 0
        except (FileNotFoundError, ValueError):
            return 0

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:04}.jsonl"


def _digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=12).digest()
