"""What a backend's author declares and fills in, and what the clauses are made of."""

from __future__ import annotations

import math
import struct
import uuid
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Iterator, Mapping, Optional, Sequence, Union

import pytest

from tracelet.backends.base import Backend, RemoteRun, RunInfo, RunStatus
from tracelet.records import Artifact, Media, Metric, Record, Step, identity_of
from tracelet.testing.delivery import Delivery
from tracelet.testing.elsewhere import Outcome, Visit, in_another_process
from tracelet.testing.samples import SAMPLES, TIME, curve, metric, param, tag
from tracelet.testing.seen import Seen

#: What ``cannot`` may name, besides faults.
ABILITIES: Mapping[str, str] = {
    "artifact_paths": "artifacts keep awkward paths; without it only their bytes are looked for",
    "awkward_names": "any text can be the name of a run or a project",
    "failed": "a failed run is told from a finished one",
    "fractional_step": "a step may be 0.5; without it the record is rejected by name",
    "infinity": "infinite values; without it the record is rejected by name",
    "killed": "a killed run is told from a failed one",
    "named_rejects": "a refused record is named; without it the batch is refused as a whole",
    "nan": "NaN; without it the record is rejected by name",
    "negative_step": "a step may be -1; without it the record is rejected by name",
    "original_keys": "the store shows the key as it was; without it keys only have to be distinct",
    "other_process": "the store outlives the process, and another one can open it",
    "parent": "a run may belong to another",
    "repeated_step": "two points at one step; without it the last one is kept",
}

#: What ``break_with`` is asked for.
FAULTS: Mapping[str, str] = {
    "down": "nobody answers: a refused connection, a full disk",
    "busy": "too many requests, with a wait (HTTP 429 and Retry-After)",
    "unavailable": "an error that passes (HTTP 503)",
    "lost_answer": "the store takes what it is given, and the answer gets lost",
    "hang": "a connection is accepted and never answered",
    "refused": "wrong credentials, or no right to write",
    "bad_record": "one record is refused for ever (HTTP 400)",
}

#: The faults after which the same batch is to be tried again.
PASSING_FAULTS = ("down", "busy", "unavailable", "lost_answer", "hang")

FORMS = ("native", "converted", "file", "unsupported")


@dataclass(frozen=True)
class Session:
    """An open run, and the way to it."""

    backend: Backend
    info: RunInfo
    remote: RemoteRun
    delivery: Delivery
    workdir: Path

    def send(self, *records: Record) -> None:
        """Hand over records and wait until they are safe."""
        self.delivery.send(*records)
        self.backend.barrier()


class BackendContract:
    """The hooks and the tools; ``BackendSuite`` adds the clauses."""

    # ---- what the backend's author declares ------------------------------------------------

    #: What this store cannot do or show: a name out of ``ABILITIES`` or ``FAULTS`` → the reason,
    #: one sentence for a user.
    cannot: ClassVar[Mapping[str, str]] = {}
    #: How each kind of ``samples.SAMPLES`` arrives: ``"native"`` (the default: its content comes
    #: back equal), ``"file"`` (its bytes come back, as a file), ``"converted"`` (it is there in a
    #: form of its own; the content is not compared) or ``"unsupported"`` (its type is not in
    #: ``accepts``, or it is rejected by name).
    forms: ClassVar[Mapping[str, str]] = {}
    #: ``"double"``, or ``"single"`` for a store that rounds to 32 bits.
    precision: ClassVar[str] = "double"
    #: The finest time that the store tells apart, in seconds.
    time_resolution_s: ClassVar[float] = 0.001
    #: What the store holds for +infinity, and its negative for -infinity.
    infinity_as: ClassVar[float] = math.inf
    #: The step at which a point of step 0.5 is found.
    fractional_step_as: ClassVar[float] = 0.5
    #: Which value of a parameter is shown after it was logged with another: ``"last"`` or
    #: ``"first"``. With ``"first"`` the other one has to be in a tag or a parameter beside it.
    changed_param: ClassVar[str] = "last"
    #: The longest that one call may take when the store hangs, in seconds.
    hang_limit_s: ClassVar[float] = 15.0
    #: How long after ``close`` threads, processes and connections may still be there, in seconds.
    leave_within_s: ClassVar[float] = 10.0
    #: The package (import name) without which the backend cannot work.
    package: ClassVar[Optional[str]] = None

    #: A folder of this test alone.
    folder: Path

    # ---- what the backend's author fills in ------------------------------------------------

    def backend(self) -> Backend:
        """
        Return a new backend for the store of this test.

        Every call within one test means the same store. The class must be importable, because some
        clauses make a copy of the instance (its class and its options) in another process. Give it
        short time-outs: clause 15 waits for one.
        """
        raise NotImplementedError

    def read_back(self, remote: RemoteRun) -> Seen:
        """
        Return what the store holds of this run, read through a back door.

        That is the vendor's own read API, or the store's files; never the backend under test.
        """
        raise NotImplementedError

    def break_with(self, fault: str) -> AbstractContextManager[Optional[Record]]:
        """
        Make the store fail in the way of ``FAULTS[fault]`` until the context ends.

        It fails for backends that were made before and for those that are made meanwhile.
        With ``"bad_record"`` nothing is broken, and the value of the context is a record that the
        store refuses for ever; for all other faults the value is not looked at. A fault that the
        store cannot show is declared in ``cannot``.
        """
        raise NotImplementedError

    def child_of(self, parent: RemoteRun, run: RunInfo) -> tuple[Backend, RunInfo]:
        """Return what has to be opened so that ``run`` becomes a child of ``parent``."""
        raise NotImplementedError

    def sdk_globals(self) -> Mapping[str, object]:
        """Return the SDK's process-wide state that must be the same afterwards (tracking URI …)."""
        return {}

    # ---- what tests are made of; also for tests of your own ---------------------------------

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path
        with ExitStack() as self._left_open:
            yield

    def info(self, **changes: Any) -> RunInfo:
        """Return a run that nobody has seen before; ``changes`` are fields of ``RunInfo``."""
        run_id = f"20231114-221320-{uuid.uuid4().hex[:8]}"
        fresh = RunInfo(
            run_id=run_id,
            project=f"project-{run_id[-8:]}",
            name=f"run-{run_id[-8:]}",
            created=TIME,
            tags={},
            backends=(),
        )
        return replace(fresh, **changes)

    def start(
        self,
        info: Optional[RunInfo] = None,
        *,
        resume: Optional[RemoteRun] = None,
        backend: Optional[Backend] = None,
    ) -> Session:
        """Open a run; it is let go of at the end of the test."""
        info = self.info() if info is None else info
        backend = self.backend() if backend is None else backend
        workdir = self.workdir(info)
        remote = backend.open(info, resume, workdir)
        self._left_open.callback(backend.close, RunStatus.RUNNING)
        return Session(backend, info, remote, Delivery(backend), workdir)

    def deliver(self, *records: Record) -> Seen:
        """Send records into a new run, and return what is in the store then."""
        session = self.start()
        session.send(*records)
        return self.read_back(session.remote)

    def visit(self, info: RunInfo, resume: Optional[RemoteRun] = None, **does: Any) -> Outcome:
        """Let another process open a run; ``does`` are fields of ``elsewhere.Visit``."""
        self.needs("other_process")
        backend = self.backend()
        job = Visit(type(backend), backend.options, info, resume, self.workdir(info), **does)
        outcome = in_another_process(job)
        assert "remote" in outcome.said, f"the other process could not open:\n{outcome.errors}"
        return outcome

    def needs(self, *abilities: str) -> None:
        """Skip the test, with the reason, when the store was declared not to have an ability."""
        for ability in abilities:
            if ability in self.cannot:
                pytest.skip(f"declared: {ability}: {self.cannot[ability]}")

    def needs_pictures(self) -> None:
        """Skip the test when pictures were declared unsupported."""
        if Media not in self.backend().accepts or self.form("image") == "unsupported":
            pytest.skip("declared: image: pictures are not stored")

    def held(self, value: float) -> Union[float, str]:
        """Return what the store should hold for ``value``; NaN as a word, equal to itself."""
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return math.copysign(self.infinity_as, value)
        if self.precision == "single":
            value = _rounded(value)
        return value + 0.0  # -0.0 and 0.0 are the same here

    def points(self, found: Sequence[Metric]) -> list[tuple[Step, Union[float, str]]]:
        """Return steps and values as they can be compared, in the order given."""
        return [(point.step, self.held(point.value)) for point in found]

    def picture(self, seen: Seen, *tags: str) -> dict[str, Any]:
        """Return all of a run but its times, for comparison; of its tags only those named."""
        return {
            "metrics": {
                key: sorted(map(repr, self.points(points))) for key, points in seen.metrics.items()
            },
            "params": dict(seen.params),
            "tags": {key: seen.tags.get(key) for key in tags},
            "items": sorted(map(repr, seen.items)),
            "artifacts": dict(seen.artifacts),
        }

    def artifact(self, path: str, content: bytes, *, own: bool = False) -> Artifact:
        """Return an artifact of these bytes; ``own``: the user's file, which may change later."""
        source = self.folder / "sources" / uuid.uuid4().hex
        source.parent.mkdir(exist_ok=True)
        source.write_bytes(content)
        identity = identity_of(source.stat())
        return Artifact(path, str(source), len(content), TIME, identity if own else None)

    def some_of_everything(self) -> list[Record]:
        """Return records of every type that the backend accepts."""
        accepted = self.backend().accepts
        records: list[Record] = [
            *curve("loss", 20),
            metric("accuracy", 0.5, 3),
            metric("accuracy", 0.25, 1),
            param("lr", 0.001),
            param("optimizer", "adam"),
            tag("team", "ml"),
            *(record for kind, record in SAMPLES.items() if self.form(kind) != "unsupported"),
            self.artifact("model.pth", b"weights" * 100),
            self.artifact("training/log.txt", b"one\ntwo\n"),
        ]
        return [record for record in records if type(record) in accepted]

    def workdir(self, info: RunInfo) -> Path:
        """Return the folder that the shipper would give this run and backend."""
        workdir = self.folder / "work" / info.run_id
        workdir.mkdir(parents=True, exist_ok=True)
        return workdir

    def form(self, kind: str) -> str:
        """Return how a kind arrives: one of ``FORMS``."""
        return self.forms.get(kind, "native")


def _rounded(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)
