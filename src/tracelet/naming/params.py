"""Nested parameters as one flat dictionary of values that every tracker can hold."""

from __future__ import annotations

import json
from typing import Any, Final, Mapping

from tracelet.naming.hashes import short_hashes
from tracelet.records import Scalar

_MAX_DEPTH: Final = 64
#: Longer arrays are shown as they show themselves, which is cut.
_MAX_ITEMS: Final = 1000


def flatten(params: Mapping[Any, Any]) -> dict[str, Scalar]:
    """
    Return parameters by their names, nested ones joined with ``.``.

    Numbers, texts, Booleans and None stay what they are; numbers of numpy and torch become those of
    Python, lists and arrays JSON, all else its text. Two names that meet (``{"a": {"b": 1}, "a.b":
    2}``) are both kept, the later one with a short hash.

    Args:
        params: The parameters; keys that are no texts become their text.

    Raises:
        TypeError: Not a mapping.
    """
    if not isinstance(params, Mapping):
        raise TypeError(f"parameters are a dictionary, not {type(params).__name__}")
    flat: dict[str, Scalar] = {}
    _flatten(params, (), flat)
    return flat


def _flatten(params: Mapping[Any, Any], above: tuple[str, ...], flat: dict[str, Scalar]) -> None:
    for key, value in params.items():
        path = (*above, str(key))
        if isinstance(value, Mapping) and value and len(path) < _MAX_DEPTH:
            _flatten(value, path, flat)
            continue
        name = ".".join(path)
        if name in flat:
            hashes = (f"{name}~{short}" for short in short_hashes(*path))
            name = next(other for other in hashes if other not in flat)
        flat[name] = _scalar(value)


def _scalar(value: Any) -> Scalar:
    value = _plain(value, 0)
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    scalar: Scalar = value
    return scalar


def _plain(value: Any, depth: int) -> Any:
    """Return what JSON can hold."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)  # an IntEnum and a numpy.float64 are of these kinds, too
    if isinstance(value, str):
        return str.__str__(value)
    if depth > _MAX_DEPTH:
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(
            (_plain(item, depth + 1) for item in value),
            key=lambda item: (str(type(item)), str(item)),
        )
    return _from_array(value, depth)


def _from_array(value: Any, depth: int) -> Any:
    """Return the values of an array or tensor of any library, without importing one."""
    convert, shape = getattr(value, "tolist", None), getattr(value, "shape", None)
    if not callable(convert) or not isinstance(shape, tuple):
        return str(value)
    items = 1
    for size in shape:
        items *= size
    return _plain(convert(), depth + 1) if items <= _MAX_ITEMS else str(value)
