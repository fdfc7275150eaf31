"""
The program's MLflow and the shipper's do not make the tables of one fresh database at once.

MLflow makes them without a lock, and of two processes that open an empty database one crashes. See
``locks``.
"""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import Any, Callable, Sequence

from tracelet._guard import Guard
from tracelet._patching import Modules, Patch
from tracelet.backends.mlflow import locks, uri
from tracelet.backends.mlflow.uri import StoreKind
from tracelet.errors import RetryableError

__all__ = ["modules"]

_STORES = (
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
)
#: How long the program's own call waits for the shipper's to be through.
_PATIENCE_S = 15.0


def modules(url: str) -> Modules:
    """Return what is replaced in which module, for the run's store at ``url``."""
    if uri.kind_of(url) is not StoreKind.SQLITE:
        return {}
    guard = Guard("mlflow tables")

    def patches(module: ModuleType) -> Sequence[Patch]:
        return [Patch(module.SqlAlchemyStore, "__init__", _in_turn, guard)]

    return dict.fromkeys(_STORES, patches)


def _in_turn(original: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
    def in_turn(*args: Any, **kwargs: Any) -> Any:
        address = kwargs.get("db_uri", args[1] if len(args) > 1 else "")
        with contextlib.ExitStack() as turn:
            if guard.enabled and uri.kind_of(str(address)) is StoreKind.SQLITE:
                with contextlib.suppress(OSError, RetryableError):
                    turn.enter_context(locks.alone(locks.beside(str(address)), _PATIENCE_S))
            return original(*args, **kwargs)

    return in_turn
