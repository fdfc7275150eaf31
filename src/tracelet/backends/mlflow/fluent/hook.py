"""
The TensorBoard hook of ``mlflow.pytorch.autolog``, off for as long as its writers are captured.

It would send every point a second time, rounded to a float32, from the training thread. What
autolog does besides (models, parameters of a trainer) does not pass here.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Sequence

from tracelet._patching import Modules, Swap

__all__ = ["MODULES"]

#: The hook asks this module's ``mlflow`` for the active run, and does nothing where there is none.
_NO_RUN = SimpleNamespace(active_run=lambda: None)


def _swaps(module: ModuleType) -> Sequence[Swap]:
    return [Swap(module, "mlflow", _NO_RUN)]


MODULES: Modules = {"mlflow.pytorch._pytorch_autolog": _swaps}
