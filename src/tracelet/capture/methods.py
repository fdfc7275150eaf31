"""
What the taps of the other ``add_*`` methods do before and after the original.

They record nothing that the event tap can record: they hand down what the event no longer knows,
and take care of what is not an event at all.
"""

from __future__ import annotations

import inspect
import sys
from collections import abc
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

from tracelet._guard import TRYING, Call
from tracelet.capture.base import Sink
from tracelet.capture.notes import Hint, Series, here, speakable, stream_of
from tracelet.capture.taps import Family, metadata_of
from tracelet.naming import series_tag

__all__ = ["Steps", "arguments", "hinting", "histogram", "hparams", "scalars"]

Steps = Callable[[tuple[Any, ...], dict[str, Any]], Iterator[Call]]


def arguments(original: Callable[..., Any]) -> Sequence[str]:
    """Return the names of a method's arguments, ``self`` first."""
    return list(inspect.signature(original).parameters)


def _named(
    names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    return {**dict(zip(names, args)), **kwargs}


def hinting(family: Family, names: Sequence[str]) -> Steps:
    """Return the steps that hand down the raw tag, a missing step and a fraction of a step."""

    def steps(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Call]:
        call = _named(names, args, kwargs)
        notes = here.notes
        hint = _hint(family, call)
        before = notes.hint
        notes.interrupt()
        notes.hint = hint
        try:
            yield args, kwargs
        finally:
            notes.hint = before
            notes.forget()

    return steps


def _hint(family: Family, call: Mapping[str, Any]) -> Hint:
    tag, step = call.get("tag"), call.get("global_step")
    untimed = False
    if family.metadata:
        default = metadata_of(call.get("self"))
        step = default.get("global_step") if step is None else step
        untimed = bool(default) and default["walltime"] is None and call.get("walltime") is None
    fraction = None
    if step is not None and type(step) is not int:
        exact = family.values.step(step)
        fraction = exact if isinstance(exact, float) else None
    raw = str.__str__(tag) if isinstance(tag, str) and speakable(tag) else None
    return Hint(raw, step is None, fraction, untimed)


def scalars(family: Family, sink: Sink, names: Sequence[str]) -> Steps:
    """
    Return the steps of ``add_scalars``: ``main/sub`` in the stream of the writer it was called on.

    What converts for sure is recorded first; the rest when its event comes by.
    """

    def steps(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Call]:
        call = _named(names, args, kwargs)
        writer, main, values = call.get("self"), call.get("main_tag"), call.get("tag_scalar_dict")
        step, time = call.get("global_step"), call.get("walltime")
        if not isinstance(main, str):
            return  # so does the original not like it
        known = values if isinstance(values, dict) else {}
        notes = here.notes
        stream = notes.stream or stream_of(writer, family.folder)
        prefix = family.series(str(getattr(writer, family.folder)), main)
        series = Series(main, prefix, known, step, set())
        if speakable(main) and (time is None or type(time) is float):
            _record_certain(family, sink, stream, series, time)
        before = notes.stream
        notes.interrupt()
        notes.pending, notes.stream = series, stream
        try:
            yield args, kwargs
        finally:
            notes.stream = before
            notes.forget()

    return steps


def _record_certain(
    family: Family, sink: Sink, stream: str, series: Series, time: Optional[float]
) -> None:
    """Record the points of ``add_scalars``, unless there is one that TensorBoard has to judge."""
    step = None if series.step is None else family.values.step(series.step)
    points = {name: family.values.double(value) for name, value in series.values.items()}
    if (series.step is not None and step is None) or not all(
        type(name) is str and speakable(name) and number is not None
        for name, number in points.items()
    ):
        return
    for name, number in points.items():
        assert number is not None
        # Each by itself: one that fails comes again with its event, and is counted there.
        with TRYING:
            sink.scalar(stream, series_tag(series.tag, name), number, step, time)
            series.recorded.add(name)


def hparams(family: Family, names: Sequence[str]) -> Steps:
    """
    Return the steps of ``add_hparams``.

    It opens a writer in a directory of its own (named after the time); what goes through that
    belongs to the run of the writer it was called on.
    """

    def steps(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Call]:
        call = _named(names, args, kwargs)
        given = call.get("hparam_dict")
        notes = here.notes
        before = notes.stream, notes.hparams, notes.hint
        stream = before[0] or stream_of(call["self"], family.folder)
        exact = _exact(given) if type(given) is dict else None
        notes.interrupt()
        notes.stream, notes.hparams, notes.hint = stream, exact, None
        try:
            yield args, kwargs
        finally:
            notes.stream, notes.hparams, notes.hint = before
            notes.forget()

    return steps


def _exact(given: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): _plain(value) for name, value in given.items()}


def _plain(value: Any) -> Any:
    """Return a hyperparameter as a JSON value, as exactly as JSON can."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if hasattr(value, "ndim") and hasattr(value, "item"):  # of NumPy and PyTorch
        try:
            item = value.item()
        except (RuntimeError, ValueError):
            return str(value)  # more than one number
        return item if type(item) in (str, int, float, bool) else str(item)
    # Of a subclass (an enumeration, say) what it is besides.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    if callable(value):
        return getattr(value, "__name__", None) or str(value)
    return str(value)


def histogram(family: Family, names: Sequence[str]) -> Steps:
    """Return the steps of ``add_histogram``: as ``hinting``, and tensors become one array."""
    hinted = hinting(family, names)
    place = names.index("values")

    def steps(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Call]:
        array = one_array(_named(names, args, kwargs).get("values"))
        if array is not None:
            if "values" in kwargs:
                kwargs = {**kwargs, "values": array}
            else:
                args = (*args[:place], array, *args[place + 1 :])
        yield from hinted(args, kwargs)

    return steps


def one_array(values: Any) -> Any:
    """
    Flatten an iterable of tensors into one array; None for anything else, which stays as it is.

    Args:
        values: What was given to ``add_histogram``: ``model.parameters()``, ``named_parameters()``,
            a state, a list of gradients (those that are None are left out).
    """
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is None or numpy is None:
        return None
    tensors = (torch.Tensor, numpy.ndarray)
    if isinstance(values, tensors):
        return None
    if isinstance(values, (abc.Mapping, torch.nn.ParameterDict)):
        values = values.values()
    collections = (abc.Iterator, abc.MappingView, list, tuple, set, frozenset)
    if not isinstance(values, (*collections, torch.nn.ParameterList)):
        return None
    found: list[Any] = []
    iterable: Any = values
    for value in iterable:
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
            value = value[1]  # noqa: PLW2901 - of named_parameters()
        if value is None:
            continue
        if not isinstance(value, tensors):
            return None
        found.append(_flat(torch, value))
    return numpy.concatenate(found) if found else None


def _flat(torch: Any, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        if value.dtype.is_floating_point and value.dtype not in (torch.float64, torch.float16):
            value = value.float()  # NumPy has no bfloat16
        value = value.numpy()
    return value.reshape(-1)
