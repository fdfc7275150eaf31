"""
The nodes of a ``GraphDef``, and its text.

Messages: ``graph.proto``, ``node_def.proto``, ``attr_value.proto``, ``tensor_shape.proto`` and
``versions.proto`` of TensorFlow. The text is the text format of protocol buffers
(https://protobuf.dev/reference/protobuf/textformat-spec/), which TensorBoard's graph page takes as
an upload.
"""

from __future__ import annotations

import struct
from typing import Final, Iterator, Mapping, NamedTuple, Optional

from tracelet.tfevents.event import read_event
from tracelet.tfevents.tensor import shape_of
from tracelet.tfevents.wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    Span,
    Wire,
    WireError,
    head,
    signed,
)

__all__ = ["Node", "find_graph", "graph_text", "read_nodes"]

#: The names of ``DataType`` in ``types.proto``; a reference type is 100 more.
_TYPES: Final = (
    "INVALID", "FLOAT", "DOUBLE", "INT32", "UINT8", "INT16", "INT8", "STRING", "COMPLEX64",
    "INT64", "BOOL", "QINT8", "QUINT8", "QINT32", "BFLOAT16", "QINT16", "QUINT16", "UINT16",
    "COMPLEX128", "HALF", "RESOURCE", "VARIANT", "UINT32", "UINT64",
)  # fmt: skip
_MAX_DEPTH: Final = 24
_OUTPUT_SHAPES: Final = ("_output_shapes", "shape")


class Node(NamedTuple):
    """One operation: what it is called, what it does, on what, where, and with what."""

    name: str
    op: str
    inputs: list[str]
    device: str
    shape: str
    attributes: list[tuple[str, str]]


# The kinds: "text" is quoted, "int" signed, "bool", "type" one of _TYPES, "float" and "double"
# fixed, "packed:<kind>" many in one field, a capital letter the message of that name.
_MESSAGES: Final[Mapping[str, Mapping[int, tuple[str, str]]]] = {
    "Graph": {1: ("node", "Node"), 2: ("library", "Library"), 3: ("version", "int"),
              4: ("versions", "Versions")},
    "Versions": {1: ("producer", "int"), 2: ("min_consumer", "int"),
                 3: ("bad_consumers", "packed:int")},
    "Library": {1: ("function", "Function"), 2: ("gradient", "Gradient")},
    "Gradient": {1: ("function_name", "text"), 2: ("gradient_func", "text")},
    "Function": {1: ("signature", "Signature"), 3: ("node_def", "Node"), 4: ("ret", "Return"),
                 5: ("attr", "Entry")},
    "Signature": {1: ("name", "text"), 2: ("input_arg", "Argument"), 3: ("output_arg", "Argument")},
    "Argument": {1: ("name", "text"), 2: ("description", "text"), 3: ("type", "type")},
    "Return": {1: ("key", "text"), 2: ("value", "text")},
    "Node": {1: ("name", "text"), 2: ("op", "text"), 3: ("input", "text"), 4: ("device", "text"),
             5: ("attr", "Entry")},
    "Entry": {1: ("key", "text"), 2: ("value", "Value")},
    "Value": {1: ("list", "List"), 2: ("s", "text"), 3: ("i", "int"), 4: ("f", "float"),
              5: ("b", "bool"), 6: ("type", "type"), 7: ("shape", "Shape"),
              8: ("tensor", "Tensor"), 9: ("placeholder", "text"), 10: ("func", "Call")},
    "List": {2: ("s", "text"), 3: ("i", "packed:int"), 4: ("f", "packed:float"),
             5: ("b", "packed:bool"), 6: ("type", "packed:type"), 7: ("shape", "Shape"),
             8: ("tensor", "Tensor"), 9: ("func", "Call")},
    "Call": {1: ("name", "text"), 2: ("attr", "Entry")},
    "Shape": {2: ("dim", "Dim"), 3: ("unknown_rank", "bool")},
    "Dim": {1: ("size", "int"), 2: ("name", "text")},
    "Tensor": {1: ("dtype", "type"), 2: ("tensor_shape", "Shape"), 3: ("version_number", "int"),
               4: ("tensor_content", "text"), 5: ("float_val", "packed:float"),
               6: ("double_val", "packed:double"), 7: ("int_val", "packed:int"),
               8: ("string_val", "text"), 10: ("int64_val", "packed:int"),
               11: ("bool_val", "packed:bool"), 13: ("half_val", "packed:int"),
               16: ("uint32_val", "packed:int"), 17: ("uint64_val", "packed:unsigned")},
}  # fmt: skip


def find_graph(data: bytes) -> Span:
    """
    Return where the ``GraphDef`` of a serialized event lies.

    Raises:
        WireError: It has none.
    """
    wire = Wire(data)
    event = read_event(wire)
    if event.what == "graph_def":
        return event.span
    if event.what == "meta_graph_def":
        for mark, start, end in wire.fields(*event.span):
            if mark == head(2, LENGTH):
                return start, end
    raise WireError("an event without a graph")


def read_nodes(data: bytes, span: Span) -> Iterator[Node]:
    """
    Yield the nodes of a ``GraphDef`` in their order.

    Args:
        data: What it lies in.
        span: Where.

    Raises:
        WireError: The bytes are no graph.
    """
    for mark, start, end in Wire(data).fields(*span):
        if mark == head(1, LENGTH):
            yield _node(data, start, end)


def _node(data: bytes, start: int, end: int) -> Node:
    wire = Wire(data)  # with a limit of its own: a graph may have many nodes
    found = {1: "", 2: "", 4: ""}
    inputs: list[str] = []
    attributes: list[tuple[str, str]] = []
    shape = ""
    for mark, low, high in wire.fields(start, end):
        number = mark >> 3
        if mark & 7 != LENGTH:
            continue
        if number in found:
            found[number] = wire.text(low, high)
        elif number == 3:
            inputs.append(wire.text(low, high))
        elif number == 5:
            key, value = _entry(wire, low, high)
            if value is not None:
                attributes.append((key, _attribute(wire, *value)))
                if key in _OUTPUT_SHAPES:
                    shape = _shapes(wire, *value) or shape
    return Node(found[1], found[2], inputs, found[4], shape, attributes)


def _entry(wire: Wire, start: int, end: int) -> tuple[str, Optional[Span]]:
    key, value = "", None
    for mark, low, high in wire.fields(start, end):
        if mark == head(1, LENGTH):
            key = wire.text(low, high)
        elif mark == head(2, LENGTH):
            value = (low, high)
    return key, value


def _attribute(wire: Wire, start: int, end: int) -> str:
    """Return a value of an attribute in a few words."""
    shown = _shapes(wire, start, end)
    if shown:
        return shown
    for mark, low, high in wire.fields(start, end):
        if mark == head(2, LENGTH):
            return wire.data[low:high].decode("utf-8", "replace")
    lines = [line.strip() for line in _message(wire, start, end, "Value", 0)]
    return " ".join(lines)


def _shapes(wire: Wire, start: int, end: int) -> str:
    """Return the shapes in a value: ``3 x 4``, several with commas, nothing if there are none."""
    found = []
    for mark, low, high in wire.fields(start, end):
        if mark == head(7, LENGTH):
            found.append(_shape(wire, low, high))
        elif mark == head(1, LENGTH):
            found += [
                _shape(wire, first, last)
                for inner, first, last in wire.fields(low, high)
                if inner == head(7, LENGTH)
            ]
    return ", ".join(found)


def _shape(wire: Wire, start: int, end: int) -> str:
    sizes = shape_of(wire, start, end)
    if sizes is None:
        return "?"
    shown = ("?" if size < 0 else str(size) for size in sizes)
    return "\N{MULTIPLICATION SIGN}".join(shown) or "scalar"


# -- the text ---------------------------------------------------------------------------------


def graph_text(data: bytes, span: Span) -> str:
    """
    Return a ``GraphDef`` in the text format of protocol buffers.

    Fields that are not known here are left out, with a comment that says so.

    Raises:
        WireError: The bytes are no graph.
    """
    lines: list[str] = []
    for mark, start, end in Wire(data).fields(*span):
        lines += _field(Wire(data), mark, start, end, "Graph", 0)
    return "".join(f"{line}\n" for line in lines)


def _message(wire: Wire, start: int, end: int, name: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise WireError("a graph that is nested too deeply")
    for mark, low, high in wire.fields(start, end):
        yield from _field(wire, mark, low, high, name, depth)


def _field(wire: Wire, mark: int, low: int, high: int, message: str, depth: int) -> Iterator[str]:
    indent = "  " * depth
    number, wire_type = mark >> 3, mark & 7
    name, kind = _MESSAGES[message].get(number, ("", ""))
    if not name:
        yield f"{indent}# field {number} of {message} is not shown"
    elif kind in _MESSAGES:
        if wire_type != LENGTH:
            raise WireError("a field of the wrong type")
        yield f"{indent}{name} {{"
        yield from _message(wire, low, high, kind, depth + 1)
        yield f"{indent}}}"
    else:
        for text in _scalars(wire, kind, wire_type, low, high):
            yield f"{indent}{name}: {text}"


def _scalars(wire: Wire, kind: str, wire_type: int, low: int, high: int) -> Iterator[str]:
    """Yield the text of one field: one for a plain number or text, any number for a packed one."""
    several = kind.startswith("packed:")
    kind = kind.partition(":")[2] or kind
    if kind == "text" and wire_type == LENGTH:
        yield quoted(wire.data[low:high])
    elif kind in ("float", "double"):
        code, alone = ("f", FIXED32) if kind == "float" else ("d", FIXED64)
        if wire_type == LENGTH and several:
            numbers = wire.packed(low, high, code)
            wire.spend(len(numbers))
        elif wire_type == alone:
            numbers = [struct.unpack_from("<" + code, wire.data, low)[0]]
        else:
            raise WireError("a field of the wrong type")
        yield from map(_real, numbers)
    elif wire_type == LENGTH and several:
        yield from (_whole(kind, value) for value in wire.packed_varints(low, high))
    elif wire_type == VARINT and kind != "text":
        yield _whole(kind, low)
    else:
        raise WireError("a field of the wrong type")


def _real(value: float) -> str:
    return str(value)  # "nan", "inf" and "-inf" are words of the format


def _whole(kind: str, value: int) -> str:
    if kind == "bool":
        return "true" if value else "false"
    if kind == "unsigned":
        return str(value)
    if kind == "type":
        plain = value - 100 if value > 100 else value
        if plain < len(_TYPES):
            return f"DT_{_TYPES[plain]}{'_REF' if value > 100 else ''}"
        return str(value)
    return str(signed(value))


_ESCAPES: Final = {
    **{byte: f"\\{byte:03o}" for byte in (*range(32), *range(127, 256))},
    9: "\\t", 10: "\\n", 13: "\\r", 34: '\\"', 92: "\\\\",
}  # fmt: skip


def quoted(data: bytes) -> str:
    """Return bytes as the text format quotes them: printable ASCII and escapes."""
    return '"' + data.decode("latin-1").translate(_ESCAPES) + '"'
