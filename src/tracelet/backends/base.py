"""
The whole contract between tracelet and a tracker. A plug-in's author reads this file and no other.

A backend is handed batches of records by the shipper, never by the training. For one run the
calls come in this order::

    Backend(options) → preflight() → doubts(project)                  in the training process
    Backend(options) → open(run, resume, workdir) → write(batch) … barrier() … → close(status)
                                                                      where the shipper lives

``write`` is called from two threads: one brings metrics, parameters and tags, the other brings
everything heavy, so that a checkpoint of 2 GB does not delay the loss curve. ``barrier`` comes from
the heavy one; for a run with a ``context`` also once soon after ``open``. Neither is called twice
at once from the same thread of work.

The promise that makes delivery exact: **the same batch again changes nothing.** After a crash
the shipper sends the range it was not sure about again, marked ``batch.resend``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, ClassVar, Collection, Iterable, Mapping, Optional, Sequence

from pydantic import BaseModel, ConfigDict

from tracelet.errors import BackendError, TraceletError
from tracelet.findings import Finding, of_error
from tracelet.records import Record, RemoteRun, RunInfo, RunStatus

__all__ = [
    "Backend",
    "BackendOptions",
    "Batch",
    "BatchLimits",
    "Finding",
    "ProgramRun",
    "RemoteRun",
    "RunInfo",
    "RunStatus",
]


class BackendOptions(BaseModel):
    """
    What a user may say to one backend. Unknown keys are errors.

    Every field that is a secret has the type ``pydantic.SecretStr`` (or ``Optional`` of it): it is
    then kept out of every file and every argument list.
    """

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class BatchLimits:
    """
    The largest batch that ``write`` takes at once.

    ``max_heavy`` is the limit of records in the heavy lane, where each may be a file.
    """

    max_records: int = 1000
    max_keys: int = 100
    max_bytes: int = 1_000_000
    max_heavy: int = 1000


@dataclass(frozen=True)
class Batch:
    """
    Records in the order they were logged, named and ready to send.

    ``offset`` is the number of records handed to this backend before, in this lane: the same
    records have the same offset whenever they are sent again. ``lane`` is ``"light"`` (metrics,
    parameters, tags) or ``"heavy"`` (everything else). ``resend`` is True when these records may
    have arrived already: a backend whose store only appends reads back before it writes.
    """

    records: Sequence[Record]
    offset: int = 0
    lane: str = "light"
    resend: bool = False


@dataclass(frozen=True)
class ProgramRun:
    """
    A run that the program points at through the tracker's own SDK or variables.

    ``held``: the program has it open in the calling thread. Else it is one to be continued.
    """

    id: str
    name: str = ""
    held: bool = True


class Backend(ABC):
    """A tracker that runs are delivered to."""

    #: The name users write in ``backend=``.
    name: ClassVar[str]
    #: What users may configure.
    Options: ClassVar[type[BackendOptions]] = BackendOptions
    #: Which record types ``write`` takes; the rest is counted as ``unsupported``.
    accepts: ClassVar[frozenset[type]]
    #: How large a batch may be.
    limits: ClassVar[BatchLimits] = BatchLimits()
    #: Record types that are safe in the tracker only once ``barrier`` has returned.
    deferred: ClassVar[frozenset[type]] = frozenset()
    #: Prefixes of the environment variables that change what this backend does.
    environment: ClassVar[tuple[str, ...]] = ()
    #: What it keeps is in the memory of the process that ships: a thread of the training delivers.
    in_memory: ClassVar[bool] = False
    #: For each secret option, the tracker's own variable that gives it: what a person is told to
    #: set when ``tracelet sync`` needs it.
    secret_variables: ClassVar[Mapping[str, str]] = {}

    def __init__(self, options: BackendOptions) -> None:
        self.options = options

    @classmethod
    def resolve(
        cls,
        options: Mapping[str, Any],
        environ: Mapping[str, str],  # noqa: ARG003 - for those who override it
        cwd: Path,  # noqa: ARG003
    ) -> tuple[BackendOptions, Mapping[str, str]]:
        """
        Make options complete in the caller's process, before anything starts.

        Reads the tracker's own variables, makes paths absolute. No SDK import, no network.

        Args:
            options: What the user gave for this backend (``backend_url`` arrives as ``url``,
                ``api_key`` as ``api_key`` when the backend has fields of these names).
            environ: The environment of the training process.
            cwd: Its working directory.

        Returns:
            The options, and for each secret field that is set where its value came from:
            ``"env:NAME"`` or ``"argument"``. The source of any other field may be there too
            (``"default"`` among them), for ``examine``.

        Raises:
            pydantic.ValidationError: An option is unknown or of the wrong type.
            ConfigError: An option has a value that can never work.
        """
        secrets = {key: "argument" for key in options if _is_secret(cls.Options, key)}
        return cls.Options(**options), secrets

    def preflight(self) -> None:
        """
        Check names, credentials and reachability in well under a second, without the SDK.

        Raises:
            MissingPackageError: The tracker's package is not installed.
            ConfigError: The tracker answered "no".
            RetryableError: The tracker did not answer in time; training starts all the same.
        """
        return

    def doubts(self, project: Optional[str]) -> Sequence[Finding]:
        """
        Name what will go wrong although nothing refuses; asked right after ``preflight``.

        Each becomes a line of warning before training, which starts all the same. As quick as
        ``preflight``; optional.

        Args:
            project: What the run would belong to.
        """
        return ()

    def examine(
        self,
        project: Optional[str],
        sources: Mapping[str, str],
        deadline: float,
    ) -> Iterable[Finding]:
        """
        Look at everything that a run would use, for ``tracelet doctor``; nothing is changed.

        Optional: without it there is what ``preflight`` and ``doubts`` say.

        Args:
            project: What the run would belong to.
            sources: Where options came from, as ``resolve`` returned it.
            deadline: Until when, on the monotonic clock. What is found later is not shown.

        Returns:
            What was found; or a generator, so that what was found first is shown in any case.
        """
        try:
            self.preflight()
        except (BackendError, TraceletError, OSError) as error:
            yield of_error(error, "preflight")
            return
        yield Finding("ok", "preflight", "nothing stands in the way")
        yield from self.doubts(project)

    @classmethod
    def measures(cls, environ: Mapping[str, str]) -> bool:  # noqa: ARG003 - as above
        """
        Tell whether the tracker's own client measures this machine anyway; then we do not.

        Args:
            environ: The environment of the training process.
        """
        return False

    def look(self, run: RunInfo) -> str:
        """Return where a person will see the run: a command or an address. No network."""
        return ""

    @abstractmethod
    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        """
        Create the remote run, or continue one. Called again after a failure and after a restart.

        Must be idempotent: if a run for ``run.run_id`` exists already (the answer to a former
        creation was lost), that one is returned.

        Args:
            run: Who the run is.
            resume: What this method returned earlier for this run; or, with ``id`` alone set, a run
                that the user asked to continue. Its status goes back to running.
            workdir: A folder of this run and backend, kept until the run is delivered.
        """

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """
        Write all of the batch, or raise. Safe to repeat.

        Raises:
            RetryableError: Try the same batch again later.
            RejectedError: Some records can never be written.
            ConfigError: A person has to change something first.
        """

    def barrier(self) -> None:
        """Return when everything written so far is safe in the tracker. Raises as ``write``."""
        return

    @abstractmethod
    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        """
        End the remote run; may be called twice. ``write`` afterwards raises ``RuntimeError``.

        Args:
            status: How it ended. ``RUNNING`` lets go of the run without ending it.
            time: When it ended, in seconds since the epoch; now, when not given.
        """

    @property
    def server(self) -> Optional[str]:
        """
        Name what this backend waits for when it is away: runs that name the same wait together.

        Optional; without it each run waits by itself. No credentials in it.
        """
        return None

    def ping(self) -> None:
        """
        Ask for a sign of life, so that a run is not long behind when its tracker is back.

        Called every few seconds during an outage, maybe while another call hangs. One small
        question that is cut after two seconds or so; best one that the store behind has to answer.

        Raises:
            RetryableError: There is none. Whatever else is raised counts as one.
        """
        self.preflight()

    def silence(self) -> float:
        """
        Return for how many seconds the tracker has owed an answer to a small request.

        Optional; 0 when it owes none. What is uploaded may take its time and does not count.
        """
        return 0.0

    def remark(self, text: str, lane: str) -> None:
        """
        Leave a remark on the remote run that records were set aside. Optional.

        Also called when the tracker keeps failing (``RetryableError(doubtful=True)``) on a single
        record: that it takes something else shows that it is the record. So it has to go the same
        way as the records of this lane; who cannot do that raises no doubtful errors.

        Args:
            text: What to say; it replaces the former remark.
            lane: As in ``Batch``.

        Raises:
            BackendError: As ``write``.
        """
        return

    def program_run(self) -> Optional[ProgramRun]:
        """
        Return the run that the program itself has open, or was told to continue. Optional.

        Called in the training process, in the thread of ``start_logging``; no SDK import, no
        network. A run that is held elsewhere than where this backend delivers to is none.
        """
        return None

    def attach(
        self,
        opened: Callable[[], RemoteRun],
        *,
        captured: Collection[str],
        say: Callable[[str], None],
    ) -> None:
        """
        Make the SDK's own calls in the training process land in this run. Optional.

        Called once, when the run starts; it must neither import the SDK nor wait.

        Args:
            opened: Waits until the shipper has opened the run, and returns it. Raises
                ``TraceletError`` when that takes too long, ``ConfigError`` when it never will.
            captured: The names of the integrations whose writers are captured.
            say: Writes a line for the person at the terminal.
        """
        return

    def detach(self) -> None:
        """Undo ``attach``: every object and variable is as it was."""
        return


def _is_secret(options: type[BackendOptions], key: str) -> bool:
    declared = options.model_fields.get(key)
    return declared is not None and "SecretStr" in repr(declared.annotation)
