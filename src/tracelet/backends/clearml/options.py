"""What a user may say to the ClearML backend: ``config={"clearml": {…}}``."""

from __future__ import annotations

from typing import Optional

from pydantic import Field, SecretStr

from tracelet.backends.base import BackendOptions

__all__ = ["ClearmlOptions"]


class ClearmlOptions(BackendOptions):
    """
    Where the servers are, who we are there, and how patient we are.

    What is not given comes from ClearML's own variables, then from ``clearml.conf``; see
    ``ClearmlBackend.resolve``.
    """

    url: Optional[str] = Field(
        default=None, description="The API server, as in CLEARML_API_HOST; not the web page."
    )
    web_url: Optional[str] = Field(default=None, description="As in CLEARML_WEB_HOST.")
    files_url: Optional[str] = Field(
        default=None, description="Where media and artifacts go, as in CLEARML_FILES_HOST."
    )
    api_key: Optional[SecretStr] = Field(
        default=None, description="Both halves of a pair of keys: 'access:secret'."
    )
    access_key: Optional[SecretStr] = Field(
        default=None, description="As in CLEARML_API_ACCESS_KEY."
    )
    secret_key: Optional[SecretStr] = Field(
        default=None, description="As in CLEARML_API_SECRET_KEY."
    )
    auth_token: Optional[SecretStr] = Field(
        default=None, description="In place of keys, as in CLEARML_AUTH_TOKEN; agents set it."
    )
    verify_certificate: bool = Field(
        default=True, description="As in CLEARML_API_HOST_VERIFY_CERT."
    )
    config_file: Optional[str] = Field(default=None, description="As in CLEARML_CONFIG_FILE.")
    offline: bool = Field(
        default=False,
        description="Write a session that Task.import_offline_session takes, and ask no server; "
        "as in CLEARML_OFFLINE_MODE.",
    )
    folder: Optional[str] = Field(
        default=None,
        description="Where offline sessions go; clearml-offline in the working directory.",
    )
    attach: bool = Field(
        default=True,
        description="A task that the program opened with Task.init is adopted, and ClearML's own "
        "capture of TensorBoard rests while the run is active.",
    )
    parent: Optional[str] = Field(default=None, description="Id of the task above this one.")
    comment: Optional[str] = Field(default=None, description="The description of the task.")
    ping_interval_s: float = Field(
        default=300.0, gt=0, description="How often a silent run says that it lives."
    )
    connect_timeout_s: float = Field(
        default=3.0, gt=0, description="How long a server may take to accept a connection."
    )
    timeout_s: float = Field(
        default=20.0, gt=0, description="How long a server may be silent within one call."
    )
    upload_timeout_s: float = Field(
        default=60.0, gt=0, description="The same while a file is uploaded."
    )
