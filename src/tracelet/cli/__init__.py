"""The ``tracelet`` command."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command; click is imported only now."""
    from tracelet.cli.commands import tracelet

    tracelet(prog_name="tracelet")
