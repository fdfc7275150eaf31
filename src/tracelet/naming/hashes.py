"""Short hashes that tell apart what would have one name."""

from __future__ import annotations

from hashlib import blake2b
from itertools import count
from typing import Iterator


def short_hashes(*parts: str) -> Iterator[str]:
    """
    Yield hexadecimal hashes of some texts, without end.

    The first, of six digits, is the one to use; the others, longer, are for the rare case that its
    name is taken. The same texts give the same hashes everywhere and in every version.
    """
    digest = blake2b(digest_size=16)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    yield digest.hexdigest()[:6]
    for number in count():
        yield digest.hexdigest()
        digest.update(number.to_bytes(8, "little"))
