"""What is installed of everything that a run may use, asked without importing any of it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Iterator, Mapping, Optional

from tracelet import __version__, registry
from tracelet.findings import Finding

__all__ = ["findings", "versions"]

_PACKAGES = (
    "mlflow",
    "mlflow-skinny",
    "SQLAlchemy",
    "torch",
    "tensorboard",
    "tensorboardX",
    "numpy",
    "Pillow",
    "psutil",
    "nvidia-ml-py",
)
#: One of these brings the writers that are captured.
_WRITERS = ("tensorboard", "tensorboardX")


def versions() -> Mapping[str, Optional[str]]:
    """Return the version of each package, None where it is missing."""
    found: dict[str, Optional[str]] = {
        "python": platform.python_version(),
        "tracelet": __version__,
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def findings() -> Iterator[Finding]:
    """Tell what is there, and what a run would miss."""
    found = versions()
    there = [f"{name} {each}" for name, each in found.items() if each is not None]
    yield Finding("ok", "versions", ", ".join(there))
    if not any(found[name] for name in _WRITERS):
        yield Finding(
            "note",
            "writers",
            "neither tensorboard nor tensorboardX is installed, so there is nothing to capture",
            "pip install 'tracelet[tensorboard]'",
        )
    for name, module in registry.broken_plug_ins().items():
        yield Finding(
            "note",
            "plug-in",
            f"the plug-in for the backend {name!r} ({module}) cannot be imported",
            "install the package that brings it again, or remove it",
        )
