"""The MLflow backend: what the shipper and the training process call."""

from __future__ import annotations

import getpass
import os
import sys
import time as clock
from pathlib import Path
from typing import Any, Callable, ClassVar, Collection, Iterable, Mapping, Optional, Sequence

from tracelet._redaction import without_credentials
from tracelet.backends.base import Backend, BackendOptions, Batch, BatchLimits, ProgramRun
from tracelet.backends.mlflow import (
    context,
    credentials,
    look,
    opening,
    preflight,
    renamed,
    sessions,
    uri,
)
from tracelet.backends.mlflow.artifacts import artifacts_at
from tracelet.backends.mlflow.context import ContextFile
from tracelet.backends.mlflow.fluent import Attachment
from tracelet.backends.mlflow.fluent.stack import held_run
from tracelet.backends.mlflow.fluent.surroundings import RUN_ID, Surroundings
from tracelet.backends.mlflow.http import Connection
from tracelet.backends.mlflow.names import KeyKind, KeyNames
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.backends.mlflow.rest import RestStore
from tracelet.backends.mlflow.run import OpenRun
from tracelet.backends.mlflow.store import RunState, Store
from tracelet.backends.mlflow.uri import StoreKind
from tracelet.errors import ConfigError
from tracelet.findings import Finding
from tracelet.records import (
    RECORD_TYPES,
    Histogram,
    Media,
    RemoteRun,
    RunInfo,
    RunStatus,
    Table,
    Text,
)

__all__ = ["MlflowBackend"]


class MlflowBackend(Backend):
    """Runs in MLflow."""

    name: ClassVar[str] = "mlflow"
    Options: ClassVar[type[BackendOptions]] = MlflowOptions
    accepts: ClassVar[frozenset[type]] = frozenset(RECORD_TYPES)
    #: Eight requests of 1,000 points, some of them at the same time. Servers up to 3.9 trip over a
    #: resend of more than 100 keys, and few keys in a request are several times cheaper for SQL.
    limits: ClassVar[BatchLimits] = BatchLimits(
        max_records=10_000, max_keys=100, max_bytes=1_000_000, max_heavy=1000
    )
    deferred: ClassVar[frozenset[type]] = frozenset({Histogram, Media, Table, Text})
    environment: ClassVar[tuple[str, ...]] = (
        "MLFLOW_",
        # Where artifacts may go directly.
        "AWS_",
        "AZURE_",
        "GOOGLE_",
        "DATABRICKS_",
        # What `requests` reads.
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
    )

    secret_variables: ClassVar[Mapping[str, str]] = credentials.VARIABLES

    options: MlflowOptions

    def __init__(self, options: BackendOptions) -> None:
        super().__init__(options)
        self._run: Optional[OpenRun] = None
        #: To the server, from the first attempt to open a run.
        self._connection: Optional[Connection] = None
        self._adopted = False
        self._closed = False
        self._attachment: Optional[Attachment] = None
        #: The run that ``MLFLOW_RUN_ID`` named, when that is the one.
        self._continued = ""
        self._preflight: Optional[preflight.Preflight] = None

    @classmethod
    def resolve(
        cls, options: Mapping[str, Any], environ: Mapping[str, str], cwd: Path
    ) -> tuple[BackendOptions, Mapping[str, str]]:
        """
        Complete the options as MLflow itself would, in the training process.

        The address is, in this order: the option, what the program gave
        ``mlflow.set_tracking_uri``, ``MLFLOW_TRACKING_URI``, MLflow's default for ``cwd``. See
        ``Backend.resolve`` for arguments and errors.
        """
        # Types and names first: what follows may rely on them.
        cls.Options(**options)
        given = {key: value for key, value in options.items() if value is not None}
        sources: dict[str, str] = {key: "argument" for key in credentials.VARIABLES if key in given}
        filled = dict(given)
        address, origin = _address(given, environ, cwd)
        if origin != "argument":
            sources["url"] = origin
        address, username, password = uri.without_userinfo(uri.absolute(address, cwd))
        filled["url"] = address
        for option, value in (("username", username), ("password", password)):
            if value is not None and option not in given:
                filled[option] = value
                sources[option] = origin if origin.startswith("env:") else "argument"
        if uri.kind_of(address) is StoreKind.SERVER:
            variables = credentials.from_environment(filled, environ, Path.home())
            for option, variable in variables.items():
                filled[option] = environ[variable]
                sources[option] = f"env:{variable}"
        _complete(filled, environ, cwd, named=origin == "argument")
        return cls.Options(**filled), sources

    def preflight(self) -> None:
        """Check what can be checked without the SDK; see ``Backend.preflight``."""
        self._preflight = preflight.Preflight(
            self._url, self.options, through_sdk=_own_authentication()
        )
        self._preflight.check()

    def doubts(self, project: Optional[str]) -> Sequence[Finding]:
        """Say what will go wrong with artifacts; see ``Backend.doubts``."""
        return () if self._preflight is None else self._preflight.doubts(project)

    def examine(
        self, project: Optional[str], sources: Mapping[str, str], deadline: float
    ) -> Iterable[Finding]:
        """Look at the store and everything on the way to it; see ``Backend.examine``."""
        # Only here: a training never needs it.
        from tracelet.backends.mlflow.diagnosis.examination import Examination

        examination = Examination(self._url, self.options, project, sources, deadline)
        return examination.findings(through_sdk=_own_authentication())

    @classmethod
    def measures(cls, environ: Mapping[str, str]) -> bool:
        """Return True when MLflow was told to measure, or does so already."""
        told = environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() in ("true", "1")
        fluent = sys.modules.get("mlflow.tracking.fluent")
        return told or bool(getattr(fluent, "run_id_to_system_metrics_monitor", None))

    def look(self, run: RunInfo) -> str:
        """Return the server's address, or the command that shows a local store."""
        shown = without_credentials(self._url)
        if uri.kind_of(self._url) is StoreKind.SERVER:
            return shown
        return look.command(shown, Path(run.cwd or "."))

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        """
        Find or make experiment and run.

        Raises:
            RunGoneError: The run to continue was deleted.
            ConfigError: The store cannot be used like this.
            RetryableError: It cannot be used now.
        """
        if self._run is not None:
            self._run.close()
            self._run = None
        store, connection = self._store(run)
        workdir.mkdir(parents=True, exist_ok=True)
        shown = context.as_known_there(self.options)
        fresh = not (workdir / "names.jsonl").exists()
        names = KeyNames(workdir / "names.jsonl", as_files=store.keys_are_files)
        try:
            if resume is None:
                state = opening.created(store, run, shown, workdir / "attempt")
            else:
                state = opening.continued(store, resume, adopted=self.name in run.adopted)
            if fresh:
                _adopt(names, state)
            artifacts = artifacts_at(state.artifact_uri, self._url, connection, self.options)
            session = sessions.session_of(run, state, resume, workdir, fresh=fresh)
            continued = run.resume.get(self.name) is not None
            described = ContextFile(run, workdir, continued=continued)
            opened = OpenRun(store, state, artifacts, names, workdir, session.label, described)
            opened.set_tags(session.tags)
            session.write_down()
            if resume is None:
                opened.set_tags({**context.tags(run, shown), **run.tags})
            elif not resume.facts:
                # The user's choice of a run. One that we opened before has these tags, and may
                # have got other values for them since.
                opened.set_tags(run.tags)
        except BaseException:
            store.close()
            raise
        self._run, self._closed = opened, False
        self._adopted = self.name in run.adopted
        return self._remote(run, state)

    def write(self, batch: Batch) -> None:
        """Write all of the batch, or raise; see ``Backend.write``."""
        self._opened().write(batch)

    def barrier(self) -> None:
        """Return when texts, histograms and archives are in the tracker."""
        self._opened().barrier()

    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        """
        End the run; ``RUNNING`` only lets go of it.

        One that the program had opened itself is ended only if nobody else has.
        """
        run = self._run
        if run is not None:
            if self._adopted and not run.running():
                status = RunStatus.RUNNING
            run.end(status, int((clock.time() if time is None else time) * 1000))
            run.close()
            self._run = None
        self._closed = True

    @property
    def server(self) -> Optional[str]:
        """The tracking server, if it is one."""
        served = uri.kind_of(self._url) is StoreKind.SERVER
        return without_credentials(self._url) if served else None

    def ping(self) -> None:
        """Ask for one experiment, which the server's store has to answer."""
        if self._connection is None:
            super().ping()
            return
        self._connection.ping("/api/2.0/mlflow/experiments/search", {"max_results": "1"})

    def silence(self) -> float:
        """Return how long the server has owed an answer."""
        return 0.0 if self._connection is None else self._connection.silence()

    def remark(self, text: str, lane: str) -> None:
        """Say in a tag that records were refused; for what are files, in a file as well."""
        self._opened().remark(text, as_file=lane == "heavy")

    def program_run(self) -> Optional[ProgramRun]:
        """Return MLflow's active run in this thread, or the one of ``MLFLOW_RUN_ID``."""
        if not self.options.attach:
            return None
        held = held_run() if Surroundings(self.options).here() else None
        named = os.environ.get(RUN_ID, "").strip()
        if held is None and named:
            self._continued = named
            return ProgramRun(named, held=False)
        return held

    def attach(
        self,
        opened: Callable[[], RemoteRun],
        *,
        captured: Collection[str],
        say: Callable[[str], None],
    ) -> None:
        """Make ``mlflow.log_metric`` and its like land in this run; see ``Backend.attach``."""
        if self.options.attach and self._attachment is None:
            self._attachment = Attachment(self.options, opened, captured, say, self._continued)
            self._attachment.enter()

    def detach(self) -> None:
        """Put back everything that ``attach`` changed."""
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.leave()

    @property
    def _url(self) -> str:
        if self.options.url is None:
            raise ConfigError("The MLflow backend has no address: make its options with resolve().")
        return self.options.url

    def _opened(self) -> OpenRun:
        if self._run is None:
            raise RuntimeError("The run is closed." if self._closed else "No run is open.")
        return self._run

    def _store(self, run: RunInfo) -> tuple[Store, Optional[Connection]]:
        if uri.kind_of(self._url) is StoreKind.SERVER and not _own_authentication():
            connection = self._connection = Connection(self._url, self.options)
            return RestStore(connection), connection
        # Only here: a shipper in front of a server never loads MLflow.
        from tracelet.backends.mlflow.sdk import open_store

        url = self._url
        if uri.kind_of(url) is StoreKind.DATABASE:
            url = uri.with_userinfo(url, *credentials.userinfo(self.options))
        root = self.options.artifact_location or str(Path(run.cwd or ".") / "mlruns")
        return (
            open_store(url, root, self.options.connect_timeout_s, self.options.timeout_s),
            None,
        )

    def _remote(self, run: RunInfo, state: RunState) -> RemoteRun:
        page = look.page_of(state.experiment_id, state.id, self.options)
        served = uri.kind_of(self._url) is StoreKind.SERVER
        url = f"{without_credentials(self._url)}/{page}" if served else None
        return RemoteRun(
            id=state.id,
            name=state.name,
            url=url,
            look=url or self.look(run),
            facts={
                "experiment_id": state.experiment_id,
                "page": page,
                "artifact_uri": state.artifact_uri,
                "user": self.options.user,
                "start": int(run.created * 1000),
            },
        )


def _own_authentication() -> bool:
    """Return True when requests are signed in a way that only MLflow's client knows."""
    signed = os.environ.get("MLFLOW_TRACKING_AWS_SIGV4", "").lower() in ("true", "1")
    return signed or bool(os.environ.get("MLFLOW_TRACKING_AUTH"))


def _address(given: Mapping[str, Any], environ: Mapping[str, str], cwd: Path) -> tuple[str, str]:
    """Return the tracking URI and where it came from."""
    if "url" in given:
        return str(given["url"]), "argument"
    # Not `mlflow.get_tracking_uri()`, which would mix in this process's environment and folder.
    loaded = sys.modules.get("mlflow.tracking._tracking_service.utils")
    chosen = getattr(loaded, "_tracking_uri", None)
    if chosen:
        return str(chosen), "program"
    named = environ.get("MLFLOW_TRACKING_URI", "")
    if named.strip():
        return named, "env:MLFLOW_TRACKING_URI"
    return uri.default(cwd), "default"


def _complete(
    filled: dict[str, Any], environ: Mapping[str, str], cwd: Path, *, named: bool
) -> None:
    """Fill what MLflow's other variables and the process say."""
    strings = {
        "workspace": "MLFLOW_WORKSPACE",
        "experiment": "MLFLOW_EXPERIMENT_NAME",
        "server_cert_path": "MLFLOW_TRACKING_SERVER_CERT_PATH",
        "client_cert_path": "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    }
    if not named:
        # An id means something in the store that the same environment names, and in no other.
        strings["experiment_id"] = "MLFLOW_EXPERIMENT_ID"
    for option, variable in strings.items():
        if filled.get(option) is None and environ.get(variable):
            filled[option] = environ[variable]
    insecure = environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    filled.setdefault("insecure_tls", insecure)
    for option in ("server_cert_path", "client_cert_path"):
        if filled.get(option) is not None:
            filled[option] = str(cwd / Path(filled[option]).expanduser())
    filled.setdefault("user", _user())
    source = sys.argv[0] if sys.argv else ""
    if source not in ("", "-c", "-m"):
        filled.setdefault("source", source)


def _user() -> Optional[str]:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return None  # a container whose user has no name


def _adopt(names: KeyNames, state: RunState) -> None:
    """Learn the keys of a run whose working files are elsewhere, so that none is taken twice."""
    keys = {KeyKind.METRIC: state.metrics, KeyKind.PARAM: state.params, KeyKind.TAG: state.tags}
    for kind in KeyKind:
        originals = renamed.originals(kind, state.tags)
        names.adopt(kind, keys.get(kind, originals), originals)
