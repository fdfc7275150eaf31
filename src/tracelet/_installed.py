"""Whether a package is there, found out without importing it."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["is_installed"]


def is_installed(package: str) -> bool:
    """
    Return True when ``package`` (``"a"`` or ``"a.b"``) could be imported as what it is.

    A folder of that name in the working directory is not it: Python would import it as a namespace
    with nothing in it, and W&B, for one, leaves a folder ``wandb`` wherever it was used.
    """
    if package in sys.modules:
        # None is Python's own way to say "not there".
        if sys.modules[package] is None:
            return False
        spec = getattr(sys.modules[package], "__spec__", None)
        return spec is None or spec.origin is not None
    try:
        spec = find_spec(package)
    except (ValueError, ModuleNotFoundError):
        return False
    # A namespace has places to search and no origin.
    return spec is not None and spec.origin is not None
