"""
The program's MLflow and the shipper's do not make one fresh store at once.

MLflow makes a database's tables, and the first experiment of a folder of files, without a lock: of
two processes that do so one crashes. See ``locks``.
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

_STORES = {
    StoreKind.SQLITE: {
        "mlflow.store.tracking.sqlalchemy_store": "SqlAlchemyStore",
        "mlflow.store.model_registry.sqlalchemy_store": "SqlAlchemyStore",
    },
    StoreKind.FOLDER: {"mlflow.store.tracking.file_store": "FileStore"},
}
#: How long the program's own call waits for the shipper's to be through.
_PATIENCE_S = 15.0


def modules(url: str) -> Modules:
    """Return what is replaced in which module, for the run's store at ``url``."""
    stores = _STORES.get(uri.kind_of(url), {})
    guard = Guard("mlflow store")

    def patches(module: ModuleType) -> Sequence[Patch]:
        owner = getattr(module, stores[module.__name__])
        return [Patch(owner, "__init__", lambda original, _: _in_turn(original, url, guard), guard)]

    return dict.fromkeys(stores, patches)


def _in_turn(original: Callable[..., Any], url: str, guard: Guard) -> Callable[..., Any]:
    def in_turn(*args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as turn:
            if guard.enabled:
                with contextlib.suppress(OSError, RetryableError):
                    turn.enter_context(locks.alone(locks.beside(url), _PATIENCE_S))
            return original(*args, **kwargs)

    return in_turn
