"""What a collector is: something that measures the machine while a run goes on."""

from __future__ import annotations

from typing import Mapping, Protocol

__all__ = ["Collector"]


class Collector(Protocol):
    """
    Measures something, again and again.

    It is made and called where the shipper lives, never on the training's thread: in a process
    beside it as a rule. A plug-in registers its class in the group ``tracelet.collectors``; the
    class is made without arguments, and one that cannot measure here raises ``OSError`` then.
    """

    def sample(self) -> Mapping[str, float]:
        """Return what is measured now: keys of metrics (``system/…``), and their values."""

    def close(self) -> None:
        """Let go of what was opened."""
