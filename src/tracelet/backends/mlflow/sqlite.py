"""
Points into MLflow's SQLite tables, past the object mapper that costs ten times as much.

MLflow makes an object of every point and compares all of them one by one; on the machine of a
training that is a core's time. Here the same rows go through the same session, tables and
transaction of the same store, as two statements: points that are there already are left alone, the
row of the latest point follows MLflow's own order (step, time, value). Where the tables are not
the ones that this was written for, MLflow's own way is taken.
"""

from __future__ import annotations

import inspect
import math
import sqlite3
from typing import Any, Optional, Sequence

from tracelet.backends.mlflow.answers import NotFoundError
from tracelet.backends.mlflow.store import Point
from tracelet.errors import RunGoneError

__all__ = ["PointTables"]

_COLUMNS = frozenset({"run_uuid", "key", "value", "timestamp", "step", "is_nan"})
_POINT_KEY = _COLUMNS
_LATEST_KEY = frozenset({"run_uuid", "key"})


class PointTables:
    """
    The tables for points in one SQLite store.

    Args:
        store: MLflow's ``SqlAlchemyStore``.
        models: ``mlflow.store.tracking.dbmodels.models``.
    """

    def __init__(self, store: Any, models: Any) -> None:
        from sqlalchemy import select, tuple_
        from sqlalchemy.dialects.sqlite import insert

        self._store = store
        writing = "read_only" in inspect.signature(store.ManagedSessionMaker).parameters
        self._session_options = {"read_only": False} if writing else {}
        runs = models.SqlRun.__table__
        self._stage = select(runs.c.lifecycle_stage, runs.c.run_uuid)
        self._run_uuid = runs.c.run_uuid
        points = models.SqlMetric.__table__
        self._add = insert(points).on_conflict_do_nothing()
        latest = models.SqlLatestMetric.__table__
        newer = insert(latest)
        order = ("step", "timestamp", "value")
        self._renew = newer.on_conflict_do_update(
            index_elements=["key", "run_uuid"],
            set_={name: newer.excluded[name] for name in (*order, "is_nan")},
            where=tuple_(*(newer.excluded[name] for name in order))
            > tuple_(*(latest.c[name] for name in order)),
        )

    @classmethod
    def of(cls, store: Any) -> Optional[PointTables]:
        """Return the tables of a store, or None when they are not as they are known here."""
        if sqlite3.sqlite_version_info < (3, 24):  # "ON CONFLICT DO UPDATE"
            return None
        try:
            from mlflow.store.tracking.dbmodels import models

            tables = models.SqlMetric.__table__, models.SqlLatestMetric.__table__
            keys = [frozenset(column.name for column in table.primary_key) for table in tables]
            columns = [frozenset(column.name for column in table.columns) for table in tables]
        except (ImportError, AttributeError):
            return None
        if columns != [_COLUMNS, _COLUMNS] or keys != [_POINT_KEY, _LATEST_KEY]:
            return None
        return cls(store, models)

    def write(self, run_id: str, points: Sequence[Point]) -> None:
        """
        Write the points; those that are there already change nothing.

        Raises:
            NotFoundError: There is no such run.
            RunGoneError: It was deleted.
        """
        rows = [self._row(run_id, point) for point in points]
        latest: dict[str, dict[str, Any]] = {}
        for row in rows:
            known = latest.get(row["key"])
            if known is None or _order(row) > _order(known):
                latest[row["key"]] = row
        with self._store.ManagedSessionMaker(**self._session_options) as session:
            stage = session.execute(self._stage.where(self._run_uuid == run_id)).scalar()
            if stage == "active":
                session.execute(self._add, rows)
                session.execute(self._renew, list(latest.values()))
        # Out here: the session would wrap it.
        if stage is None:
            raise NotFoundError(f"There is no run {run_id!r} in MLflow any more.")
        if stage != "active":
            raise RunGoneError(f"The run {run_id!r} was deleted in MLflow.")

    def _row(self, run_id: str, point: Point) -> dict[str, Any]:
        value, is_nan = point.value, False
        if not math.isfinite(value):
            is_nan, value = self._store.sanitize_metric_value(value)
        return {
            "run_uuid": run_id,
            "key": point.key,
            "value": value,
            "timestamp": point.timestamp,
            "step": point.step,
            "is_nan": is_nan,
        }


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["step"], row["timestamp"], row["value"]
