"""The facts that are taken when a run starts, all at once, beside the rest of the start."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Callable, Iterable, Mapping, Optional

from tracelet._guard import Guard
from tracelet._redaction import known_values
from tracelet.collect import environment, git, hardware, packages, program

__all__ = ["FACTS", "Gathering"]

#: What can be taken when a run starts; the words of the setting ``collect``.
FACTS = ("git", "command", "packages", "hardware", "environment")
#: What has not been found out by then is left out.
BUDGET_S = 0.3


class Gathering:
    """
    Facts on their way, in a thread that nobody has to wait for.

    Args:
        wanted: Some of ``FACTS``; what is none of them is passed over.
        known: Values that are secret, besides those that the environment shows to be.
        budget_s: How long it may take, in seconds; ``BUDGET_S`` when not given.
    """

    def __init__(
        self,
        wanted: Iterable[str],
        known: Iterable[str] = (),
        budget_s: Optional[float] = None,
    ) -> None:
        self._deadline = time.monotonic() + (BUDGET_S if budget_s is None else budget_s)
        self._known = known_values(os.environ) | frozenset(known)
        self._wanted = frozenset(wanted).intersection(FACTS)
        self._facts: dict[str, Any] = {}
        self._guard = Guard("context")
        self._threads = [
            threading.Thread(target=self._take, args=each, name="tracelet-context", daemon=True)
            for each in (("git",), tuple(name for name in FACTS if name != "git"))
            if self._wanted.intersection(each)
        ]
        for thread in self._threads:
            thread.start()

    def facts(self) -> Mapping[str, Any]:
        """Return what is known by the end of the budget: one entry for each of ``FACTS``."""
        for thread in self._threads:
            thread.join(max(0.0, self._deadline - time.monotonic()))
        # Copied: a late thread may still add to it.
        found = dict(self._facts)
        return {name: found[name] for name in FACTS if found.get(name)}

    def _take(self, *names: str) -> None:
        takers: Mapping[str, Callable[[], Any]] = {
            "git": lambda: git.facts_of(program.places(), self._deadline),
            "command": lambda: program.command(self._known),
            "packages": packages.installed,
            "hardware": lambda: hardware.machine(os.environ),
            "environment": lambda: environment.allowed(os.environ, self._known),
        }
        for name in names:
            if name in self._wanted and time.monotonic() < self._deadline:
                with self._guard:
                    self._facts[name] = _encodable(takers[name]())


def _encodable(value: Any) -> Any:
    """Return JSON without half surrogate pairs: bytes of a name that are no UTF-8 become those."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {key: _encodable(each) for key, each in value.items()}
    return [_encodable(each) for each in value] if isinstance(value, list) else value
