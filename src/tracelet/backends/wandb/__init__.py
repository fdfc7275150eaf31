"""
Weights & Biases as a backend, from wandb 0.26.1 on: online, or into a folder for ``wandb sync``.

The order of things
    ``write`` numbers rows and keeps them in the work folder (``outbox``), then hands them to the
    vendor's client (``session``). That has them in the memory of its core process only; ``finish``
    is what returns when the server has everything, so ``barrier`` ends a session and opens the
    next. Offline, ``barrier`` waits until the run's file holds them.

Why nothing is there twice
    W&B's ``_step`` is the number of a row. Ours are dense, given once and written down before
    anything is sent; a row that the server has already is not sent again, and one that it gets
    twice takes its own place. TensorBoard's step is the column ``global_step``.
"""

from __future__ import annotations

from tracelet.backends.wandb.backend import WandbBackend
from tracelet.backends.wandb.options import WandbOptions

__all__ = ["WandbBackend", "WandbOptions"]
