"""
Where a point or an object goes: which sequence, and which place beside those of the same step.

Aim keeps one value for a context, a name and a step. So a second point of a step, logged again
after a restart for instance, goes into a context of its own, ``{"repeat": 1}``. Whether a point is
a second one, or the same that was sent before, is read from the store: the same value at the same
time is the same point. The answer depends on the store alone, so that a batch which comes again
finds its places again, whoever sends it.
"""

from __future__ import annotations

import struct
from itertools import count
from typing import Any, Iterable, Mapping, NamedTuple, Optional, Sequence

from tracelet.backends.aim.objects import Thing
from tracelet.backends.aim.sdk import Session
from tracelet.naming.directories import directory
from tracelet.records import Metric

__all__ = ["Sequences"]

_Point = tuple[float, float, float]


class _Group(NamedTuple):
    """Points of a batch for one sequence."""

    context: Any
    points: list[_Point]
    #: The largest step that is there, or on its way: behind it everything is new.
    last: list[float]


class Sequences:
    """
    The sequences of one run.

    Args:
        session: The open run.
    """

    def __init__(self, session: Session) -> None:
        from aim.storage.context import Context

        self._session = session
        self._context_of = Context
        self._contexts: dict[tuple[tuple[str, Any], ...], Any] = {}
        self._subsets: dict[str, str] = {}

    def write_points(self, metrics: Iterable[Metric]) -> None:
        """Write points in the order given, each where it belongs."""
        groups: dict[tuple[str, int], _Group] = {}
        for metric in metrics:
            self._place(metric, groups)
        for (name, _), group in groups.items():
            if group.points:  # else all of it was there already
                self._session.points(group.context, name, group.points)

    def _place(self, metric: Metric, groups: dict[tuple[str, int], _Group]) -> None:
        step: Any = 0 if metric.step is None else metric.step
        point = (step, float(metric.value), float(metric.time))
        subset = self._subset(metric.stream)
        for repeat in count():
            context = self._context(subset, "metric", metric.key, repeat)
            group = groups.get((metric.key, context.idx))
            if group is None:
                last = self._last(context, metric.key)
                group = groups[metric.key, context.idx] = _Group(context, [], [last])
            if step > group.last[0]:
                group.points.append(point)
                group.last[0] = step
                return
            there = self._there(group, metric.key, step)
            if there is None:
                group.points.append(point)
                return
            if _same(there, point):
                return

    def _last(self, context: Any, name: str) -> float:
        info = self._session.sequence(context, name)
        if info.initialized:
            return float(info.count - 1) if info.count else float("inf")
        # Nothing, or what a crash left of the beginning of a sequence.
        return float("-inf") if info.dtype is None else float("inf")

    def _there(self, group: _Group, name: str, step: float) -> Optional[_Point]:
        for point in reversed(group.points):
            if point[0] == step:
                return point
        found = self._session.stored(self._session.sequence(group.context, name), step)  # type: ignore[arg-type]
        return None if found is None else (step, float(found[0]), found[1])

    def write_thing(self, key: str, stream: str, step: Any, time: float, thing: Thing) -> None:
        """
        Write an object that is no picture.

        Args:
            key: Its name.
            stream: Where it was logged.
            step: An integer, a fraction, or None.
            time: Seconds since the epoch.
            thing: Its content.
        """
        whole, subset = _whole(step), self._subset(stream)
        for repeat in count():
            context = self._context(subset, thing.kind, key, repeat)
            there = self._objects(context, key, whole)
            if there and _id(there[0]) != thing.id:
                continue
            if not there:
                self._track(thing.kind, context, key, whole, time, [thing.fields], single=True)
            return

    def write_pictures(
        self, key: str, stream: str, step: Any, time: float, things: Sequence[Thing]
    ) -> None:
        """Write pictures of one key, step and time: Aim has a list of them for each step."""
        waiting = list(things)
        while waiting:
            # Members of one call have each their own index; the same again is another call.
            call = {thing.number: thing for thing in reversed(waiting)}
            self._write_call(key, stream, _whole(step), time, list(call.values()))
            waiting = [each for each in waiting if call[each.number].id != each.id]

    def _write_call(
        self, key: str, stream: str, whole: int, time: float, things: Sequence[Thing]
    ) -> None:
        subset = self._subset(stream)
        for repeat in count():
            context = self._context(subset, "image", key, repeat)
            there = {
                int(_field(each, "index") or 0): each for each in self._objects(context, key, whole)
            }
            if there and not self._fit(there, things, context, key, whole, time):
                continue
            new = {thing.number: thing.fields for thing in things if thing.number not in there}
            if new:
                old = {index: _fields(each) for index, each in there.items()}
                members = [fields for _, fields in sorted({**old, **new}.items())]
                self._track("image", context, key, whole, time, members, single=False)
            return

    def _fit(
        self, there: Mapping[int, Any], things: Sequence[Thing], context: Any, key: str,
        step: int, time: float,
    ) -> bool:  # fmt: skip
        """Tell whether pictures are of the same call as those that are there."""
        info = self._session.sequence(context, key)
        found = self._session.stored(info, step)
        return (
            found is not None
            and found[1] == time
            and all(
                thing.number not in there or _id(there[thing.number]) == thing.id
                for thing in things
            )
        )

    def _objects(self, context: Any, name: str, step: int) -> list[Any]:
        info = self._session.sequence(context, name)
        if info.dtype is None or (info.initialized and info.count and step >= info.count):
            return []
        found = self._session.stored(info, step)
        if found is None:
            return []
        return list(found[0]) if isinstance(found[0], (list, tuple)) else [found[0]]

    def _track(
        self, kind: str, context: Any, name: str, step: int, time: float,
        members: Sequence[Mapping[str, Any]], *, single: bool,
    ) -> None:  # fmt: skip
        made = [_made(kind, fields) for fields in members]
        self._session.object(context, name, step, time, made[0] if single else made)

    def _context(self, subset: str, kind: str, name: str, repeat: int) -> Any:
        """Return the context for a kind: a sequence of Aim has one type for ever."""
        plain = self._made({"subset": subset} if subset else {})
        taken = self._session.sequence(plain, name).dtype
        clash = taken is not None and _kind_of(taken) != kind
        parts: dict[str, Any] = {"subset": subset} if subset else {}
        if clash:
            parts["kind"] = kind
        if repeat:
            parts["repeat"] = repeat
        return self._made(parts)

    def _made(self, parts: Mapping[str, Any]) -> Any:
        key = tuple(parts.items())
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = self._context_of(dict(parts))
        return context

    def _subset(self, stream: str) -> str:
        found = self._subsets.get(stream)
        if found is None:
            place = directory(stream) if stream else None
            found = place.last.casefold() if place is not None and place.is_split else ""
            self._subsets[stream] = found
        return found


def _kind_of(dtype: str) -> str:
    """Return our word for a type of Aim: ``float``, ``aim.text``, ``list(aim.image)``."""
    inner = dtype[5:-1] if dtype.startswith("list(") else dtype
    return inner[4:] if inner.startswith("aim.") else "metric"


def _same(one: _Point, other: _Point) -> bool:
    return struct.pack("<2d", *one[1:]) == struct.pack("<2d", *other[1:])


def _whole(step: Any) -> int:
    return 0 if step is None else int(step // 1)


def _made(kind: str, fields: Mapping[str, Any]) -> Any:
    from aim.storage.object import CustomObject
    from aim.storage.types import BLOB

    cls = CustomObject.by_name(f"aim.{kind}")
    made = cls.__new__(cls)
    for name, value in fields.items():
        heavy = isinstance(value, bytes) or name == "data"
        made.storage[name] = BLOB(data=value) if heavy else value
    return made


def _field(made: Any, name: str) -> Any:
    try:
        return made.storage[name]
    except KeyError:
        return None


def _id(made: Any) -> str:
    return str(_field(made, "source_id") or "")


def _fields(made: Any) -> Mapping[str, Any]:
    """Return what an object stores, with its bytes."""
    found = dict(made.storage[...])
    for name, value in found.items():
        if hasattr(value, "load"):
            found[name] = value.load()
    return found
