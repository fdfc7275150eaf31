"""Which MLflow and SQLAlchemy are installed, asked without importing either."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Optional

__all__ = ["installed", "mlflow", "parsed", "sqlalchemy", "text"]

#: Major, minor, patch.
Version = tuple[int, int, int]


def mlflow() -> Optional[Version]:
    """Return the version of MLflow, full or skinny, or None when there is none."""
    return installed("mlflow") or installed("mlflow-skinny")


def sqlalchemy() -> Optional[Version]:
    """Return the version of SQLAlchemy, or None when there is none."""
    return installed("sqlalchemy")


@cache
def installed(distribution: str) -> Optional[Version]:
    """Return the version of an installed distribution as three numbers, or None."""
    try:
        return parsed(version(distribution))
    except PackageNotFoundError:
        return None


def parsed(text: str) -> Version:
    """Return the first three numbers of a version."""
    numbers = [int(number) for number in re.findall(r"\d+", text.split("+", maxsplit=1)[0])[:3]]
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    return major, minor, patch


def text(version: Version) -> str:
    """Return a version as it is written."""
    return ".".join(map(str, version))
