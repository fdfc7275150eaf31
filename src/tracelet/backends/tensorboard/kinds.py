"""What each record is as an event."""

from __future__ import annotations

import json
from typing import Any, Callable, Mapping, Sequence

from tracelet.backends.plain.encoding import plain
from tracelet.backends.plain.files import RunFiles
from tracelet.backends.tensorboard import encoding
from tracelet.backends.tensorboard.projector import is_config
from tracelet.backends.tensorboard.replayed import WireError, replayed
from tracelet.records import (
    Artifact,
    Histogram,
    Media,
    Metric,
    Param,
    Record,
    Table,
    Tag,
    Text,
)


class Kinds:
    """
    Makes events of records; what TensorBoard has no event for becomes files and a note.

    Args:
        files: Where these go.
        projector: Called with the path of an embedding's configuration that has arrived.
        single: Whether scalars are of 32 bits.
    """

    def __init__(self, files: RunFiles, projector: Callable[[str], None], *, single: bool) -> None:
        self._files = files
        self._projector = projector
        self._single = single

    def event(self, record: Record) -> bytes:
        """
        Return the event of a record.

        Raises:
            ValueError: There can be none.
            NotTheFileError: The file of an artifact is not the one that was logged.
            OSError: The disk does not take its file.
        """
        if isinstance(record, Metric):
            value = encoding.scalar(record.key, record.value, single=self._single)
        elif isinstance(record, Media):
            return self._media(record)
        elif isinstance(record, Histogram):
            value = encoding.histogram(record)
        elif isinstance(record, Text):
            value = encoding.text(record.key, record.text)
        elif isinstance(record, Table):
            value = encoding.text(record.key, markdown(record.columns, record.rows))
        elif isinstance(record, Artifact):
            kept = self._files.artifact(record)
            if is_config(record.path):
                self._projector(record.path)
            return note("artifact", {"path": record.path, **kept}, record.time)
        elif isinstance(record, (Param, Tag)):
            what = type(record).__name__.lower()
            return note(what, {"key": record.key, "value": record.value}, record.time)
        else:
            raise ValueError(f"{type(record).__name__} is no record")
        return encoding.event(record.time, encoding.whole(record.step), encoding.summary(value))

    def _media(self, media: Media) -> bytes:
        if media.kind in ("image", "video"):
            value = encoding.image(media)
        elif media.kind == "audio":
            value = encoding.audio(media)
        else:
            try:
                return replayed(media)
            except WireError:
                said = {"kind": media.kind, "key": media.key, "step": media.step}
                kept = self._files.media(media)
                return note("media", {**said, "index": media.index, **kept}, media.time)
        return encoding.event(media.time, encoding.whole(media.step), encoding.summary(value))


def note(kind: str, content: Mapping[str, Any], time: float) -> bytes:
    """Return something that TensorBoard has no event for, as JSON in one that it passes over."""
    text = json.dumps(plain(content))
    return encoding.event(time, 0, encoding.summary(encoding.ours(kind, text)))


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table as TensorBoard's text page shows one."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\r\n", "\n").replace("\n", "<br>")
