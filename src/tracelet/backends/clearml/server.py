"""A task on a server: found, made, continued, written to, ended."""

from __future__ import annotations

import json
import logging
import re
import threading
from typing import Any, Mapping, Optional, Sequence
from urllib.parse import quote

from tracelet.backends.clearml import events, files
from tracelet.backends.clearml.files import Content
from tracelet.backends.clearml.http import Connection
from tracelet.backends.clearml.task import MARK, NAMES_OBJECT, PROPERTIES, Described
from tracelet.errors import (
    BackendError,
    ConfigError,
    RejectedError,
    RetryableError,
    RunGoneError,
    shortened,
)
from tracelet.records import RunStatus

__all__ = ["ServerTask", "continued", "created"]

_log = logging.getLogger("tracelet")

#: What Elasticsearch says of an event when it only has too much to do.
_PASSING = re.compile(
    r"rejected_execution|circuit_breaking|too_many_requests|unavailable|timeout|timed out|no_shard",
    re.IGNORECASE,
)
#: The shortest name of a project that the server takes.
_SHORTEST = 3
_ENDS: Mapping[RunStatus, str] = {
    RunStatus.FINISHED: "tasks.completed",
    RunStatus.FAILED: "tasks.failed",
    RunStatus.KILLED: "tasks.stopped",
}
_MESSAGES: Mapping[RunStatus, str] = {
    RunStatus.FINISHED: "the program finished",
    RunStatus.FAILED: "the program failed",
    RunStatus.KILLED: "the program was killed",
}


class ServerTask:
    """
    A task; see ``task.Task``.

    Args:
        connection: The way to the servers.
        data: The task as the server describes it.
        project: The name of its project.
        files_url: The file server.
    """

    def __init__(
        self, connection: Connection, data: Mapping[str, Any], project: str, files_url: str
    ) -> None:
        self.id = str(data["id"])
        self.name = str(data.get("name") or self.id)
        self.status = str(data.get("status") or "")
        self.project_id = str(data.get("project") or "")
        self.folder = files.folder(project, self.name, self.id)
        self.properties = _properties(data)
        self.pairs: Sequence[tuple[str, str]] = _pairs(data)
        self.names: Sequence[Mapping[str, Any]] = _names(data)
        self._connection = connection
        self._files_url = files_url
        self._over = threading.Event()
        self._pings: Optional[threading.Thread] = None

    def keep_alive(self, interval_s: float) -> None:
        """Tell the server now and then that the task lives: it stops those that say nothing."""
        self._pings = threading.Thread(
            target=self._ping, args=(interval_s,), name="tracelet-clearml-ping", daemon=True
        )
        self._pings.start()

    def _ping(self, interval_s: float) -> None:
        while not self._over.wait(interval_s):
            try:
                self._connection.call("tasks.ping", {"task": self.id})
            except BackendError as error:
                _log.debug("ClearML did not hear that %s lives: %s", self.id, error)

    def running(self) -> bool:
        """Ask whether it runs."""
        return self._look().get("status") == "in_progress"

    def start(self) -> None:
        """Let it run (again)."""
        if self.status != "in_progress":
            self._call("tasks.started", {"force": True, "status_message": "tracelet"})

    def send(self, lines: Sequence[str]) -> None:
        """Send events; see ``Task``."""
        for body in events.requests_of(lines):
            said = self._connection.call("events.add_batch", body)
            if said.get("errors"):
                self._look()
                reason = shortened(json.dumps(said.get("errors_info")), 500)
                if _PASSING.search(reason):
                    raise RetryableError(f"ClearML's store did not take events: {reason}")
                # Which of them is not said; who sends them one by one will know.
                raise RejectedError((), reason)

    def upload(self, path: str, content: Content, mime: str) -> str:
        """Store a file; see ``Task``."""
        whole = f"{self.folder}/{path}"
        self._connection.upload(whole, content.file, content.size, mime)
        return f"{self._files_url}/{quote(whole)}"

    def edit_params(self, items: Sequence[Mapping[str, str]]) -> None:
        """Set hyperparameters; see ``Task``."""
        body = {"hyperparams": list(items), "replace_hyperparams": "none", "force": True}
        self._call("tasks.edit_hyper_params", body)

    def edit_chips(self, old: Sequence[str], new: Sequence[str]) -> None:
        """Replace our tags; see ``Task``."""
        there = [str(each) for each in self._look().get("tags") or ()]
        kept = [each for each in there if each not in old]
        wanted = list(dict.fromkeys([*kept, *new]))
        if wanted != there:
            self._call("tasks.edit", {"tags": wanted, "force": True})

    def add_artifacts(self, items: Sequence[Mapping[str, Any]]) -> None:
        """List artifacts; see ``Task``."""
        self._call("tasks.add_or_update_artifacts", {"artifacts": list(items), "force": True})

    def configure(self, name: str, text: str) -> None:
        """Set a configuration object; see ``Task``."""
        item = {"name": name, "value": text, "type": "", "description": "tracelet"}
        body = {"configuration": [item], "replace_configuration": False, "force": True}
        self._call("tasks.edit_configuration", body)

    def describe(self, described: Described) -> None:
        """Fill in what a task says of itself when it was made without."""
        told: dict[str, Any] = {}
        if described.comment:
            told["comment"] = described.comment
        if described.script:
            told["script"] = dict(described.script)
        if told:
            self._call("tasks.edit", {**told, "force": True})

    def end(self, status: RunStatus) -> None:
        """Say how it ended; see ``Task``."""
        message = {"status_reason": "tracelet", "status_message": _MESSAGES[status]}
        self._call(_ENDS[status], {**message, "force": True})

    def close(self) -> None:
        """Let go of it; see ``Task``."""
        self._over.set()
        self._connection.close()

    def _call(self, action: str, body: Mapping[str, Any]) -> Any:
        try:
            return self._connection.call(action, {"task": self.id, **body})
        except RejectedError:
            self._look()
            raise

    def _look(self) -> Mapping[str, Any]:
        return looked_up(self._connection, self.id)


def looked_up(connection: Connection, task: str) -> Mapping[str, Any]:
    """
    Return a task as the server describes it.

    Raises:
        RunGoneError: There is none of this id.
    """
    try:
        found = connection.call("tasks.get_by_id", {"task": task})["task"]
    except RejectedError as error:
        raise RunGoneError(f"There is no task {task!r} in ClearML (any more).") from error
    if found.get("status") == "published":
        raise ConfigError(
            f"The task {task} is published, and ClearML takes nothing more for it",
            "reset it there, or begin another run",
        )
    return found  # type: ignore[no-any-return]


def continued(connection: Connection, task: str, files_url: str) -> ServerTask:
    """
    Return a task that is there.

    Raises:
        RunGoneError: It is not.
        ConfigError: It is published: ClearML locks it then.
    """
    data = looked_up(connection, task)
    number = data.get("project")
    project = ""
    if number:
        found = connection.call("projects.get_all", {"id": [number], "only_fields": ["name"]})
        project = next((str(each["name"]) for each in found.get("projects") or ()), "")
    return ServerTask(connection, data, project, files_url)


def created(
    connection: Connection, run_id: str, described: Described, files_url: str
) -> ServerTask:
    """
    Return the task of a run of ours: the one that is there, or a new one.

    Asked first, because the answer to a former creation may have been lost.
    """
    mark = MARK + run_id
    query = {"system_tags": [mark], "search_hidden": True, "only_fields": ["id", "system_tags"]}
    for each in connection.call("tasks.get_all", query).get("tasks") or ():
        # An old server may know no filter by system tags.
        if mark in (each.get("system_tags") or ()):
            task = continued(connection, str(each["id"]), files_url)
            task.describe(described)
            return task
    body: dict[str, Any] = {
        "name": described.name,
        "type": "training",
        "project": _project(connection, described.project),
        "system_tags": [mark],
        "input": {"view": {}},
    }
    for field in ("parent", "comment"):
        if getattr(described, field):
            body[field] = getattr(described, field)
    if described.script:
        body["script"] = dict(described.script)
    made = connection.call("tasks.create", body)
    return continued(connection, str(made["id"]), files_url)


def _project(connection: Connection, name: str) -> str:
    wanted = name.strip().ljust(_SHORTEST, "_")
    found = _project_id(connection, wanted)
    if found is not None:
        return found
    try:
        return str(connection.call("projects.create", {"name": wanted, "description": ""})["id"])
    except RejectedError:
        # Somebody was quicker.
        found = _project_id(connection, wanted)
        if found is None:
            raise
        return found


def _project_id(connection: Connection, name: str) -> Optional[str]:
    # A pattern, whatever it is called.
    query = {"name": f"^{re.escape(name)}$", "only_fields": ["id", "name"], "search_hidden": True}
    for each in connection.call("projects.get_all", query).get("projects") or ():
        if each.get("name") == name:
            return str(each["id"])
    return None


def _properties(data: Mapping[str, Any]) -> Mapping[str, str]:
    section = (data.get("hyperparams") or {}).get(PROPERTIES) or {}
    return {
        str(item.get("description") or name): str(item.get("value", ""))
        for name, item in section.items()
    }


def _pairs(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (str(last["metric"]), str(last["variant"]))
        for variants in (data.get("last_metrics") or {}).values()
        for last in variants.values()
        if "metric" in last and "variant" in last
    ]


def _names(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    text = ((data.get("configuration") or {}).get(NAMES_OBJECT) or {}).get("value")
    try:
        found = json.loads(text or "[]")
        return [each for each in found if {"key", "title", "series"} <= set(each)]
    except (ValueError, TypeError):
        return []
