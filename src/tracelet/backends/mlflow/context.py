"""
The facts that nobody logged, as MLflow has them: its own tags, and one file for the rest.

The tags are those that ``mlflow.start_run`` sets (``mlflow/tracking/context``), so that a run of
ours reads like one of its own. What only MLflow's own launchers know (projects, Databricks jobs)
comes with the runs that they open.
"""

from __future__ import annotations

import getpass
import json
import logging
import re
import shlex
import time
from pathlib import Path, PurePath
from typing import Any, Mapping

from tracelet._redaction import looks_secret
from tracelet.backends.mlflow.artifacts import Artifacts
from tracelet.backends.mlflow.files import replace_file
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.errors import ConfigError, RejectedError, RetryableError
from tracelet.records import RunInfo

__all__ = ["PLACES", "ContextFile", "as_known_there", "tags"]

_log = logging.getLogger("tracelet")

#: The file of a run that we made; one that is continued gets another file in the folder.
_FILE, _FOLDER = "tracelet/context.json", "tracelet/context"
PLACES = (_FILE, _FOLDER)
#: Needs no quotes where a person reads it.
_BARE = re.compile(r"[^\s'\"\\$`*?]+")
#: A long command line tells nothing more in a table.
_COMMAND_LENGTH = 2000
#: How long an upload that failed is left alone, and how often it is tried at the end.
_PAUSE_S = 30.0
_LAST_TRIES = 3

_GIT = {
    "commit": "mlflow.source.git.commit",
    "branch": "mlflow.source.git.branch",
    "remote": "mlflow.source.git.repoURL",
}


def tags(run: RunInfo, options: MlflowOptions) -> Mapping[str, str]:
    """
    Return the tags that say where a run comes from.

    Args:
        run: The run, with its context.
        options: Who is shown as its user, what as its source.
    """
    found = dict(_tags(run, options))
    found.update(_source(run.facts("command"), options))
    git = run.facts("git")
    found.update({tag: str(git[fact]) for fact, tag in _GIT.items() if git.get(fact)})
    if isinstance(git.get("dirty"), bool):
        found["mlflow.source.git.dirty"] = "true" if git["dirty"] else "false"
    found.update(_ours(run))
    return found


def _tags(run: RunInfo, options: MlflowOptions) -> Mapping[str, str]:
    tags = {"mlflow.source.type": "LOCAL"}
    parent = run.parents.get("mlflow")
    if parent is not None:
        tags["mlflow.parentRunId"] = parent
    if options.user:
        tags["mlflow.user"] = options.user
    if options.source:
        tags["mlflow.source.name"] = options.source
    if options.description:
        tags["mlflow.note.content"] = options.description
    return tags


def _source(command: Mapping[str, Any], options: MlflowOptions) -> Mapping[str, str]:
    if not command:
        return {}
    script = str(command.get("script") or "")
    found = {"mlflow.source.name": options.source or script or "<console>"}
    if command.get("kind") == "notebook":
        found["mlflow.source.type"] = "NOTEBOOK"
        if command.get("notebook") and options.source in (None, script):
            found["mlflow.source.name"] = str(command["notebook"])
    return found


def _ours(run: RunInfo) -> Mapping[str, str]:
    """Return the few facts that one would filter runs by, and that MLflow has no tag for."""
    command, machine = run.facts("command"), run.facts("hardware")
    found = {}
    if isinstance(command.get("line"), list):
        line = " ".join(
            part if _BARE.fullmatch(part) else shlex.quote(part)
            for part in map(str, command["line"])
        )
        found["tracelet.command"] = line[:_COMMAND_LENGTH]
    if command.get("python"):
        found["tracelet.python"] = str(command["python"])
    if machine.get("host"):
        found["tracelet.host"] = str(machine["host"])
    gpus = machine.get("gpus")
    if isinstance(gpus, list) and gpus:
        names = [str(gpu.get("name", "GPU")) for gpu in gpus if isinstance(gpu, dict)]
        counted = {name: names.count(name) for name in names}
        found["tracelet.gpus"] = ", ".join(f"{number} x {name}" for name, number in counted.items())
    return found


def as_known_there(options: MlflowOptions) -> MlflowOptions:
    """
    Return the options with the user whom the tracking server knows, as MLflow shows him.

    It is the name of the login, unless the user chose another to be shown. Not written into the
    options before: what logs in is not for the spool.
    """
    if options.username is None or options.password is None:
        return options
    name, password = options.username.get_secret_value(), options.password.get_secret_value()
    # Some services want the token in the place of the name.
    if not name or name == password or looks_secret(name):
        return options
    try:
        chosen = options.user not in (None, getpass.getuser())
    except (KeyError, OSError, ImportError):
        chosen = options.user is not None
    return options if chosen else options.model_copy(update={"user": name})


class ContextFile:
    """
    Everything that was found out, as one file of the run: uploaded once.

    It is a comfort. Where it cannot be stored, nothing else may suffer: neither the run's end nor
    other files wait for it longer than it takes to try.

    Args:
        run: The run.
        workdir: Where is noted that it is there.
        continued: It is a run that was there before, and may have such a file of its own.
    """

    def __init__(self, run: RunInfo, workdir: Path, *, continued: bool) -> None:
        self._path = f"{_FOLDER}/{run.run_id}.json" if continued else _FILE
        self._note = workdir / "context"
        self._content = _document(run)
        self._settled = not self._content or self._note.exists()
        self._failures = 0
        self._last_tries = 0
        self._again_at = 0.0

    def upload(self, artifacts: Artifacts, *, last: bool) -> None:
        """
        Store it, if that has not been done.

        Args:
            artifacts: Where.
            last: The run is about to end.

        Raises:
            RetryableError: At the end only, and a few times only.
        """
        if self._settled or (not last and time.monotonic() < self._again_at):
            return
        try:
            artifacts.put(self._path, self._content)
        except (ConfigError, RejectedError) as error:
            self._give_up(error)
        except RetryableError as error:
            self._again_at = time.monotonic() + _PAUSE_S
            if last:
                self._last_tries += 1
                # Who could not be reached all the time is not waited for again.
                if self._failures or self._last_tries >= _LAST_TRIES:
                    self._give_up(error)
                    return
                raise
            self._failures += 1
        else:
            self._settled = True
            replace_file(self._note, b"")

    def _give_up(self, error: Exception) -> None:
        self._settled = True
        _log.warning("%s is not stored: %s", PurePath(self._path).name, error)


def _document(run: RunInfo) -> bytes:
    """Return the file's bytes, for a person to read: one package a line, as ``pip`` writes them."""
    found: Any = run.context
    if not isinstance(found, Mapping) or not found:
        return b""
    context = dict(found)
    packages = context.get("packages")
    if isinstance(packages, Mapping):
        context["packages"] = [f"{name}=={version}" for name, version in packages.items()]
    return json.dumps(context, indent=1, ensure_ascii=False, default=str).encode(
        "utf-8", "backslashreplace"
    )
