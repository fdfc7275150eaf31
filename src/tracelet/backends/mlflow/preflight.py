"""
What can be said in less than a second about where a run is to go, without MLflow's SDK.

Asked in the training process, before training starts: a wrong answer here costs a minute, the same
answer ten hours later costs the run.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from tracelet.backends.mlflow import uri, versions
from tracelet.backends.mlflow.http import Connection
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.backends.mlflow.uri import StoreKind
from tracelet.errors import ConfigError, MissingPackageError, RejectedError, RetryableError

__all__ = ["check"]

#: Start waits a second at most; a server that needs longer is shipped to anyway, but may still say
#: "no" in the meantime: checking a password takes MLflow half a second.
_CONNECT_S = 0.5
_ANSWER_S = 0.95

#: Less than this and not even the tables of a fresh store fit.
_FREE_BYTES = 8 << 20

#: What SQLAlchemy loads for a database, by dialect and by driver.
_DRIVERS = {
    "postgresql": "psycopg2",
    "postgresql+psycopg2": "psycopg2",
    "postgresql+psycopg": "psycopg",
    "postgresql+pg8000": "pg8000",
    "mysql": "MySQLdb",
    "mysql+pymysql": "pymysql",
    "mysql+mysqldb": "MySQLdb",
    "mssql": "pyodbc",
    "mssql+pyodbc": "pyodbc",
    "mssql+pymssql": "pymssql",
}
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def check(url: str, options: MlflowOptions, *, through_sdk: bool = False) -> None:
    """
    Check the store at ``url``.

    Args:
        url: An absolute tracking URI.
        options: Credentials.
        through_sdk: The server is talked to by MLflow's own client, whose credentials come from
            a plug-in: only its port can be tried.

    Raises:
        MissingPackageError: A package is missing.
        ConfigError: It will never work like this.
        RetryableError: There was no answer in time.
    """
    kind = uri.kind_of(url)
    if kind is StoreKind.SERVER and not through_sdk:
        _server(url, options)
        return
    _packages(url, kind)
    if kind is StoreKind.SQLITE:
        _sqlite(uri.database_path(url))
    elif kind is StoreKind.FOLDER:
        _writable(uri.folder(url))
    elif kind in (StoreKind.DATABASE, StoreKind.SERVER):
        _port(url)


def _server(url: str, options: MlflowOptions) -> None:
    if not versions.present("requests"):
        raise MissingPackageError(
            "A tracking server needs the package 'requests': pip install 'tracelet[mlflow-remote]'"
        )
    quick = options.model_copy(
        update={
            "connect_timeout_s": min(_CONNECT_S, options.connect_timeout_s),
            "timeout_s": min(_ANSWER_S, options.timeout_s),
        }
    )
    connection = Connection(url, quick)
    try:
        # `/health` answers without credentials and whatever the host name is.
        answer = connection.get("/api/2.0/mlflow/experiments/search", {"max_results": "1"})
    except RejectedError as error:
        raise ConfigError(f"What answers at {url} is not MLflow: {error.reason}") from error
    finally:
        connection.close()
    if not isinstance(answer, dict) or not set(answer) <= {"experiments", "next_page_token"}:
        raise ConfigError(f"What answers at {url} is not MLflow: check the address and its path.")


def _packages(url: str, kind: StoreKind) -> None:
    mlflow = versions.mlflow()
    if mlflow is None or not versions.present("mlflow"):
        raise MissingPackageError("MLflow is not installed: pip install 'tracelet[mlflow]'")
    if kind not in (StoreKind.SQLITE, StoreKind.DATABASE):
        return
    if versions.installed("mlflow") is None or not versions.present("sqlalchemy"):
        raise MissingPackageError(
            "mlflow-skinny cannot open a database, and without an address that is what MLflow "
            "uses: pip install 'tracelet[mlflow]', or set the address of a tracking server."
        )
    sqlalchemy = versions.sqlalchemy() or (2, 0, 0)
    if mlflow < (3, 9, 0) and sqlalchemy >= (2, 1, 0):
        raise ConfigError(
            f"MLflow {'.'.join(map(str, mlflow))} cannot use SQLAlchemy "
            f"{'.'.join(map(str, sqlalchemy))}: pip install 'sqlalchemy<2.1' or 'mlflow>=3.9'."
        )
    scheme = urlsplit(url).scheme
    driver = _DRIVERS.get(scheme)
    if scheme == "postgresql" and sqlalchemy >= (2, 1, 0):
        driver = "psycopg"
    if kind is StoreKind.DATABASE and driver is not None and not versions.present(driver):
        package = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary"}.get(driver, driver)
        raise MissingPackageError(
            f"A database at {scheme}:// needs the package {driver!r}: pip install '{package}'"
        )


def _sqlite(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; an SQLite database is a file.")
    _writable(path.parent)
    if not path.exists():
        return
    try:
        with open(path, "r+b") as file:
            start = file.read(16)
    except OSError as error:
        raise ConfigError(f"The database {path} cannot be written: {error.strerror}") from error
    if start and start != b"SQLite format 3\x00":
        raise ConfigError(f"The file {path} is no SQLite database.")


def _writable(folder: Path) -> None:
    """Make sure that files can be made in the folder, or in the one it would be made in."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ConfigError(f"{existing} is not a folder, so {folder} cannot be made.")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ConfigError(
            f"MLflow's folder {folder} cannot be written: {error.strerror}"
        ) from error
    if shutil.disk_usage(existing).free < _FREE_BYTES:
        raise ConfigError(f"The disk of MLflow's folder {folder} is full.")


def _port(url: str) -> None:
    parts = urlsplit(url)
    schemes = {**_PORTS, "http": 80, "https": 443}
    port = parts.port or schemes.get(parts.scheme.partition("+")[0])
    if not parts.hostname or port is None:
        return
    try:
        socket.create_connection((parts.hostname, port), _CONNECT_S).close()
    except OSError as error:
        raise RetryableError(f"{parts.hostname}:{port} cannot be reached ({error})") from error
