"""All backends are asked at once, before training, whether they would take this run."""

from __future__ import annotations

import queue
import threading
import time
from typing import Mapping, Optional

from tracelet._guard import Guard
from tracelet._ledger import Ledger
from tracelet.backends.base import Backend
from tracelet.errors import (
    BackendError,
    ConfigError,
    MissingPackageError,
    RetryableError,
    TraceletError,
)

__all__ = ["Preflight"]


class Preflight:
    """
    Questions on their way; each in a thread of its own that nobody has to wait for.

    Args:
        backends: By name.
        ledger: What is said when a "no" comes too late to stop the start.
    """

    def __init__(self, backends: Mapping[str, Backend], ledger: Ledger) -> None:
        self._ledger = ledger
        self._guard = Guard("preflight")
        self._answers: queue.SimpleQueue[tuple[str, Optional[Exception]]] = queue.SimpleQueue()
        self._names = list(backends)
        self._late = threading.Event()
        for name, backend in backends.items():
            threading.Thread(
                target=self._ask,
                args=(name, backend),
                name=f"tracelet-preflight-{name}",
                daemon=True,
            ).start()

    def _ask(self, name: str, backend: Backend) -> None:
        answer: Optional[Exception] = RetryableError("the check itself failed")
        with self._guard:
            try:
                backend.preflight()
                answer = None
            except (BackendError, TraceletError, OSError) as error:
                answer = error  # raised, or told, in the caller's thread
        if self._late.is_set():
            if isinstance(answer, (ConfigError, MissingPackageError)):
                self._ledger.warn(f"{name} refuses: {answer} What is logged stays on disk.")
            return
        self._answers.put((name, answer))

    def wait(self, deadline: float, *, strict: bool) -> list[str]:
        """
        Wait for the answers.

        Args:
            deadline: Until when, on the monotonic clock.
            strict: Whether a backend that cannot be reached is an error.

        Returns:
            A sentence for each backend that is shipped to although it did not say yes.

        Raises:
            ConfigError: A backend said no.
            MissingPackageError: A package is not there.
            TraceletError: Only with ``strict``: a backend cannot be reached.
        """
        waiting = dict.fromkeys(self._names)
        doubts: dict[str, str] = {}
        while waiting:
            try:
                name, answer = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self._late.set()
                doubts.update((name, "it has not answered yet") for name in waiting)
                break
            del waiting[name]
            if isinstance(answer, (RetryableError, OSError)) and not isinstance(
                answer, TraceletError
            ):
                doubts[name] = str(answer) or type(answer).__name__
            elif answer is not None:
                self._late.set()
                raise answer
        sentences = [
            f"{name} is away: {reason.rstrip('.')}; what is logged is kept on disk and delivered "
            "once it is back."
            for name, reason in doubts.items()
        ]
        if strict and sentences:
            raise TraceletError(" ".join(sentences))
        return sentences
