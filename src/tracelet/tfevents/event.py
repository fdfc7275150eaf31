"""
What an ``Event`` says, without looking into what it carries.

Field numbers: ``event.proto`` and ``summary.proto`` of TensorFlow, which TensorBoard and
tensorboardX ship under other names with the same numbers. Protobuf would merge a field that stands
twice and let the last member of a ``oneof`` win; no serializer writes such a thing, a damaged event
looks like it, so it is refused.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, Optional, Sequence

from tracelet.tfevents.wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    Span,
    Wire,
    WireError,
    field,
    head,
    signed,
)

#: A merged summary of TensorFlow 1 holds some hundreds of values.
MAX_VALUES: Final = 65_536

_WHAT: Final = {
    3: "file_version",
    4: "graph_def",
    5: "summary",
    6: "log_message",
    7: "session_log",
    8: "tagged_run_metadata",
    9: "meta_graph_def",
}
_MEMBERS: Final = {3: "old_histogram", 4: "image", 5: "histo", 6: "audio", 8: "tensor"}


class Event(NamedTuple):
    """One event: when, at which step, and where in the bytes its only content lies."""

    time: float
    step: int
    what: str
    span: Span


class Plugin(NamedTuple):
    """Whose data a value is, and what that plugin wants to know about it."""

    name: str
    content: bytes


class Value(NamedTuple):
    """
    One value of a summary.

    ``what`` names the member of the ``oneof`` (empty: none that is known) and ``number`` is its
    ``simple_value``, else ``span`` is where the member lies. ``whole`` is where the value lies.
    """

    tag: str
    what: str
    number: float
    span: Span
    plugin: Optional[Plugin]
    whole: Span


def read_event(wire: Wire) -> Event:
    """
    Return the frame of an event.

    ``time`` is 0.0 where the event has none or none that is finite. Raises WireError on bytes that
    are no event and on an event that says nothing: no writer makes one, a cut one looks like it.
    """
    time, step, what, span = 0.0, 0, "", (0, 0)
    for mark, start, end in wire.fields():
        number, kind = mark >> 3, mark & 7
        if number == 1:
            _expect(kind, FIXED64)
            time = wire.double(start)
        elif number == 2:
            _expect(kind, VARINT)
            step = signed(start)
        elif number in _WHAT:
            _expect(kind, LENGTH)
            if what:
                raise WireError("an event that says two things")
            what, span = _WHAT[number], (start, end)
    if not what:
        raise WireError("an event that says nothing")
    if what == "file_version":
        wire.text(*span)
    elif what in {"log_message", "session_log"}:
        # Nothing comes of these, so a summary with a damaged number must not pass for one. The
        # first field of both is a number, that of a summary is a value.
        for mark, _, _ in wire.fields(*span):
            _expect(mark & 7, VARINT if mark >> 3 == 1 else LENGTH)
    return Event(time if math.isfinite(time) else 0.0, step, what, span)


def read_values(wire: Wire, event: Event) -> list[Value]:
    """Return the values of a summary event, in their order. Raises WireError."""
    values: list[Value] = []
    for mark, start, end in wire.fields(*event.span):
        if mark >> 3 != 1:
            continue
        _expect(mark & 7, LENGTH)
        if len(values) >= MAX_VALUES:
            raise WireError("too many values")
        values.append(_read_value(wire, start, end))
    return values


def read_stamp(data: bytes) -> bytes:
    """Return the fields of an event that say when and at which step, as they stand in it."""
    stamp, before = b"", 0
    for mark, _, after in Wire(data).fields():
        if mark >> 3 in {1, 2}:
            stamp += data[before:after]
        before = after
    return stamp


def excerpt(data: bytes, stamp: bytes, values: Sequence[Value]) -> bytes:
    """Return an event that holds some values of another one, under the same stamp."""
    return stamp + field(5, b"".join(field(1, data[slice(*value.whole)]) for value in values))


def _read_value(wire: Wire, start: int, end: int) -> Value:
    what, number, span = "", 0.0, (0, 0)
    tag: Optional[str] = None
    metadata: Optional[Span] = None
    for mark, low, high in wire.fields(start, end):
        place, kind = mark >> 3, mark & 7
        if place == 1:
            _expect(kind, LENGTH, again=tag is not None)
            tag = wire.text(low, high)
        elif place == 9:
            _expect(kind, LENGTH, again=metadata is not None)
            metadata = (low, high)
        elif place == 2:
            _expect(kind, FIXED32, again=bool(what))
            what, number = "simple_value", wire.single(low)
        elif place in _MEMBERS:
            _expect(kind, LENGTH, again=bool(what))
            what, span = _MEMBERS[place], (low, high)
    plugin = None if metadata is None else _read_plugin(wire, metadata)
    return Value(tag or "", what, number, span, plugin, (start, end))


def _read_plugin(wire: Wire, metadata: Span) -> Optional[Plugin]:
    name, content = "", b""
    for mark, start, end in wire.fields(*metadata):
        if mark != head(1, LENGTH):
            continue
        for inner, low, high in wire.fields(start, end):
            if inner == head(1, LENGTH):
                name = wire.text(low, high)
            elif inner == head(2, LENGTH):
                content = wire.data[low:high]
    return Plugin(name, content) if name else None


def _expect(kind: int, wanted: int, *, again: bool = False) -> None:
    if kind != wanted:
        raise WireError("a field of the wrong type")
    if again:
        raise WireError("a field that stands twice")
