"""
What a user may set, where each value comes from, and every mistake as one sentence.

Precedence, highest first: arguments of ``start_logging``, its ``config``, ``TRACELET_*``
variables, the backend's own variables (read by the backend, see ``Backend.resolve``), defaults.
A field, its variable and its key in ``config`` have one spelling: ``spool_dir``,
``TRACELET_SPOOL_DIR``, ``config={"spool_dir": …}``. What concerns one backend is a sub-dictionary
under its name: ``config={"mlflow": {…}}``, ``TRACELET_MLFLOW='{…}'`` or
``TRACELET_MLFLOW__<OPTION>``.
"""

from __future__ import annotations

from tracelet.settings.loading import Loaded, load, section_from_environment
from tracelet.settings.model import TraceletSettings
from tracelet.settings.sentences import (
    has_userinfo,
    redacted,
    secret_fields,
    sentence,
    without_userinfo,
)

__all__ = [
    "Loaded",
    "TraceletSettings",
    "has_userinfo",
    "load",
    "redacted",
    "secret_fields",
    "section_from_environment",
    "sentence",
    "without_userinfo",
]
