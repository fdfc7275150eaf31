"""Which calls of the contract do what in ClearML."""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import (
    Any,
    Callable,
    ClassVar,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Optional,
    Sequence,
    Union,
)
from urllib.parse import urlsplit

from tracelet.backends.base import Backend, BackendOptions, Batch, BatchLimits, ProgramRun
from tracelet.backends.clearml import conf, credentials, program, server, session
from tracelet.backends.clearml.http import Connection
from tracelet.backends.clearml.names import Names
from tracelet.backends.clearml.options import ClearmlOptions
from tracelet.backends.clearml.run import OpenRun
from tracelet.backends.clearml.server import ServerTask
from tracelet.backends.clearml.session import SessionTask
from tracelet.backends.clearml.task import Described
from tracelet.errors import BackendError, ConfigError, RejectedError, TraceletError
from tracelet.findings import Finding, of_error
from tracelet.records import RECORD_TYPES, RemoteRun, RunInfo, RunStatus

__all__ = ["ClearmlBackend"]

_Task = Union[ServerTask, SessionTask]

#: A start waits a second for all backends together.
_CONNECT_S = 0.5
_ANSWER_S = 0.9
_FILES_S = 0.3

_TRUE = ("1", "true", "yes", "y", "on")
#: The task that an agent runs the program for.
_AGENTS = ("CLEARML_TASK_ID", "TRAINS_TASK_ID")
_OFFLINE = ("CLEARML_OFFLINE_MODE", "TRAINS_OFFLINE_MODE")
_KEYS = ("api_key", "access_key", "auth_token")
_PORTS = {"http": 80, "https": 443}
#: A configuration object with the facts that nobody logged.
_CONTEXT = "tracelet.context"


class ClearmlBackend(Backend):
    """Writes each run into a task of ClearML."""

    name = "clearml"
    Options = ClearmlOptions
    accepts: ClassVar[frozenset[type]] = frozenset(RECORD_TYPES)
    limits: ClassVar[BatchLimits] = BatchLimits(
        max_records=5000, max_keys=5000, max_bytes=1_000_000, max_heavy=100
    )
    environment: ClassVar[tuple[str, ...]] = (
        "CLEARML_",
        "TRAINS_",
        # What `requests` reads.
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
    )
    secret_variables: ClassVar[Mapping[str, str]] = {
        option: credentials.VARIABLES[option][0]
        for option in ("access_key", "secret_key", "auth_token")
    }

    options: ClearmlOptions

    def __init__(self, options: BackendOptions) -> None:
        super().__init__(options)
        self._run: Optional[OpenRun] = None
        self._task: Optional[_Task] = None
        self._connection: Optional[Connection] = None
        self._closed = False
        self._adopted = False
        self._capture = program.Capture()

    @classmethod
    def resolve(
        cls, options: Mapping[str, Any], environ: Mapping[str, str], cwd: Path
    ) -> tuple[BackendOptions, Mapping[str, str]]:
        """
        Complete the options from ClearML's variables and ``clearml.conf``.

        Keys that stand in ``clearml.conf`` stay there: whoever needs them reads them again. See
        ``Backend.resolve`` for arguments and errors.
        """
        cls.Options(**options)
        given = {key: value for key, value in options.items() if value is not None}
        secrets = ("api_key", "access_key", "secret_key", "auth_token")
        sources = {key: "argument" for key in secrets if key in given}
        if given.get("config_file"):
            given["config_file"] = str(cwd / Path(given["config_file"]).expanduser())
        file = conf.find(given.get("config_file"), environ, Path.home())
        for option in ("verify_certificate", "url", "web_url", "files_url"):
            value, variable = credentials.first(option, environ, file)
            if option == "url" and value is not None and given.get("url", value) != value:
                # Another server than that of the variables has another page and other files.
                break
            if option not in given and value is not None:
                given[option] = value
                sources[option] = f"env:{variable}" if variable else "clearml.conf"
        if not sources.keys() & set(secrets):
            # A token only where there are no keys: whoever ships later would be asked for it, too.
            keys = credentials.first("access_key", environ, file)[0] is not None
            for option in ("access_key", "secret_key") if keys else ("auth_token",):
                value, variable = credentials.first(option, environ, {})
                if value is not None:
                    given[option] = value
                    sources[option] = f"env:{variable}"
        if "offline" not in given:
            given["offline"] = any(environ.get(name, "").lower() in _TRUE for name in _OFFLINE)
        given["folder"] = str(cwd / Path(given.get("folder") or "clearml-offline").expanduser())
        made = cls.Options(**given)
        scheme = urlsplit(made.files_url or "").scheme
        if not made.offline and scheme not in ("", "http", "https"):
            raise ConfigError(
                f"Media and artifacts of ClearML go to a file server, and {scheme}:// is none",
                "set 'files_url' (or CLEARML_FILES_HOST) to http(s)://…",
            )
        return made, sources

    def preflight(self) -> None:
        """
        Log in.

        Raises:
            MissingPackageError: The package ``requests`` is not installed.
            ConfigError: There are no keys, they are refused, or that is not ClearML.
            RetryableError: There was no answer in time.
        """
        if self.options.offline:
            folder = self._folder()
            while not folder.exists() and folder != folder.parent:
                folder = folder.parent
            if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
                raise ConfigError(
                    f"Offline sessions of ClearML cannot be written to {str(self._folder())!r}",
                    "give another folder with the option 'folder'",
                )
            return
        connection = Connection(self._access(), _CONNECT_S, _ANSWER_S, _ANSWER_S)
        try:
            connection.login()
        finally:
            connection.close()

    def doubts(self, project: Optional[str]) -> Sequence[Finding]:
        """Say when the file server does not answer: curves would arrive, pictures would not."""
        if self.options.offline:
            return ()
        address = credentials.servers(self.options).files
        parts = urlsplit(address)
        try:
            port = parts.port or _PORTS[parts.scheme]
            socket.create_connection((parts.hostname or "", port), _FILES_S).close()
        except (OSError, KeyError, ValueError) as error:
            return (
                Finding(
                    "problem",
                    "files",
                    f"ClearML's file server {address} cannot be reached ({error}), so media and "
                    "artifacts wait on disk",
                    "check CLEARML_FILES_HOST, or the option 'files_url'",
                ),
            )
        return ()

    def examine(
        self, project: Optional[str], sources: Mapping[str, str], deadline: float
    ) -> Iterable[Finding]:
        """Say where a run would go and whose keys it has, and log in; see ``Backend.examine``."""
        if self.options.offline:
            yield Finding("ok", "address", f"offline sessions in {self.options.folder}")
        else:
            found = credentials.servers(self.options)
            origin = sources.get("url", "argument" if self.options.url else "default")
            yield Finding("ok", "address", f"{found.api} ({origin.replace('env:', '')})")
        try:
            self.preflight()
        except (BackendError, TraceletError, OSError) as error:
            yield of_error(error, "server")
            return
        if not self.options.offline:
            keys = [sources[name] for name in _KEYS if name in sources]
            origin = keys[0].replace("env:", "") if keys else "clearml.conf"
            yield Finding("ok", "server", f"it takes the keys of {origin}")
            doubts = self.doubts(project)
            yield from doubts or (Finding("ok", "files", found.files),)

    @classmethod
    def measures(cls, environ: Mapping[str, str]) -> bool:  # noqa: ARG003 - as the contract has it
        """Return True when the program's own task measures this machine."""
        return program.measured()

    def look(self, run: RunInfo) -> str:
        """Return the address of the web page, or the folder of an offline session."""
        if self.options.offline:
            return str(session.path_of(self._folder(), run.run_id))
        return credentials.servers(self.options).web

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        """
        Find or make the task.

        Raises:
            RunGoneError: The task to continue is not there.
            ConfigError: The server, or the folder, cannot be used like this.
            RetryableError: It cannot be used now.
        """
        self._let_go()
        with _final():
            return self._open(run, resume, workdir)

    def _open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        self._adopted = self.name in run.adopted
        described = self._described(run)
        task = self._found(run, resume, described)
        try:
            journal = workdir / "names.jsonl"
            fresh = not journal.exists()
            names = Names(journal)
            if fresh:
                names.adopt(task.pairs, task.names)
            opened = OpenRun(task, names)
            if not self._adopted:
                task.start()
            if resume is None or not resume.facts:
                # One that we opened before has these tags, and may have got others since.
                opened.set_tags(run.tags)
                if run.context and resume is None:
                    task.configure(_CONTEXT, json.dumps(dict(run.context), indent=1, default=str))
        except BaseException:
            task.close()
            raise
        task.keep_alive(self.options.ping_interval_s)
        self._run, self._task, self._closed = opened, task, False
        return self._remote(task)

    def write(self, batch: Batch) -> None:
        """Write all of the batch, or raise; see ``Backend.write``."""
        if self._run is None:
            raise RuntimeError("The run is closed." if self._closed else "No run is open.")
        self._run.write(batch)

    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        """
        End the task; ``RUNNING`` only lets go of it.

        ClearML writes down itself when that was: ``time`` has no place there.
        """
        if self._task is not None and status is not RunStatus.RUNNING and not self._ended():
            with _final():
                self._task.end(status)
        self._let_go()
        self._closed = True

    def silence(self) -> float:
        """Return how long a server has owed an answer."""
        return 0.0 if self._connection is None else self._connection.silence()

    def program_run(self) -> Optional[ProgramRun]:
        """Return the program's own task on this server, or the one that an agent runs it for."""
        if not self.options.attach or self.options.offline:
            return None
        held = program.opened_task(credentials.servers(self.options).api)
        named = next((os.environ[name] for name in _AGENTS if os.environ.get(name)), None)
        if held is None and named:
            return ProgramRun(named.strip(), held=False)
        return held

    def attach(
        self,
        opened: Callable[[], RemoteRun],
        *,
        captured: Collection[str],
        say: Callable[[str], None],
    ) -> None:
        """Let the SDK's own capture of TensorBoard rest; see ``Backend.attach``."""
        if self.options.attach and self._capture.rest(captured):
            say(
                "ClearML's own capture of TensorBoard rests while this run is active: nothing "
                "arrives twice."
            )

    def detach(self) -> None:
        """Let it go on."""
        self._capture.go_on()

    # ---------------------------------------------------------------------------------------

    def _access(self) -> credentials.Access:
        return credentials.access(self.options, os.environ, Path.home())

    def _folder(self) -> Path:
        if self.options.folder is None:
            raise ConfigError("The ClearML backend has no folder: make its options with resolve().")
        return Path(self.options.folder)

    def _found(self, run: RunInfo, resume: Optional[RemoteRun], described: Described) -> _Task:
        if self.options.offline:
            if resume is not None:
                return SessionTask(self._folder() / resume.id, None)
            return SessionTask(session.path_of(self._folder(), run.run_id), described)
        access = self._access()
        limits = (
            self.options.connect_timeout_s,
            self.options.timeout_s,
            self.options.upload_timeout_s,
        )
        connection = self._connection = Connection(access, *limits)
        try:
            if resume is not None:
                return server.continued(connection, resume.id, access.files)
            return server.created(connection, run.run_id, described, access.files)
        except BaseException:
            connection.close()
            raise

    def _described(self, run: RunInfo) -> Described:
        return Described(
            name=run.name or run.run_id,
            project=run.project or "default",
            parent=run.parents.get(self.name) or self.options.parent,
            comment=self.options.comment,
            script=_script(run),
        )

    def _remote(self, task: _Task) -> RemoteRun:
        if isinstance(task, SessionTask):
            path = self._folder() / task.id
            return RemoteRun(task.id, task.name, look=str(path), facts={"folder": task.folder})
        page = f"projects/{task.project_id or '*'}/experiments/{task.id}/output/log"
        url = f"{credentials.servers(self.options).web}/{page}"
        return RemoteRun(task.id, task.name, url=url, look=url, facts={"folder": task.folder})

    def _ended(self) -> bool:
        """Tell whether the program has ended its own task itself."""
        if not self._adopted or not isinstance(self._task, ServerTask):
            return False
        return not self._task.running()

    def _let_go(self) -> None:
        task, self._task, self._run = self._task, None, None
        if task is not None:
            task.close()


@contextmanager
def _final() -> Iterator[None]:
    """Turn the refusal of a request about the task itself into one that a person has to mend."""
    try:
        yield
    except RejectedError as error:
        raise ConfigError(f"ClearML does not take this run: {error.reason}.") from error


def _script(run: RunInfo) -> Mapping[str, Any]:
    """Return what ClearML shows on the page *Execution*: code, command, packages."""
    git, command, packages = map(run.facts, ("git", "command", "packages"))
    script: dict[str, Any] = {}
    if git:
        script["repository"] = str(git.get("remote") or "")
        script["branch"] = str(git.get("branch") or "")
        script["version_num"] = str(git.get("commit") or "")
    if command:
        script["entry_point"] = str(command.get("script") or "")
        script["working_dir"] = str(command.get("folder") or "")
        script["binary"] = Path(str(command.get("executable") or "python")).name
    if packages:
        listed = "\n".join(f"{name}=={version}" for name, version in sorted(packages.items()))
        script["requirements"] = {"pip": listed}
    return script
