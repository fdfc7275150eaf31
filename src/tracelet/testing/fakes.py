"""Stand-ins for parts of tracelet, for tests of what lies next to them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional

from tracelet.capture.base import Number

__all__ = ["BrokenSink", "RecordingSink", "SeenEvent", "SeenFile", "SeenScalar", "SilentSink"]


class SeenScalar(NamedTuple):
    """What ``Sink.scalar`` was given."""

    stream: str
    tag: str
    value: float
    step: Optional[Number]
    time: Optional[float]


class SeenEvent(NamedTuple):
    """What ``Sink.event`` was given."""

    stream: str
    data: bytes
    hint: Optional[Mapping[str, Any]]


class SeenFile(NamedTuple):
    """What ``Sink.file`` was given: the bytes of one file, or of those below a folder."""

    stream: str
    path: str
    content: bytes


class RecordingSink:
    """A ``Sink`` that remembers, in the order of the calls."""

    def __init__(self) -> None:
        self.scalars: list[SeenScalar] = []
        self.events: list[SeenEvent] = []
        self.files: list[SeenFile] = []

    def scalar(
        self,
        stream: str,
        tag: str,
        value: float,
        step: Optional[Number],
        time: Optional[float],
    ) -> None:
        """Remember a point."""
        self.scalars.append(SeenScalar(stream, tag, value, step, time))

    def event(self, stream: str, data: bytes, hint: Optional[Mapping[str, Any]]) -> None:
        """Remember an event."""
        self.events.append(SeenEvent(stream, data, hint))

    def file(self, stream: str, local_path: str, path: str) -> None:
        """Remember a file, or all files of a folder, with their bytes as they are now."""
        source = Path(local_path)
        if not source.is_dir():
            self.files.append(SeenFile(stream, path, source.read_bytes()))
            return
        for file in sorted(source.rglob("*")):
            if file.is_file():
                name = f"{path}/{file.relative_to(source).as_posix()}"
                self.files.append(SeenFile(stream, name, file.read_bytes()))

    def points(self, tag: str) -> list[tuple[float, Optional[Number]]]:
        """Return value and step of every point of a tag, in order."""
        return [(seen.value, seen.step) for seen in self.scalars if seen.tag == tag]

    def __len__(self) -> int:
        return len(self.scalars) + len(self.events) + len(self.files)


class SilentSink:
    """A ``Sink`` that takes everything and keeps nothing, to measure what is around it."""

    def scalar(
        self,
        stream: str,
        tag: str,
        value: float,
        step: Optional[Number],
        time: Optional[float],
    ) -> None:
        """Do nothing."""

    def event(self, stream: str, data: bytes, hint: Optional[Mapping[str, Any]]) -> None:
        """Do nothing."""

    def file(self, stream: str, local_path: str, path: str) -> None:
        """Do nothing."""


class BrokenSink:
    """A ``Sink`` that raises whatever it is given."""

    def __init__(self) -> None:
        #: How often it was called.
        self.calls = 0

    def _break(self, *arguments: Any) -> None:
        self.calls += 1
        raise OSError(28, os.strerror(28))

    scalar = event = file = _break
