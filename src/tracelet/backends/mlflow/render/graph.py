"""
A graph: a page to walk through its scopes, its text, and an event file for TensorBoard's own page.

The text ends in ``.pbtxt.txt``: MLflow's page shows ``.txt`` in every version, and TensorBoard's
graph page takes the text as an upload.
"""

from __future__ import annotations

import struct
from typing import Optional

from tracelet.backends.mlflow.render.files import File, Rendering, filled
from tracelet.records import Media
from tracelet.tfevents.crc32c import masked_crc32c
from tracelet.tfevents.graphs import Node, find_graph, graph_text, read_nodes

__all__ = ["render_graph"]

#: Nodes that the page has; the text has all.
_MOST_NODES = 20_000
#: Characters of one attribute, and attributes of one node, on the page.
_SHOWN = 240
_MOST_ATTRIBUTES = 24
_MOST_INPUTS = 400
#: A text is three times as long as what it is made of, and a page previews at most 50 MB.
_MOST_TEXT_BYTES = 16_000_000

#: What every event file begins with: an event that says its version (``event.proto``).
_VERSION = b"\x1a\x0dbrain.Event:2"


def render_graph(media: Media) -> Optional[Rendering]:
    """
    Return the files of a graph; None for one without nodes.

    Raises:
        ValueError: The event is no graph, or only its profile.
    """
    span = find_graph(media.data)
    total = 0
    shown: list[list[object]] = []
    for node in read_nodes(media.data, span):
        total += 1
        if len(shown) < _MOST_NODES:
            shown.append(_row(node))
    if not total:
        return None
    page = {"key": media.key, "step": media.step, "total": total, "nodes": shown}
    found = [File("graphs", ".html", filled("graph.html", page))]
    if span[1] - span[0] <= _MOST_TEXT_BYTES:
        text = graph_text(media.data, span)
        found.append(File("graphs", ".pbtxt.txt", text.encode()))
    # TensorBoard looks for "tfevents" in the name of a file.
    found.append(File("graphs", ".tfevents", _framed(_VERSION) + _framed(media.data)))
    return Rendering(found)


def _row(node: Node) -> list[object]:
    attributes = [
        [key, value if len(value) <= _SHOWN else value[:_SHOWN] + "…"]
        for key, value in node.attributes[:_MOST_ATTRIBUTES]
    ]
    return [node.name, node.op, node.shape, node.inputs[:_MOST_INPUTS], node.device, attributes]


def _framed(event: bytes) -> bytes:
    """Return a record of an event file: length, its checksum, the event, its checksum."""
    length = struct.pack("<Q", len(event))
    return (
        length
        + struct.pack("<I", masked_crc32c(length))
        + event
        + struct.pack("<I", masked_crc32c(event))
    )
