"""
What of a segment may go when there is no room, and what stays: pure, no file in sight.

In this order: images, audio, video and meshes; histograms and tensors; texts and tables; then
points, of which the first, the last, the smallest and the largest of every ten of a key stay. Of
everything the last value of each key stays. Parameters, tags, artifacts, graphs and whatever has
no kind here always do.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence

from tracelet import tfevents
from tracelet.records import Histogram, Media, Metric, Record, Table, Text
from tracelet.spool import codec, frame
from tracelet.spool.reader import Item

__all__ = ["WINDOW", "Entry", "choose", "entry"]

#: Points of a key that are looked at together.
WINDOW = 10
_KINDS: Mapping[type, str] = {Histogram: "histogram", Text: "text", Table: "text"}
_MEDIA = {"image": "media", "audio": "media", "video": "media", "mesh": "media"}
_MEDIA.update({"pr_curve": "histogram", "raw": "histogram"})


class Entry(NamedTuple):
    """
    A record as far as this decision goes.

    ``number`` is its own; ``kind`` one of ``spool.thinned.KINDS``, None for what always stays;
    ``key`` says of which curve or card it is a value; ``value`` is a point's; ``size`` is what it
    takes on disk.
    """

    number: int
    kind: Optional[str]
    key: Any = None
    value: float = 0.0
    size: int = 0


def entry(item: Item) -> Entry:
    """Return what there is to decide about a record."""
    number, size = item.after.seq - 1, len(item.payload) + frame.HEADER_SIZE
    if item.type == frame.SCALAR:
        value = frame.SCALAR_INT.unpack(item.payload)[1]
        return Entry(number, "scalar", (item.stream, item.tag), value, size)
    try:
        records, light = _records(item)
    except Exception:
        # Whatever is in there: what nobody understands nobody gives up.
        return Entry(number, None, size=size)
    kinds = {_kind(each) for each in records}
    if len(kinds) != 1 or None in kinds or light != (kinds == {"scalar"}):
        return Entry(number, None, size=size)
    if light and len(records) > 1:
        return Entry(number, None, size=size)
    first = records[0]
    key = (
        getattr(first, "stream", ""),
        *sorted({str(getattr(each, "key", "")) for each in records}),
    )
    if isinstance(first, Metric):
        return Entry(number, "scalar", (first.stream, first.key), first.value, size)
    return Entry(number, kinds.pop(), key, 0.0, size)


def _records(item: Item) -> tuple[Sequence[Record], bool]:
    if item.type == frame.EVENT:
        _, _, hint, data = codec.decode_event(item.payload)
        return tfevents.decode(data, item.stream, hint), tfevents.is_light(data, hint)
    record = codec.decode_record(item.payload)
    return [record], isinstance(record, Metric)


def _kind(record: Record) -> Optional[str]:
    if isinstance(record, Metric):
        return "scalar"
    if isinstance(record, Media):
        return _MEDIA.get(record.kind)
    return _KINDS.get(type(record))


def choose(
    entries: Iterable[Entry], kind: str, later: Callable[[Any], bool] = lambda _key: False
) -> Iterator[int]:
    """
    Yield the numbers of the records that may go.

    Args:
        entries: Those of one segment, in order.
        kind: What is given up now.
        later: Says whether a key has a value in a later segment; then all of them may go.
    """
    mine = (each for each in entries if each.kind == kind)
    return _points(mine) if kind == "scalar" else _all_but_last(mine, later)


def _all_but_last(entries: Iterable[Entry], later: Callable[[Any], bool]) -> Iterator[int]:
    last: dict[Any, int] = {}
    for each in entries:
        before = last.get(each.key)
        if before is not None:
            yield before
        last[each.key] = each.number
    for key, number in last.items():
        if later(key):
            yield number


def _points(entries: Iterable[Entry]) -> Iterator[int]:
    windows: dict[Any, list[Entry]] = {}
    for each in entries:
        window = windows.setdefault(each.key, [])
        window.append(each)
        if len(window) == WINDOW:
            yield from _spare(window)
            window.clear()
    for window in windows.values():
        yield from _spare(window)


def _spare(window: Sequence[Entry]) -> Iterator[int]:
    """Yield all but the first, the last, the extremes, and the first that is no number."""
    if len(window) <= 2:
        return
    stays = {window[0].number, window[-1].number}
    finite = [each for each in window if math.isfinite(each.value)]
    if finite:
        stays.add(min(finite, key=lambda each: each.value).number)
        stays.add(max(finite, key=lambda each: each.value).number)
    stays.update([each.number for each in window if not math.isfinite(each.value)][:1])
    yield from (each.number for each in window if each.number not in stays)
