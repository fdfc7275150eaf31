"""
The places in a run's artifacts that its pages use, and where a user's file goes instead.

One foreign name among the images hides them all (mlflow#24789), and our own files must not be
replaced by somebody else's.
"""

from __future__ import annotations

import unicodedata
from typing import Optional

from tracelet.backends.mlflow.context import PLACES as CONTEXT
from tracelet.backends.mlflow.render import FOLDERS as RENDERED

__all__ = ["moved"]

#: Folders and files, as ``_plain`` has them.
_TAKEN = (
    "images",
    *(f"tensorboard/{folder}" for folder in RENDERED),
    "tensorboard/audio",
    "tensorboard/data",
    "tensorboard/raw",
    "tensorboard/tables",
    "tensorboard/text",
    "tensorboard/video",
    *CONTEXT,
    "tracelet/params",
    "tracelet/tags",
)
#: Whatever begins like this: the pages of every session.
_BEGINNINGS = ("tensorboard/custom_scalars", "tensorboard/histograms")
#: Folders that must not become files.
_FOLDERS = ("tensorboard", "tracelet")
_ELSEWHERE = "files"


def moved(path: str) -> Optional[str]:
    """
    Return where a file of the user goes instead, or None when it can stay where it is.

    Args:
        path: POSIX, relative. What a disk somewhere would take for one of the places is that place:
            ``Images``, ``images.``, ``./images`` and ``images`` in full-width letters.
    """
    plain = _plain(path)
    taken = any(plain == name or plain.startswith(name + "/") for name in _TAKEN)
    if taken or plain in _FOLDERS or plain.startswith(_BEGINNINGS):
        return f"{_ELSEWHERE}/{path}"
    return None


def _plain(path: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
    # Windows drops what stands at the end of a name; nobody sees what has no width.
    visible = "".join(each for each in folded if unicodedata.category(each) not in ("Cf", "Mn"))
    parts = (part.strip().rstrip(". ") for part in visible.replace("\\", "/").split("/"))
    return "/".join(part for part in parts if part)
