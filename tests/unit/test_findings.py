"""Findings, and errors that know their remedy."""

from __future__ import annotations

import pickle

import pytest

from tracelet.backends.base import Backend, BackendOptions
from tracelet.errors import (
    ConfigError,
    MissingPackageError,
    RetryableError,
    SettingsError,
    SpoolError,
    TraceletError,
)
from tracelet.findings import Finding, of_error


@pytest.mark.parametrize(
    "kind", [TraceletError, ConfigError, MissingPackageError, SettingsError, SpoolError]
)
def test_an_error_is_one_sentence_and_knows_its_halves(kind: type[TraceletError]) -> None:
    error = kind("The disk is full", "make room")
    assert str(error) == "The disk is full: make room."
    assert of_error(error, "disk") == Finding("problem", "disk", "The disk is full", "make room")
    assert str(of_error(error, "disk")) == str(error)
    whole = kind("The disk is full.")
    assert str(whole) == "The disk is full."
    assert of_error(whole, "disk") == Finding("problem", "disk", "The disk is full.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_an_outage_keeps_its_text_and_knows_what_might_help() -> None:
    error = RetryableError("127.0.0.1:1 cannot be reached", remedy="start it")
    assert str(error) == "127.0.0.1:1 cannot be reached"
    assert of_error(error, "server").remedy == "start it"
    assert of_error(OSError(), "disk").text == "OSError"


class Least(Backend):
    """What an author of a plug-in may leave out."""

    name = "least"
    accepts = frozenset()

    def open(self, run, resume, workdir):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def write(self, batch):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def close(self, status, time=None):  # type: ignore[no-untyped-def]
        raise NotImplementedError


class Refusing(Least):
    def preflight(self) -> None:
        raise ConfigError("No", "ask again")


class Doubting(Least):
    def doubts(self, project):  # type: ignore[no-untyped-def]
        return [Finding("note", "artifacts", f"lost in {project}")]


def test_the_examination_of_a_backend_that_has_none_of_its_own() -> None:
    def levels(backend: type[Backend]) -> list[tuple[str, str]]:
        found = backend(BackendOptions()).examine("vision", {}, 0.0)
        return [(each.level, each.text) for each in found]

    fine = ("ok", "nothing stands in the way")
    assert levels(Least) == [fine]
    assert levels(Refusing) == [("problem", "No")]
    assert levels(Doubting) == [fine, ("note", "lost in vision")]
