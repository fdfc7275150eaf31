"""
``mlflow.pytorch.log_model(model, "model")`` on every version of MLflow.

From 3.14 on a model is exported with ``torch.export`` unless another format is asked for, and a
call without an example of the input fails: the line that worked for years ends a training at its
very end. While a run is active such a call is given the format that it always had.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any, Callable, Sequence

from tracelet._guard import Guard
from tracelet._patching import Modules, Patch

__all__ = ["modules"]

#: Any of these says that the caller has thought about the format, or has what an export needs.
_CHOICES = ("serialization_format", "export_model", "input_example", "signature")
_FORMAT = "pickle"


def modules(say: Callable[[str], None]) -> Modules:
    """Return what is replaced in which module; ``say`` tells the person at the terminal."""

    def patches(module: ModuleType) -> Sequence[Patch]:
        parameters = inspect.signature(module.log_model).parameters
        if not hasattr(module, "_get_default_serialization_format") or not set(_CHOICES) <= set(
            parameters
        ):
            return []  # a version that needs no help
        guard = Guard("mlflow log_model")
        return [Patch(module, "log_model", lambda original, _: _log_model(original, say), guard)]

    return {"mlflow.pytorch": patches}


def _log_model(original: Callable[..., Any], say: Callable[[str], None]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    def log_model(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return original(*args, **kwargs)  # which says what is wrong
        if all(given.get(name) is None or given.get(name) is False for name in _CHOICES):
            kwargs["serialization_format"] = _FORMAT
            say(
                "mlflow.pytorch.log_model was given no input_example, which MLflow's new format "
                f"needs: the model is saved as {_FORMAT}, as it was before MLflow 3.14"
            )
        return original(*args, **kwargs)

    return log_model
