"""
MLflow as a backend, from 3.1.1 on: a folder of files, a SQL database, or a tracking server.

What talks to a server is plain REST, so that a shipper in front of one imports no SDK; databases,
folders, cloud storage and plug-in schemes go through MLflow's own client.
"""

from __future__ import annotations

from tracelet.backends.mlflow.backend import MlflowBackend
from tracelet.backends.mlflow.options import MlflowOptions

__all__ = ["MlflowBackend", "MlflowOptions"]
