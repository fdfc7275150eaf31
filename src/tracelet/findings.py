"""What an examination found, as ``tracelet doctor`` shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level", "of_error"]

#: ``problem``: a run would lose something, or would not start. ``note``: worth knowing.
Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """
    One thing that was looked at.

    ``subject`` is what it is about, a word or two (``server``, ``artifacts``); ``text`` says what
    is so, ``remedy`` what to do about it. Neither ever holds a secret.
    """

    level: Level
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}: {self.remedy}." if self.remedy else f"{self.text.rstrip('.')}."


def of_error(error: Exception, subject: str) -> Finding:
    """Return the problem that an error tells of, its remedy apart where the error knows it."""
    remedy = str(getattr(error, "remedy", ""))
    text = getattr(error, "found", "") if remedy else ""
    return Finding("problem", subject, text or str(error) or type(error).__name__, remedy)
