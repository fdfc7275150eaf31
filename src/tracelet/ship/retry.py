"""How long to wait before the next try, and before the next look."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Callable, Optional

__all__ = ["Backoff", "Doze"]

#: Nobody tries again at once.
LEAST_S = 0.05


@dataclass
class Backoff:
    """
    Full jitter over a doubling bound, so that many clients do not come back at once.

    The first wait is at most ``base_s``; no wait is above ``cap_s``, unless the server asked for
    more, and none below ``LEAST_S``. Nothing here ever gives up: as long as the data is on disk
    there is another try.
    """

    base_s: float = 0.5
    cap_s: float = 30.0
    failures: int = 0
    draw: Callable[[], float] = field(default=random.random)

    def failed(self, at_least: Optional[float] = None) -> float:
        """Count a failure; return the seconds to wait."""
        bound = min(self.cap_s, self.base_s * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return max(at_least or 0.0, LEAST_S, bound * self.draw())

    def succeeded(self) -> None:
        """Start over."""
        self.failures = 0


@dataclass
class Doze:
    """
    How long to rest when there was nothing to do: the longer nothing comes, the longer.

    Looking ten times a second for hours would cost more than one per cent of a core.
    """

    shortest_s: float = 0.1
    longest_s: float = 0.4
    rests: int = 0

    def rest(self) -> float:
        """Return the seconds until the next look."""
        self.rests += 1
        return min(self.longest_s, self.shortest_s * 1.05 ** min(self.rests, 100))

    def wake(self) -> None:
        """Something came: look often."""
        self.rests = 0
