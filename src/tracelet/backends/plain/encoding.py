"""Records as lines of JSON."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any, Mapping, Sequence

from tracelet.records import RECORD_TYPES, Media, Record

#: What a record's line shows: the type's fields, but for bytes and places of this machine.
_FIELDS: Mapping[type, tuple[str, ...]] = {
    kind: tuple(
        field.name for field in fields(kind) if field.name not in ("data", "source", "identity")
    )
    for kind in RECORD_TYPES
}

# JSON allows them within a line; many readers of lines do not.
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def line(values: Mapping[str, Any]) -> bytes:
    """
    Return one line, with its end.

    Raises:
        TypeError: There is a value that JSON has no form for.
    """
    try:
        text = json.dumps(values, ensure_ascii=False, allow_nan=False)
        return text.translate(_LINE_ENDS).encode() + b"\n"
    except (TypeError, ValueError):
        # The slow road, taken by few: something not finite, half a surrogate pair, a tuple's kin.
        return json.dumps(plain(values), allow_nan=False).encode() + b"\n"


def shown(record: Record) -> dict[str, Any]:
    """Return what the line of a record shows, its type first."""
    kind = type(record)
    values: dict[str, Any] = {"type": kind.__name__.lower()}
    values.update((name, getattr(record, name)) for name in _FIELDS[kind])
    if isinstance(record, Media):
        values["size"] = len(record.data)
    return values


def plain(value: Any) -> Any:
    """Return ``value`` as JSON can hold it; what is not finite becomes a word."""
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            return "NaN"
        return "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [plain(item) for item in value]
    return value
