"""A compose file as Compose reads it: variables filled in, files laid over each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Mapping

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


class UnsetError(Exception):
    """A variable that has to be set is not: nothing starts."""


def compose(variables: Mapping[str, str], *more: str) -> dict[str, Any]:
    """
    Return ``deploy/compose.yaml``, with other files of that folder over it.

    Args:
        variables: What ``.env`` says.
        more: Names of further files.
    """
    found: dict[str, Any] = {}
    for name in ("compose.yaml", *more):
        _lay(found, _filled(yaml.safe_load((DEPLOY / name).read_text()), variables))
    return found


def _filled(part: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(part, dict):
        return {key: _filled(value, variables) for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(value, variables) for value in part]
    if not isinstance(part, str):
        return part

    def value_of(found: re.Match[str]) -> str:
        name, kind, text = found.groups()
        value = variables.get(name, "")
        if not value and kind == "?":
            raise UnsetError(f"{name}: {text}")
        return value or (text if kind == "-" else "")

    return _VARIABLE.sub(value_of, part)


def _lay(under: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Mappings are merged; of lists only ``command`` and ``test`` are here, which are replaced."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            _lay(under[key], value)
        else:
            under[key] = value
