"""
The two taps of a family of writers.

``SummaryWriter.add_scalar`` is almost all of the traffic: its tap takes the exact double, the raw
tag, the step and the time. Everything that is written, by whatever library, passes the event tap on
``EventFileWriter.add_event``; a note on the thread tells it that a scalar is recorded already.

Nothing here holds a lock or a buffer, so a fork at any moment is harmless.
"""

from __future__ import annotations

import time
from typing import Any, Callable, NamedTuple, Optional

from tracelet._guard import SKIP, Guard, Usual, quick_tap, tap
from tracelet.capture.base import Sink
from tracelet.capture.notes import (
    SURE,
    Hint,
    Notes,
    Point,
    Series,
    here,
    normal,
    speakable,
    stream_of,
)
from tracelet.capture.values import Values
from tracelet.naming import series_tag

__all__ = ["Family", "event_recorder", "event_tap", "scalar_recorder", "scalar_tap"]

Recorder = Callable[[tuple[Any, ...], dict[str, Any]], Any]

_EDGE = 2**63
_UNGIVEN: Any = object()
#: The names of the first arguments of ``add_scalar``, in both families since their beginning.
SCALAR_ARGUMENTS = ("self", "tag", "scalar_value", "global_step", "walltime")
#: The event that holds the hyperparameters themselves (TensorBoard, plugins/hparams/metadata.py).
_HPARAMS = "_hparams_/session_start_info"
#: Kinds of events that say something about the file, nothing about the training.
_FILE_ONLY = (None, "file_version", "session_log")


class Family(NamedTuple):
    """The classes of one library, and how it differs from its sister."""

    name: str
    summary_writer: type
    #: Its ``FileWriter``: what ``SummaryWriter.file_writer`` is.
    file_writer: type
    #: Attribute of a ``SummaryWriter`` with its log directory.
    folder: str
    values: Values
    #: Its writers may have a default step and time (``use_metadata``).
    metadata: bool
    #: Tells whether ``add_scalar`` may be left out where no file is written.
    needless: Callable[[Any, float], bool]
    #: From log directory and main tag to what each series' own directory begins with.
    series: Callable[[str, str], str]


def metadata_of(writer: Any) -> dict[str, Any]:
    """Return the default step and time that are in force for a ``SummaryWriter``, if any."""
    return getattr(getattr(writer, "file_writer", None), "_default_metadata", None) or {}


def scalar_recorder(family: Family, sink: Sink, *, keep: bool) -> Recorder:
    """
    Return what the tap of ``SummaryWriter.add_scalar`` does first.

    Args:
        family: Whose.
        sink: Where the points go.
        keep: False: a recorded point need not be written by the library.
    """
    scalar, folder, metadata = sink.scalar, family.folder, family.metadata
    double, step_of = family.values.double, family.values.step
    summary_writer, file_writer = family.summary_writer, family.file_writer
    needless = family.needless

    def record(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        time = None
        if kwargs or len(args) != 4:
            call = _scalar_call(args, kwargs)
            if call is None:
                return None
            writer, tag, value, step, time = call
        else:
            writer, tag, value, step = args
        notes = here.notes
        files = writer.file_writer
        number = value if type(value) is float else double(value)
        exact = step
        if step is not None and not (type(step) is int and -_EDGE <= step < _EDGE):
            exact = step_of(step)
            if exact is None:
                number = None
        if (
            number is None
            or type(tag) is not str
            or not (tag.isascii() or speakable(tag))
            or (time is not None and type(time) is not float)
            or (metadata and getattr(files, "_default_metadata", None))
        ):
            if step is None and metadata:
                step = metadata_of(writer).get("global_step")
            if notes.mark is not None or notes.pending is not None:
                notes.interrupt()
            notes.pending = Point(tag, value, step)
            return notes
        stream = notes.stream
        if stream is None:
            try:
                stream = writer._tracelet_stream  # noqa: SLF001 - ours
            except AttributeError:
                stream = stream_of(writer, folder)
        scalar(stream, tag, number, exact, time)
        if not keep and needless(writer, number):
            return SKIP
        # A closed writer opens a new file first; a subclass may write whatever it likes.
        sure = type(files) is file_writer and type(writer) is summary_writer
        if notes.mark is not None or notes.pending is not None:
            notes.interrupt()
        notes.mark = SURE if sure else tag
        return notes

    return record


def scalar_tap(
    original: Callable[..., Any], family: Family, sink: Sink, guard: Guard, *, keep: bool
) -> Callable[..., Any]:
    """
    Build the tap of ``SummaryWriter.add_scalar``; what almost all calls look like goes a short way.

    Args:
        original: The method.
        family: Whose.
        sink: Where the points go.
        guard: The tap's own.
        keep: As for ``scalar_recorder``.
    """
    usual = Usual(
        writer=family.summary_writer,
        file_writer=family.file_writer,
        metadata=family.metadata,
        doubles=family.values.known,
        needless=None if keep else family.needless,
        scalar=sink.scalar,
        here=here,
        mark=SURE,
    )
    tapped = tap(original, scalar_recorder(family, sink, keep=keep), guard)
    return quick_tap(original, tapped, usual, guard)


def _scalar_call(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Optional[tuple[Any, Any, Any, Any, Any]]:
    """Return writer, tag, value, step and time of a call, or None if it cannot be such a call."""
    given = len(args)
    if not kwargs and given == 3:
        return (*args, None, None)
    if not kwargs and given == 5:
        return args
    if given == 3 and len(kwargs) == 1 and "global_step" in kwargs:
        return (*args, kwargs["global_step"], None)
    call = dict(zip(SCALAR_ARGUMENTS, args))
    if given > 5 or not call.keys().isdisjoint(kwargs):
        # More than a scalar has (a style, a description): let TensorBoard look at it first.
        call["walltime"] = _UNGIVEN
    call.update(kwargs)
    if len(call) > 5 or not call.keys() <= set(SCALAR_ARGUMENTS):
        call["walltime"] = _UNGIVEN
    if not {"self", "tag", "scalar_value"} <= call.keys():
        return None
    return (
        call["self"],
        call["tag"],
        call["scalar_value"],
        call.get("global_step"),
        call.get("walltime"),
    )


def event_recorder(sink: Sink, event_type: type) -> Recorder:
    """
    Return what the tap of ``EventFileWriter.add_event`` does first.

    Args:
        sink: Where the events go.
        event_type: The library's ``Event``.
    """

    def record(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        notes = here.notes
        writer = args[0] if args else kwargs.get("self")
        event = args[1] if len(args) > 1 else kwargs.get("event")
        if not isinstance(event, event_type):
            return  # the original says what it thinks of that
        kind = event.WhichOneof("what")  # type: ignore[attr-defined]
        if kind not in _FILE_ONLY:
            _record_event(sink, notes, writer, event, kind)

    return record


def event_tap(original: Callable[..., Any], recorder: Recorder, guard: Guard) -> Callable[..., Any]:
    """Build the tap of ``add_event``: what a scalar tap has recorded takes the short way."""
    recorded = tap(original, recorder, guard)

    def tapped(*args: Any, **kwargs: Any) -> Any:
        notes = here.notes
        if notes.mark is SURE:
            notes.mark = None
            if len(args) == 2 and not kwargs:
                return original(args[0], args[1])  # half of what the stars cost
            return original(*args, **kwargs)
        return recorded(*args, **kwargs)

    return tapped


def _record_event(sink: Sink, notes: Notes, writer: Any, event: Any, kind: str) -> None:
    values: Any = event.summary.value if kind == "summary" else ()
    tag: str = values[0].tag if values else ""
    if notes.mark is not None and _same(notes.mark, tag):
        notes.mark = None
        return
    pending = notes.pending
    if pending is not None and len(values) == 1 and _same(pending.tag, tag):
        seen = _scalar(values[0])
        if isinstance(pending, Series):
            if _record_series(sink, notes, writer, event, pending, seen):
                return
        elif seen is not None:
            notes.pending = None
            _record_point(sink, notes, writer, event, pending, seen)
            return
    stream = notes.stream or stream_of(writer, "_logdir")
    if tag == _HPARAMS and notes.hparams is not None:
        sink.event(stream, event.SerializeToString(), {"hparams": notes.hparams})
        return
    hint = notes.hint
    if hint is not None and hint.tag is not None and not normal(tag).startswith(normal(hint.tag)):
        hint = None  # somebody else's event
    if hint is not None and hint.untimed:
        event = _now(event)
    sink.event(stream, event.SerializeToString(), _told(hint, tag))


def _told(hint: Optional[Hint], tag: str) -> Optional[dict[str, Any]]:
    if hint is None:
        return None
    told: dict[str, Any] = {}
    if hint.tag is not None and hint.tag != tag:
        told["tag"] = hint.tag
    if hint.no_step:
        told["no_step"] = True
    if hint.step is not None:
        told["step"] = hint.step
    return told or None


def _same(given: Any, tag: str) -> bool:
    """Tell whether an event's tag can have come from the tag that was given."""
    return not isinstance(given, str) or given == tag or normal(given) == normal(tag)


def _scalar(value: Any) -> Optional[float]:
    """Return the number in a summary's value, or None if it holds something else."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind == "tensor":
        for numbers in (value.tensor.double_val, value.tensor.float_val):
            if len(numbers) == 1:
                return float(numbers[0])
    return None


def _record_point(
    sink: Sink, notes: Notes, writer: Any, event: Any, point: Point, seen: float
) -> None:
    tag = point.tag
    # A text of a subclass of str; or what TensorBoard made of something else.
    written: str = event.summary.value[0].tag
    raw = str.__str__(tag) if isinstance(tag, str) and speakable(tag) else written
    sink.scalar(
        notes.stream or stream_of(writer, "_logdir"),
        raw,
        Values.late_double(point.value, seen),
        None if point.step is None else Values.late_step(point.step, event.step),
        event.wall_time or None,
    )


def _record_series(
    sink: Sink, notes: Notes, writer: Any, event: Any, series: Series, seen: Optional[float]
) -> bool:
    """Record one event of ``add_scalars`` under its series; False if it is no such event."""
    logdir = str(getattr(writer, "_logdir", ""))
    if seen is None or not logdir.startswith(series.prefix):
        return False
    name = logdir[len(series.prefix) :]
    if name not in series.recorded:
        sink.scalar(
            notes.stream or stream_of(writer, "_logdir"),
            series_tag(series.tag, name).encode("utf-8", "replace").decode(),
            Values.late_double(series.values.get(name, seen), seen),
            None if series.step is None else Values.late_step(series.step, event.step),
            event.wall_time or None,
        )
    return True


def _now(event: Any) -> Any:
    """Return the event with a time; the user's own stays as it is."""
    timed = type(event)()
    timed.CopyFrom(event)
    timed.wall_time = time.time()
    return timed
