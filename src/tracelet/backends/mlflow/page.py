"""
The page of histograms: one file with its data and its script, and nothing from elsewhere.

MLflow shows it in a frame that may run scripts and do nothing else (``sandbox="allow-scripts"``).
Every text from the run reaches the page as data and is never read as markup.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Mapping, NamedTuple, Sequence

from tracelet.backends.mlflow.rows import TOP, Row

__all__ = ["Shown", "page"]


class Shown(NamedTuple):
    """A key's steps that are drawn, in order, and how many there are in all."""

    rows: Sequence[Row]
    steps: int


def page(curves: Mapping[str, Shown], left_out: int = 0) -> str:
    """
    Return the HTML.

    Args:
        curves: What to draw of each key.
        left_out: How many steps there are of keys that are not on the page.
    """
    data = json.dumps(
        {
            "top": TOP,
            "keys": list(curves),
            "rows": [[row.as_json() for row in shown.rows] for shown in curves.values()],
            "steps": [shown.steps for shown in curves.values()],
            "left": left_out,
        },
        separators=(",", ":"),
        allow_nan=False,
    )
    # Inside a script element only "<" can end it or begin a comment.
    return _template().replace("@DATA@", data.replace("<", "\\u003c"))


@cache
def _template() -> str:
    return files(__package__).joinpath("histograms.html").read_text(encoding="utf-8")
