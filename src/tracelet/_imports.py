"""
One import at a time, of vendors' clients and of our own parts that threads load late.

Clients share large packages (NumPy, SQLAlchemy, Pydantic) whose modules import each other in
circles. Where two threads import such a package at once, Python rather shows one of them half of it
than have both wait for ever; that client is broken then for as long as the process lives. And a
package with an import hook of its own (urllib3 1.26 has one) can make them wait for ever.
"""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import Any

__all__ = ["load"]

_turn = threading.RLock()


def load(*modules: str) -> Any:
    """
    Import modules while no other thread of ours imports any; return the last one.

    Raises what the import raises.
    """
    module = None
    with _turn:
        for name in modules:
            module = import_module(name)
    return module


def _after_fork() -> None:
    global _turn  # noqa: PLW0603 - whoever had it is not in the child
    _turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
