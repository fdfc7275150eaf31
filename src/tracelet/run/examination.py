"""All that ``tracelet doctor`` looks at, at once, and no longer than its deadline."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from typing import Callable, Iterable, Iterator, Mapping, Optional

from tracelet._guard import Guard
from tracelet.errors import TraceletError
from tracelet.findings import Finding, of_error
from tracelet.run.start import complete
from tracelet.settings import Loaded

__all__ = ["Part", "gathered", "of_backend"]

#: Looks at something and tells what it found, as it finds it.
Part = Callable[[], Iterable[Finding]]


def gathered(parts: Mapping[str, Part], deadline: float) -> Mapping[str, list[Finding]]:
    """
    Run every part in a thread of its own, and return what was found until the deadline.

    Args:
        parts: By the name under which their findings are shown.
        deadline: Until when, on the monotonic clock. Nobody waits for a part that hangs.
    """
    began = time.monotonic()
    told: queue.SimpleQueue[tuple[str, Optional[Finding]]] = queue.SimpleQueue()
    for name, part in parts.items():
        threading.Thread(
            target=_look, args=(name, part, told), name=f"tracelet-doctor-{name}", daemon=True
        ).start()
    found: dict[str, list[Finding]] = {name: [] for name in parts}
    waiting = dict.fromkeys(parts)
    while waiting:
        try:
            name, finding = told.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if finding is None:
            del waiting[name]
        else:
            found[name].append(finding)
    for name in waiting:
        text = f"no answer within {deadline - began:.1f} s"
        remedy = "look at what hangs there (a disk, a server), or give it more --timeout"
        found[name].append(Finding("problem", "time", text, remedy))
    return found


def of_backend(name: str, loaded: Loaded, deadline: float) -> Part:
    """
    Return the part that looks at one backend, with the settings that a run would have.

    Args:
        name: The backend's name.
        loaded: The settings.
        deadline: Until when, on the monotonic clock.
    """

    def look() -> Iterator[Finding]:
        try:
            backend, _, sources = complete(name, loaded, Path.cwd())
        except TraceletError as error:
            yield of_error(error, "settings")
            return
        yield from backend.examine(loaded.project, sources, deadline)

    return look


def _look(name: str, part: Part, told: queue.SimpleQueue[tuple[str, Optional[Finding]]]) -> None:
    broken: Optional[Finding] = Finding(
        "problem", "check", "the check itself failed", "report it, with the lines of the log"
    )
    with Guard("doctor"):
        for finding in part():
            told.put((name, finding))
        broken = None
    if broken is not None:
        told.put((name, broken))
    told.put((name, None))
