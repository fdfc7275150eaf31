"""
TensorBoard's messages, from their parts.

Field numbers: ``event.proto``, ``summary.proto``, ``tensor.proto`` of TensorFlow, and the
``hparams`` plugin's ``plugin_data.proto``, as TensorBoard ships them.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final, Mapping, Optional

from tracelet.records import Histogram, Media, Scalar, Step
from tracelet.tfevents.wire import FIXED32, FIXED64, LENGTH, VARINT, field, head, varint

#: What a reader of events expects first; with it, falling steps are not taken for a restart.
VERSION: Final = field(3, b"brain.Event:2")

_DOUBLE: Final = struct.Struct("<d")
_FLOAT: Final = struct.Struct("<f")
_INT64: Final = range(-(1 << 63), 1 << 63)
#: ``dtype`` DT_FLOAT, a shape of no dimension, and the head of ``float_val``: TensorBoard's faster
#: loader shows no other type. Readers take the field of the type and leave ``double_val`` alone.
_SCALAR_TENSOR: Final = b"\x08\x01\x12\x00" + varint(head(5, LENGTH)) + b"\x04"
_EXACTLY: Final = varint(head(6, LENGTH)) + b"\x08"
#: ``dtype`` DT_STRING and a shape of no dimension.
_STRING_TENSOR: Final = b"\x08\x07\x12\x00"
#: ``dtype`` DT_FLOAT of shape [0]: what the hparams plugin puts where a tensor has to be.
_NO_TENSOR: Final = b"\x08\x01" + field(2, field(2, b"\x08\x00"))


def utf8(text: str) -> bytes:
    """Return a text as protobuf takes it: half a surrogate pair is written out."""
    return text.encode("utf-8", "backslashreplace")


def whole(step: Step) -> int:
    """
    Return a step as an event holds it; none is 0.

    Raises:
        ValueError: It is no whole number of 64 bits.
    """
    number = 0 if step is None else int(step)
    if step is not None and (number != step or number not in _INT64):
        raise ValueError(f"TensorBoard has no step {step!r}: steps are whole numbers of 64 bits")
    return number


def event(time: float, step: int, what: bytes) -> bytes:
    """Return an event that holds one field."""
    return b"\x09" + _DOUBLE.pack(time) + b"\x10" + varint(step) + what


def summary(*values: bytes) -> bytes:
    """Return the field of an event that holds values."""
    return field(5, b"".join(field(1, value) for value in values))


def metadata(plugin: str, content: bytes = b"") -> bytes:
    """Return the field of a value that says whose it is."""
    name = field(1, plugin.encode())
    return field(9, field(1, name + (field(2, content) if content else b"")))


_SCALARS: Final = metadata("scalars")
_TEXT: Final = metadata("text")
_OURS: Final = metadata("tracelet")
_SCALAR_BYTES: Final = len(_SCALAR_TENSOR) + 4 + len(_EXACTLY) + 8
_SCALAR: Final = varint(head(8, LENGTH)) + varint(_SCALAR_BYTES) + _SCALAR_TENSOR


def scalar(key: str, value: float, *, single: bool) -> bytes:
    """Return a point of a curve."""
    tag = field(1, utf8(key))
    if single:
        return tag + varint(head(2, FIXED32)) + _single(value)
    return tag + _SCALAR + _single(value) + _EXACTLY + _DOUBLE.pack(value) + _SCALARS


def text(key: str, content: str) -> bytes:
    """Return a text that TensorBoard shows as Markdown."""
    return _string(key, content) + _TEXT


def ours(kind: str, content: str) -> bytes:
    """Return something that TensorBoard has no event for."""
    return _string(f"_tracelet_/{kind}", content) + _OURS


def _string(key: str, content: str) -> bytes:
    return field(1, utf8(key)) + field(8, _STRING_TENSOR + field(8, utf8(content)))


def histogram(record: Histogram) -> bytes:
    """Return buckets: the first limit is the left end of all, and nothing is left of it."""
    numbers = (record.min, record.max, sum(record.counts), record.sum, record.sum_squares)
    fixed = b"".join(
        varint(head(number, FIXED64)) + _DOUBLE.pack(value)
        for number, value in enumerate(numbers, 1)
    )
    limits = struct.pack(f"<{len(record.edges)}d", *record.edges)
    counts = struct.pack(f"<{len(record.counts) + 1}d", 0.0, *record.counts)
    return field(1, utf8(record.key)) + field(5, fixed + field(6, limits) + field(7, counts))


def image(record: Media) -> bytes:
    """Return a picture, or a film that moves as one."""
    width, height = _size(record)
    sizes = _number(1, height) + _number(2, width) + _number(3, 3)
    return field(1, utf8(record.key)) + field(4, sizes + field(4, record.data))


def audio(record: Media) -> bytes:
    """Return a sound."""
    rate = varint(head(1, FIXED32)) + _single(float(record.meta.get("sample_rate") or 0))
    rest = _number(2, record.meta.get("channels")) + _number(3, record.meta.get("frames"))
    content = rate + rest + field(4, record.data) + field(5, record.mime.encode())
    return field(1, utf8(record.key)) + field(6, content)


def session_start(params: Mapping[str, Scalar], time: float) -> bytes:
    """Return what the hparams plugin shows of a run."""
    entries = b"".join(
        field(1, field(1, utf8(key)) + field(2, _json_value(value)))
        for key, value in params.items()
    )
    started = varint(head(5, FIXED64)) + _DOUBLE.pack(time)
    return _hparams("_hparams_/session_start_info", field(3, entries + started))


def session_end(status: int, time: float) -> bytes:
    """Return how a run ended, for the hparams plugin: 1 well, 2 not so."""
    content = _number(1, status) + varint(head(2, FIXED64)) + _DOUBLE.pack(time)
    return _hparams("_hparams_/session_end_info", field(4, content))


def _hparams(tag: str, content: bytes) -> bytes:
    return field(1, tag.encode()) + field(8, _NO_TENSOR) + metadata("hparams", content)


def _json_value(value: Scalar) -> bytes:
    """Return a ``google.protobuf.Value``; a number that a double cannot hold is a word."""
    if isinstance(value, bool):
        return varint(head(4, VARINT)) + varint(int(value))
    if isinstance(value, (int, float)) and _is_a_double(value):
        return varint(head(2, FIXED64)) + _DOUBLE.pack(value)
    return field(3, utf8(str(value)))


def _is_a_double(value: float) -> bool:
    try:
        return math.isfinite(value) and float(value) == value
    except OverflowError:
        return False


def _number(number: int, value: Any) -> bytes:
    return varint(head(number, VARINT)) + varint(int(value)) if value else b""


def _single(value: float) -> bytes:
    try:
        return _FLOAT.pack(value)
    except OverflowError:
        return _FLOAT.pack(math.copysign(math.inf, value))


def _size(record: Media) -> tuple[int, int]:
    width, height = record.meta.get("width"), record.meta.get("height")
    if width and height:
        return int(width), int(height)
    return _size_in(record.data) or (0, 0)


def _size_in(data: bytes) -> Optional[tuple[int, int]]:
    """Return width and height out of the head of a PNG or a GIF."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        found: tuple[int, int] = struct.unpack_from(">II", data, 16)
        return found
    if data.startswith((b"GIF87a", b"GIF89a")) and len(data) >= 10:
        return struct.unpack_from("<HH", data, 6)
    return None
