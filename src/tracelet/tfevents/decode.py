"""
From the bytes of a TensorBoard event to records.

A pure function of the bytes and the hint, without protobuf and without TensorBoard, so that the
process that ships loads neither. It raises nothing and makes nothing up: what it does not
understand becomes one ``Media`` of kind ``raw`` that holds the event, so that it is delivered as a
file and counted. Where an event holds several values and only some are understood, those become
records and the ``raw`` one holds the rest.
"""

from __future__ import annotations

from typing import Any, Final, Mapping, Optional

from tracelet.records import Media, Record
from tracelet.tfevents.event import Event, read_event, read_values
from tracelet.tfevents.hints import Hint, read_hint
from tracelet.tfevents.summary import EVENT_MIME, Plugins, Summary, is_light_value
from tracelet.tfevents.wire import LENGTH, Wire, WireError, head

#: What an event is called that cannot even be asked for a tag.
_NAMELESS: Final = "tfevent"
#: The writer's own books, and nothing that a user logged.
_SILENT: Final = frozenset({"file_version", "session_log", "log_message"})


def decode(data: bytes, stream: str, hint: Optional[Mapping[str, Any]] = None) -> list[Record]:
    """
    Return what one serialized ``Event`` says.

    Args:
        data: The event. Any bytes are welcome.
        stream: The log directory that it was written to.
        hint: What the event no longer knows, see ``capture.base.Sink.event``.

    Returns:
        The records, keys still raw tags; empty for an event that only keeps the writer's books.
    """
    return _decode(data, stream, hint, None)


def is_light(data: bytes, hint: Optional[Mapping[str, Any]] = None) -> bool:
    """
    Tell whether ``decode`` of this event gives metrics, parameters and labels and nothing else.

    Args:
        data: The event. What it carries is not looked at once something heavy is found.
        hint: Its hint; it makes no difference.
    """
    del hint
    wire = Wire(data)
    try:
        event = read_event(wire)
        if event.what == "summary":
            return all(is_light_value(wire, value) for value in read_values(wire, event))
    except WireError:
        return False
    return event.what in _SILENT


class Decoder:
    """
    ``decode`` for the events of files, in their order.

    TensorFlow says only with the first value of a tag which plugin it belongs to; a decoder
    remembers that, per stream.
    """

    def __init__(self) -> None:
        self._plugins: Plugins = {}

    def decode(
        self, data: bytes, stream: str, hint: Optional[Mapping[str, Any]] = None
    ) -> list[Record]:
        """Return what the next event of a stream says, see the function of the same name."""
        return _decode(data, stream, hint, self._plugins)


def _decode(
    data: bytes, stream: str, hint: Optional[Mapping[str, Any]], plugins: Optional[Plugins]
) -> list[Record]:
    told = read_hint(hint)
    wire = Wire(data)
    event = Event(0.0, 0, "", (0, 0))
    try:
        event = read_event(wire)
        if event.what == "summary":
            return Summary(wire, event, stream, told, plugins).records()
        return [] if event.what in _SILENT else [_graph(wire, event, stream, told)]
    except WireError as error:
        step = told.step_of(event.step) if event.what else None
        name = _NAMELESS if told.name is None else told.name
        meta = {"reason": str(error)}
        return [Media("raw", name, data, EVENT_MIME, step, event.time, stream, meta=meta)]


def _graph(wire: Wire, event: Event, stream: str, hint: Hint) -> Media:
    """
    Keep an event with a graph, or with the profile of one, whole.

    ``meta`` says which part it is, and where in ``data`` its own message starts and stops.
    """
    start, stop = event.span
    part, name = event.what, event.what
    if part == "graph_def":
        name = "graph"
    elif part == "meta_graph_def":
        name = "meta_graph"
    else:
        part = name = "run_metadata"
        start = stop  # nothing, unless it is found
        for mark, low, high in wire.fields(*event.span):
            if mark == head(1, LENGTH):
                name = f"run_metadata/{wire.text(low, high)}"
            elif mark == head(2, LENGTH):
                start, stop = low, high
    return Media(
        "graph",
        name if hint.name is None else hint.name,
        wire.data,
        EVENT_MIME,
        hint.step_of(event.step),
        event.time,
        stream,
        meta={"part": part, "start": start, "stop": stop},
    )
