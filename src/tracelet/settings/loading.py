"""All sources of settings, put together in their order of precedence."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Sequence

from pydantic import ValidationError

from tracelet import registry
from tracelet.collect.gather import FACTS
from tracelet.errors import SettingsError, nearest
from tracelet.settings.model import PREFIX, TraceletSettings, json_or_text
from tracelet.settings.sentences import sentence, unknown

#: Variables of ours that are not settings: the switch that turns everything off, the folder of a
#: run that child processes join, and what only the process beside the training reads.
_NOT_SETTINGS = frozenset({"TRACELET_DISABLED", "TRACELET_RUN_DIR", "TRACELET_SIDECAR_LIFETIME_S"})

#: Where a value was given, weakest first.
_SOURCES = ("env", "config", "argument")


@dataclass(frozen=True)
class Loaded:
    """
    Settings, and what the run needs to know about where they came from.

    ``project`` and ``name`` are the ones that win. ``sections`` has each chosen backend's options
    as given, ``backend_url`` and ``api_key`` among them. ``sources`` says for every option that
    came from a variable which one: ``sources["mlflow"]["api_key"] == "env:TRACELET_API_KEY"``.
    ``resume`` maps a backend to the id of the run to continue there.
    """

    settings: TraceletSettings
    project: Optional[str]
    name: Optional[str]
    sections: Mapping[str, Mapping[str, Any]] = field(repr=False)
    sources: Mapping[str, Mapping[str, str]]
    resume: Mapping[str, str]


def load(arguments: Mapping[str, Any], config: Optional[Mapping[str, Any]] = None) -> Loaded:
    """
    Put all sources together.

    Args:
        arguments: What was given to ``start_logging`` by name; None stands for "not given".
        config: Its ``config``.

    Raises:
        SettingsError: Something is unknown, of the wrong type, or contradicts another.
    """
    if config is not None and not isinstance(config, Mapping):
        raise SettingsError(
            f"config must be a dictionary of settings, not {type(config).__name__}."
        )
    given = {key: value for key, value in arguments.items() if _is_given(value)}
    flat, configured = _split(config or {})
    _refuse_unknown_variables()
    from_environ = _environment_sections()
    settings = _build({**flat, **given})

    layers: dict[str, Mapping[str, Any]] = {
        "argument": given,
        "config": flat,
        "env": _variables_given(),
    }
    sections: dict[str, dict[str, Any]] = {}
    sources: dict[str, dict[str, str]] = {}
    for backend in settings.backend:
        env_section, env_sources = from_environ.get(backend, ({}, {}))
        own = configured.get(backend, {})
        sections[backend] = {**env_section, **own}
        sources[backend] = {key: env_sources[key] for key in env_sources if key not in own}
    _place(settings, layers, sections, sources, configured)
    if len(set(settings.backend)) < len(settings.backend):
        raise SettingsError(f"A backend is named twice in {settings.backend}.")
    if settings.run_id is not None and settings.resume == "auto":
        raise SettingsError("run_id says which run to continue, resume='auto' looks for one.")
    _known_integrations(settings.disable)
    _known_collectors(settings.collect)
    return Loaded(
        settings=settings,
        project=_winner(layers, "experiment_name", "project", settings),
        name=_winner(layers, "run_name", "exp_name", settings),
        sections=sections,
        sources=sources,
        resume=_resume(settings),
    )


def section_from_environment(backend: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a backend's options from ``TRACELET_<BACKEND>…`` and for each where it came from."""
    return _environment_sections().get(backend, ({}, {}))


def _build(values: Mapping[str, Any]) -> TraceletSettings:
    problem: str
    try:
        return TraceletSettings(**values)
    except ValidationError as error:
        problem = sentence(error, TraceletSettings)
    # Raised out here: pydantic's own text shows the value, and must not hang on as the context.
    raise SettingsError(problem)


def _split(config: Mapping[Any, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Part ``config`` into plain settings and backends' sub-dictionaries."""
    flat: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    fields = TraceletSettings.names()
    for key, value in config.items():
        if key in fields:
            if _is_given(value):
                flat[key] = value
            continue
        known = [*fields, *registry.backend_names()]
        if not isinstance(key, str) or key not in known:
            raise SettingsError(unknown(key, known))
        if not isinstance(value, Mapping):
            raise SettingsError(
                f"The setting {key!r} must be a dictionary of that backend's options, "
                f"not {type(value).__name__}."
            )
        sections[key] = dict(value)
    return flat, sections


def _variables_given() -> dict[str, Any]:
    fields = TraceletSettings.names()
    found = {key.upper(): value for key, value in os.environ.items() if value}
    return {
        field: found[PREFIX + field.upper()] for field in fields if PREFIX + field.upper() in found
    }


def _refuse_unknown_variables() -> None:
    fields = {PREFIX + field.upper() for field in TraceletSettings.names()}
    for name in sorted(os.environ):
        if not name.upper().startswith(PREFIX):
            continue
        if name.upper() in fields or name.upper() in _NOT_SETTINGS:
            continue
        word = name.upper()[len(PREFIX) :].partition("__")[0].lower()
        known = registry.backend_names()
        if word not in known:
            near = nearest(name.upper(), [*fields, *(PREFIX + each.upper() for each in known)])
            raise SettingsError(f"The environment variable {name} is no setting.{near}")


def _environment_sections() -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    """Read ``TRACELET_MLFLOW='{…}'`` and ``TRACELET_MLFLOW__URL=…`` for every backend there is."""
    fields = TraceletSettings.names()
    found: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
    # The whole dictionary first, so that the single option, which says more, wins.
    for name, value in sorted(os.environ.items(), key=lambda item: "__" in item[0]):
        if not name.upper().startswith(PREFIX) or not value or name.upper() in _NOT_SETTINGS:
            continue
        backend, _, option = name[len(PREFIX) :].lower().partition("__")
        if backend in fields:
            continue
        options, sources = found.setdefault(backend, ({}, {}))
        new = {option: json_or_text(value)} if option else _section(name, value)
        options.update(new)
        # A variable that holds a whole dictionary is no place where one value can be found again.
        sources.update(dict.fromkeys(new, f"env:{name}" if option else "argument"))
    return found


def _section(name: str, value: str) -> dict[str, Any]:
    try:
        content = json.loads(value)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise SettingsError(f"{name} must hold a JSON object with that backend's options.")
    return content


def _place(
    settings: TraceletSettings,
    layers: Mapping[str, Mapping[str, Any]],
    sections: Mapping[str, dict[str, Any]],
    sources: Mapping[str, dict[str, str]],
    configured: Mapping[str, Mapping[str, Any]],
) -> None:
    """Hand ``backend_url`` and ``api_key`` to the one backend there is."""
    secret = settings.api_key.get_secret_value() if settings.api_key else None
    for key, option, value in (
        ("backend_url", "url", settings.backend_url),
        ("api_key", "api_key", secret),
    ):
        if value is None:
            continue
        if len(settings.backend) > 1:
            raise SettingsError(
                f"{key} is for one backend, and there are several ({', '.join(settings.backend)}): "
                f"write config={{{settings.backend[0]!r}: {{{option!r}: …}}}} instead."
            )
        backend = settings.backend[0]
        source = _source(layers, key)
        if option in configured.get(backend, {}):
            if source == "config" and configured[backend][option] != value:
                raise SettingsError(
                    f"config has both {key!r} and {option!r} under {backend!r}, and they differ: "
                    "keep one."
                )
            if source == "env":
                continue
        sections[backend][option] = value
        if source == "env":
            sources[backend][option] = f"env:{PREFIX}{key.upper()}"
        else:
            sources[backend].pop(option, None)


def _source(layers: Mapping[str, Mapping[str, Any]], key: str) -> str:
    return next((source for source in reversed(_SOURCES) if key in layers[source]), "")


def _winner(
    layers: Mapping[str, Mapping[str, Any]], strong: str, weak: str, settings: TraceletSettings
) -> Optional[str]:
    """
    Choose between two settings that mean the same.

    ``experiment_name`` and ``run_name`` are stronger, but a variable never beats an argument.
    """
    rank = {source: place for place, source in enumerate(_SOURCES)}
    if _source(layers, strong) == "env" and rank.get(_source(layers, weak), -1) > rank["env"]:
        strong, weak = weak, strong
    value: Optional[str] = getattr(settings, strong)
    other: Optional[str] = getattr(settings, weak)
    return value if value is not None else other


def _resume(settings: TraceletSettings) -> Mapping[str, str]:
    if settings.run_id is None:
        return {}
    if isinstance(settings.run_id, str):
        if len(settings.backend) > 1:
            raise SettingsError(
                "run_id is the id of a run in one backend, and there are several: write "
                f"run_id={{{settings.backend[0]!r}: …}} instead."
            )
        return {settings.backend[0]: settings.run_id}
    for backend in settings.run_id:
        if backend not in settings.backend:
            raise SettingsError(
                f"run_id names the backend {backend!r}, which this run does not use."
                f"{nearest(backend, settings.backend)}"
            )
    return dict(settings.run_id)


def _known_integrations(names: Sequence[str]) -> None:
    known = registry.integrations()
    for name in names:
        if name not in known:
            raise SettingsError(
                f"There is no integration {name!r} to disable.{nearest(name, known)} "
                f"Known: {', '.join(sorted(known))}."
            )


def _known_collectors(names: Sequence[str]) -> None:
    known = [*FACTS, *registry.collectors(built_in=True)]
    if not set(names) <= set(known):
        known = [*FACTS, *registry.collectors()]
    for name in names:
        if name not in known:
            raise SettingsError(
                f"There is nothing {name!r} to collect.{nearest(name, known)} "
                f"Known: {', '.join(sorted(known))}."
            )


def _is_given(value: object) -> bool:
    """An empty text is nothing, as an empty variable is."""
    return value is not None and not (isinstance(value, str) and value == "")
