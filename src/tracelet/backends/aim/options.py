"""What a user may say to the Aim backend."""

from __future__ import annotations

from typing import Optional

from pydantic import Field

from tracelet.backends.base import BackendOptions

__all__ = ["AimOptions"]


class AimOptions(BackendOptions):
    """
    Options of the Aim backend.

    Args:
        url: The folder that has (or gets) the repository ``.aim``, or ``aim://host:port`` for an
            ``aim server``; this is what ``backend_url`` sets. By default what Aim itself takes: the
            nearest folder with an ``.aim``, from the working directory upwards, else that one.
        artifacts_uri: Where artifacts go, ``file://…`` or ``s3://…``; ``.aim/artifacts`` for a
            repository on this machine. A server takes none itself.
        parent: Hash of the run that this one belongs to.
        timeout_s: The longest that a server may take for one batch.
    """

    url: Optional[str] = None
    artifacts_uri: Optional[str] = None
    parent: Optional[str] = None
    timeout_s: float = Field(default=30.0, gt=0)
