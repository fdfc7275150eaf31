"""
The vendor's core process: started when the first run needs it, gone with the last one.

There is one for all runs of this process; starting it takes half a second. What the client changes
in the process meanwhile (variables, ``sys.exit``, ``sys.excepthook``) is as it was afterwards.
Where the program has W&B open itself, its core is used and is not ours to end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from typing import Any

from tracelet._imports import load
from tracelet.backends.bounded import Bounded
from tracelet.errors import BackendError

__all__ = ["Service"]

_PREFIX = "WANDB_"
#: What talks to the core at its end: ``finish`` and the like wait as long as it retries, for days.
_goodbye = Bounded(5.0, "tracelet-wandb-call")


@dataclass
class _Shared:
    """What the runs of this process have in common."""

    leases: int = 0
    #: The core is the program's own.
    borrowed: bool = False
    #: How things were before the first run.
    variables: dict[str, str] = field(default_factory=dict)
    hooks: tuple[Any, ...] = ()
    folder: str = ""


_shared = _Shared()
_lock = threading.RLock()


class Service:
    """The way of one run to the shared core. Use it between ``acquire`` and ``release``."""

    def __init__(self) -> None:
        self._held = False

    def acquire(self, url: str = "", key: str = "") -> Any:
        """
        Return the vendor's module, in an environment in which it does nothing of its own.

        Args:
            url: The server: parts of the client ask it beside the core, and know only variables.
            key: The key for it.
        """
        with _lock:
            if not self._held:
                if _shared.leases == 0:
                    _prepare()
                _shared.leases += 1
                self._held = True
            process = _process()
            if process is not None and process.poll() is not None:
                # Somebody killed it; the client would find out one call later.
                self.abandon()
            if url and not _shared.borrowed:
                os.environ.update(WANDB_BASE_URL=url, WANDB_API_KEY=key)
            load("wandb", "PIL.Image")
            import wandb

            return wandb

    def release(self) -> None:
        """Let go; the last one ends the core."""
        with _lock:
            if not self._held:
                return
            self._held = False
            _shared.leases -= 1
            if _shared.leases == 0:
                _restore()

    def abandon(self) -> None:
        """Kill a core that does not answer. Other runs open their sessions anew."""
        with _lock:
            if not _shared.borrowed:
                _kill()


def _prepare() -> None:
    _shared.hooks = (sys.exit, sys.excepthook)
    _shared.variables = {
        name: value for name, value in os.environ.items() if name.startswith(_PREFIX)
    }
    _shared.borrowed = _process() is not None
    if _shared.borrowed:
        return
    # A variable of the training's shell must not change a run that was configured before.
    for name in _shared.variables:
        del os.environ[name]
    _shared.folder = tempfile.mkdtemp(prefix="tracelet-wandb-")
    os.environ["WANDB_SILENT"] = "true"
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "ARTIFACT_DIR", "CONFIG_DIR"):
        os.environ[f"WANDB_{name}"] = _shared.folder
    # The core would report errors of its own to its maker.
    os.environ["WANDB_ERROR_REPORTING"] = "false"


def _restore() -> None:
    if _shared.borrowed:
        return
    try:
        import wandb

        with contextlib.suppress(BackendError, OSError, AssertionError, SystemExit):
            _goodbye("ending the core", wandb.teardown)
    finally:
        _kill()
        for name in [name for name in os.environ if name.startswith(_PREFIX)]:
            del os.environ[name]
        os.environ.update(_shared.variables)
        sys.exit, sys.excepthook = _shared.hooks
        shutil.rmtree(_shared.folder, ignore_errors=True)


def _kill() -> None:
    process = _process()
    if process is None:
        return
    with contextlib.suppress(OSError):
        os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    import wandb
    from wandb.sdk import wandb_setup

    # Clearing up ends in an error, because it talks to the core; what it leaves is ended here.
    client: Any = wandb_setup._singleton  # noqa: SLF001
    with contextlib.suppress(BackendError, OSError, AssertionError, SystemExit):
        _goodbye("clearing up", wandb.teardown)
    wandb_setup._singleton = None  # noqa: SLF001
    os.environ.pop("WANDB_SERVICE", None)
    with contextlib.suppress(AttributeError, BackendError, OSError, RuntimeError):
        _goodbye("clearing up", client._connection._finalizer.close)  # noqa: SLF001
    with contextlib.suppress(AttributeError, BackendError, OSError, RuntimeError):
        _goodbye("clearing up", client._asyncer.join)  # noqa: SLF001


def _process() -> Any:
    """Return the core as a process of ours; None when there is none."""
    if "wandb" not in sys.modules:
        return None
    from wandb.sdk import wandb_setup

    found: Any = wandb_setup._singleton  # noqa: SLF001
    for name in ("_connection", "_proc", "_process"):
        found = getattr(found, name, None)
    return found
