"""
From what a user passes as a number to the exact double and the exact step.

Only types whose fate in TensorBoard is certain are converted here. Whatever else comes, a text, an
object with ``__float__``, a tensor on a device, is TensorBoard's to judge first.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Final, Optional

from tracelet.capture.base import Number

__all__ = ["Values"]

_EDGE: Final = 2**63
#: What a conversion may raise when a value is not what its type promises.
_REFUSALS: Final = (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError)

#: NumPy's kinds of real numbers: float, int, unsigned, bool.
_REAL: Final = "fiub"

#: PyTorch's types that both families read through NumPy.
_TENSORS: Final = (
    *("float64", "float32", "float16", "int64", "int32", "int16", "int8"),
    *("uint8", "uint16", "uint32", "uint64", "bool"),
)

_Converter = Callable[[Any], Optional[float]]


def _integer(value: int) -> Optional[float]:
    # Beyond 64 bits the families differ in what they take.
    return float(value) if -_EDGE <= value < _EDGE else None


def _refuse(_value: Any) -> None:
    return None


def _array(value: Any) -> Optional[float]:
    return float(value.item()) if value.size == 1 and value.dtype.kind in _REAL else None


class Values:
    """
    What one family of writers takes as a number.

    Args:
        bfloat16: The family takes tensors of this type.
    """

    def __init__(self, *, bfloat16: bool) -> None:
        self._bfloat16 = bfloat16
        #: What makes a double of a value, by its exact type; filled as types are met.
        self.known: dict[type, _Converter] = {
            float: float,
            int: _integer,
            bool: float,
        }

    def double(self, value: Any) -> Optional[float]:
        """Return the exact double, or None for what only TensorBoard can judge."""
        kind = type(value)
        convert = self.known.get(kind) or self._learn(kind)
        try:
            return convert(value)
        except _REFUSALS:
            return None

    def step(self, step: Any) -> Optional[Number]:
        """Return an ``int`` within 64 bits, a fraction, or None for what TensorBoard must judge."""
        kind = type(step)
        if kind is not int and kind is not float:
            if kind is bool:
                return int(step)
            if (
                getattr(step, "ndim", 1) != 0
                or (self.known.get(kind) or self._learn(kind))(step) is None
            ):
                return None
            step = step.item()
        return _int64(step)

    def _learn(self, kind: type) -> _Converter:
        """Look at a type for the first time; only NumPy's and PyTorch's own are remembered."""
        library = kind.__module__.partition(".")[0]
        if library == "numpy":
            convert = _numpy_converter(kind)
        elif library == "torch":
            convert = self._torch_converter(kind)
        else:
            return _refuse
        self.known[kind] = convert
        return convert

    def _torch_converter(self, kind: type) -> _Converter:
        torch = sys.modules["torch"]
        if kind not in (torch.Tensor, torch.nn.Parameter):
            return _refuse
        names = (*_TENSORS, "bfloat16") if self._bfloat16 else _TENSORS
        taken = frozenset(getattr(torch, name) for name in names if hasattr(torch, name))
        strided = torch.strided

        def convert(value: Any) -> Optional[float]:
            # A device would have to be waited for, here and again in the writer.
            if value.is_cpu and value.dtype in taken and value.layout is strided:
                # Only a view can carry a pending minus, which NumPy refuses. Nothing that lets go
                # of the interpreter lock is asked of every tensor: the writer's thread takes it.
                if value._base is not None and value.is_neg():  # noqa: SLF001 - torch's own
                    return None
                return float(value.tolist() if value.ndim == 0 else value.item())
            return None

        return convert

    @staticmethod
    def late_double(value: Any, seen: float) -> float:
        """
        Return the exact double of a value that TensorBoard took.

        Args:
            value: What the user passed.
            seen: What the event holds, as a rule rounded to single precision.
        """
        torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
        try:
            if torch is not None and isinstance(value, torch.Tensor):
                if value.is_meta or value.dtype in (torch.float32, torch.float16):
                    return seen  # nothing was rounded; and a device need not be waited for twice
                return float(value.item())
            if numpy is not None and not isinstance(value, int):
                value = numpy.asarray(value).squeeze()
            return float(value)
        except _REFUSALS:
            return seen

    @staticmethod
    def late_step(step: Any, seen: int) -> Number:
        """Return the exact step of a call that TensorBoard took: ``seen``, or a fraction above."""
        try:
            exact = float(step)
            return exact if not exact.is_integer() and int(exact) == seen else seen
        except _REFUSALS:
            return seen


def _numpy_converter(kind: type) -> _Converter:
    numpy = sys.modules["numpy"]
    if kind is numpy.ndarray:
        return _array
    if issubclass(kind, numpy.generic) and numpy.dtype(kind).kind in _REAL:
        return float
    return _refuse


def _int64(step: Any) -> Optional[Number]:
    # The comparison is false for a NaN, too.
    if not -_EDGE <= step < _EDGE:
        return None
    whole = int(step)
    return whole if whole == step else float(step)
