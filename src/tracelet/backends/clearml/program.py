"""
What the program itself does with ClearML in the training process, seen without an import.

``Task.init`` patches the writers of TensorBoard so that every event also goes to its task. While a
run of ours is active that capture rests: into a task that we write to, everything would go twice,
and the SDK's copy turns NaN into 0.0. Only the pointer to the task is taken away; the patches stay
and call the original.
"""

from __future__ import annotations

import sys
from typing import Any, Collection, Mapping, Optional

from tracelet.backends.base import ProgramRun

__all__ = ["Capture", "measured", "opened_task"]

_CAPTURES: Mapping[str, tuple[str, ...]] = {
    "tensorboard": ("PatchSummaryToEventTransformer",),
    "tensorboardx": ("PatchSummaryToEventTransformer",),
    "tensorflow": ("PatchTensorFlowEager",),
}


def opened_task(api: str) -> Optional[ProgramRun]:
    """
    Return the task that the program opened with ``Task.init`` on this server.

    Args:
        api: The API server, without a slash at the end.
    """
    task = _main_task()
    number = str(getattr(task, "id", "") or "")
    host = str(getattr(getattr(task, "session", None), "host", "") or "")
    if not number or number.startswith("offline-") or host.rstrip("/") != api:
        return None
    return ProgramRun(number)


def measured() -> bool:
    """Tell whether the SDK measures this machine for the program's own task."""
    return getattr(_main_task(), "_resource_monitor", None) is not None


class Capture:
    """The SDK's own capture of TensorBoard, at rest from ``rest`` until ``go_on``."""

    def __init__(self) -> None:
        self._resting: list[tuple[Any, Any]] = []

    def rest(self, captured: Collection[str]) -> bool:
        """
        Let it rest for the writers that we capture; return whether it was on.

        Args:
            captured: Names of integrations.
        """
        module = sys.modules.get("clearml.binding.frameworks.tensorflow_bind")
        names = dict.fromkeys(each for name in captured for each in _CAPTURES.get(name, ()))
        for name in names:
            patch = getattr(module, name, None)
            task = getattr(patch, "_current_task", None)
            if task is not None:
                patch._current_task = None  # type: ignore[union-attr]  # noqa: SLF001
                self._resting.append((patch, task))
        return bool(self._resting)

    def go_on(self) -> None:
        """Put back what ``rest`` took away, unless the program has opened another task since."""
        while self._resting:
            patch, task = self._resting.pop()
            if patch._current_task is None and _main_task() is task:  # noqa: SLF001
                patch._current_task = task  # noqa: SLF001


def _main_task() -> Any:
    # Not `Task.current_task()`, which may make one.
    task = getattr(sys.modules.get("clearml.task"), "Task", None)
    return getattr(task, "_Task__main_task", None)
