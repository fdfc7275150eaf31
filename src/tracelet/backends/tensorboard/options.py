"""What a user may say to the tensorboard backend."""

from __future__ import annotations

from typing import Literal, Optional

from tracelet.backends.plain.backend import FolderOptions


class TensorBoardOptions(FolderOptions):
    """
    Options of the tensorboard backend; see also ``FolderOptions``.

    Args:
        logdir: The folder for all projects, ``tensorboard --logdir``; ``tracelet-tensorboard`` in
            the working directory by default.
        precision: ``"double"`` keeps every scalar exactly beside the 32 bits that are shown.
            ``"single"`` writes the older ``simple_value``, for programs that read nothing else.
    """

    logdir: Optional[str] = None
    precision: Literal["double", "single"] = "double"
