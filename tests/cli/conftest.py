"""Servers that are started once and serve every module of this folder."""

from __future__ import annotations

from services.mlflow_server import mlflow_server

__all__ = ["mlflow_server"]
