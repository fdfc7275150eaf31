"""
What a user hands to a call, as a plain value of Python's.

Tensors and numpy's scalars are known by what they can do, not by their type: nothing is imported.
"""

from __future__ import annotations

import math
import os
from typing import Any, Mapping, Optional, Sequence

from tracelet.records import Scalar, Step

__all__ = ["as_json", "as_name", "as_number", "as_path", "as_scalar", "as_step", "as_table"]

_INT64 = 2**63


def as_name(value: object, what: str = "A key") -> str:
    """Return a name. Raises TypeError when it is no text, or an empty one."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is a text, not {type(value).__name__}.")
    if not value:
        raise TypeError(f"{what} is not empty.")
    return str(value)


def as_number(value: object, what: str) -> float:
    """Return the exact double of a number, a yes/no, or anything that holds one of them."""
    plain = _plain(value)
    if isinstance(plain, (bool, int, float)):
        try:
            return float(plain)
        except OverflowError:
            raise TypeError(f"The value of {what!r} is too large for a double.") from None
    if not isinstance(plain, (str, bytes, complex)) and hasattr(plain, "__float__"):
        try:
            return float(plain)  # Decimal, Fraction
        except (TypeError, ValueError):
            pass  # an array of several
    raise TypeError(f"The value of {what!r} is a number, not {_kind(value)}.")


def as_step(value: object) -> Step:
    """Return a step: None, an integer of 64 bits, or a fraction."""
    if value is None:
        return None
    plain = _plain(value)
    if isinstance(plain, int):
        return int(plain) if -_INT64 <= plain < _INT64 else float(plain)
    if isinstance(plain, float) and math.isfinite(plain):
        return int(plain) if plain.is_integer() and abs(plain) < _INT64 else plain
    raise TypeError(f"A step is a whole number, a fraction or None, not {_kind(value)}.")


def as_scalar(value: object) -> Scalar:
    """Return what a parameter may hold; everything else as its text."""
    plain = _plain(value)
    if plain is None or isinstance(plain, (bool, int, float)):
        return plain
    return str(plain)


def as_path(value: object, what: str) -> str:
    """Return a path. Raises TypeError when it is none."""
    if isinstance(value, (str, os.PathLike)):
        path = os.fspath(value)
        if isinstance(path, str):
            return path
    raise TypeError(f"{what} is a path, not {type(value).__name__}.")


def as_json(value: Any) -> Any:
    """Return a cell of a table as JSON has it; what JSON has no form for, as text."""
    plain = _plain(value)
    if plain is None or isinstance(plain, (bool, int, float, str)):
        return plain
    if isinstance(plain, Mapping):
        return {str(key): as_json(item) for key, item in plain.items()}
    if isinstance(plain, (list, tuple)):
        return [as_json(item) for item in plain]
    return str(plain)


def as_table(data: Any, columns: Optional[Sequence[str]]) -> tuple[list[str], list[list[Any]]]:
    """
    Return the columns and rows of a table.

    Args:
        data: A data frame, a mapping from column to values, or a sequence of rows, each a mapping
            or a sequence.
        columns: The names of the columns; needed when the rows are sequences.

    Raises:
        TypeError: ``data`` is nothing of that.
        ValueError: A row is shorter or longer than the others.
    """
    if hasattr(data, "columns") and hasattr(data, "itertuples"):
        names = [str(name) for name in (columns or data.columns)]
        chosen = data if columns is None else data[list(columns)]
        rows = [list(row) for row in chosen.itertuples(index=False, name=None)]
    elif isinstance(data, Mapping):
        names = [str(name) for name in (columns or data)]
        lists = [list(data[name]) for name in (columns or data)]
        if len({len(values) for values in lists}) > 1:
            raise ValueError("All columns of a table have the same length.")
        rows = [list(row) for row in zip(*lists)]
    elif isinstance(data, (str, bytes)) or not hasattr(data, "__iter__"):
        raise TypeError(f"A table is a data frame, a dictionary or rows, not {_kind(data)}.")
    else:
        given: list[Any] = list(data)
        if given and all(isinstance(row, Mapping) for row in given):
            keys = list(columns or dict.fromkeys(key for row in given for key in row))
            names = [str(key) for key in keys]
            rows = [[row.get(key) for key in keys] for row in given]
        elif columns is None:
            raise TypeError("A table of plain rows needs the names of its columns.")
        else:
            names = [str(name) for name in columns]
            rows = [list(row) for row in given]
    if any(len(row) != len(names) for row in rows):
        raise ValueError("All rows of a table have one value for each column.")
    return names, [[as_json(cell) for cell in row] for row in rows]


def _plain(value: Any) -> Any:
    """Take a number out of whatever wraps exactly one."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    item = getattr(value, "item", None)
    if callable(item):
        try:
            return item()
        except (TypeError, ValueError, RuntimeError):
            return value  # more than one element
    return value


def _kind(value: object) -> str:
    shape = getattr(value, "shape", None)
    suffix = f" of shape {tuple(shape)}" if shape else ""
    return repr(value) if isinstance(value, (int, float)) else f"{type(value).__name__}{suffix}"
