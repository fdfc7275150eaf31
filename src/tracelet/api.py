"""
The three functions that a training program calls. They own the one active run.

This module is light: what starting a run needs is imported when a run is started.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional, Sequence, Union

from tracelet._ledger import Report

if TYPE_CHECKING:
    from tracelet.run import Run

__all__ = ["get_active_experiment", "start_logging", "stop_logging"]

_lock = threading.RLock()
_active: Optional[Run] = None


def start_logging(
    exp_name: Optional[str] = None,
    project: Optional[str] = None,
    backend: Union[str, Sequence[str], None] = None,
    *,
    backend_url: Optional[str] = None,
    api_key: Optional[str] = None,
    config: Optional[Mapping[str, Any]] = None,
) -> Run:
    """
    Start a run: from now on, what the program logs to TensorBoard is recorded and delivered.

    A run that is active already is ended first.

    Args:
        exp_name: The run's name; the backend's own idea of one when not given.
        project: What the run belongs to, in MLflow the experiment.
        backend: Where it goes: a name or several; ``mlflow`` when not given.
        backend_url: The address of the one backend in use.
        api_key: The key or token for it.
        config: Everything else, see ``TraceletSettings``; ``{"mlflow": {…}}`` for one backend.

    Returns:
        The run; also a context manager.

    Raises:
        SettingsError: A setting is unknown, of the wrong type, or contradicts another.
        MissingPackageError: The backend's package is not installed.
        SpoolError: The folder named in ``spool_dir`` cannot be written to.
        ConfigError: The backend refuses (credentials, address).
    """
    global _active  # noqa: PLW0603
    began = time.monotonic()
    with _lock:
        if _switched_off():
            return _disabled(project, exp_name)
        from tracelet.run import spawned
        from tracelet.run.disabled import DisabledRun
        from tracelet.run.start import launch, prepare
        from tracelet.settings import load

        arguments = {
            "exp_name": exp_name,
            "project": project,
            "backend": backend,
            "backend_url": backend_url,
            "api_key": api_key,
        }
        loaded = load(arguments, config)
        folder = spawned.invited()
        if folder is not None:
            # The very line that the parent has run, which has a run by that.
            _accept(spawned.terms_here(folder, loaded.settings))
            joined = get_active_experiment()
            if joined is not None:
                return joined
        elif _active is None:
            # That of a training that has started this program: nobody's here.
            spawned.uninvite()
        if loaded.settings.mode == "disabled":
            return _disabled(loaded.project, loaded.name, loaded.settings.tags)
        former = _active
        if former is not None:
            # What it changed about the trackers' SDKs is not what the user has chosen.
            former._detach()  # noqa: SLF001 - the two of us own the run
        try:
            plan = prepare(loaded, began)
        except BaseException:
            if former is not None:
                former._attach()  # noqa: SLF001
            raise
        _end_former(plan.ledger.say)
        _active = launch(plan, _forget)
        if not isinstance(_active, DisabledRun):
            spawned.invite(_active, loaded.settings, _accept)
        return _active


def _accept(terms: Mapping[str, Any]) -> object:
    """Join the run of the process that has started this one; see ``run.spawned``."""
    global _active  # noqa: PLW0603
    from tracelet.run import spawned

    if _active is None and not _switched_off():
        _active = spawned.join(terms, _forget)
    return spawned.Invitation(_accept, terms)


def stop_logging() -> Optional[Report]:
    """
    End the active run and wait until it is delivered, or until nothing is gained by waiting.

    Returns:
        The account of the run; None when there was none.
    """
    run = _active
    return run.stop() if run is not None else None


def get_active_experiment() -> Optional[Run]:
    """Return the active run, or None."""
    return _active


def _end_former(say: Optional[Callable[[str], None]]) -> None:
    former = _active
    if former is None:
        return
    # In a forked child the run is its parent's, and goes on there.
    if say is not None and former.info.pid == os.getpid() and former.info.backends:
        name = repr(former.info.name) if former.info.name else former.info.run_id
        say(f"the run {name} was still active; it is ended now")
    former.stop()


def _disabled(
    project: Optional[str], name: Optional[str], tags: Optional[Mapping[str, str]] = None
) -> Run:
    global _active  # noqa: PLW0603
    from tracelet.run.disabled import DisabledRun

    _end_former(None)
    _active = DisabledRun(project, name, tags, _forget)
    return _active


def _switched_off() -> bool:
    """``TRACELET_DISABLED`` is stronger than everything else: not even settings are read."""
    word = os.environ.get("TRACELET_DISABLED", "").strip().lower()
    return word not in ("", "0", "false", "no", "off")


def _forget(run: Run) -> None:
    global _active  # noqa: PLW0603
    if _active is run:
        from tracelet.run import spawned

        _active = None
        spawned.uninvite()


def _after_fork() -> None:
    # The lock may have been held by a thread that the child does not have.
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
