"""What a user may say to the W&B backend: ``config={"wandb": {…}}``."""

from __future__ import annotations

from typing import Literal, Optional

from pydantic import Field, SecretStr

from tracelet.backends.base import BackendOptions

__all__ = ["HOSTED", "WandbOptions"]

HOSTED = "https://api.wandb.ai"


class WandbOptions(BackendOptions):
    """
    Where the server is, who we are there, and how patient we are.

    Every field has a default that comes from W&B's own variables or settings files; see
    ``WandbBackend.resolve``.
    """

    url: Optional[str] = Field(
        default=None, description="The server, as in WANDB_BASE_URL; https://api.wandb.ai."
    )
    api_key: Optional[SecretStr] = Field(
        default=None, description="As in WANDB_API_KEY; else what `wandb login` stored."
    )
    entity: Optional[str] = Field(
        default=None, description="The team or user, as in WANDB_ENTITY; the key's own user."
    )
    project: Optional[str] = Field(
        default=None, description="The project of a run that names none, as in WANDB_PROJECT."
    )
    mode: Literal["online", "offline"] = Field(
        default="online", description="As in WANDB_MODE; offline writes a folder for `wandb sync`."
    )
    dir: Optional[str] = Field(
        default=None,
        description="Where the folder of an offline run goes, as in WANDB_DIR; the working "
        "directory.",
    )
    group: Optional[str] = Field(
        default=None, description="The run's group, as in WANDB_RUN_GROUP; a parent is stronger."
    )
    job_type: Optional[str] = Field(default=None, description="As in WANDB_JOB_TYPE.")
    notes: Optional[str] = Field(
        default=None, description="The note on the run's page, as in WANDB_NOTES."
    )
    timeout_s: float = Field(
        default=30.0, gt=0, description="How long a call may take that carries next to nothing."
    )
    slowest_bytes_per_s: float = Field(
        default=250_000.0, gt=0, description="A call that carries data may take so much longer."
    )
