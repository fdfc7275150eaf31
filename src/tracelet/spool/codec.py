"""
Records that are not scalars, as bytes: a JSON head, then whatever is binary.

``u32 length of the head | head | bytes``. JSON and struct only: what is read back may have been
written by anybody, so nothing here can build an object that is not one of ours.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from hashlib import blake2b
from typing import Any, Callable, Mapping, Optional

from tracelet.records import (
    Artifact,
    Histogram,
    Media,
    Metric,
    Param,
    Record,
    RunEnd,
    RunStatus,
    Table,
    Tag,
    Text,
)

__all__ = [
    "build_record",
    "decode_definition",
    "decode_event",
    "decode_head",
    "decode_record",
    "encode_definition",
    "encode_event",
    "encode_hint",
    "encode_record",
    "key_hash",
]

_LENGTH = struct.Struct("<I")
#: stream hash u64, time f64, length of the hint u32
EVENT_HEAD = struct.Struct("<QdI")
_EVENT_REST = struct.Struct("<dI")
#: key hash u64, length of the stream u32, 1 when a tag follows
DEFINITION_HEAD = struct.Struct("<QIB")

_TYPES: dict[str, type[Any]] = {
    "metric": Metric,
    "histogram": Histogram,
    "text": Text,
    "media": Media,
    "table": Table,
    "param": Param,
    "tag": Tag,
    "artifact": Artifact,
    "end": RunEnd,
}
_NAMES = {cls: name for name, cls in _TYPES.items()}
_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

# -- keys ---------------------------------------------------------------------------------


def key_hash(stream: str, tag: Optional[str], salt: int = 0) -> int:
    """Return the 64-bit name of a (stream, tag) pair, or of a stream alone."""
    digest = blake2b(digest_size=8, salt=salt.to_bytes(4, "little"))
    digest.update(_text(stream))
    if tag is not None:
        digest.update(b"\0" + _text(tag))
    return int.from_bytes(digest.digest(), "little")


def encode_definition(key: int, stream: str, tag: Optional[str]) -> bytes:
    """Return the payload that says what a key hash stands for."""
    raw = _text(stream)
    rest = b"" if tag is None else _text(tag)
    return DEFINITION_HEAD.pack(key, len(raw), tag is not None) + raw + rest


def decode_definition(payload: bytes) -> tuple[int, str, Optional[str]]:
    """Return ``(hash, stream, tag)``. Raises ValueError on bytes that are none."""
    try:
        key, length, has_tag = DEFINITION_HEAD.unpack_from(payload)
    except struct.error as error:
        raise ValueError("not a definition") from error
    body = payload[DEFINITION_HEAD.size :]
    if length > len(body):
        raise ValueError("a definition that is cut")
    stream = body[:length].decode("utf-8", "surrogatepass")
    return key, stream, body[length:].decode("utf-8", "surrogatepass") if has_tag else None


# -- events -------------------------------------------------------------------------------


def encode_hint(hint: Optional[Mapping[str, Any]]) -> bytes:
    """
    Return a hint as JSON, nothing for none.

    A hint that JSON has no form for is left out: the event says almost all of it as well.
    """
    if not hint:
        return b""
    try:
        return _text(json.dumps(hint, ensure_ascii=False, default=str))
    except (TypeError, ValueError, RecursionError):
        return b""


def encode_event(time: float, hint: bytes, data: bytes) -> bytes:
    """Return the payload of an event frame, but for the hash of its stream, which goes before."""
    return b"".join((_EVENT_REST.pack(time, len(hint)), hint, data))


def decode_event(payload: bytes) -> tuple[int, float, Optional[dict[str, Any]], bytes]:
    """
    Return ``(stream hash, time, hint, event)``.

    A hint that cannot be read is none. Raises ValueError on bytes that are no event frame's.
    """
    try:
        stream, time, length = EVENT_HEAD.unpack_from(payload)
    except struct.error as error:
        raise ValueError("not an event") from error
    start = EVENT_HEAD.size
    if start + length > len(payload):
        raise ValueError("an event that is cut")
    hint = None
    if length:
        try:
            hint = json.loads(payload[start : start + length].decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            hint = None
    return stream, time, hint if isinstance(hint, dict) else None, payload[start + length :]


# -- records ------------------------------------------------------------------------------


def encode_record(record: Record) -> bytes:
    """
    Return the payload of a record frame.

    Raises:
        TypeError: It is no record.
        ValueError: It holds something that has no end (a list within itself).
    """
    name = _NAMES.get(type(record))
    if name is None:
        raise TypeError(f"{type(record).__name__} is no record")
    head = {
        field.name: _plain(getattr(record, field.name))
        for field in dataclasses.fields(record)
        if field.name != "data"
    }
    head["t"] = name
    text = _text(json.dumps(head, ensure_ascii=False, separators=(",", ":"), default=str))
    return _LENGTH.pack(len(text)) + text + (record.data if isinstance(record, Media) else b"")


def decode_head(payload: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the head and the bytes behind it. Raises ValueError on bytes that are none."""
    try:
        (length,) = _LENGTH.unpack_from(payload)
        head = json.loads(payload[4 : 4 + length].decode("utf-8", "surrogatepass"))
    except (struct.error, RecursionError) as error:
        raise ValueError("not a record") from error
    if not isinstance(head, dict):
        raise ValueError("a head is an object")
    return head, payload[4 + length :]


def decode_record(payload: bytes) -> Record:
    """Return the record. Raises ValueError on bytes that are none."""
    head, data = decode_head(payload)
    return build_record(head, data)


def build_record(head: Mapping[str, Any], data: bytes) -> Record:
    """Return the record that a head and its bytes describe. Raises ValueError if they do not."""
    try:
        cls = _TYPES[head["t"]]
        names = {field.name for field in dataclasses.fields(cls)}
        values = {name: _rich(value) for name, value in head.items() if name in names}
        if cls is Media:
            values["data"] = data
        if cls is RunEnd:
            values["status"] = RunStatus(values["status"])
        if values.get("identity") is not None:
            values["identity"] = tuple(int(part) for part in values["identity"])
        record: Record = cls(**values)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("not a record of ours") from error
    for name in names:
        if not _FITS.get((cls, name), _FITS_ANY.get(name, _anything))(getattr(record, name)):
            raise ValueError(f"not a {head['t']}: {name}")
    return record


def _text(text: str) -> bytes:
    # Half of a surrogate pair is no text, but Python has such strings; they come back as they were.
    return text.encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    """JSON has no NaN; the words are marked so that a text ``"NaN"`` stays a text."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": "NaN" if math.isnan(value) else ("-" if value < 0 else "") + "Infinity"}
    if isinstance(value, Mapping):
        return {"map": {str(key): _plain(item) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _rich(value: Any) -> Any:
    if isinstance(value, dict):
        if "float" in value:
            return _NONFINITE[value["float"]]
        return {key: _rich(item) for key, item in value["map"].items()}
    if isinstance(value, list):
        return [_rich(item) for item in value]
    return value


# -- what the fields of a record may hold -------------------------------------------------


def _anything(_value: object) -> bool:
    return True


def _string(value: object) -> bool:
    return isinstance(value, str)


def _number(value: object) -> bool:
    return isinstance(value, (int, float))


def _step(value: object) -> bool:
    return value is None or (_number(value) and not isinstance(value, bool))


def _scalar(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _mapping(value: object) -> bool:
    return isinstance(value, dict)


def _list(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(fits(item) for item in value)


_FITS_ANY: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(("key", "kind", "mime", "path", "source", "stream", "text"), _string),
    **dict.fromkeys(("index", "max", "min", "size", "sum", "sum_squares", "time"), _number),
    **dict.fromkeys(("lost", "meta"), _mapping),
    "columns": _list(_string),
    "counts": _list(_number),
    "edges": _list(_number),
    "rows": _list(_list(_anything)),
    "step": _step,
}
_FITS: Mapping[tuple[type, str], Callable[[object], bool]] = {
    (Metric, "value"): _number,
    (Param, "value"): _scalar,
    (Tag, "value"): _string,
}
