"""All backends are asked at once, before training, whether they would take this run."""

from __future__ import annotations

import queue
import threading
import time
from typing import Mapping, Optional, Sequence

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
from tracelet.findings import Finding

__all__ = ["Preflight"]


#: Who answers, what keeps it from taking the run, and what will go wrong all the same.
_Answer = tuple[str, Optional[Exception], Sequence[Finding]]


class Preflight:
    """
    Questions on their way; each in a thread of its own that nobody has to wait for.

    Args:
        backends: By name.
        ledger: What is said when a "no" comes too late to stop the start.
        project: What the run belongs to.
    """

    def __init__(
        self, backends: Mapping[str, Backend], ledger: Ledger, project: Optional[str] = None
    ) -> None:
        self._ledger = ledger
        self._project = project
        self._guard = Guard("preflight")
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
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
        doubts: Sequence[Finding] = ()
        with self._guard:
            try:
                backend.preflight()
                answer = None
                doubts = backend.doubts(self._project)
            except (BackendError, TraceletError, OSError) as error:
                answer = error  # raised, or told, in the caller's thread
        if self._late.is_set():
            if isinstance(answer, (ConfigError, MissingPackageError)):
                self._ledger.warn(f"{name} refuses: {answer} What is logged stays on disk.")
            for doubt in doubts:
                self._ledger.warn(f"{name}: {doubt}")
            return
        self._answers.put((name, answer, doubts))

    def wait(self, deadline: float, *, strict: bool) -> list[str]:
        """
        Wait for the answers.

        Args:
            deadline: Until when, on the monotonic clock.
            strict: Whether a backend that cannot be reached, or a doubt that is a problem, is an
                error.

        Returns:
            A sentence for each backend that is shipped to although it did not say yes, and for
            each doubt of one that did.

        Raises:
            ConfigError: A backend said no.
            MissingPackageError: A package is not there.
            TraceletError: Only with ``strict``: a backend cannot be reached, or would lose
                something.
        """
        waiting = dict.fromkeys(self._names)
        away: dict[str, str] = {}
        problems: list[str] = []
        notes: list[str] = []
        while waiting:
            try:
                name, answer, doubts = self._answers.get(
                    timeout=max(0.0, deadline - time.monotonic())
                )
            except queue.Empty:
                self._late.set()
                away.update((name, "it has not answered yet") for name in waiting)
                break
            del waiting[name]
            for doubt in doubts:
                (problems if doubt.level == "problem" else notes).append(f"{name}: {doubt}")
            if isinstance(answer, (RetryableError, OSError)) and not isinstance(
                answer, TraceletError
            ):
                away[name] = str(answer) or type(answer).__name__
            elif answer is not None:
                self._late.set()
                raise answer
        problems += [
            f"{name} is away: {reason.rstrip('.')}; what is logged is kept on disk and delivered "
            "once it is back."
            for name, reason in away.items()
        ]
        if strict and problems:
            raise TraceletError(" ".join(problems))
        return [*problems, *notes]
