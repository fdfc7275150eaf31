"""
Test classes for people who write a backend or an integration for tracelet.

``BackendSuite`` is the contract of a backend, ``IntegrationSuite`` that of a patch. Subclass one in
a test module of your own package, fill in its hooks, and run pytest::

    from tracelet.testing import BackendSuite

    class TestMyTracker(BackendSuite):
        ...

Nothing here is imported before it is asked for, because it needs pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Mapping

if TYPE_CHECKING:
    from tracelet.testing.backend_suite import BackendSuite
    from tracelet.testing.integration_suite import IntegrationSuite
    from tracelet.testing.seen import Item, Seen

__all__ = ["BackendSuite", "IntegrationSuite", "Item", "Seen"]

_HOMES: Mapping[str, str] = {
    "BackendSuite": "tracelet.testing.backend_suite",
    "IntegrationSuite": "tracelet.testing.integration_suite",
    "Item": "tracelet.testing.seen",
    "Seen": "tracelet.testing.seen",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if home.endswith("_suite"):
        # Without this, pytest would explain a failed assert in your modules but not in the suite.
        names = (home, "tracelet.testing.clauses", "tracelet.testing.contract")
        import_module("pytest").register_assert_rewrite(*names)
    return getattr(import_module(home), name)
