"""Statistics that a noisy machine cannot fool easily: pairs, medians, intervals."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from typing import Callable, Sequence, TypeVar

__all__ = ["Pairs", "Spread", "interleaved", "percentile", "spread"]

_RESAMPLES = 2000

Plain = TypeVar("Plain")
Ours = TypeVar("Ours")


@dataclass(frozen=True)
class Spread:
    """A median with the interval that holds it in 95 of 100 resamplings of the same rounds."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 1, unit: str = "") -> str:
        """Return ``median [low, high] unit``."""
        numbers = f"{self.median:,.{digits}f} [{self.low:,.{digits}f}, {self.high:,.{digits}f}]"
        return f"{numbers} {unit}".rstrip()

    def scaled(self, factor: float) -> Spread:
        """Return the same in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)


def spread(values: Sequence[float]) -> Spread:
    """Return the median of ``values`` and its bootstrap interval (the same for the same values)."""
    chance = random.Random(1)
    medians = sorted(
        statistics.median(chance.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    cut = int(_RESAMPLES * 0.025)
    return Spread(statistics.median(values), medians[cut], medians[-cut - 1])


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value that ``part`` (0 to 1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


@dataclass(frozen=True)
class Pairs:
    """One number of each round for both sides."""

    plain: Sequence[float]
    ours: Sequence[float]

    @property
    def added(self) -> Spread:
        """What the second side has more than the first, round by round."""
        return spread([ours - plain for plain, ours in zip(self.plain, self.ours)])

    @property
    def ratio(self) -> Spread:
        """The second side as a multiple of the first, round by round."""
        return spread([ours / plain for plain, ours in zip(self.plain, self.ours)])


def interleaved(
    rounds: int, plain: Callable[[], Plain], ours: Callable[[], Ours]
) -> tuple[list[Plain], list[Ours]]:
    """
    Call both sides once per round, in turn first, and return what they returned.

    One round goes before the others and is thrown away: it fills caches and opens files.
    """
    first: list[Plain] = []
    second: list[Ours] = []
    for number in range(-1, rounds):
        if number % 2:
            first.append(plain())
            second.append(ours())
        else:
            second.append(ours())
            first.append(plain())
    return first[1:], second[1:]
