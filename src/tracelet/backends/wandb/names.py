"""What W&B allows as a name, one-to-one."""

from __future__ import annotations

from typing import Optional

from tracelet.naming import KeyMap
from tracelet.naming.keymap import mapped, posix_form

__all__ = ["STEP", "artifact_names", "column", "label", "media_names", "project"]

#: The column that holds TensorBoard's step.
STEP = "global_step"
#: What the client or the server keeps for itself.
_TAKEN = frozenset({"", STEP, "_step", "_runtime", "_timestamp", "_wandb", "wandb_version"})
_ESCAPE = "tracelet:"

_DEFAULT_PROJECT = "uncategorized"
_MOST_PROJECT = 128
_MOST_LABEL = 64


def column(key: str) -> str:
    """Return the column of a metric or the name of a parameter: the key, unless W&B has it."""
    return _ESCAPE + key if key in _TAKEN or key.startswith(_ESCAPE) else key


def project(name: Optional[str]) -> str:
    r"""Return the project of a name; W&B refuses ``/ \ # ? % :`` and more than 128 characters."""
    return mapped(
        name or _DEFAULT_PROJECT, allowed=r"[^/\\#?%:\x00-\x1f]", max_length=_MOST_PROJECT
    )


def label(key: str, value: str) -> str:
    """Return a tag as one of W&B's, which are words of 1 to 64 characters."""
    text = f"{key}:{value}" if value else key
    return (text.strip() or "_")[:_MOST_LABEL]


def media_names() -> KeyMap:
    """Return a map for what becomes files: names that every disk takes, folders included."""
    return KeyMap(
        allowed=r'[^\x00-\x1f\x7f\\:*?"<>|~]', max_length=80, max_bytes=90, rules=[posix_form]
    )


def artifact_names() -> KeyMap:
    """Return a map for artifacts, whose names know no folders."""
    return KeyMap(allowed=r"[A-Za-z0-9_.\-]", max_length=90)
