"""One segment as its writer has it: the open file, its keys, and a frame for the next scalar."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import struct
import sys
import time
from pathlib import Path
from typing import Any, Callable, Optional, Protocol
from zlib import crc32

from tracelet.spool import codec, frame
from tracelet.spool.files import Files
from tracelet.spool.locks import lock_descriptor, passport
from tracelet.spool.rundir import RunDir

__all__ = ["FORMAT", "SCALAR_SIZE", "Segment", "open_segment"]

FORMAT = 1
SCALAR_SIZE = frame.HEADER_SIZE + frame.SCALAR_INT.size
#: Keys remembered at most; a program with more of them pays a definition now and then.
MAX_KEYS = 100_000

#: (stream, tag), or a stream alone
Key = tuple[str, Optional[str]]


class _Place(Protocol):
    """Takes the checksum of the scalar frame in the buffer."""

    def __setitem__(self, index: int, value: int) -> None: ...


class _Swapped:
    """Writes a number little endian on a machine that has it the other way round."""

    _pack_into = struct.Struct("<I").pack_into

    def __init__(self, buffer: bytearray) -> None:
        self._buffer = buffer

    def __setitem__(self, index: int, value: int) -> None:
        self._pack_into(self._buffer, 8, value)


class Segment:
    """
    A segment that is being written.

    Args:
        fd: Its descriptor.
        salt: What its checksums start from.
        first: The number of its first record.
        room: How many bytes it may take before it is closed.
    """

    __slots__ = (
        "_hashes",
        "_identity",
        "body",
        "buffer",
        "checksum",
        "fd",
        "first",
        "front",
        "names",
        "point",
        "salt",
        "seq",
        "since",
        "turn",
        "until",
        "write",
    )

    def __init__(self, fd: int, salt: int, first: int, room: int) -> None:
        self.fd = fd
        self.salt = salt
        self.first = first
        #: The number of the next record.
        self.seq = first
        #: The segment is closed at this number; every byte that is not a scalar's lowers it.
        self.until = first + room // SCALAR_SIZE
        #: At this number its writer looks how fast they come; never behind ``until``.
        self.turn = first
        self.since = time.monotonic()
        #: The hash of each tag, by stream; that of a stream alone under None.
        self.names: dict[str, dict[Optional[str], int]] = {}
        self._hashes: dict[int, Key] = {}
        self._identity: Optional[tuple[int, int]] = None
        # Scalar frames are all of one length: one buffer, of which only the rest changes.
        self.buffer = bytearray(SCALAR_SIZE)
        front, _ = frame.scalar_front(salt)
        self.buffer[: len(front)] = front
        self.front = crc32(front, salt)
        #: What writes the buffer as it is: ``write(*point)``.
        self.write: Callable[..., int] = os.write
        self.point: tuple[Any, ...] = (fd, self.buffer)
        self.body = memoryview(self.buffer)[12:]
        self.checksum: _Place = (
            memoryview(self.buffer)[8:12].cast("I")
            if sys.byteorder == "little"
            else _Swapped(self.buffer)
        )

    def define(self, key: Key, seq: int) -> tuple[bytes, int]:
        """
        Return what has to precede the first use of a key here, and the key's hash.

        Args:
            key: The key.
            seq: The number of the record that uses it.
        """
        stream, tag = key
        known = self.names.get(stream, {}).get(tag)
        if known is not None:
            return b"", known
        attempt, name = 0, codec.key_hash(*key)
        while self._hashes.get(name, key) != key:
            attempt += 1
            name = codec.key_hash(*key, attempt)
        payload = codec.encode_definition(name, stream, tag)
        return frame.encode(frame.DEFINITION, 0, seq, payload, self.salt) * 2, name

    def learn(self, key: Key, name: int) -> None:
        """Remember a key whose definition is on disk."""
        if len(self._hashes) >= MAX_KEYS:
            self.names.clear()
            self._hashes.clear()
        self.names.setdefault(key[0], {})[key[1]] = name
        self._hashes[name] = key

    def spend(self, size: int) -> None:
        """Take so many bytes, which are no scalar's, from its room."""
        self.until -= size // SCALAR_SIZE
        self.turn = min(self.turn, self.until)

    def footer(self) -> bytes:
        """Return the frames that close the segment."""
        content = json.dumps({"first": self.first, "next": self.seq}).encode()
        return frame.encode(frame.FOOTER, 0, self.seq, content, self.salt) * 2

    def identify(self, files: Files) -> None:
        """Remember which file this is, as long as nobody can have closed it."""
        found = files.fstat(self.fd)
        self._identity = found.st_dev, found.st_ino

    def size(self, files: Files) -> int:
        """
        Return how long the file is.

        Raises:
            OSError: The descriptor is not (any more) that of our file, or the file was deleted.
        """
        found = files.fstat(self.fd)
        if (found.st_dev, found.st_ino) != self._identity:
            raise OSError("this descriptor is somebody else's now")
        if not found.st_nlink:
            raise OSError("the segment was deleted")
        return found.st_size


def open_segment(
    files: Files,
    run: RunDir,
    writer: str,
    number: int,
    *,
    first: int,
    main: bool,
    room: int,
    before: Callable[[], None],
    install: Callable[[Segment], None],
) -> None:
    """
    Make a segment. It has its header, and a child's its lock, before anybody can see it.

    Args:
        files: The system calls.
        run: The run.
        writer: The writer's name.
        number: The segment's number.
        first: The number of its first record.
        main: The writer is the run's owner, whose life is the owner's lock. A child's is the lock
            on its newest segment, which nobody else in this process opens.
        room: How many bytes it may take before it is closed.
        before: Called last, just before the segment can be seen.
        install: Called with the segment as soon as it can be seen, whatever else happens.

    Raises:
        OSError: It cannot be made; nothing is left of it.
    """
    path = run.segment_path(writer, number)
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    salt = secrets.randbits(32)
    content: dict[str, Any] = {
        "format": FORMAT,
        "incompatible": [],
        "run": run.info.run_id,
        "writer": writer,
        "number": number,
        "first": first,
        "salt": salt,
        "main": main,
        **passport(),
        "wall": time.time(),
        "monotonic": time.monotonic(),
    }
    header = frame.encode(frame.HEADER, 0, first, json.dumps(content).encode(), 0) * 2
    fd = files.create(hidden)
    segment = Segment(fd, salt, first, room - len(header))
    try:
        if not main:
            lock_descriptor(fd)
        if files.write(fd, header) != len(header):
            raise OSError("the header did not fit")  # noqa: TRY301 - the file has to go as well
        segment.identify(files)
        before()
        segment.fd = files.show(fd, hidden, path)
        if segment.fd != fd and not main:  # pragma: no cover - Windows
            lock_descriptor(segment.fd)
    except BaseException:
        if path.exists() and not hidden.exists():
            # A signal handler raised, and yet it is there. Records must not go into its
            # predecessor any more, which is read as one that has ended.
            install(segment)
        else:
            _forget(files, fd, hidden)
        raise
    install(segment)


def _forget(files: Files, fd: int, path: Path) -> None:
    with contextlib.suppress(OSError):
        files.close(fd)
    with contextlib.suppress(OSError):
        path.unlink()
