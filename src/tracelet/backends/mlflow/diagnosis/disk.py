"""Folders and SQLite files of this machine: can MLflow write there, and can it read them."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import sqlite3
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

from tracelet._installed import is_installed
from tracelet.backends.mlflow import versions
from tracelet.backends.mlflow.store import Experiment
from tracelet.errors import ConfigError, RetryableError

__all__ = ["Content", "check_folder", "check_schema", "check_sqlite", "content", "free_bytes"]

#: Less than this and not even the tables of a fresh store fit.
_FREE_BYTES = 8 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_REVISION = re.compile(r"^revision\s*=\s*[\"'](\w+)", re.MULTILINE)
_FORMER = re.compile(r"^down_revision\s*=\s*(.+)$", re.MULTILINE)


class Content(NamedTuple):
    """What an SQLite store says of itself; ``schema`` is None where there are no tables yet."""

    schema: Optional[str]
    experiments: tuple[Experiment, ...]


def check_folder(folder: Path) -> None:
    """
    Make sure that files can be made in the folder, or in the one it would be made in.

    Raises:
        ConfigError: They cannot.
    """
    existing = _existing(folder)
    if not existing.is_dir():
        raise ConfigError(
            f"{existing} is not a folder, so {folder} cannot be made", "choose another address"
        )
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        if error.errno in _FULL:
            raise _full(folder) from error
        raise ConfigError(
            f"MLflow's folder {folder} cannot be written: {error.strerror}",
            "make it writable for this user, or choose another address",
        ) from error
    if free_bytes(folder) < _FREE_BYTES:
        raise _full(folder)


def free_bytes(folder: Path) -> int:
    """Return how much room there is where the folder is, or would be made."""
    return shutil.disk_usage(_existing(folder)).free


def check_sqlite(path: Path) -> None:
    """
    Make sure that an SQLite database is there and can be written, or can be made.

    Raises:
        ConfigError: Neither.
    """
    if path.is_dir():
        raise ConfigError(
            f"{path} is a folder; an SQLite database is a file", "name a file in it, or another one"
        )
    check_folder(path.parent)
    if not path.exists():
        return
    try:
        with open(path, "r+b") as file:
            start = file.read(16)
    except OSError as error:
        raise ConfigError(
            f"The database {path} cannot be written: {error.strerror}",
            "make it writable for this user, or choose another address",
        ) from error
    if start and start != b"SQLite format 3\x00":
        raise ConfigError(
            f"The file {path} is no SQLite database", "choose another address, or move it away"
        )


def content(path: Path, patience_s: float, *, writable: bool = True) -> Content:
    """
    Read what an SQLite store holds, without MLflow and without changing it.

    Args:
        path: The file. It may be missing.
        patience_s: How long to wait while somebody else has it locked.
        writable: Find out, too, whether it is locked for writers only.

    Raises:
        RetryableError: It is locked all the time.
        ConfigError: It cannot be read.
    """
    if not path.exists() or path.stat().st_size == 0:
        return Content(None, ())
    try:
        with _opened(path, patience_s) as connection:
            if writable:
                # Takes the lock of a writer and lets go of it; nothing is written.
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            known = "SELECT name FROM sqlite_master WHERE name IN ('alembic_version','experiments')"
            if len(connection.execute(known).fetchall()) < 2:
                return Content(None, ())
            schema = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            rows = connection.execute(
                "SELECT experiment_id, name, lifecycle_stage, artifact_location FROM experiments "
                "ORDER BY creation_time DESC, experiment_id DESC"
            )
            experiments = tuple(
                Experiment(str(number), str(name), stage == "deleted", location or "")
                for number, name, stage, location in rows
            )
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise RetryableError(
                f"The database {path} is locked by another process",
                remedy="end the process that has it open, unless it is a run that is just writing",
            ) from error
        raise ConfigError(
            f"The database {path} cannot be read ({error})",
            "put it back from a copy, or choose another address",
        ) from error
    return Content(str(schema[0]) if schema else None, experiments)


def check_schema(path: Path, schema: Optional[str]) -> None:
    """
    Compare the tables of a store with those that the installed MLflow wants.

    Raises:
        ConfigError: They are those of another version.
    """
    former = _revisions()
    if schema is None or not former:
        return
    newest = set(former) - {each for known in former.values() for each in known}
    version = versions.text(versions.mlflow() or (0, 0, 0))
    if schema not in former:
        raise ConfigError(
            f"The database {path} was made by a newer MLflow than {version}",
            "pip install --upgrade mlflow",
        )
    if schema not in newest:
        raise ConfigError(
            f"The database {path} was made by an older MLflow than {version}",
            f"back it up and run 'mlflow db upgrade sqlite:///{path}'",
        )


def _revisions() -> dict[str, tuple[str, ...]]:
    """Return each step of the tables' history that the installed MLflow knows, and its former."""
    found = find_spec("mlflow") if is_installed("mlflow") else None
    revisions = {}
    for root in (found.submodule_search_locations or ()) if found else ():
        for script in Path(root, "store", "db_migrations", "versions").glob("*.py"):
            text = script.read_text(encoding="utf-8", errors="replace")
            name, former = _REVISION.search(text), _FORMER.search(text)
            if name is not None and former is not None:
                revisions[name[1]] = tuple(re.findall(r"[\"'](\w+)[\"']", former[1]))
    return revisions


@contextlib.contextmanager
def _opened(path: Path, patience_s: float) -> Iterator[sqlite3.Connection]:
    address = f"{path.as_uri()}?mode=rw"
    connection = sqlite3.connect(address, timeout=patience_s, uri=True, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _full(folder: Path) -> ConfigError:
    return ConfigError(
        f"The disk of MLflow's folder {folder} is full", "make room, or choose another address"
    )
