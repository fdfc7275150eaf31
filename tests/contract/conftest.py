"""Servers that are started once and serve every module of this folder."""

from __future__ import annotations

from services.aim_server import aim_server, fresh_aim
from services.mlflow_server import fresh_database, mlflow_file_server, mlflow_server

__all__ = ["aim_server", "fresh_aim", "fresh_database", "mlflow_file_server", "mlflow_server"]
