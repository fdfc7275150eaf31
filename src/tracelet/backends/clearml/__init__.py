"""Runs in ClearML, as tasks like any other: on a server, or in a folder that is imported later."""

from __future__ import annotations

from tracelet.backends.clearml.backend import ClearmlBackend
from tracelet.backends.clearml.options import ClearmlOptions

__all__ = ["ClearmlBackend", "ClearmlOptions"]
