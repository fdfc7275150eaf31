"""What a renderer returns."""

from __future__ import annotations

import json
import math
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, Optional, Sequence

from tracelet.backends.mlflow.values import text_of

__all__ = ["File", "Rendering", "as_json", "filled", "script_json"]


class File(NamedTuple):
    """
    One file of a rendering.

    It goes to ``tensorboard/<folder>/<key>/<step…><ending>``.
    """

    folder: str
    ending: str
    data: bytes


class Rendering(NamedTuple):
    """What can be looked at: files, and perhaps a PNG for the image grid."""

    files: Sequence[File]
    picture: Optional[bytes] = None


def as_json(found: Any) -> bytes:
    """Return the value as JSON, which has no NaN: what is not finite is a word."""
    return (json.dumps(_finite(found), indent=1, allow_nan=False) + "\n").encode()


def script_json(found: Any) -> str:
    """
    Return the value as JSON that may stand in a script element of a page.

    Only ``<`` can end such an element, or begin a comment in it.
    """
    text = json.dumps(_finite(found), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def filled(page: str, data: Any) -> bytes:
    """Return a page of this folder with its data; every text in it is data and never markup."""
    return _page(page).replace("@DATA@", script_json(data)).encode()


@cache
def _page(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _finite(found: Any) -> Any:
    if isinstance(found, float):
        return found if math.isfinite(found) else str(found)
    if isinstance(found, str):
        return text_of(found)
    if isinstance(found, dict):
        return {text_of(str(key)): _finite(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_finite(value) for value in found]
    return found
