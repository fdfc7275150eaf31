"""Packages that a store needs here, and pairs of versions that cannot work together."""

from __future__ import annotations

from urllib.parse import urlsplit

from tracelet._installed import is_installed
from tracelet.backends.mlflow import versions
from tracelet.backends.mlflow.http import NO_REQUESTS
from tracelet.backends.mlflow.uri import StoreKind
from tracelet.errors import ConfigError, MissingPackageError

__all__ = ["check", "check_remote"]

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
#: Where the package to install has another name than the module.
_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}


def check_remote() -> None:
    """
    Check what it takes to ask a tracking server.

    Raises:
        MissingPackageError: A package is missing.
    """
    if not is_installed("requests"):
        raise MissingPackageError(*NO_REQUESTS)


def check(url: str, kind: StoreKind) -> None:
    """
    Check what MLflow's own client needs for the store at ``url``.

    Raises:
        MissingPackageError: A package is missing.
        ConfigError: Two that are here cannot work together.
    """
    mlflow = versions.mlflow()
    if mlflow is None or not is_installed("mlflow"):
        raise MissingPackageError("MLflow is not installed", "pip install 'tracelet[mlflow]'")
    if kind not in (StoreKind.SQLITE, StoreKind.DATABASE):
        return
    if versions.installed("mlflow") is None or not is_installed("sqlalchemy"):
        raise MissingPackageError(
            "mlflow-skinny cannot open a database, and without an address that is what MLflow uses",
            "pip install 'tracelet[mlflow]', or set the address of a tracking server",
        )
    sqlalchemy = versions.sqlalchemy() or (2, 0, 0)
    if mlflow < (3, 9, 0) and sqlalchemy >= (2, 1, 0):
        raise ConfigError(
            f"MLflow {versions.text(mlflow)} cannot use SQLAlchemy {versions.text(sqlalchemy)}",
            "pip install 'sqlalchemy<2.1' or 'mlflow>=3.9'",
        )
    if kind is StoreKind.DATABASE:
        _driver(urlsplit(url).scheme, sqlalchemy)


def _driver(scheme: str, sqlalchemy: versions.Version) -> None:
    driver = _DRIVERS.get(scheme)
    if scheme == "postgresql" and sqlalchemy >= (2, 1, 0):
        driver = "psycopg"
    if driver is None or is_installed(driver):
        return
    remedy = f"pip install '{_PACKAGES.get(driver, driver)}'"
    if driver == "psycopg" and is_installed("psycopg2"):
        remedy += ", or write postgresql+psycopg2:// for the driver that is here"
    raise MissingPackageError(f"A database at {scheme}:// needs the package {driver!r}", remedy)
