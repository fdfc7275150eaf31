"""
Which backends, integrations and collectors there are, and where they live.

Built-in ones are in the tables below, so that starting a run does not read the metadata of every
installed package (about 30 ms). Others are entry points, looked at only when a name is not in the
tables. A plug-in cannot take a built-in's name: the tables are asked first.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Callable, Mapping, NamedTuple, Optional, Sequence

from tracelet._imports import load
from tracelet._installed import is_installed
from tracelet.errors import MissingPackageError, UnknownBackendError, nearest

if TYPE_CHECKING:
    from tracelet.backends.base import Backend
    from tracelet.collect.base import Collector

__all__ = [
    "backend_class",
    "backend_names",
    "broken_plug_ins",
    "collector_makers",
    "collectors",
    "integration_class",
    "integrations",
]

BACKEND_GROUP = "tracelet.backends"
COLLECTOR_GROUP = "tracelet.collectors"
INTEGRATION_GROUP = "tracelet.integrations"


class _BuiltIn(NamedTuple):
    """
    A backend of ours: where it is, the package it needs, and the extra that brings it.

    ``below``: the first Python that the package cannot be installed on.
    """

    path: str
    package: Optional[str] = None
    extra: Optional[str] = None
    below: Optional[tuple[int, int]] = None


_BACKENDS: Mapping[str, _BuiltIn] = MappingProxyType(
    {
        "aim": _BuiltIn("tracelet.backends.aim:AimBackend", "aim", "aim", below=(3, 13)),
        "clearml": _BuiltIn("tracelet.backends.clearml:ClearmlBackend", "requests", "clearml"),
        "jsonl": _BuiltIn("tracelet.backends.jsonl:JsonlBackend"),
        "memory": _BuiltIn("tracelet.backends.memory:MemoryBackend"),
        "mlflow": _BuiltIn("tracelet.backends.mlflow:MlflowBackend", "mlflow", "mlflow"),
        "parquet": _BuiltIn("tracelet.backends.parquet:ParquetBackend", "pyarrow", "parquet"),
        "tensorboard": _BuiltIn("tracelet.backends.tensorboard:TensorBoardBackend"),
        "wandb": _BuiltIn("tracelet.backends.wandb:WandbBackend", "wandb", "wandb"),
    }
)

_INTEGRATIONS: Mapping[str, str] = MappingProxyType(
    {
        "tensorboard": "tracelet.capture.tensorboard:TensorBoard",
        "tensorboardx": "tracelet.capture.tensorboardx:TensorBoardX",
    }
)

_COLLECTORS: Mapping[str, str] = MappingProxyType(
    {"system": "tracelet.collect.system:SystemMetrics"}
)


def backend_names() -> Sequence[str]:
    """Return the name of every backend that could be asked for, sorted."""
    return sorted({*_BACKENDS, *_entry_points(BACKEND_GROUP)})


def backend_class(name: str) -> type[Backend]:
    """
    Return the class of the backend called ``name``; its own package is not imported.

    Raises:
        UnknownBackendError: Nobody registered the name.
        MissingPackageError: The package that the backend talks to is not installed, or a
            plug-in cannot be imported.
    """
    built_in = _BACKENDS.get(name)
    if built_in is not None:
        if built_in.package is not None and not is_installed(built_in.package):
            raise MissingPackageError(_missing(name, built_in))
        return _load(built_in.path)  # type: ignore[no-any-return]
    plug_ins = _entry_points(BACKEND_GROUP)
    if name not in plug_ins:
        known = backend_names()
        raise UnknownBackendError(
            f"There is no backend {name!r}.{nearest(name, known)} Known: {', '.join(known)}."
        )
    try:
        return plug_ins[name].load()  # type: ignore[no-any-return]
    except ImportError as error:
        raise MissingPackageError(
            f"The plug-in for the backend {name!r} ({plug_ins[name].value}) cannot be imported: "
            f"{error}"
        ) from error


def _missing(name: str, backend: _BuiltIn) -> str:
    install = f"pip install 'tracelet[{backend.extra}]'"
    if backend.below is not None and sys.version_info >= backend.below:
        here, last = f"{sys.version_info[0]}.{sys.version_info[1]}", backend.below[1] - 1
        return (
            f"The backend {name!r} needs the package {backend.package!r}, which there is for "
            f"Python 3.{last} and older only, and this is Python {here}: {install} in an older "
            "one, or choose another backend"
        )
    return (
        f"The backend {name!r} needs the package {backend.package!r}, which is not "
        f"installed: {install}"
    )


def broken_plug_ins() -> Mapping[str, str]:
    """Return the plug-ins whose module is not there, as ``module:Class``; none is imported."""
    return {
        name: point.value
        for name, point in _entry_points(BACKEND_GROUP).items()
        if not _importable(point.value.partition(":")[0].partition(".")[0])
    }


def integrations() -> Mapping[str, str]:
    """Return the integrations that are put on when a run starts: name → ``module:class``."""
    return _INTEGRATIONS


def integration_class(name: str) -> Any:
    """
    Return the class of a built-in integration; the library it patches is not imported.

    Raises:
        KeyError: There is none of this name.
    """
    return _load(_INTEGRATIONS[name])


def collectors(*, built_in: bool = False) -> Sequence[str]:
    """Return what can measure while a run goes on; ``built_in`` leaves plug-ins out."""
    return (
        sorted(_COLLECTORS) if built_in else sorted({*_COLLECTORS, *_entry_points(COLLECTOR_GROUP)})
    )


def collector_makers(names: Sequence[str]) -> Sequence[tuple[str, Callable[[], Collector]]]:
    """
    Return what makes each of these collectors; nothing is imported before it is called.

    A maker raises ``OSError`` where its collector cannot measure, ``KeyError`` for a name that is
    not registered (any more), and what the import of a plug-in raises.
    """

    def maker(name: str) -> Callable[[], Collector]:
        def make() -> Collector:
            path = _COLLECTORS.get(name)
            cls = _load(path) if path else _entry_points(COLLECTOR_GROUP)[name].load()
            return cls()  # type: ignore[no-any-return]

        return make

    return [(name, maker(name)) for name in names]


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(load(module), attribute)


def _importable(package: str) -> bool:
    # A module set to None in sys.modules is Python's own way to say "not installed".
    if package in sys.modules:
        return sys.modules[package] is not None
    try:
        return find_spec(package) is not None
    except ValueError:
        return False


def _entry_points(group: str) -> Mapping[str, Any]:
    from importlib.metadata import entry_points

    found: Any = entry_points()
    # 3.9 returns a dictionary of groups; later versions an object to select from.
    selected = found.select(group=group) if hasattr(found, "select") else found.get(group, ())
    return {point.name: point for point in selected}
