"""What a user may say to the tensorboard backend."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Optional

from tracelet.backends.base import BackendOptions
from tracelet.backends.plain.folder import chosen

DEFAULT_FOLDER = "tracelet-tensorboard"


class TensorBoardOptions(BackendOptions):
    """
    Options of the tensorboard backend.

    Args:
        logdir: The folder for all projects, ``tensorboard --logdir``; ``tracelet-tensorboard`` in
            the working directory by default.
        url: The same as ``logdir``, also as ``file://…``; this is what ``backend_url`` sets.
        precision: ``"double"`` keeps every scalar exactly beside the 32 bits that are shown.
            ``"single"`` writes the older ``simple_value``, for programs that read nothing else.
        parent: Id of the run that this one belongs to.
    """

    logdir: Optional[str] = None
    url: Optional[str] = None
    precision: Literal["double", "single"] = "double"
    parent: Optional[str] = None

    def folder(self, cwd: Path) -> Path:
        """
        Return the absolute folder for all projects.

        Raises:
            ConfigError: ``url`` is no folder, or says something else than ``logdir``.
        """
        return chosen("tensorboard", {"logdir": self.logdir, "url": self.url}, DEFAULT_FOLDER, cwd)
