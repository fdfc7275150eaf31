"""
Parameters and tags as MLflow can hold them, and nothing lost where it cannot.

A parameter is written once and holds 6,000 characters, a tag can change and holds 8,000
(``mlflow/utils/validation.py``). What is longer goes whole into a file of the run, and the value
says so. A parameter that changes keeps its first value; the new one becomes a tag.
"""

from __future__ import annotations

import hashlib
from typing import Mapping, NamedTuple, Sequence

from tracelet.records import Scalar

__all__ = ["CONFLICT", "Params", "Plan", "long_form", "text_of"]

PARAM_LENGTH = 6000
TAG_LENGTH = 8000
#: How much of a longer one is still shown: a table of runs has little room, and one long word
#: pushes the pictures out of the cards of the run page.
_SHOWN = 500

#: The tag that has the later value of a parameter starts like this.
CONFLICT = "tracelet.param_conflict."


class Plan(NamedTuple):
    """What to do with some parameters: write the new ones, show the changed ones as tags."""

    new: Sequence[tuple[str, str]]
    changed: Sequence[tuple[str, str]]


class Params:
    """
    The parameters that the run has already.

    Args:
        known: Key → value in the store.
    """

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = dict(known)

    def plan(self, wanted: Sequence[tuple[str, str]]) -> Plan:
        """Sort out what is new and what has changed; what is the same again is in neither."""
        new: dict[str, str] = {}
        changed: dict[str, str] = {}
        for key, value in wanted:
            present = self._known.get(key, new.get(key))
            if present is None:
                new[key] = value
            elif present != value:
                changed[key] = value
        return Plan(list(new.items()), list(changed.items()))

    def written(self, params: Sequence[tuple[str, str]]) -> None:
        """Remember what the store has now."""
        self._known.update(params)


def text_of(value: Scalar) -> str:
    """Return the value as text that every store takes: no NUL, no half of a surrogate pair."""
    text = value if isinstance(value, str) else str(value)
    if "\x00" in text:
        text = text.replace("\x00", "\\x00")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    return text


def long_form(text: str, path: str) -> str:
    """
    Return the beginning of ``text`` with a note where the whole is.

    Args:
        text: The whole.
        path: The artifact that holds it.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    note = f"… [{len(text):,} characters, {digest}; all of it: artifact {path}]"
    return text[:_SHOWN] + note
