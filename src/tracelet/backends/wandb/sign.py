"""
Whether W&B's server is there, while a call into its client goes on.

Such a call may wait for the server or for a busy machine, and which of them cannot be seen from
outside. So the server is asked beside.
"""

from __future__ import annotations

import time
from typing import Callable, Optional

from tracelet.errors import BackendError

__all__ = ["Sign"]


class Sign:
    """
    Looked for once a second while a call goes on; see ``Bounded``.

    Args:
        ask: Raises ``BackendError`` when the server is not there, in about a second.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._silent_since: Optional[float] = None

    def look(self) -> None:
        """Ask."""
        began = time.monotonic()
        try:
            self._ask()
        except BackendError:
            self._silent_since = self._silent_since or began
        else:
            self._silent_since = None

    def over(self) -> None:
        """Nobody waits any more."""
        self._silent_since = None

    def silence(self) -> float:
        """Return for how many seconds it was not there; 0 when it is, or nobody waits for it."""
        since = self._silent_since
        return 0.0 if since is None else time.monotonic() - since
