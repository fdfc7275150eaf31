"""
A task in a folder, as the vendor's client leaves one that was offline.

``Task.import_offline_session`` takes the folder or its zip file. It has ``task.json`` (the task,
with ``project_name``, hyperparameters, configuration, artifacts, tags), ``metrics.jsonl`` (a JSON
array of events a line) and the files below ``data/``. The folder's name follows from the run, so
that who comes again finds it; an event that is in the file twice is one after the import.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Sequence

from tracelet.backends.clearml import files
from tracelet.backends.clearml.events import requests_of
from tracelet.backends.clearml.files import Content
from tracelet.backends.clearml.task import NAMES_OBJECT, PROPERTIES, Described
from tracelet.errors import ConfigError, RetryableError, RunGoneError
from tracelet.records import RunStatus

__all__ = ["SessionTask", "path_of"]

_STATUSES: Mapping[RunStatus, str] = {
    RunStatus.RUNNING: "in_progress",
    RunStatus.FINISHED: "completed",
    RunStatus.FAILED: "failed",
    RunStatus.KILLED: "stopped",
}
#: The import calls every task completed; this property says how it really ended.
_STATUS = "tracelet_status"
_BLOCK_BYTES = 1 << 20


def path_of(folder: Path, run_id: str) -> Path:
    """Return the folder of a run's session."""
    digest = hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return folder / f"offline-{digest}"


class SessionTask:
    """
    A task in a folder; see ``task.Task``.

    Args:
        path: The folder.
        described: What a new one says of itself; None for one that must be there.

    Raises:
        RunGoneError: It is not there.
        ConfigError: The folder cannot be written.
        RetryableError: It cannot be written now.
    """

    def __init__(self, path: Path, described: Optional[Described]) -> None:
        self.id = path.name
        self._path = path
        self._lock = threading.Lock()
        with _answered(path):
            if not re.fullmatch(r"offline-[0-9a-f]{32}", self.id) or (
                described is None and not (path / "task.json").is_file()
            ):
                raise RunGoneError(f"There is no offline session {str(path)!r} to continue.")
            path.mkdir(parents=True, exist_ok=True)
            self._task = self._read() if described is None else self._begin(described)
            self.name = str(self._task["name"])
            self.folder = files.folder(str(self._task["project_name"]), self.name, self.id)
            _cut(path / "metrics.jsonl")
            self.zipped.unlink(missing_ok=True)
        self.properties: Mapping[str, str] = {
            str(item.get("description") or name): str(item["value"])
            for name, item in self._task["hyperparams"].get(PROPERTIES, {}).items()
            if name != _STATUS
        }
        self.pairs: Sequence[tuple[str, str]] = ()
        listed = self._task["configuration"].get(NAMES_OBJECT, {}).get("value", "[]")
        self.names: Sequence[Mapping[str, Any]] = json.loads(listed)

    @property
    def zipped(self) -> Path:
        """The file that is made at the end."""
        return self._path.with_name(self._path.name + ".zip")

    def start(self) -> None:
        """Let it run (again)."""
        self._tell(RunStatus.RUNNING)

    def send(self, lines: Sequence[str]) -> None:
        """Keep events; see ``Task``."""
        with _answered(self._path), self._lock:
            for body in requests_of(lines):
                _append(self._path / "metrics.jsonl", b"[" + body.replace(b"\n", b",") + b"]\n")

    def upload(self, path: str, content: Content, mime: str) -> str:
        """Keep a file; see ``Task``."""
        target = self._path / "data" / self.folder / path
        with _answered(self._path):
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.{threading.get_ident()}.part")
            content.file.seek(0)
            with open(part, "wb") as copy:
                while block := content.file.read(_BLOCK_BYTES):
                    copy.write(block)
            part.replace(target)
        return str(target)

    def edit_params(self, items: Sequence[Mapping[str, str]]) -> None:
        """Set hyperparameters; see ``Task``."""
        with self._changing() as task:
            for item in items:
                task["hyperparams"].setdefault(item["section"], {})[item["name"]] = dict(item)

    def edit_chips(self, old: Sequence[str], new: Sequence[str]) -> None:
        """Replace our tags; see ``Task``."""
        with self._changing() as task:
            kept = [each for each in task["tags"] if each not in old]
            task["tags"] = list(dict.fromkeys([*kept, *new]))

    def add_artifacts(self, items: Sequence[Mapping[str, Any]]) -> None:
        """List artifacts; see ``Task``."""
        with self._changing() as task:
            listed = {each["key"]: each for each in task["execution"]["artifacts"]}
            listed.update((item["key"], dict(item)) for item in items)
            task["execution"]["artifacts"] = list(listed.values())

    def configure(self, name: str, text: str) -> None:
        """Set a configuration object; see ``Task``."""
        with self._changing() as task:
            item = {"name": name, "value": text, "type": "", "description": "tracelet"}
            task["configuration"][name] = item

    def describe(self, described: Described) -> None:
        """Fill in what a task says of itself; it has it from the beginning."""

    def keep_alive(self, interval_s: float) -> None:
        """Nobody has to be told."""

    def end(self, status: RunStatus) -> None:
        """Say how it ended, and pack it; see ``Task``."""
        self._tell(status)
        part = self.zipped.with_name(self.zipped.name + ".part")
        with _answered(self._path), self._lock:
            with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as packed:
                for file in sorted(self._path.rglob("*")):
                    if file.is_file():
                        packed.write(file, file.relative_to(self._path).as_posix())
            part.replace(self.zipped)

    def close(self) -> None:
        """Let go of it; see ``Task``."""

    def _tell(self, status: RunStatus) -> None:
        name, value = _STATUS, _STATUSES[status]
        self.edit_params([{"section": PROPERTIES, "name": name, "value": value, "type": "str"}])

    def _begin(self, described: Described) -> dict[str, Any]:
        if (self._path / "task.json").is_file():
            return self._read()
        return {
            "id": self.id,
            "name": described.name,
            "project_name": described.project,
            "type": "training",
            "comment": described.comment or "",
            "parent": described.parent,
            "tags": [],
            "hyperparams": {},
            "configuration": {},
            "execution": {"artifacts": []},
            "script": dict(described.script),
            "offline_folder": str(self._path),
            "offline_output_models": [],
        }

    def _read(self) -> dict[str, Any]:
        return dict(json.loads((self._path / "task.json").read_text(encoding="utf-8")))

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        with _answered(self._path), self._lock:
            yield self._task
            part = self._path / "task.json.part"
            part.write_text(json.dumps(self._task, indent=1), encoding="utf-8")
            part.replace(self._path / "task.json")


def _append(path: Path, line: bytes) -> None:
    """Write a line, or nothing and raise ``OSError``."""
    with open(path, "ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[file.write(rest) or 0 :]
        except OSError:
            file.truncate(size)
            raise


def _cut(path: Path) -> None:
    """Cut off a last line without an end: whoever wrote it died over it."""
    try:
        file = open(path, "rb+")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return
    with file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _BLOCK_BYTES)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        file.truncate(end)


@contextmanager
def _answered(path: Path) -> Iterator[None]:
    """Turn what the disk says into one of a backend's answers."""
    try:
        yield
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise ConfigError(
            f"The offline session {str(path)!r} cannot be written ({error.strerror})",
            "give another folder with the option 'folder'",
        ) from error
    except OSError as error:
        raise RetryableError(f"{str(path)!r} cannot be written now: {error.strerror}") from error
