"""
What was given up of a segment: which records, of which kind, in which of how many rounds.

A segment that has been made smaller says so in one frame behind its header. Readers that do not
know the frame see records missing and count them as damaged; the others know better.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Mapping, Sequence

__all__ = ["KINDS", "Thinned", "counted", "decode_thinned", "encode_thinned", "reason"]

#: What may be given up, in the order in which it is.
KINDS = ("media", "histogram", "text", "scalar")
#: A segment holds far fewer records.
MAX_RECORDS = 16 * 1024 * 1024
_LENGTH = struct.Struct("<I")
_PREFIX = "thinned-"


@dataclass(frozen=True)
class Thinned:
    """
    What a segment once had.

    ``marks`` has a byte for each record from number ``first`` on: 0, it is there (or damaged);
    else one more than the index in ``KINDS`` of what it was. ``rounds`` is how often points were
    thinned. ``blobs`` are the names of files that went with the last round.
    """

    first: int
    marks: bytes
    rounds: int = 0
    blobs: Sequence[str] = ()

    def between(self, start: int, stop: int) -> dict[str, int]:
        """Return how many of the records from ``start`` to before ``stop`` were given up."""
        begin, end = max(0, start - self.first), max(0, stop - self.first)
        found = {kind: self.marks.count(number, begin, end) for number, kind in enumerate(KINDS, 1)}
        return {kind: count for kind, count in found.items() if count}


def encode_thinned(thinned: Thinned) -> bytes:
    """Return the payload of the frame: length of a head u32, the head (JSON), the marks (zlib)."""
    head = {
        "first": thinned.first,
        "records": len(thinned.marks),
        "kinds": KINDS,
        "rounds": thinned.rounds,
        "blobs": list(thinned.blobs),
    }
    text = json.dumps(head, separators=(",", ":")).encode()
    return _LENGTH.pack(len(text)) + text + zlib.compress(thinned.marks, 6)


def decode_thinned(payload: bytes) -> Thinned:
    """Return what was given up. Raises ValueError or TypeError on bytes that do not say it."""
    try:
        (length,) = _LENGTH.unpack_from(payload)
        head = json.loads(payload[4 : 4 + length])
        records = int(head["records"])
        if head["kinds"] != list(KINDS) or not 0 <= records <= MAX_RECORDS:
            raise ValueError("not what this version gives up")
        # No more than was promised, whatever it unpacks to.
        marks = zlib.decompressobj().decompress(payload[4 + length :], records + 1)
        blobs = [str(name) for name in head["blobs"]]
        rounds, first = int(head["rounds"]), int(head["first"])
    except (struct.error, zlib.error, KeyError, OverflowError, RecursionError) as error:
        raise ValueError("not what was given up") from error
    if len(marks) != records or max(marks, default=0) > len(KINDS) or first < 0:
        raise ValueError("not what was given up")
    # Names alone: nothing that leads anywhere.
    return Thinned(first, marks, rounds, tuple(name for name in blobs if name.isalnum()))


def reason(kind: str) -> str:
    """Return the reason under which a cursor counts what was given up."""
    return f"{_PREFIX}{kind}"


def counted(damaged: Mapping[str, int]) -> dict[str, int]:
    """Return from a cursor's counts how many records were given up, by kind."""
    return {why[len(_PREFIX) :]: count for why, count in damaged.items() if why.startswith(_PREFIX)}
