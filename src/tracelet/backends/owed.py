"""How long a tracker has been silent that owes an answer; see ``Backend.silence``."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Iterator

__all__ = ["Owed"]


class Owed:
    """The answers that a server owes, and when it last showed that it is there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: list[float] = []
        self._heard = 0.0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Owe one answer until the context ends."""
        began = time.monotonic()
        with self._lock:
            self._since.append(began)
        try:
            yield
        finally:
            with self._lock:
                self._since.remove(began)
                self._heard = time.monotonic()

    def heard(self) -> None:
        """The server took something."""
        self._heard = time.monotonic()

    def silence(self) -> float:
        """Return for how many seconds an answer is owed and nothing is heard; 0 when none is."""
        with self._lock:
            since = max(self._heard, min(self._since)) if self._since else None
        return 0.0 if since is None else time.monotonic() - since
