"""How a batch gets into an Aim run, and how the run is opened again when its store was away."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time as clock
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Callable, ClassVar, Mapping, Optional, Sequence, TypeVar

from tracelet.backends.aim import preflight
from tracelet.backends.aim.address import Address, absolute
from tracelet.backends.aim.answers import answered
from tracelet.backends.aim.artifacts import keep, local_root, snapshot
from tracelet.backends.aim.facts import INT64, Facts
from tracelet.backends.aim.objects import Thing, drawn
from tracelet.backends.aim.options import AimOptions
from tracelet.backends.aim.sdk import Session
from tracelet.backends.aim.sequences import Sequences
from tracelet.backends.aim.turns import Turns
from tracelet.backends.base import Backend, BackendOptions, Batch, BatchLimits
from tracelet.backends.owed import Owed
from tracelet.backends.sources import NotTheFileError
from tracelet.errors import BackendError, ConfigError, RejectedError, RetryableError
from tracelet.findings import Finding
from tracelet.records import (
    RECORD_TYPES,
    Artifact,
    Histogram,
    Media,
    Metric,
    Param,
    Record,
    RemoteRun,
    RunInfo,
    RunStatus,
    Table,
    Tag,
    Text,
    backend_of,
)

__all__ = ["AimBackend"]

T = TypeVar("T")

#: Making the tables of a new repository takes seconds, on a busy machine many.
_LOCAL_S = 300.0
#: How long the thread of a run that was closed is waited for.
_END_S = 5.0
_HASH = re.compile(r"[0-9a-zA-Z_-]{1,64}")
_NO_PLACE = (
    "an Aim server takes no artifacts: say where they go with the option 'artifacts_uri' "
    "(s3://… or file://…)"
)


@dataclass
class _Open:
    """What there is while a run is open."""

    session: Session
    facts: Facts
    sequences: Sequences


class AimBackend(Backend):
    """Writes each run into an Aim repository, or through an Aim server."""

    name = "aim"
    Options = AimOptions
    accepts: ClassVar[frozenset[type]] = frozenset(RECORD_TYPES)
    limits: ClassVar[BatchLimits] = BatchLimits(max_records=1000, max_keys=1000)
    environment: ClassVar[tuple[str, ...]] = ("__AIM_", "AIM_")

    @classmethod
    def resolve(
        cls,
        options: Mapping[str, Any],
        environ: Mapping[str, str],
        cwd: Path,
    ) -> tuple[AimOptions, Mapping[str, str]]:
        """
        Find the repository.

        Raises:
            pydantic.ValidationError: An option is unknown or of the wrong type.
            ConfigError: An address is none of Aim's.
        """
        given = AimOptions(**options)
        changes: dict[str, Any] = {"url": absolute(given.url, environ, cwd)}
        uri = given.artifacts_uri
        if uri is not None and "://" not in uri:
            changes["artifacts_uri"] = f"file://{os.path.normpath(cwd / Path(uri).expanduser())}"
        elif uri is not None and not uri.startswith(("file://", "s3://")):
            raise ConfigError(
                f"Aim cannot keep artifacts at {uri!r}", "give file://… or s3://… as artifacts_uri"
            )
        sources = {} if given.url is not None else {"url": "default"}
        return given.model_copy(update=changes), sources

    def __init__(self, options: BackendOptions) -> None:
        super().__init__(options)
        self._options = AimOptions.model_validate(options.model_dump())
        self._address = Address(absolute(self._options.url, os.environ, Path.cwd()))
        self._turns: Optional[Turns] = None
        self._open: Optional[_Open] = None
        #: Set while the run is open for the shipper, also when the store was lost meanwhile.
        self._run: Optional[tuple[RunInfo, str, Path]] = None
        self._changing = threading.Lock()
        self._owed = Owed()

    def preflight(self) -> None:
        """
        See whether Aim is there, and the repository or the server.

        Raises:
            MissingPackageError: It is not installed, or cannot be on this Python.
            ConfigError: The place cannot be used.
            RetryableError: The server did not answer in time.
        """
        preflight.check(self._address)

    def doubts(self, project: Optional[str]) -> Sequence[Finding]:
        """Say when artifacts will have no place."""
        if self._address.remote and not self._options.artifacts_uri:
            text = "An Aim server takes no artifacts"
            return [Finding("note", "artifacts", text, "say where they go with 'artifacts_uri'")]
        return ()

    def look(self, run: RunInfo) -> str:
        """Return the command that shows the repository."""
        return self._address.look

    # ---- open and close ------------------------------------------------------------------------

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        """
        Make the run, or continue one.

        Raises:
            ConfigError: The repository cannot be used.
            RunGoneError: The run to continue is not there.
            RetryableError: The store is away, or another process has the run open.
        """
        preflight.check_package()
        self._let_go()
        hash_ = hashlib.sha256(run.run_id.encode()).hexdigest()[:24]
        if resume is not None:
            if not _HASH.fullmatch(resume.id):
                raise ConfigError(f"{resume.id!r} is no hash of an Aim run.")
            hash_ = resume.id
        self._run = (run, hash_, workdir)
        try:
            # Aim is imported in there, which is nobody's silence.
            name = self._in_turn(lambda: self._begin(resume), self._limit_s, owes=False)
        except BaseException:
            self._run = None
            self._end_turns()
            raise
        return RemoteRun(id=hash_, name=name, look=self._address.look)

    @property
    def _limit_s(self) -> float:
        return self._options.timeout_s if self._address.remote else _LOCAL_S

    def _begin(self, resume: Optional[RemoteRun]) -> str:
        run = self._known()[0]
        here = self._connect(create=resume is None)
        parents = [at for target, at in run.parents.items() if backend_of(target) == self.name]
        parent = self._options.parent or next(iter(parents), None)
        here.facts.begin(run, parent, new=resume is None)
        uri = self._artifacts_uri()
        if uri:
            here.facts.artifacts_uri(uri)
        here.session.settle()
        return str(here.session.run.name or "")

    def _connect(self, *, create: bool) -> _Open:
        """Open the store. In our thread."""
        run, hash_, _ = self._known()
        if self._address.remote:
            # Aim's client waits for a server that is silent, and this does not.
            preflight.check(self._address)
        session = Session(self._address, hash_, self._owed.heard)
        here = self._open = _Open(session, Facts(session), Sequences(session))
        session.open(run.created if create else None)
        return here

    def _artifacts_uri(self) -> Optional[str]:
        if self._options.artifacts_uri:
            return self._options.artifacts_uri
        return None if self._address.remote else f"file://{self._address.folder / 'artifacts'}"

    def silence(self) -> float:
        """Return how long a server has owed an answer. A disk may take its time."""
        return self._owed.silence() if self._address.remote else 0.0

    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        """
        End the run; ``RUNNING`` only lets go of it.

        Raises:
            RetryableError: The store is away now; the run is still open.
        """
        if self._run is None:
            return

        def end() -> None:
            here = self._here()
            ended = None
            if status is not RunStatus.RUNNING:
                here.facts.end(status)
                ended = clock.time() if time is None else time
            here.session.close(ended, success=status is RunStatus.FINISHED)
            self._open = None

        if status is RunStatus.RUNNING and self._open is None:
            self._end_turns()
        else:
            try:
                self._in_turn(end, self._limit_s)
            except BackendError:
                if status is not RunStatus.RUNNING:
                    raise
                # Nothing was to be written: what the store had, it has.
        self._run = None
        self._end_turns()

    def _let_go(self) -> None:
        if self._run is not None:
            self.close(RunStatus.RUNNING)

    # ---- writing -------------------------------------------------------------------------------

    def write(self, batch: Batch) -> None:
        """
        Write a batch; what is there already stays as it is.

        Raises:
            RejectedError: Aim has no place for a record; an artifact's file is not what it was.
            RunGoneError: Somebody deleted the run.
            RetryableError: The store is away now.
        """
        self._known()
        bad = {at: reason for at, record in enumerate(batch.records) if (reason := _odd(record))}
        if bad:
            raise RejectedError(tuple(bad), next(iter(bad.values())))
        artifacts = [
            (at, each) for at, each in enumerate(batch.records) if isinstance(each, Artifact)
        ]
        if artifacts:
            self._keep(artifacts)
        others = [each for each in batch.records if not isinstance(each, Artifact)]
        if others:
            things = [_drawn(each) for each in others]
            self._in_turn(lambda: self._write(others, things), self._limit_s)

    def _write(self, records: Sequence[Record], things: Sequence[Optional[Thing]]) -> None:
        here = self._here()
        here.sequences.write_points(each for each in records if isinstance(each, Metric))
        params = {each.key: each.value for each in records if isinstance(each, Param)}
        here.facts.params(params)
        for record in records:
            if isinstance(record, Tag):
                here.facts.label(record.key, record.value)
        drawings = [(each, thing) for each, thing in zip(records, things) if thing is not None]
        for (kind, key, stream, step, time), group in groupby(drawings, _together):
            members = list(group)
            if kind == "image":
                pictures = [thing for _, thing in members]
                here.sequences.write_pictures(key, stream, step, time, pictures)
                continue
            for record, thing in members:
                here.sequences.write_thing(key, stream, step, time, thing)
                if isinstance(record, Media) and record.kind == "custom_scalars":
                    layout = record.meta.get("layout")
                    if layout:
                        here.facts.layout(record.key, layout)
        here.session.settle()

    def _keep(self, artifacts: Sequence[tuple[int, Artifact]]) -> None:
        """Copy files where they belong; the curves go on meanwhile."""
        uri = self._in_turn(
            lambda: str(self._here().session.run.artifacts_uri or ""), self._limit_s
        )
        if not uri:
            raise RejectedError(tuple(at for at, _ in artifacts), _NO_PLACE)
        root = local_root(uri)
        bad: dict[int, str] = {}
        for at, artifact in artifacts:
            with answered("an artifact cannot be stored now"):
                try:
                    if root is not None:
                        keep(artifact, root)
                    else:
                        self._upload(artifact)
                except NotTheFileError as error:
                    bad[at] = f"{artifact.path}: {error}"
                except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
                    # One artifact's path is the folder of another's.
                    bad[at] = f"{artifact.path}: {error.strerror}"
        kept = [artifact for at, artifact in artifacts if at not in bad]

        def enter() -> None:
            here = self._here()
            with here.session.together():
                for artifact in kept:
                    here.facts.enter(here.facts.artifact(artifact.path, artifact.path))
            here.session.settle()

        if kept:
            self._in_turn(enter, self._limit_s)
        if bad:
            raise RejectedError(tuple(bad), next(iter(bad.values())))

    def _upload(self, artifact: Artifact) -> None:
        facts = self._in_turn(lambda: self._here().facts, self._limit_s)
        with snapshot(artifact, self._known()[2]) as file:
            facts.artifact(artifact.path, str(file)).upload(block=True)

    # ---- the thread ----------------------------------------------------------------------------

    def _known(self) -> tuple[RunInfo, str, Path]:
        if self._run is None:
            raise RuntimeError("This backend is not open.")
        return self._run

    def _here(self) -> _Open:
        """Return the open run, opened again if its store was lost. In our thread."""
        here = self._open
        if here is None:
            return self._connect(create=False)
        if not self._address.remote and not here.session.exists():
            self._open = None
            here.session.abandon()
            return self._connect(create=False)
        return here

    def _in_turn(self, call: Callable[[], T], timeout_s: float, *, owes: bool = True) -> T:
        """
        Call something in the thread that has the run.

        Args:
            call: What to call.
            timeout_s: How long it may take.
            owes: A server owes an answer meanwhile.

        Raises:
            RetryableError: It failed, or did not come back; the next call begins anew.
        """
        with self._changing:
            turns = self._turns = self._turns or Turns()
        try:
            with answered(f"the Aim repository {self._address.url} does not take it now"):
                return turns.call((lambda: self._owing(call)) if owes else call, timeout_s)
        except RejectedError:
            raise
        except BackendError as error:
            self._give_up(turns, hangs=isinstance(error.__cause__, TimeoutError))
            raise

    def _owing(self, call: Callable[[], T]) -> T:
        with self._owed.one():
            return call()

    def _give_up(self, turns: Turns, *, hangs: bool) -> None:
        """Let go of a store that failed: RocksDB takes nothing more after an error."""
        with self._changing:
            if self._turns is not turns:
                return  # the other lane has done it
            here, self._open, self._turns = self._open, None, None
            # A call that hangs is given up, and with it what is owed to it.
            self._owed = Owed()
        if here is not None:
            if hangs:
                here.session.abandon()
            else:
                # In its own thread: SQLite gives a connection back where it came from.
                try:
                    with answered("the Aim repository cannot be closed"):
                        turns.call(here.session.abandon, _END_S)
                except RetryableError:
                    pass  # it is gone one way or the other
        turns.end()

    def _end_turns(self) -> None:
        with self._changing:
            turns, self._turns, self._open = self._turns, None, None
        if turns is not None:
            turns.end()
            turns.join(_END_S)


def _odd(record: Record) -> str:
    """Return why Aim has no place for a record; nothing if it has."""
    step = getattr(record, "step", None)
    if isinstance(step, int) and step not in INT64:
        return f"the step {step} does not fit into 64 bits"
    for text in (getattr(record, "key", ""), getattr(record, "path", "")):
        try:
            text.encode()
        except UnicodeEncodeError:
            return f"{text!r} is no text that can be stored"
    return ""


def _drawn(record: Record) -> Optional[Thing]:
    return drawn(record) if isinstance(record, (Histogram, Media, Table, Text)) else None


def _together(drawing: tuple[Record, Optional[Thing]]) -> tuple[Any, ...]:
    """Return what pictures of one call have in common: kind, key, stream, step, time."""
    record, thing = drawing
    assert thing is not None
    assert isinstance(record, (Histogram, Media, Table, Text))
    return (thing.kind, record.key, record.stream, record.step, record.time)
