"""
The page of histograms: one file with its data and its script, and nothing from elsewhere.

MLflow shows it in a frame that may run scripts and do nothing else (``sandbox="allow-scripts"``).
Every text from the run reaches the page as data and is never read as markup.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Mapping, Sequence

from tracelet.backends.mlflow.rows import TOP, Row

__all__ = ["page"]


def page(curves: Mapping[str, Sequence[Row]]) -> str:
    """
    Return the HTML.

    Args:
        curves: Key → the steps to draw, in order.
    """
    data = json.dumps(
        {"top": TOP, "keys": list(curves), "rows": [_rows(rows) for rows in curves.values()]},
        separators=(",", ":"),
        allow_nan=False,
    )
    # Inside a script element only "<" can end it or begin a comment.
    return _template().replace("@DATA@", data.replace("<", "\\u003c"))


def _rows(rows: Sequence[Row]) -> list[list[object]]:
    return [row.as_json() for row in rows]


@cache
def _template() -> str:
    return files(__package__).joinpath("histograms.html").read_text(encoding="utf-8")
