"""The keys that a user may set, with their types and defaults."""

from __future__ import annotations

import enum
import json
from datetime import date, time
from pathlib import Path, PurePath
from typing import Any, Literal, Mapping, Optional, Union, get_args, get_origin

from pydantic import Field, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from tracelet import registry
from tracelet.collect.gather import FACTS
from tracelet.settings.sentences import shown

PREFIX = "TRACELET_"


class _Variables(EnvSettingsSource):
    """``TRACELET_*``; lists may be written ``a,b`` and mappings ``k=v,k2=v2`` as well as JSON."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        # What cannot be read stays text: the field then says what it wants instead.
        content = json_or_text(str(value).strip())
        if isinstance(content, str) and dict in _containers(field.annotation):
            return _pairs(content)
        return content


class TraceletSettings(BaseSettings):
    """
    Everything about a run that a user may choose.

    Unknown names are errors. See ``docs/settings.md`` for what each one does.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=False,
    )

    backend: list[str] = Field(
        default_factory=lambda: ["mlflow"],
        min_length=1,
        description="Where the run is delivered: one name or a list of names.",
    )
    project: Optional[str] = Field(
        default=None, description="What the run belongs to: the experiment, in MLflow's words."
    )
    exp_name: Optional[str] = Field(default=None, description="The name of the run.")
    experiment_name: Optional[str] = Field(
        default=None, description="The same as project, and stronger."
    )
    run_name: Optional[str] = Field(default=None, description="The same as exp_name, and stronger.")
    tags: dict[str, str] = Field(
        default_factory=dict, description="Labels on the run; any scalar is written as text."
    )
    backend_url: Optional[str] = Field(
        default=None, repr=False, description="The address of the one backend in use."
    )
    api_key: Optional[SecretStr] = Field(
        default=None, description="The key or token for the one backend in use."
    )
    spool_dir: Optional[Path] = Field(
        default=None, description="The folder where runs lie until they are delivered."
    )
    shipper: Literal["process", "thread"] = Field(
        default="process", description="Where delivery happens: in a process beside, or a thread."
    )
    mode: Literal["online", "offline", "disabled"] = Field(
        default="online",
        description="offline: to the spool only, 'tracelet sync' delivers; disabled: do nothing.",
    )
    run_id: Optional[Union[str, dict[str, str]]] = Field(
        default=None,
        description="The backend's id of a run to continue; with several backends, one per name.",
    )
    resume: Optional[Literal["auto", "never"]] = Field(
        default=None,
        description="auto: continue the last unfinished run of this project and name, if any.",
    )
    ranks: Literal["zero", "all", "each"] = Field(
        default="zero",
        description="Which processes of a distributed job record: rank 0, all into one run, or "
        "each into a run of its own.",
    )
    keep_runs: Union[int, Literal["all"]] = Field(
        default=0, description="How many delivered runs stay in the spool, compressed; or 'all'."
    )
    max_run_bytes: int = Field(
        default=2 * 1024**3,
        description="What a run that cannot be delivered may take on disk, in bytes; 0: no bound.",
    )
    max_spool_bytes: Union[Literal["auto"], int] = Field(
        default="auto", description="The same for all runs of a spool folder together."
    )
    min_free_bytes: Union[Literal["auto"], int] = Field(
        default="auto", description="How many bytes stay free on the disk; 0: none need to."
    )
    keep_tensorboard: bool = Field(
        default=True, description="Whether TensorBoard's own event files are written."
    )
    snapshot: bool = Field(
        default=True,
        description="Whether an artifact's bytes are taken when it is logged, or when it is sent.",
    )
    durability: Literal["process", "power"] = Field(
        default="process",
        description="What is survived at once: the death of the process, or of the machine.",
    )
    collect: list[str] = Field(
        default_factory=lambda: [*FACTS, *registry.collectors(built_in=True)],
        description="Facts that are collected unasked: names, or true for all, false for none.",
    )
    system_interval_s: float = Field(
        default=10.0, ge=0.1, le=86400, description="Seconds between two samples of the machine."
    )
    strict: bool = Field(
        default=False, description="Raise where training would otherwise go on with a warning."
    )
    silent: bool = Field(default=False, description="Write no line to stderr.")
    handle_sigterm: bool = Field(
        default=False, description="End the run before SIGTERM ends the process."
    )
    disable: list[str] = Field(
        default_factory=list, description="Integrations that stay off, by name."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic calls by name
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return what is read besides the arguments: our variables, in our own spelling."""
        return init_settings, _Variables(settings_cls)

    @classmethod
    def names(cls) -> list[str]:
        """Return what may be written in ``config``, backends' names aside."""
        return list(cls.model_fields)

    @field_validator("collect", mode="before")
    @classmethod
    def _all_or_none(cls, value: Any) -> Any:
        text = value.strip().lower() if isinstance(value, str) else ""
        if value is True or text in ("true", "yes", "on", "1"):
            return [*FACTS, *registry.collectors(built_in=True)]
        if value is False or text in ("false", "no", "off", "0"):
            return []
        return cls._one_or_many(value)

    @field_validator("backend", "disable", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [item.strip() for item in value.split(",") if item.strip()]
        return list(value) if isinstance(value, (tuple, set, frozenset)) else value

    @field_validator("tags", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {_tag_key(key): _tag_value(key, item) for key, item in value.items()}

    @field_validator("run_id", mode="before")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.strip():
            raise ValueError("an id is not empty")
        return value

    @field_validator("spool_dir", mode="before")
    @classmethod
    def _home(cls, value: Any) -> Any:
        return Path(value).expanduser() if isinstance(value, (str, PurePath)) else value

    @field_validator("max_run_bytes", "max_spool_bytes", "min_free_bytes", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        if isinstance(value, str) and value.strip().isdigit():
            return int(value)
        if isinstance(value, bool) or (isinstance(value, int) and value < 0):
            raise ValueError("a number of bytes from 0 up")
        return value

    @field_validator("keep_runs", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        if isinstance(value, str) and value.isdigit():
            return int(value)
        if isinstance(value, bool) or (isinstance(value, int) and value < 0):
            raise ValueError("a number from 0 up, or 'all'")
        return value


def _containers(annotation: Any) -> set[Any]:
    """Return which of list and dict an annotation allows."""
    origin = get_origin(annotation)
    if origin in (list, dict):
        return {origin}
    return set().union(*map(_containers, get_args(annotation))) if origin is Union else set()


def _pairs(text: str) -> Union[str, dict[str, str]]:
    """Read ``k=v,k2=v2``; what is no such thing is returned as it is."""
    found = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        key, sign, value = item.partition("=")
        if not sign or not key.strip():
            return text
        found[key.strip()] = value.strip()
    return found or text


def json_or_text(value: str) -> Any:
    """Return what a variable holds: an object or a list, if it is one in JSON, else its text."""
    if value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _tag_key(key: Any) -> str:
    if not isinstance(key, str) or not key:
        raise ValueError(f"the name of a tag is a text, not {shown(key)}")
    return key


def _tag_value(key: str, value: Any) -> str:
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, (str, int, float, complex, date, time, PurePath)):
        return str(value)
    # numpy's scalars and tensors of one element say what they hold.
    if callable(getattr(value, "item", None)) and getattr(value, "size", 1) is not None:
        try:
            return str(value.item())
        except (TypeError, ValueError, RuntimeError):
            pass
    raise ValueError(f"the tag {key!r} must be a text, a number or a yes/no, not {shown(value)}")
