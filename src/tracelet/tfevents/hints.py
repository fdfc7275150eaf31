"""
What the taps say beside an event: the things that the event no longer knows.

A hint comes out of the spool, so nothing about it is believed before it was looked at; and one
that contradicts its event (another value, another step) belongs to another event.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final, Mapping, NamedTuple, Optional

from tracelet.records import Step

#: How far a value may be from the exact one, because it went through a float16 or bfloat16.
_TOLERANCE: Final = 0.01


class Hint(NamedTuple):
    """A hint whose parts have the right types. None: not told."""

    name: Optional[str] = None
    no_step: bool = False
    step: Step = None
    value: Optional[float] = None
    hparams: Optional[Mapping[str, Any]] = None

    def step_of(self, step: int) -> Step:
        """Return the step that the user gave, where the event says ``step``."""
        if self.no_step:
            return None
        return self.step if self.step is not None and int(self.step) == step else step

    def value_of(self, value: float) -> float:
        """Return the exact double, where the event says ``value``."""
        return self.value if self.value is not None and _same(self.value, value) else value


def read_hint(hint: Optional[Mapping[str, Any]]) -> Hint:
    """Return what of a hint can be used (the keys: ``capture.base.Sink.event``)."""
    if not hint:
        return Hint()
    name, hparams = hint.get("tag"), hint.get("hparams")
    step, value = _number(hint.get("step")), _number(hint.get("value"))
    return Hint(
        name if isinstance(name, str) else None,
        hint.get("no_step") is True,
        step if step is not None and math.isfinite(step) else None,
        None if value is None else _double(value),
        hparams if isinstance(hparams, Mapping) else None,
    )


def _number(value: Any) -> Step:
    return value if isinstance(value, (int, float)) else None


def _double(value: float) -> Optional[float]:
    try:
        return float(value)
    except OverflowError:
        return None


def _same(exact: float, seen: float) -> bool:
    """Tell whether an event can say ``seen`` when the user said ``exact``."""
    if math.isnan(exact) or math.isnan(seen):
        return math.isnan(exact) and math.isnan(seen)
    try:
        narrow = struct.unpack("<f", struct.pack("<f", exact))[0]
    except OverflowError:
        narrow = math.copysign(math.inf, exact)
    return seen in {exact, narrow} or math.isclose(seen, exact, rel_tol=_TOLERANCE)
