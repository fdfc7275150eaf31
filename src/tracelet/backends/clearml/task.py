"""What a task is to the rest of this backend, wherever it lives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Protocol, Sequence

from tracelet.backends.clearml.files import Content
from tracelet.records import RunStatus

__all__ = ["MARK", "NAMES_OBJECT", "PARAMETERS", "PROPERTIES", "Described", "Task", "chip"]

#: The system tag of a task that we made: who asks again finds it.
MARK = "tracelet:"
#: The sections of hyperparameters: what a program logs, and what ClearML calls user properties.
PARAMETERS, PROPERTIES = "General", "properties"
#: The configuration object that lists keys which their title and series do not tell.
NAMES_OBJECT = "tracelet.names"

_MOST_OF_CHIP = 200


@dataclass(frozen=True)
class Described:
    """What a new task says of itself."""

    name: str
    project: str
    parent: Optional[str] = None
    comment: Optional[str] = None
    script: Mapping[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """
    One task, open for writing. Everything here may be said again, and changes nothing then.

    Each method raises the three answers of a backend.
    """

    id: str
    name: str
    #: The task's own folder on the file server.
    folder: str
    #: User properties, as they were when it was opened.
    properties: Mapping[str, str]
    #: Titles and series of its curves, and the content of ``NAMES_OBJECT``, then.
    pairs: Sequence[tuple[str, str]]
    names: Sequence[Mapping[str, Any]]

    def send(self, lines: Sequence[str]) -> None:
        """Send events."""

    def upload(self, path: str, content: Content, mime: str) -> str:
        """Store a file below the task's folder; return its address."""

    def edit_params(self, items: Sequence[Mapping[str, str]]) -> None:
        """Set hyperparameters."""

    def edit_chips(self, old: Sequence[str], new: Sequence[str]) -> None:
        """Replace our tags among those of the task."""

    def add_artifacts(self, items: Sequence[Mapping[str, Any]]) -> None:
        """List artifacts, each in place of the one with its key."""

    def configure(self, name: str, text: str) -> None:
        """Set a configuration object."""

    def end(self, status: RunStatus) -> None:
        """Say how the task ended."""

    def close(self) -> None:
        """Let go of it."""


def chip(key: str, value: str) -> str:
    """Return what stands among the tags of a task for a tag with a value; it may be cut."""
    text = f"{key}: {value}" if value else key
    text = " ".join(text.split()) or "_"
    return text if len(text) <= _MOST_OF_CHIP else text[: _MOST_OF_CHIP - 1] + "…"
