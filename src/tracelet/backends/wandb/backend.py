"""How a batch gets into a run of W&B exactly once."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar, Iterator, Mapping, Optional, Sequence

from tracelet.backends.base import Backend, BackendOptions, Batch, BatchLimits
from tracelet.backends.wandb import address, context
from tracelet.backends.wandb.entries import Entries, digest_of
from tracelet.backends.wandb.media import Attic
from tracelet.backends.wandb.names import label, project
from tracelet.backends.wandb.options import HOSTED, WandbOptions
from tracelet.backends.wandb.outbox import Entry, Outbox
from tracelet.backends.wandb.preflight import check_key, check_packages, check_server
from tracelet.backends.wandb.service import Service
from tracelet.backends.wandb.session import Identity, Session, last_row
from tracelet.backends.wandb.sign import Sign
from tracelet.errors import ConfigError, RetryableError
from tracelet.findings import Finding
from tracelet.records import RECORD_TYPES, RemoteRun, RunInfo, RunStatus

__all__ = ["WandbBackend"]

#: How long letting go may take: what is not there yet is in the outbox.
_FAREWELL_S = 5.0
_KILLED = "killed"
_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline"}


class WandbBackend(Backend):
    """Delivers each run into a run of W&B."""

    name = "wandb"
    Options = WandbOptions
    accepts: ClassVar[frozenset[type]] = frozenset(RECORD_TYPES)
    limits: ClassVar[BatchLimits] = BatchLimits(
        max_records=2000, max_keys=10_000, max_bytes=4_000_000, max_heavy=200
    )
    #: The client's answer means nothing; only the end of a session does.
    deferred: ClassVar[frozenset[type]] = frozenset(RECORD_TYPES)
    environment: ClassVar[tuple[str, ...]] = ("WANDB_", "NETRC")
    secret_variables: ClassVar[Mapping[str, str]] = {"api_key": "WANDB_API_KEY"}

    @classmethod
    def resolve(
        cls, options: Mapping[str, Any], environ: Mapping[str, str], cwd: Path
    ) -> tuple[WandbOptions, Mapping[str, str]]:
        """
        Read W&B's variables and settings files.

        Raises:
            pydantic.ValidationError: An option is unknown or of the wrong type.
            ConfigError: ``url`` is no address, or the environment switches W&B off.
        """
        found, sources = dict(options), {}
        stored = address.from_files(environ, cwd)
        for option, variable in address.VARIABLES.items():
            if found.get(option) is None and environ.get(variable):
                found[option] = environ[variable]
        for option, name in (("url", "base_url"), ("entity", "entity"), ("project", "project")):
            if found.get(option) is None and stored.get(name):
                found[option] = stored[name]
        if found.get("mode") is None:
            found["mode"] = _mode(environ, stored)
        found["url"] = address.absolute(found.get("url") or HOSTED)
        found["dir"] = str((cwd / Path(found.get("dir") or ".").expanduser()).resolve())
        if found.get("api_key") is not None:
            sources["api_key"] = "argument"
        elif environ.get("WANDB_API_KEY"):
            found["api_key"], sources["api_key"] = environ["WANDB_API_KEY"], "env:WANDB_API_KEY"
        return WandbOptions(**found), sources

    def __init__(self, options: BackendOptions) -> None:
        super().__init__(options)
        self._options = WandbOptions.model_validate(options.model_dump())
        self._offline = self._options.mode == "offline"
        self._service = Service()
        self._sign = Sign(self._ask)
        #: Held while the session is used, and while the outbox is changed.
        self._turn, self._keeping = threading.RLock(), threading.RLock()
        self._session: Optional[Session] = None
        self._outbox: Optional[Outbox] = None
        self._run: Optional[RunInfo] = None

    # -- before training --------------------------------------------------------------------

    def preflight(self) -> None:
        """
        See whether the server knows the key; offline, whether the folder can be written.

        Raises:
            MissingPackageError: The client or Pillow is not installed.
            ConfigError: There is no key, or the server refuses it.
            RetryableError: The server did not answer in time.
        """
        check_packages()
        if self._offline:
            with _writing(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
        else:
            self._ask()

    def doubts(self, project_name: Optional[str]) -> Sequence[Finding]:
        """Name what will not be as it was said; see ``Backend.doubts``."""
        found = []
        wanted = project_name or self._options.project
        if wanted and project(wanted) != wanted:
            text = f"W&B does not take {wanted!r} as a project; it becomes {project(wanted)!r}"
            found.append(Finding("note", "project", text))
        patched = getattr(sys.modules.get("wandb"), "patched", None) or {}
        if patched.get("tensorboard"):
            found.append(
                Finding(
                    "note",
                    "sync_tensorboard",
                    "the program has W&B capture TensorBoard itself, into a run of its own",
                    "call wandb.init without sync_tensorboard, or everything is there twice",
                )
            )
        return found

    def look(self, run: RunInfo) -> str:
        """Return the project's page, or the command that sends an offline run."""
        if self._offline:
            return f"wandb sync {self._folder / 'wandb'}/offline-run-*-{run.run_id}"
        parts = [address.web_address(self._options.url or HOSTED)]
        if self._options.entity:
            parts += [self._options.entity, project(run.project or self._options.project)]
        return "/".join(parts)

    def silence(self) -> float:
        """Return how long the server has not been there that a call waits for."""
        return self._sign.silence()

    # -- delivery ---------------------------------------------------------------------------

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        """
        Create the run, or continue it.

        Raises:
            ConfigError: The server refuses; there is no such run.
            RetryableError: The server does not answer now.
        """
        with self._turn:
            self._let_go()
            if not self._offline:
                self._ask()
            try:
                with self._saving():
                    return self._open(run, resume, workdir)
            except BaseException:
                self._let_go()
                raise

    def _open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        self._workdir, self._run = workdir, run
        self._identity = self._identified(run, resume)
        self._attic = Attic(workdir / "media")
        self._outbox = outbox = Outbox(workdir / "outbox")
        self._entries = Entries(self._identity.id, self._attic, outbox.facts.get("names"))
        if not outbox.facts.get("introduced"):
            outbox.config.update(context.config(run))
            parent = run.parents.get(self.name)
            if parent is not None:
                outbox.config["_tracelet.parent"] = parent
            outbox.tags.update(run.tags)
        session = self._begin()
        if outbox.base is None:
            outbox.begin(0 if self._offline else session.start)
        place = str(session.place) if self._offline else None
        return RemoteRun(
            id=self._identity.id,
            name=session.name,
            url=session.url,
            look=f"wandb sync {place}" if place else session.url or "",
            facts={"project": self._identity.project, "entity": session.entity},
        )

    def write(self, batch: Batch) -> None:
        """
        Keep a batch on this machine's disk, and hand it to the client if that is free.

        Raises:
            RejectedError: The file of an artifact is not what it was.
            RetryableError: The disk does not take it, or the client is in trouble.
        """
        with self._keeping:
            outbox = self._opened()
            with _writing(self._workdir):
                self._keep(outbox, batch)
        # While a session ends, in another thread, what is kept waits for the next one.
        if self._turn.acquire(blocking=False):
            try:
                with self._saving():
                    self._push()
            finally:
                self._turn.release()

    def barrier(self) -> None:
        """
        Return when W&B has everything that was written so far.

        Raises:
            RetryableError: It did not answer in time.
            ConfigError: It refuses.
        """
        with self._turn:
            outbox = self._opened()
            if not outbox.entries and outbox.facts.get("introduced"):
                return
            if not self._offline:
                # Whoever is away is not waited for; and the session outlives a short absence.
                self._ask()
            with self._saving():
                self._push()
                self._settle()

    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        """
        End the run; ``RUNNING`` lets go of it.

        Raises:
            RetryableError: W&B did not answer in time; the run is still open.
        """
        with self._turn:
            if self._outbox is None:
                return
            if status is RunStatus.RUNNING:
                self._let_go()
                return
            if not self._offline:
                self._ask()
            with self._saving():
                self._end(status)
            self._let_go()

    # -- parts ------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        return Path(self._options.dir or ".")

    def _ask(self) -> None:
        check_server(self._options, self._key())

    def _key(self) -> str:
        given, url = self._options.api_key, self._options.url or HOSTED
        import os

        key = given.get_secret_value() if given is not None else None
        key = key or os.environ.get("WANDB_API_KEY") or address.stored_key(url, os.environ)
        return check_key(key, url)

    def _identified(self, run: RunInfo, resume: Optional[RemoteRun]) -> Identity:
        facts = resume.facts if resume is not None else {}
        parent = run.parents.get(self.name)
        return Identity(
            id=run.run_id if resume is None else resume.id,
            project=facts.get("project") or project(run.project or self._options.project),
            name=run.name,
            entity=facts.get("entity") or self._options.entity,
            group=parent or self._options.group,
            job_type=self._options.job_type,
            notes=self._options.notes,
            continued=resume is not None,
            settings=context.settings(run),
        )

    def _opened(self) -> Outbox:
        if self._outbox is None:
            raise RuntimeError("This backend is not open.")
        return self._outbox

    def _keep(self, outbox: Outbox, batch: Batch) -> None:
        end = batch.offset + len(batch.records)
        known = outbox.place(batch.lane, batch.offset)
        if batch.lane == "light":
            records = batch.records[known:]
            if records:
                outbox.add(batch.lane, end, self._entries.light(records))
            return
        records = list(batch.records)
        digests = [digest_of(record) for record in records]
        if batch.resend or known:
            new = set(outbox.unknown(digests))
            kept = [index for index in range(len(records)) if index in new]
            records, digests = [records[i] for i in kept], [digests[i] for i in kept]
            if not records:
                return
        entry = self._entries.heavy(records)
        outbox.facts["names"] = self._entries.facts()
        outbox.add(batch.lane, end, entry, digests)

    def _begin(self, *, ends: bool = False) -> Session:
        """Open a session; what is not confirmed goes from its beginning."""
        outbox = self._opened()
        folder = self._folder if self._offline else self._workdir / "sessions"
        if not self._offline:
            shutil.rmtree(folder, ignore_errors=True)
        options = self._options
        server: tuple[str, ...] = ()
        if not self._offline:
            key = self._key()
            server = (options.url or HOSTED, key)
            options = options.model_copy(update={"api_key": _secret(key)})
        start = outbox.first
        if self._offline:
            for log in outbox.facts.get("logs", ()):
                start = max(start, last_row(Path(log)))
        first = self._offline or not outbox.facts.get("introduced")
        self._session = session = Session(
            self._service.acquire(*server),
            options,
            self._identity,
            folder,
            config=self._config(everything=first),
            labels=self._labels(),
            sign=None if self._offline else self._sign,
            ends=ends,
        )
        if self._offline:
            outbox.note(logs=[*outbox.facts.get("logs", ()), str(session.log)])
            session.resumes_at(start)
        elif outbox.base is not None and session.start > outbox.next:
            # Somebody else wrote into this run.
            outbox.first = session.start
        if first:
            for name, content in context.files(self._run).items() if self._run else ():
                session.save(name, content)
        return session

    def _config(self, *, everything: bool) -> dict[str, Any]:
        outbox = self._opened()
        if everything:
            return {**outbox.config, **({"tags": dict(outbox.tags)} if outbox.tags else {})}
        changed: dict[str, Any] = {}
        for entry in outbox.entries:
            changed.update(entry.config)
        if any(entry.tags for entry in outbox.entries):
            changed["tags"] = dict(outbox.tags)
        return changed

    def _labels(self, *more: str) -> tuple[str, ...]:
        tags = self._opened().tags
        return tuple(sorted({label(key, value) for key, value in tags.items()} | set(more)))

    def _push(self) -> None:
        """Hand over what the client does not have."""
        session = self._session or self._begin()
        with self._keeping:
            outbox = self._opened()
            count = len(outbox.entries)
            new: list[Entry] = list(outbox.entries[session.handed : count])
            rows = list(outbox.numbered(max(session.row, outbox.first), count))
        if not new:
            return
        config: dict[str, Any] = {}
        for entry in new:
            config.update(entry.config)
        tagged = any(entry.tags for entry in new)
        if tagged:
            config["tags"] = dict(outbox.tags)
        if config or tagged:
            session.update(config, self._labels())
        session.send(new, rows, self._attic)

    def _settle(self) -> None:
        """Confirm what was handed over."""
        outbox, session = self._opened(), self._session
        assert session is not None
        if self._offline:
            session.settle(outbox.next)
        else:
            session.finish()
            self._session = None
        with self._keeping:
            outbox.facts["introduced"] = True
            self._attic.drop(outbox.confirm(session.handed))
        if self._offline:
            session.handed = 0
            return
        # The run is to be seen as running, which takes a session. If that fails now, the next
        # write will tell.
        with contextlib.suppress(RetryableError), self._saving():
            self._begin()

    def _end(self, status: RunStatus) -> None:
        outbox = self._opened()
        self._push()
        if self._session is not None and not (self._offline or self._session.ends):
            self._session.finish()
            self._session = None
        session = self._session or self._begin(ends=True)
        self._push()
        killed = status is RunStatus.KILLED
        session.update({}, self._labels(*([_KILLED] if killed else [])))
        session.summarise({name: value for name, (_, value) in outbox.last.items()})
        session.finish(0 if status is RunStatus.FINISHED else 1)
        self._session = None
        with self._keeping:
            outbox.facts["introduced"] = True
            self._attic.drop(outbox.confirm(len(outbox.entries)))

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Do something with the session; if it fails there is none any more."""
        try:
            yield
        except BaseException:
            session, self._session = self._session, None
            if session is not None:
                session.drop()
            self._service.abandon()
            raise

    def _let_go(self) -> None:
        limit = min(_FAREWELL_S, self._options.timeout_s)
        try:
            with contextlib.suppress(RetryableError, ConfigError, OSError), self._saving():
                if self._session is not None:
                    self._session.finish(limit_s=limit)
        finally:
            self._session = None
            with self._keeping:
                if self._outbox is not None:
                    self._outbox.close()
                self._outbox = None
            self._service.release()


def _secret(key: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(key)


def _mode(environ: Mapping[str, str], stored: Mapping[str, str]) -> str:
    if environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes"):
        raise ConfigError("WANDB_DISABLED switches W&B off", "unset it, or leave 'wandb' out")
    wanted = environ.get("WANDB_MODE") or stored.get("mode") or "online"
    if wanted not in _MODES:
        raise ConfigError(
            f"WANDB_MODE is {wanted!r}, and then nothing would be sent",
            "set it to 'online' or 'offline', or leave 'wandb' out",
        )
    return _MODES[wanted]


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ConfigError(
            f"Nothing can be written into the folder {str(folder)!r}",
            "give another one with the option 'dir'",
        ) from error
    except OSError as error:
        raise RetryableError(f"{str(folder)!r} cannot be written now: {error.strerror}") from error
