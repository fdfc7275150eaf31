"""
Pictures, films and sounds: what the encoded bytes are, and what their event says about them.

The old kind of value is a message with the bytes and the sizes (``summary.proto``). The new kind is
a tensor of strings: for images width, height and then one string per image; for sounds one row
(sound, label) per clip (TensorBoard's ``image`` and ``audio`` plugins, ``summary_v2.py``).
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final, NamedTuple

from tracelet.tfevents.tensor import read_strings, read_tensor
from tracelet.tfevents.wire import FIXED32, LENGTH, VARINT, Span, Wire, WireError, head, signed

UNKNOWN: Final = "application/octet-stream"

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"BM", "image/bmp"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
)


class Clip(NamedTuple):
    """One picture, film or sound."""

    kind: str
    data: bytes
    mime: str
    meta: dict[str, Any]


def mime_of(data: bytes) -> str:
    """Return the media type that the first bytes tell, or ``application/octet-stream``."""
    for magic, mime in _MAGIC:
        if data.startswith(magic):
            return mime
    if data[:4] == b"RIFF":
        return {b"WAVE": "audio/wav", b"WEBP": "image/webp"}.get(data[8:12], UNKNOWN)
    return UNKNOWN


def read_image(wire: Wire, span: Span) -> list[Clip]:
    """Return the picture of a ``Summary.Image``. Raises WireError."""
    sizes: dict[str, int] = {}
    data = b""
    for mark, start, end in wire.fields(*span):
        if mark == head(1, VARINT):
            sizes["height"] = signed(start, 32)
        elif mark == head(2, VARINT):
            sizes["width"] = signed(start, 32)
        elif mark == head(4, LENGTH):
            data = wire.data[start:end]
    return [_picture(data, sizes.get("width", 0), sizes.get("height", 0))]


def read_image_tensor(wire: Wire, span: Span) -> list[Clip]:
    """Return the pictures of a tensor of strings. Raises WireError."""
    tensor = read_tensor(wire, span)
    strings = read_strings(wire, tensor)
    if len(tensor.shape) != 1 or len(strings) < 3:
        raise WireError("images of an unknown shape")
    width, height = _decimal(strings[0]), _decimal(strings[1])
    return [_picture(data, width, height) for data in strings[2:]]


def read_audio(wire: Wire, span: Span) -> list[Clip]:
    """Return the sound of a ``Summary.Audio``. Raises WireError."""
    meta: dict[str, Any] = {}
    data, mime = b"", ""
    for mark, start, end in wire.fields(*span):
        if mark == head(1, FIXED32):
            meta["sample_rate"] = _whole(wire.single(start))
        elif mark == head(2, VARINT):
            meta["channels"] = signed(start)
        elif mark == head(3, VARINT):
            meta["frames"] = signed(start)
        elif mark == head(4, LENGTH):
            data = wire.data[start:end]
        elif mark == head(5, LENGTH):
            mime = wire.text(start, end)
    return [_sound(data, mime, meta)]


def read_audio_tensor(wire: Wire, span: Span) -> list[Clip]:
    """Return the sounds of a tensor of strings. Raises WireError."""
    tensor = read_tensor(wire, span)
    strings = read_strings(wire, tensor)
    columns = tensor.shape[1] if len(tensor.shape) == 2 else 1
    if len(tensor.shape) not in {1, 2} or columns not in {1, 2} or not strings:
        raise WireError("sounds of an unknown shape")
    clips = []
    for row in range(0, len(strings), columns):
        label = strings[row + 1].decode("utf-8", "replace") if columns == 2 else ""
        clips.append(_sound(strings[row], "", {"label": label} if label else {}))
    return clips


def _picture(data: bytes, width: int, height: int) -> Clip:
    if not data:
        raise WireError("an image without bytes")
    mime = mime_of(data)
    meta = {"width": width, "height": height} if width > 0 and height > 0 else {}
    return Clip("video" if mime == "image/gif" else "image", data, mime, meta)


def _sound(data: bytes, mime: str, meta: dict[str, Any]) -> Clip:
    if not data:
        raise WireError("a sound without bytes")
    seen = mime_of(data)
    if seen == "audio/wav":
        meta = {**_wav(data), **meta}
    return Clip("audio", data, seen if seen != UNKNOWN else mime or UNKNOWN, meta)


def _wav(data: bytes) -> dict[str, Any]:
    """Return what the header of a WAV file says, when it stands where it usually does."""
    if data[12:16] != b"fmt " or len(data) < 28:
        return {}
    channels, sample_rate = struct.unpack_from("<HI", data, 22)
    return {"sample_rate": sample_rate, "channels": channels}


def _whole(number: float) -> float:
    return int(number) if math.isfinite(number) and number.is_integer() else number


def _decimal(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) < 10 else 0
