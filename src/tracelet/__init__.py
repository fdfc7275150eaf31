"""
One line that brings everything a training logs to TensorBoard into a tracker.

    import tracelet

    tracelet.start_logging("baseline", project="my_project", backend="mlflow")

Names are looked up on first use: importing this module imports the standard library at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracelet._ledger import Report as Report
    from tracelet.api import get_active_experiment as get_active_experiment
    from tracelet.api import start_logging as start_logging
    from tracelet.api import stop_logging as stop_logging
    from tracelet.errors import ConfigError as ConfigError
    from tracelet.errors import MissingPackageError as MissingPackageError
    from tracelet.errors import SettingsError as SettingsError
    from tracelet.errors import SpoolError as SpoolError
    from tracelet.errors import TraceletError as TraceletError
    from tracelet.errors import UnknownBackendError as UnknownBackendError
    from tracelet.records import RemoteRun as RemoteRun
    from tracelet.records import RunInfo as RunInfo
    from tracelet.records import RunStatus as RunStatus
    from tracelet.run import Run as Run
    from tracelet.settings import TraceletSettings as TraceletSettings

    __version__: str

__all__ = [
    "ConfigError",
    "MissingPackageError",
    "RemoteRun",
    "Report",
    "Run",
    "RunInfo",
    "RunStatus",
    "SettingsError",
    "SpoolError",
    "TraceletError",
    "TraceletSettings",
    "UnknownBackendError",
    "__version__",
    "get_active_experiment",
    "start_logging",
    "stop_logging",
]

_HOMES = {
    "Report": "_ledger",
    "get_active_experiment": "api",
    "start_logging": "api",
    "stop_logging": "api",
    "ConfigError": "errors",
    "MissingPackageError": "errors",
    "SettingsError": "errors",
    "SpoolError": "errors",
    "TraceletError": "errors",
    "UnknownBackendError": "errors",
    "RemoteRun": "records",
    "RunInfo": "records",
    "RunStatus": "records",
    "Run": "run",
    "TraceletSettings": "settings",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


def _version() -> str:
    # The metadata machinery costs about 30 ms to import: nobody pays for it who does not ask.
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version(__name__)
    except PackageNotFoundError:
        found = "0+unknown"  # a source tree on the path, not an installed package
    globals()["__version__"] = found
    return found
