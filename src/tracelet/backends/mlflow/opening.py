"""
The experiment and the run: found where they are, made where they are not, and made once.

The run carries the id of our own run as a tag. When the answer to its creation was lost, it is
found by this tag instead of being made again.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Optional

from tracelet.backends.mlflow.answers import ExistsError, NotFoundError
from tracelet.backends.mlflow.files import replace_file
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.backends.mlflow.store import Experiment, RunState, Store
from tracelet.backends.mlflow.values import text_of
from tracelet.errors import ConfigError, RunGoneError
from tracelet.records import RemoteRun, RunInfo

__all__ = ["RUN_ID_TAG", "continued", "created", "wanted_experiment"]

#: The tag that holds the id of our run.
RUN_ID_TAG = "tracelet.run_id"

#: What PostgreSQL's columns hold; the other stores would take more.
_EXPERIMENT_LENGTH = 256
_NAME_LENGTH = 250

_log = logging.getLogger("tracelet")


def created(store: Store, run: RunInfo, options: MlflowOptions, attempt: Path) -> RunState:
    """
    Return the run for ``run``: a new one, or the one that an earlier call made.

    Args:
        store: The store.
        run: Who the run is.
        options: Experiment, user, and so on.
        attempt: A file that is there from the first attempt on. Without one there is nothing to
            look for, which spares a folder of files the reading of all its runs.
    """
    experiment_id = _experiment_id(store, run, options)
    if attempt.exists():
        found = store.find_run(experiment_id, RUN_ID_TAG, run.run_id)
        if found is not None:
            return found
    replace_file(attempt, b"")
    name = _shortened(text_of(run.name), _NAME_LENGTH) if run.name else None
    return store.create_run(
        experiment_id,
        name,
        int(run.created * 1000),
        [(RUN_ID_TAG, run.run_id)],
        options.user or "unknown",
    )


def continued(store: Store, resume: RemoteRun, *, adopted: bool = False) -> RunState:
    """
    Return the run that was opened before or that the user named; it is running again.

    Args:
        store: The store.
        resume: Which run.
        adopted: It is the program's own, which says itself when it runs.

    Raises:
        RunGoneError: It was deleted.
    """
    try:
        state = store.run(resume.id)
    except NotFoundError as error:
        raise RunGoneError(f"There is no run {resume.id!r} in MLflow (any more).") from error
    if state.deleted:
        raise RunGoneError(
            f"The run {resume.id!r} was deleted in MLflow; bring it back with 'mlflow runs restore "
            f"--run-id {resume.id}'."
        )
    if state.status != "RUNNING" and not adopted:
        store.update_run(state.id, "RUNNING", None)
    return state


def wanted_experiment(project: Optional[str], options: MlflowOptions) -> tuple[str, Optional[str]]:
    """Return the name of the experiment of a run, or no name and the id of one."""
    name = project or options.experiment
    if name is None and options.experiment_id is not None:
        return "", options.experiment_id
    return _shortened(text_of(name or "Default"), _EXPERIMENT_LENGTH), None


def _experiment_id(store: Store, run: RunInfo, options: MlflowOptions) -> str:
    parent = run.parents.get("mlflow")
    if run.project is None and parent is not None:
        # Below its parent, where MLflow's pages look for it.
        return store.run(parent).experiment_id
    name, number = wanted_experiment(run.project, options)
    if number is not None:
        try:
            found = store.experiment(number)
        except NotFoundError as error:
            raise ConfigError(
                f"There is no MLflow experiment with the id {number!r}, which "
                "MLFLOW_EXPERIMENT_ID names."
            ) from error
        return _alive(store, found, options)
    known = store.experiment_named(name)
    if known is None:
        try:
            return store.create_experiment(name, options.artifact_location)
        except ExistsError:
            # Another process was faster.
            known = store.experiment_named(name)
    if known is None:
        raise ConfigError(f"MLflow neither has the experiment {name!r} nor lets it be made.")
    return _alive(store, known, options)


def _alive(store: Store, experiment: Experiment, options: MlflowOptions) -> str:
    if experiment.deleted:
        if not options.restore_experiment:
            raise ConfigError(
                f"The MLflow experiment {experiment.name!r} was deleted: restore it with 'mlflow "
                f"experiments restore -x {experiment.id}', or choose another project."
            )
        _log.warning("MLflow experiment %r had been deleted and is restored.", experiment.name)
        store.restore_experiment(experiment.id)
    return experiment.id


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{text[: longest - 9]}-{digest}"
