"""
What must not be written down: taken out of a backend's options here, and found again for ``sync``.

``run.json`` gets the options without their secrets and, for each secret, where it came from. The
values themselves travel to the shipper through a pipe. An address that carries a user name, a
password or a token counts as a secret as a whole, whatever the type of its field.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, NamedTuple

from pydantic import SecretStr, ValidationError

from tracelet.backends.base import Backend, BackendOptions
from tracelet.errors import ConfigError
from tracelet.records import RunInfo, backend_of
from tracelet.settings import (
    has_userinfo,
    secret_fields,
    section_from_environment,
    without_userinfo,
)

__all__ = ["Parted", "Recalled", "part", "recall"]


@dataclass(frozen=True, repr=False)
class Parted:
    """
    A backend's options in two halves.

    ``options`` may be written anywhere; ``credentials`` may not. ``sources`` says for each of the
    latter where it was given: ``"env:NAME"`` or ``"argument"``.
    """

    options: Mapping[str, Any]
    credentials: Mapping[str, Any]
    sources: Mapping[str, str]


class Recalled(NamedTuple):
    """Secrets found again, and the variables that would bring those that were not."""

    credentials: Mapping[str, Any]
    missing: Mapping[str, str]


def part(options: BackendOptions, sources: Mapping[str, str]) -> Parted:
    """
    Take the secrets out of a backend's options.

    Args:
        options: The complete options.
        sources: Where secrets were given, as far as that is known.
    """
    secret = secret_fields(type(options))
    plain: dict[str, Any] = options.model_dump(mode="json", exclude=set(secret))
    credentials = {}
    for field in sorted(secret):
        value = getattr(options, field)
        if value is not None:
            credentials[field] = value.get_secret_value() if isinstance(value, SecretStr) else value
    for field, value in plain.items():
        if has_userinfo(json.dumps(value)):
            credentials[field] = value
            plain[field] = without_userinfo(value)
    return Parted(
        options=plain,
        credentials=credentials,
        sources={field: sources.get(field, "argument") for field in credentials},
    )


def recall(info: RunInfo, backend: str, cls: type[Backend]) -> Recalled:
    """
    Find the secrets of a run again, in the environment.

    Args:
        info: Who the run is.
        backend: The name of the backend, or of a further target of its.
        cls: Its class.
    """
    wanted = info.secrets.get(backend, {})
    found = _of_the_backend(info, backend, cls)
    kind = backend_of(backend)
    given, _ = section_from_environment(kind)
    missing = {}
    for field, source in wanted.items():
        variable = source[4:] if source.startswith("env:") else ""
        value = given.get(field) or os.environ.get(variable or _ours(field, kind))
        if value:
            found[field] = value
        elif field not in found:
            missing[field] = variable or cls.secret_variables.get(field) or _ours(field, kind)
    return Recalled(found, missing)


def _of_the_backend(info: RunInfo, backend: str, cls: type[Backend]) -> dict[str, Any]:
    """Return what the backend itself finds in its own variables."""
    try:
        options, _ = cls.resolve(
            dict(info.options.get(backend, {})), os.environ, Path(info.cwd or ".")
        )
    except (ValidationError, ConfigError):
        return {}
    values = {field: getattr(options, field, None) for field in secret_fields(type(options))}
    return {
        field: value.get_secret_value() if isinstance(value, SecretStr) else value
        for field, value in values.items()
        if value is not None
    }


def _ours(field: str, backend: str) -> str:
    """Return the variable of ours that gives this option of this backend."""
    if field == "api_key":
        return "TRACELET_API_KEY"
    return (
        "TRACELET_BACKEND_URL" if field == "url" else f"TRACELET_{backend.upper()}__{field.upper()}"
    )
