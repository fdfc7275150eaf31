"""
Everything that is not a number, as Aim's objects.

They are put together from their stored fields (``aim/sdk/objects``) and not through their
constructors, which encode pictures anew and take half of the kinds from a path only. So the bytes
stay what they were, and nothing is loaded into an imaging library.

Each has fields beside Aim's own, which Aim keeps and its page does not look at: ``source_id``, by
which it is recognised when it comes again, and what the form leaves out (``event``, ``edges`` and
``counts`` of a histogram, ``step`` where Aim's is another).
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any, Mapping, NamedTuple, Optional, Sequence, Union

from tracelet.backends.aim import figures
from tracelet.backends.aim.bins import equal_bins
from tracelet.records import Histogram, Media, Table, Text
from tracelet.tfevents.graphs import find_graph, graph_text

__all__ = ["Drawn", "Thing", "drawn"]

Drawn = Union[Histogram, Media, Table, Text]

#: Longest text of a graph or a layout on the page; the event beside it is whole.
_MOST_TEXT_BYTES = 4_000_000
_SOUNDS = ("wav", "mp3", "flac")


class Thing(NamedTuple):
    """
    An object of Aim, before there is an Aim.

    ``kind`` is Aim's word (``image``, ``text``, ``audio``, ``figure``, ``distribution``);
    ``fields`` is what it stores, ``id`` tells it from others of the same key and step; ``number``
    is its place among the pictures of one call.
    """

    kind: str
    fields: Mapping[str, Any]
    id: str
    number: int = 0


def drawn(record: Drawn) -> Thing:
    """Return the form of a record, complete."""
    kind, fields, content = _form(record)
    index = record.index if isinstance(record, Media) else 0
    digest = hashlib.sha256()
    for part in (repr((record.time, index)).encode(), content):
        digest.update(part)
    beside: dict[str, Any] = {"source_id": digest.hexdigest()[:32], "index": index}
    if not isinstance(record.step, int):
        beside["step"] = record.step
    return Thing(kind, {**fields, **beside}, beside["source_id"], index)


def _form(record: Drawn) -> tuple[str, Mapping[str, Any], bytes]:
    if isinstance(record, Histogram):
        return _histogram(record)
    if isinstance(record, Text):
        data = record.text.encode("utf-8", "surrogatepass")
        return "text", {"data": _text(record.text), "mark": "text"}, data
    if isinstance(record, Table):
        figure = figures.table(record)
        exact = json.dumps([list(record.columns), [list(row) for row in record.rows]])
        return "figure", {**_figure(figure, "table"), "table": exact}, figure.encode()
    if record.kind in ("image", "video"):
        return "image", _image(record), record.data
    sound = record.mime.rpartition("/")[2].replace("x-", "").replace("mpeg", "mp3")
    if record.kind == "audio" and sound in _SOUNDS:
        fields = {"data": record.data, "format": sound, "caption": "", "mark": record.kind}
        return "audio", fields, record.data
    return (*_event(record), record.data)


def _histogram(record: Histogram) -> tuple[str, Mapping[str, Any], bytes]:
    bins = equal_bins(record.edges, record.counts, record.min, record.max)
    edges, counts = _doubles(record.edges), _doubles(record.counts)
    fields = {
        "data": _doubles(bins.counts),
        "dtype": "float64",
        "range": [bins.low, bins.high],
        "bin_count": len(bins.counts),
        "mark": "histogram",
        "edges": edges,
        "counts": counts,
        "min": float(record.min),
        "max": float(record.max),
        "sum": float(record.sum),
        "sum_squares": float(record.sum_squares),
    }
    return "distribution", fields, edges + counts


def _image(record: Media) -> Mapping[str, Any]:
    width, height = _size(record)
    return {
        "data": record.data,
        "source": "PIL.Image",
        "mode": "RGB",
        "format": record.mime.rpartition("/")[2] or "png",
        "width": width,
        "height": height,
        "caption": str(record.meta.get("caption", "")),
        "mark": record.kind,
    }


def _size(record: Media) -> tuple[int, int]:
    data = record.data
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
    elif data[:3] == b"GIF" and len(data) >= 10:
        width, height = struct.unpack("<HH", data[6:10])
    else:
        width, height = record.meta.get("width", 0), record.meta.get("height", 0)
    # Aim's page divides one by the other.
    return max(1, int(width)), max(1, int(height))


def _event(record: Media) -> tuple[str, Mapping[str, Any]]:
    """Return what a person can look at, with the event itself beside."""
    beside = {"event": record.data, "mime": record.mime}
    figure = _drawing(record)
    if figure is not None:
        return "figure", {**_figure(figure, record.kind), **beside}
    return "text", {"data": _text(_words(record)), "mark": record.kind, **beside}


def _drawing(record: Media) -> Optional[str]:
    try:
        if record.kind == "pr_curve":
            return figures.curve(record)
        if record.kind == "mesh":
            return figures.mesh(record)
    except ValueError:
        pass  # nothing that can be drawn; the event is kept all the same
    return None


def _words(record: Media) -> str:
    if record.kind == "custom_scalars" and record.meta.get("layout"):
        return json.dumps(record.meta["layout"], indent=2, ensure_ascii=False, default=str)
    if record.kind == "graph":
        try:
            span = find_graph(record.data)
            if span[1] - span[0] <= _MOST_TEXT_BYTES:
                return graph_text(record.data, span)
        except ValueError:
            pass
    return f"{record.kind}: {len(record.data):,} bytes, kept in the field 'event' of this text"


def _figure(text: str, mark: str) -> Mapping[str, Any]:
    words = {"source": "plotly", "version": "unknown", "format": "raw_json"}
    return {**words, "data": _text(text), "mark": mark}


def _doubles(numbers: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}d", *numbers)


def _text(text: str) -> str:
    # Aim encodes strictly; half of a surrogate pair is no character.
    return text.encode("utf-8", "replace").decode()
