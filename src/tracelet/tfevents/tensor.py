"""
The numbers and strings of a ``TensorProto``.

Values stand either in ``tensor_content`` (the raw little-endian array) or in a field of their
type; a single value in such a field stands for all elements of the shape. Field numbers and
types: ``tensor.proto`` and ``types.proto`` of TensorFlow.
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import Any, Callable, Final, Iterator, NamedTuple, Optional

from tracelet.tfevents.wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    MAX_FIELDS,
    VARINT,
    Span,
    Wire,
    WireError,
    head,
    signed,
)

_MAX_RANK: Final = 64
_STRING_TYPE: Final = 7


class Form(NamedTuple):
    """How a data type is stored: its code in ``struct``, its field, and what the field holds."""

    code: str
    number: int
    revive: Callable[[int], float]


class Tensor(NamedTuple):
    """A tensor as it stands in the bytes: nothing is unfolded yet."""

    dtype: int
    shape: tuple[int, ...]
    content: Span
    fields: tuple[tuple[int, int, int], ...]

    @property
    def elements(self) -> int:
        """How many elements the shape asks for."""
        count = 1
        for size in self.shape:
            count *= size
        return count


def _half(bits: int) -> float:
    """
    Return a float16 from ``half_val``.

    torch writes the bits of a float32 there instead; no float16 but zero looks the same in both.
    """
    if bits & 0xFFFFFFFF > 0xFFFF:
        return _single(bits)
    value: float = struct.unpack("<e", struct.pack("<H", bits & 0xFFFF))[0]
    return value


def _brain(bits: int) -> float:
    """Return a bfloat16 from ``half_val``, torch's way of writing it included."""
    return _single(bits if bits & 0xFFFFFFFF > 0xFFFF else bits << 16)


def _single(bits: int) -> float:
    value: float = struct.unpack("<f", struct.pack("<I", bits & 0xFFFFFFFF))[0]
    return value


def _signed32(bits: int) -> float:
    return float(signed(bits, 32))


_FORMS: Final = {
    1: Form("f", 5, float),
    2: Form("d", 6, float),
    3: Form("i", 7, _signed32),
    4: Form("B", 7, _signed32),
    5: Form("h", 7, _signed32),
    6: Form("b", 7, _signed32),
    9: Form("q", 10, lambda bits: float(signed(bits))),
    10: Form("?", 11, lambda bits: float(bool(bits))),
    14: Form("H", 13, _brain),
    17: Form("H", 7, _signed32),
    19: Form("e", 13, _half),
    22: Form("I", 16, lambda bits: float(bits & 0xFFFFFFFF)),
    23: Form("Q", 17, float),
}


def read_tensor(wire: Wire, span: Span) -> Tensor:
    """Return the frame of a tensor. Raises WireError on bytes that are none."""
    dtype, content = 0, (0, 0)
    shape: list[int] = []
    values = []
    for mark, start, end in wire.fields(*span):
        if mark == head(1, VARINT):
            dtype = start
        elif mark == head(2, LENGTH):
            shape += _read_shape(wire, start, end)
        elif mark == head(4, LENGTH):
            content = (start, end)
        elif mark >> 3 > 4:
            values.append((mark, start, end))
    if len(shape) > _MAX_RANK:
        raise WireError("a tensor of too many dimensions")
    return Tensor(dtype, tuple(shape), content, tuple(values))


def read_numbers(wire: Wire, tensor: Tensor) -> list[float]:
    """
    Return all elements of a numeric tensor, in row order, as doubles.

    Raises:
        WireError: Not numeric, too large, or the values do not fit the shape.
    """
    form = _FORMS.get(tensor.dtype)
    if form is None:
        raise WireError(f"a tensor of type {tensor.dtype}")
    wanted = tensor.elements
    wire.spend(wanted)
    start, end = tensor.content
    if end > start:
        return _from_content(wire, start, end, form, wanted)
    values: list[float] = []
    for mark, low, high in tensor.fields:
        if mark >> 3 != form.number:
            continue
        kind = mark & 7
        if form.code in "df" and kind == LENGTH:
            values += wire.packed(low, high, form.code)
        elif form.code == "d" and kind == FIXED64:
            values.append(wire.double(low))
        elif form.code == "f" and kind == FIXED32:
            values.append(wire.single(low))
        elif form.code not in "df" and kind == LENGTH:
            values += map(form.revive, wire.packed_varints(low, high))
        elif form.code not in "df" and kind == VARINT:
            values.append(form.revive(low))
        else:
            raise WireError("a tensor's values of the wrong type")
    if len(values) == 1:
        return values * wanted
    if len(values) != wanted:
        raise WireError("a tensor whose values do not fit its shape")
    return values


def read_array(wire: Wire, tensor: Tensor) -> array[Any]:
    """
    Return all elements of a large numeric tensor, in row order, in the type that they have.

    As ``read_numbers``, for tensors of millions: what lies side by side is taken over at once, and
    the work is bounded by the bytes that there are instead of by a number of fields.

    Raises:
        WireError: Not numeric, or the values do not fit the shape.
    """
    form = _FORMS.get(tensor.dtype)
    if form is None:
        raise WireError(f"a tensor of type {tensor.dtype}")
    wanted = tensor.elements
    start, end = tensor.content
    if end > start:
        if form.code not in _WHOLE or end - start != wanted * struct.calcsize("<" + form.code):
            return array("d", read_numbers(wire, tensor))
        return _little(form.code, wire.data[start:end])
    found: array[Any] = array(form.code if form.code in "df" else "d")
    for mark, low, high in tensor.fields:
        if mark >> 3 not in {form.number, _ALSO.get(tensor.dtype)}:
            continue
        if form.code in "df" and mark & 7 == LENGTH:
            if (high - low) % found.itemsize:
                raise WireError("packed numbers of a broken length")
            found += _little(form.code, wire.data[low:high])
        elif form.code in "df":
            return array("d", read_numbers(wire, tensor))  # one by one: nobody writes many so
        elif mark & 7 == LENGTH:
            found.extend(map(form.revive, _varints(wire, low, high)))
        elif mark & 7 == VARINT:
            found.append(form.revive(low))
        else:
            raise WireError("a tensor's values of the wrong type")
    if len(found) == 1 and wanted <= MAX_FIELDS:
        return found * wanted
    if len(found) != wanted:
        raise WireError("a tensor whose values do not fit its shape")
    return found


#: torch puts bytes into ``uint32_val``.
_ALSO: Final = {4: 16}
#: What ``array`` holds under the same code and in the same width as TensorFlow.
_WHOLE: Final = frozenset("fdihbBHq")


def _little(code: str, data: bytes) -> array[Any]:
    found = array(code, data)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def _varints(wire: Wire, start: int, end: int) -> Iterator[int]:
    data = wire.data
    position = start
    while position < end:
        value = data[position]
        if value < 0x80:  # most are small, and there are millions
            position += 1
        else:
            value, position = wire.varint(position, end)
        yield value


def read_strings(wire: Wire, tensor: Tensor) -> list[bytes]:
    """
    Return all elements of a string tensor, in row order.

    Raises:
        WireError: Not a tensor of strings, or they do not fit the shape.
    """
    if tensor.dtype != _STRING_TYPE:
        raise WireError("not a tensor of strings")
    spans = [(low, high) for mark, low, high in tensor.fields if mark == head(8, LENGTH)]
    if len(spans) != tensor.elements:
        raise WireError("a tensor whose strings do not fit its shape")
    return [wire.data[low:high] for low, high in spans]


def shape_of(wire: Wire, start: int, end: int) -> Optional[list[int]]:
    """
    Return the sizes of a ``TensorShapeProto`` (``tensor_shape.proto``).

    Returns:
        A size that is not known is negative; None: not even their number is known.
    """
    sizes = []
    for mark, low, high in wire.fields(start, end):
        if mark == head(2, LENGTH):
            size = 0
            for inner, value, _ in wire.fields(low, high):
                if inner == head(1, VARINT):
                    size = signed(value)
            sizes.append(size)
        elif mark == head(3, VARINT) and low:
            return None
    return sizes


def _read_shape(wire: Wire, start: int, end: int) -> list[int]:
    sizes = shape_of(wire, start, end)
    if sizes is None:
        raise WireError("a tensor of unknown rank")
    if any(size < 0 for size in sizes):
        raise WireError("a dimension of unknown size")
    return sizes


def _from_content(wire: Wire, start: int, end: int, form: Form, wanted: int) -> list[float]:
    if end - start != wanted * struct.calcsize("<" + form.code):
        raise WireError("a tensor whose content does not fit its shape")
    numbers = struct.unpack_from(f"<{wanted}{form.code}", wire.data, start)
    revive = _brain if form.revive is _brain else float  # the others stand there as themselves
    return [revive(number) for number in numbers]
