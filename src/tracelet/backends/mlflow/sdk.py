"""
MLflow's own store classes as a store: SQLite, PostgreSQL and the like, folders, plug-ins.

The store below ``MlflowClient`` is called directly: the client adds a copy of every point, and it
would put artifacts of a new experiment below *our* working directory instead of the training's.
``AbstractStore`` is what plug-ins implement, and the same from 3.1 to 3.17.

This module imports MLflow, and only this module and ``artifacts`` do.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sqlite3
import threading
import warnings
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence
from urllib.parse import urlsplit

from tracelet._imports import load
from tracelet.backends.bounded import Bounded
from tracelet.backends.mlflow import answers, uri
from tracelet.backends.mlflow.files import whole_lines
from tracelet.backends.mlflow.locks import alone, beside
from tracelet.backends.mlflow.sqlite import PointTables
from tracelet.backends.mlflow.store import Experiment, Point, RunState
from tracelet.backends.mlflow.uri import StoreKind
from tracelet.errors import BackendError, ConfigError, RetryableError

__all__ = ["SdkStore", "open_store"]

#: How long to wait for another process that opens the same fresh database; MLflow takes 4-7 s.
_LOCK_TIMEOUT_S = 60.0
#: More than the files of a new experiment and run need.
_PROBE_BYTES = 64 * 1024

_opened: dict[tuple[str, str], Any] = {}
_users: dict[int, int] = {}
_opening = threading.Lock()
#: Apart from the former: a run that ends does not wait for another that is being opened.
_counting = threading.Lock()


def open_store(url: str, artifact_root: str, connect_s: float, call_s: float) -> SdkStore:
    """
    Open the store at ``url``, or use the one that this process has open already.

    Args:
        url: An absolute tracking URI, complete with name and password.
        artifact_root: Where a database keeps the artifacts of new experiments.
        connect_s: How long a database's server may take to accept a connection.
        call_s: How long one call to anything but a local store may take.

    Raises:
        ConfigError: It can never be opened this way, or a package is missing.
        RetryableError: Not now.
    """
    kind = uri.kind_of(url)
    if kind is StoreKind.SQLITE:
        _test_sqlite(uri.database_path(url))
    elif kind is StoreKind.FOLDER:
        _test_folder(uri.folder(url))
    elif kind is StoreKind.DATABASE:
        _test_port(url, connect_s)
    local = kind in (StoreKind.SQLITE, StoreKind.FOLDER)
    # MLflow retries for four minutes when a server is down, SQLAlchemy connects for almost two.
    call = _directly if local else Bounded(call_s, "tracelet-mlflow-call")
    with _opening:
        store = _opened.get((url, artifact_root))
        if store is None:
            with _translated("opening the store", local=local):
                store = call("opening the store", _construct, url, artifact_root, kind)
            _opened[url, artifact_root] = store
        with _counting:
            _users[id(store)] = _users.get(id(store), 0) + 1
    return SdkStore(store, kind, call, uri.folder(url) if kind is StoreKind.FOLDER else None)


class SdkStore:
    """One of MLflow's stores; the methods are those of ``store.Store``."""

    #: The work is done in this process, under its one lock.
    at_once = 1

    def __init__(
        self, store: Any, kind: StoreKind, call: Callable[..., Any], folder: Optional[Path]
    ) -> None:
        from mlflow import entities

        self._store = store
        self._folder = folder
        self._entities = entities
        self._call = call
        self._local = kind in (StoreKind.SQLITE, StoreKind.FOLDER)
        self.keys_are_files = kind is StoreKind.FOLDER
        self._closed = False
        self._tables = PointTables.of(store) if kind is StoreKind.SQLITE else None

    def appends(self, experiment_id: str) -> bool:
        """Return True for a folder of files."""
        return self.keys_are_files

    def experiment(self, experiment_id: str) -> Experiment:
        """Return the experiment, deleted or not."""
        return _experiment(self._ask("the experiment", "get_experiment", experiment_id))

    def experiment_named(self, name: str) -> Optional[Experiment]:
        """Return the experiment of this name, deleted or not, or None."""
        found = self._ask("the experiment", "get_experiment_by_name", name)
        return None if found is None else _experiment(found)

    def create_experiment(self, name: str, artifact_location: Optional[str]) -> str:
        """Create it and return its id."""
        made = self._ask("a new experiment", "create_experiment", name, artifact_location, [])
        return str(made)

    def restore_experiment(self, experiment_id: str) -> None:
        """Bring a deleted experiment back."""
        self._ask("the experiment", "restore_experiment", experiment_id)

    def create_run(
        self,
        experiment_id: str,
        name: Optional[str],
        start: int,
        tags: Sequence[tuple[str, str]],
        user: str,
    ) -> RunState:
        """Create a run."""
        made = self._ask(
            "a new run", "create_run", experiment_id, user, start, self._tags(tags), name or ""
        )
        return _run(made)

    def find_run(self, experiment_id: str, tag: str, value: str) -> Optional[RunState]:
        """Return the run that has this tag, if there is one."""
        from mlflow.entities import ViewType

        active = ViewType.ACTIVE_ONLY
        wanted = f"tags.`{tag}` = '{value}'"
        found = self._ask("the runs", "search_runs", [experiment_id], wanted, active, 1)
        return _run(found[0]) if found else None

    def run(self, run_id: str) -> RunState:
        """Return the run."""
        try:
            return _run(self._ask("the run", "get_run", run_id))
        except (ValueError, BackendError):
            if not self._mended(run_id):
                raise
            return _run(self._ask("the run", "get_run", run_id))

    def _mended(self, run_id: str) -> bool:
        """Take away what a kill left half written in a folder of files, over which MLflow fails."""
        mended = False
        for path in self._folder.glob(f"*/{run_id}/metrics/**/*") if self._folder else ():
            size = path.stat().st_size if path.is_file() else None
            if size is None or size == whole_lines(path) != 0:
                continue
            if path.stat().st_size == 0:
                path.unlink()
            mended = True
        return mended

    def update_run(self, run_id: str, status: str, end: Optional[int]) -> None:
        """Set status and end."""
        number = self._entities.RunStatus.from_string(status)
        self._ask("the run's status", "update_run_info", run_id, number, end, None)

    def log_metrics(self, run_id: str, points: Sequence[Point]) -> None:
        """Write at most 1,000 points."""
        if self._tables is not None:
            with _translated("metrics", local=True):
                self._tables.write(run_id, points)
            return
        make = self._entities.Metric
        metrics = [make(*point) for point in points]
        self._ask("metrics", "log_batch", run_id, metrics, [], [])

    def log_params(self, run_id: str, params: Sequence[tuple[str, str]]) -> None:
        """Write at most 100 parameters."""
        make = self._entities.Param
        self._ask("parameters", "log_batch", run_id, [], [make(*item) for item in params], [])

    def set_tags(self, run_id: str, tags: Sequence[tuple[str, str]]) -> None:
        """Write at most 100 tags."""
        self._ask("tags", "log_batch", run_id, [], [], self._tags(tags))

    def history(self, run_id: str, key: str) -> Sequence[Point]:
        """Return the points of one key, without a line that a full disk cut."""
        if self._folder is not None:
            for path in self._folder.glob(f"*/{run_id}/metrics"):
                whole_lines(path / key)
        found = self._ask("the points", "get_metric_history", run_id, key)
        return [Point(m.key, float(m.value), int(m.timestamp), int(m.step)) for m in found]

    def close(self) -> None:
        """Let go of connections."""
        with _counting:
            if self._closed:
                return
            self._closed = True
            _users[id(self._store)] -= 1
            unused = _users[id(self._store)] == 0
        engine = getattr(self._store, "engine", None)
        if unused and engine is not None:
            # The store itself stays for the next run of a sweep; only its idle connections go.
            engine.dispose()

    def _tags(self, tags: Sequence[tuple[str, str]]) -> list[Any]:
        return [self._entities.RunTag(*item) for item in tags]

    def _ask(self, what: str, method: str, *args: Any) -> Any:
        with _translated(what, local=self._local):
            return self._call(what, getattr(self._store, method), *args)


def _directly(_what: str, function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _construct(url: str, artifact_root: str, kind: StoreKind) -> Any:
    try:
        # MLflow warns about pydantic, about its file store, and about whatever it imports.
        with warnings.catch_warnings(), _root_logger_kept():
            warnings.simplefilter("ignore")
            load("mlflow.tracking._tracking_service.utils")
            from mlflow.tracking._tracking_service.utils import _get_store

            if kind is StoreKind.SQLITE:
                with alone(beside(url), _LOCK_TIMEOUT_S):
                    return _get_store(url, artifact_root)
            if kind is StoreKind.FOLDER:
                with alone(beside(url), _LOCK_TIMEOUT_S), _file_store_allowed():
                    return _get_store(url, artifact_root)
            return _get_store(url, artifact_root)
    except ImportError as error:
        raise ConfigError(
            f"MLflow cannot open a store of the kind {urlsplit(url).scheme!r} ({error}): "
            "pip install 'tracelet[mlflow]'"
        ) from error


@contextlib.contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Up to 3.8 making the tables of a database replaces everybody's logging handlers."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextlib.contextmanager
def _file_store_allowed() -> Iterator[None]:
    """
    From 3.13 on MLflow opens a folder of files only when told so.

    Whoever has one wants it to go on; the variable is read once, when the store is made.
    """
    name = "MLFLOW_ALLOW_FILE_STORE"
    before = os.environ.get(name)
    os.environ[name] = "true"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _test_sqlite(path: Path) -> None:
    """Refuse at once what MLflow would try to open for 102 seconds."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=1.0)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except OSError as error:
        raise _of_os(error, f"the folder {path.parent}") from error
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return  # somebody writes; MLflow waits for 20 s
        raise ConfigError(f"The SQLite database {path} cannot be opened: {error}") from error
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"The file {path} is no SQLite database.") from error


def _test_folder(path: Path) -> None:
    """
    Make sure that there is room for what a new experiment needs.

    On a full disk MLflow leaves half of an experiment's description behind, and cannot list any
    experiment of the folder from then on. The folder itself is MLflow's to make: it puts the
    experiment 0 only into one that was not there.
    """
    place = path if path.exists() else path.parent
    probe = place / f".tracelet-{os.getpid()}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(_PROBE_BYTES))
    except OSError as error:
        raise _of_os(error, f"the folder {path}") from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _test_port(url: str, timeout_s: float) -> None:
    """Say in seconds that nobody is there; SQLAlchemy's retries take almost two minutes."""
    address = uri.host_and_port(url)
    if address is None:
        return
    try:
        socket.create_connection(address, timeout_s).close()
    except OSError as error:
        raise RetryableError(
            f"the database at {address[0]}:{address[1]} cannot be reached ({error})"
        ) from error


@contextlib.contextmanager
def _translated(what: str, *, local: bool) -> Iterator[None]:
    """Turn what MLflow and its libraries raise into our errors."""
    try:
        yield
    except OSError as error:
        raise _of_os(error, what) from error
    except _foreign() as error:
        raise _of_mlflow(error, what, local=local) from error


def _foreign() -> tuple[type[Exception], ...]:
    """Return what may be raised by MLflow and the libraries below it."""
    names = (
        ("mlflow.exceptions", "MlflowException"),
        ("sqlalchemy.exc", "SQLAlchemyError"),
        ("alembic.util", "CommandError"),
    )
    return answers.loaded(names)


def _of_mlflow(error: Exception, what: str, *, local: bool) -> BackendError:
    text = str(error)
    if "out-of-date database schema" in text or "locate revision" in text:
        return ConfigError(
            "The database was made by another version of MLflow: back it up and run "
            "'mlflow db upgrade' with its address."
        )
    status = getattr(error, "get_http_status_code", int)()
    code = str(getattr(error, "error_code", "INTERNAL_ERROR"))
    if not local and (status >= 500 or status in (408, 429) or "API request to" in text):
        return RetryableError(f"{what}: {text[:300]}")
    return answers.of_code(code, text, what)


def _of_os(error: OSError, what: str) -> BackendError:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return ConfigError(f"No right to write {what}: {error}")
    return RetryableError(f"{what}: {error}")


def _experiment(found: Any) -> Experiment:
    return Experiment(
        str(found.experiment_id), str(found.name), deleted=found.lifecycle_stage == "deleted"
    )


def _run(found: Any) -> RunState:
    info, data = found.info, found.data
    tags: Mapping[str, str] = dict(data.tags)
    return RunState(
        id=str(info.run_id),
        experiment_id=str(info.experiment_id),
        name=str(info.run_name or tags.get("mlflow.runName", "")),
        status=str(info.status),
        deleted=info.lifecycle_stage == "deleted",
        artifact_uri=str(info.artifact_uri or ""),
        params=dict(data.params),
        tags=tags,
        metrics=tuple(data.metrics),
    )
