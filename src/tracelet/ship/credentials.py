"""A run's options made whole again: what ``run.json`` has, and the secrets that it has not."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from pydantic import ValidationError

from tracelet import registry
from tracelet.backends.base import Backend
from tracelet.errors import ConfigError
from tracelet.records import RunInfo, backend_of
from tracelet.ship.redaction import learn

__all__ = ["Credentials", "maker", "makers", "missing"]

#: Options with secrets, for each backend: ``{"mlflow": {"password": "…"}}``.
Credentials = Mapping[str, Mapping[str, Any]]


def missing(info: RunInfo, name: str, given: Credentials, environ: Mapping[str, str]) -> list[str]:
    """Return the sentences that say which secrets of a backend are not at hand, and what to do."""
    sentences = []
    for option, origin in info.secrets.get(name, {}).items():
        if option in given.get(name, {}):
            continue
        kind, _, variable = origin.partition(":")
        if kind == "env" and variable in environ:
            continue
        where = f"the variable {variable}" if kind == "env" else f"the option {option!r}"
        sentences.append(
            f"{name} needs {where} that the run was started with; secrets are never stored"
        )
    return sentences


def makers(
    info: RunInfo, given: Credentials, environ: Mapping[str, str]
) -> Mapping[str, Callable[[], Backend]]:
    """Return what makes each backend of a run; see ``maker``."""
    return {name: maker(info, name, given, environ) for name in info.backends}


def maker(
    info: RunInfo, name: str, given: Credentials, environ: Mapping[str, str]
) -> Callable[[], Backend]:
    """
    Return what makes the backend of a run.

    The returned callable raises ``ConfigError`` when a secret is not at hand or an option is not
    one that this version takes, and what the registry raises when the backend or its package is
    not there.
    """

    def make() -> Backend:
        lacking = missing(info, name, given, environ)
        if lacking:
            raise ConfigError("; ".join(lacking))
        secrets = dict(given.get(name, {}))
        for option, origin in info.secrets.get(name, {}).items():
            kind, _, variable = origin.partition(":")
            if kind == "env" and option not in secrets:
                secrets[option] = environ[variable]
        learn({name: secrets})
        cls = registry.backend_class(backend_of(name))
        try:
            options = cls.Options(**{**info.options.get(name, {}), **secrets})
        except ValidationError as error:
            # Not its text, which shows the value.
            wrong = ", ".join(
                sorted({str(each["loc"][0]) for each in error.errors() if each["loc"]})
            )
            problem = f"{name} does not take the run's options any more ({wrong})"
        else:
            return cls(options)
        raise ConfigError(problem)

    return make
