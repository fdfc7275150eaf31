"""``python -m tracelet`` is the ``tracelet`` command."""

from __future__ import annotations

from tracelet.cli import main

if __name__ == "__main__":
    main()
