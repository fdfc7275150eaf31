"""Any text → the name of a file, one-to-one, on every system that people train on."""

from __future__ import annotations

import hashlib
import re

#: File systems end at 255 bytes; this leaves room for a hash and a suffix.
MAX_BYTES = 200

# What Windows forbids, the escape itself, and "~", which only a hash of ours may follow.
_FORBIDDEN = frozenset('<>:"/\\|?*%~')
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def file_name(text: str) -> str:
    """
    Return the name of a file or folder for ``text``; different texts have different names.

    Ordinary names stay as they are, spaces and letters of any language included. A character that
    some system refuses becomes ``%`` and its UTF-8 bytes in hexadecimal, as in an address; a name
    of more than 200 bytes is cut and ends in ``~`` and a hash of the whole.
    """
    last = len(text) - 1
    name = "".join(
        _escaped(character)
        if character in _FORBIDDEN
        or not character.isprintable()
        or (character == "." and index in (0, last))
        or (character == " " and index == last)
        else character
        for index, character in enumerate(text)
    )
    if _DEVICE.match(name):
        name = _escaped(name[0]) + name[1:]
    if len(name.encode()) > MAX_BYTES:
        cut = name.encode()[:MAX_BYTES].decode(errors="ignore")
        name = f"{cut}~{short_hash(text)}"
    return name or "%"


def short_hash(text: str) -> str:
    """Return 12 hexadecimal digits that tell ``text`` from any other."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
