"""
Events that were kept whole go into the file as they were, under the key that the run has for them.

A key differs from the tag in the event where the run had several streams.
"""

from __future__ import annotations

from typing import Optional

from tracelet.records import Media
from tracelet.tfevents.event import Value, read_event, read_stamp, read_values
from tracelet.tfevents.wire import LENGTH, Wire, WireError, field, head

_NAMED = frozenset({"pr_curve", "mesh"})


def replayed(media: Media) -> bytes:
    """
    Return the event of a medium that is one.

    Raises:
        WireError: TensorBoard could not read it.
    """
    wire = Wire(media.data)
    event = read_event(wire)
    if event.what != "summary":
        return media.data
    values = read_values(wire, event)
    if media.kind not in _NAMED:
        return media.data
    renamed = [_renamed(wire, value, media) for value in values]
    if None in renamed:
        return media.data
    inner = b"".join(field(1, value) for value in renamed if value is not None)
    return read_stamp(media.data) + field(5, inner)


def _renamed(wire: Wire, value: Value, media: Media) -> Optional[bytes]:
    """Return a value under the medium's key; None when it has that already."""
    name = value.tag
    content = value.plugin.content if value.plugin else b""
    if media.kind == "mesh":
        name = _mesh_name(content) or name
    if name == media.key:
        return None
    key = media.key.encode("utf-8", "backslashreplace")
    # A mesh has a tag for each part: the name, and which part it is.
    part = value.tag.removeprefix(name)
    found = b""
    before = value.whole[0]
    for mark, start, end in wire.fields(*value.whole):
        if mark == head(1, LENGTH):
            found += field(1, key + part.encode())
        elif mark == head(9, LENGTH) and media.kind == "mesh" and value.plugin:
            plugin = field(1, value.plugin.name.encode()) + field(2, _named(content, key))
            found += field(9, field(1, plugin))
        else:
            found += wire.data[before:end]
        before = end
        del start
    return found


def _mesh_name(content: bytes) -> str:
    wire = Wire(content)
    for mark, start, end in wire.fields():
        if mark == head(2, LENGTH):
            return wire.text(start, end)
    return ""


def _named(content: bytes, key: bytes) -> bytes:
    """Return the data of the mesh plugin with another name."""
    found, before = b"", 0
    for mark, _, end in Wire(content).fields():
        found += field(2, key) if mark == head(2, LENGTH) else content[before:end]
        before = end
    return found


__all__ = ["WireError", "replayed"]
