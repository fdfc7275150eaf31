"""
A tensor of ``add_tensor``: an ``.npy`` file that NumPy loads, and a look at its numbers as JSON.

The format of the file: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import math
import sys
from array import array
from typing import Any, Optional

from tracelet.backends.mlflow.render.files import File, Rendering, as_json
from tracelet.records import Media
from tracelet.tfevents.tensors import read_event_tensor

__all__ = ["render_tensor"]

#: Numbers that the JSON shows; the other file has all.
_SHOWN = 1_000
#: What NumPy calls the types of ``array``.
_NAMES = {"f": "<f4", "d": "<f8", "i": "<i4", "h": "<i2", "b": "|i1", "B": "|u1", "H": "<u2"}


def render_tensor(media: Media) -> Optional[Rendering]:
    """
    Return the files of a tensor; None for one without numbers.

    Raises:
        ValueError: The event has no numeric tensor.
    """
    shape, numbers = read_event_tensor(media.data)
    if numbers.typecode not in _NAMES:
        numbers = array("d", numbers)
    real = [number for number in numbers if math.isfinite(number)]
    found: dict[str, Any] = {
        "key": media.key,
        "step": media.step,
        "time": media.time,
        "shape": list(shape),
        "elements": len(numbers),
        "finite": len(real),
    }
    if real:
        found.update(min=min(real), max=max(real), mean=math.fsum(real) / len(real))
    found["values"] = list(numbers[:_SHOWN])
    if len(numbers) > _SHOWN:
        found["note"] = f"the first {_SHOWN} values, in row order; the .npy file has all"
    files = [
        File("tensors", ".json", as_json(found)),
        File("tensors", ".npy", _npy(shape, numbers)),
    ]
    return Rendering(files)


def _npy(shape: tuple[int, ...], numbers: array[Any]) -> bytes:
    sizes = "".join(f"{size}, " for size in shape)
    text = (
        f"{{'descr': '{_NAMES[numbers.typecode]}', 'fortran_order': False, 'shape': ({sizes}), }}"
    )
    # Magic, version and length are 10 bytes; the data begins at a multiple of 64.
    text += " " * (-(10 + len(text) + 1) % 64) + "\n"
    if sys.byteorder == "big":
        numbers.byteswap()
    header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin-1")
    return header + numbers.tobytes()
