"""The runs that the program itself has open: MLflow's stack of the calling thread."""

from __future__ import annotations

import sys
from typing import Any, Optional

from tracelet._guard import TRYING
from tracelet.backends.base import ProgramRun

__all__ = ["held_run", "stack_top"]


def stack_top() -> Any:
    """Return the run that lies on top in this thread; None also where MLflow is not imported."""
    fluent = sys.modules.get("mlflow.tracking.fluent")
    stack = getattr(fluent, "_active_run_stack", None)
    runs = stack.get() if stack is not None else ()
    return runs[-1] if runs else None


def held_run() -> Optional[ProgramRun]:
    """Return it in our own words."""
    with TRYING:
        found = stack_top()
        if found is not None:
            return ProgramRun(str(found.info.run_id), str(found.info.run_name or ""))
    return None
