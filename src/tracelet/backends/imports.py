"""
One import of a vendor's client at a time.

Clients share large packages (NumPy, SQLAlchemy, Pydantic) whose modules import each other in
circles. Where two threads import such a package at once, Python rather shows one of them half of it
than have both wait for ever; that client is broken then for as long as the process lives.
"""

from __future__ import annotations

import threading
from importlib import import_module

__all__ = ["load"]

_lock = threading.RLock()


def load(*modules: str) -> None:
    """Import modules while no other backend imports any. Raises what the import raises."""
    with _lock:
        for name in modules:
            import_module(name)
