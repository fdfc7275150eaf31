"""What a user may say to the MLflow backend: ``config={"mlflow": {…}}``."""

from __future__ import annotations

from typing import Optional

from pydantic import Field, SecretStr

from tracelet.backends.base import BackendOptions

__all__ = ["MlflowOptions"]


class MlflowOptions(BackendOptions):
    """
    Where the store is, who we are there, and how patient we are.

    Every field has a default that comes from MLflow's own variables or conventions; see
    ``MlflowBackend.resolve``.
    """

    url: Optional[str] = Field(
        default=None,
        description="The tracking URI: http(s)://…, sqlite:///…, postgresql://…, a folder, or "
        "what a plug-in of MLflow understands.",
    )
    api_key: Optional[SecretStr] = Field(
        default=None, description="A bearer token, as in MLFLOW_TRACKING_TOKEN."
    )
    username: Optional[SecretStr] = Field(
        default=None, description="As in MLFLOW_TRACKING_USERNAME. Some services put a token here."
    )
    password: Optional[SecretStr] = Field(
        default=None, description="As in MLFLOW_TRACKING_PASSWORD."
    )
    workspace: Optional[str] = Field(default=None, description="As in MLFLOW_WORKSPACE.")
    insecure_tls: bool = Field(default=False, description="Do not check the server's certificate.")
    server_cert_path: Optional[str] = Field(
        default=None, description="Certificates that are trusted instead of the usual ones."
    )
    client_cert_path: Optional[str] = Field(
        default=None, description="Our own certificate and key, in one PEM file."
    )
    experiment: Optional[str] = Field(
        default=None, description="The experiment of a run that has no project."
    )
    experiment_id: Optional[str] = Field(
        default=None, description="The same, by id; the name is stronger."
    )
    artifact_location: Optional[str] = Field(
        default=None, description="Where a new experiment keeps its artifacts."
    )
    restore_experiment: bool = Field(
        default=True,
        description="Bring back a deleted experiment of the wanted name; False: refuse to start.",
    )
    attach: bool = Field(
        default=True,
        description="mlflow.log_metric and its like in the program go into the run, and a run that "
        "the program has open is adopted.",
    )
    description: Optional[str] = Field(
        default=None, description="The note on the run's page, Markdown."
    )
    user: Optional[str] = Field(default=None, description="Who is shown as the run's user.")
    source: Optional[str] = Field(default=None, description="The script shown as the run's source.")
    connect_timeout_s: float = Field(
        default=3.0, gt=0, description="How long a server may take to accept a connection."
    )
    timeout_s: float = Field(
        default=10.0, gt=0, description="How long a server may be silent within one call."
    )
    upload_timeout_s: float = Field(
        default=60.0, gt=0, description="The same while a file is uploaded."
    )
