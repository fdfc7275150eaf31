"""The tensor of an event that ``add_tensor`` of torch wrote, or any other with one tensor."""

from __future__ import annotations

from array import array
from typing import Any

from tracelet.tfevents.event import read_event, read_values
from tracelet.tfevents.tensor import read_array, read_tensor
from tracelet.tfevents.wire import Wire, WireError

__all__ = ["read_event_tensor"]


def read_event_tensor(data: bytes) -> tuple[tuple[int, ...], array[Any]]:
    """
    Return shape and numbers of the only tensor of a serialized event.

    Raises:
        WireError: It has none, several, or one without numbers.
    """
    wire = Wire(data)
    event = read_event(wire)
    values = read_values(wire, event) if event.what == "summary" else []
    if len(values) != 1 or values[0].what != "tensor":
        raise WireError("an event without a tensor, or with several")
    tensor = read_tensor(wire, values[0].span)
    return tensor.shape, read_array(wire, tensor)
