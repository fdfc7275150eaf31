"""
Which run MLflow's calls go to: ours, where the program has none of its own.

Nothing is put on MLflow's stack of active runs. It belongs to one thread, ``end_run`` would end
what lies on it, and a plain ``start_run`` would fail because of it. Instead the three functions
that look at the stack answer with our run where it is empty, in every thread.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, Callable, Optional, Sequence

from tracelet._guard import Guard
from tracelet._patching import Patch
from tracelet.backends.mlflow.fluent.stack import stack_top
from tracelet.records import RemoteRun

__all__ = ["Current"]


class Current:
    """
    Answers for MLflow's functions with our run.

    Args:
        opened: As in ``Attachment``.
        here: Says whether MLflow's calls go to the store where our run is.
    """

    def __init__(self, opened: Callable[[], RemoteRun], here: Callable[[], bool]) -> None:
        self._opened = opened
        self._here = here
        self._run: Any = None

    def patches(self, mlflow: ModuleType) -> Sequence[Patch]:
        """Return what is replaced in MLflow."""
        fluent: Any = sys.modules["mlflow.tracking.fluent"]
        guard = Guard("mlflow run")
        wanted = (
            (mlflow, "active_run", self._active_run),
            (fluent, "active_run", self._active_run),
            (fluent, "_get_or_start_run", self._get_or_start_run),
            # For traces, which may come from any thread.
            (fluent, "_get_latest_active_run", self._active_run),
            (mlflow, "start_run", self._start_run),
            (fluent, "start_run", self._start_run),
        )
        there = [each for each in wanted if hasattr(each[0], each[1])]
        return [Patch(owner, name, build, guard) for owner, name, build in there]

    def _active_run(self, original: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
        def active_run(*args: Any, **kwargs: Any) -> Any:
            found = original(*args, **kwargs)
            return self._ours(guard) if found is None else found

        return active_run

    def _get_or_start_run(self, original: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
        def get_or_start_run(*args: Any, **kwargs: Any) -> Any:
            ours = self._ours(guard) if stack_top() is None else None
            return original(*args, **kwargs) if ours is None else ours

        return get_or_start_run

    def _start_run(self, original: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
        """A nested run lies below ours; any other is the program's own, as without us."""

        def start_run(*args: Any, **kwargs: Any) -> Any:
            nested = kwargs.get("nested") or (len(args) > 3 and args[3])
            given = args or kwargs.get("run_id") or kwargs.get("parent_run_id")
            ours = self._ours(guard) if nested and not given and stack_top() is None else None
            if ours is not None:
                kwargs["parent_run_id"] = ours.info.run_id
                kwargs.setdefault("experiment_id", ours.info.experiment_id)
            return original(*args, **kwargs)

        return start_run

    def _ours(self, guard: Guard) -> Any:
        """
        Return our run as MLflow's; None where MLflow's calls go somewhere else.

        Raises:
            TraceletError: It is not open in time. A run that MLflow would start instead would be a
                stray one.
        """
        if not guard.enabled or not self._here():
            return None
        if self._run is None:
            self._run = _active(self._opened())
        return self._run


def _active(remote: RemoteRun) -> Any:
    """Return MLflow's own object for a run, without asking the store."""
    from mlflow.entities import LifecycleStage, Run, RunData, RunInfo, RunStatus
    from mlflow.tracking.fluent import ActiveRun

    facts = remote.facts
    info = RunInfo(
        run_id=remote.id,
        experiment_id=str(facts["experiment_id"]),
        user_id=str(facts.get("user") or "unknown"),
        status=RunStatus.to_string(RunStatus.RUNNING),
        start_time=int(facts.get("start") or 0),
        end_time=None,
        lifecycle_stage=LifecycleStage.ACTIVE,
        artifact_uri=_text(facts.get("artifact_uri")),
        run_name=remote.name,
    )
    return ActiveRun(Run(info, RunData()))


def _text(value: Any) -> Optional[str]:
    return None if value is None else str(value)
