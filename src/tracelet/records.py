"""
The facts that travel from a training to a tracker.

A *record* holds host-side values only: no tensor and no array gets this far, and nothing in
it can change after it was made. What the user's program logged becomes a *frame* in the spool;
the shipper decodes a frame into one or more of the records below and hands them to a backend.
"""

from __future__ import annotations

import enum
import os
import re
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Sequence, Union

#: A step as it was given: an integer, a fraction, or nothing at all (which is not 0).
Step = Union[int, float, None]

#: What a parameter or a tag may hold.
Scalar = Union[str, int, float, bool, None]


class RunStatus(str, enum.Enum):
    """How a run ended, or that it has not."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass(frozen=True)
class Metric:
    """One point of a curve. Until the shipper has named it, ``key`` is the raw TensorBoard tag."""

    key: str
    value: float
    step: Step
    time: float
    stream: str = ""

    @staticmethod
    def point(
        key: str, value: float, step: Step, time: float, stream: str, _set: Any = object.__setattr__
    ) -> Metric:
        """Make one of many: the constructor of a frozen dataclass takes three times as long."""
        made = object.__new__(Metric)
        fields = {"key": key, "value": value, "step": step, "time": time, "stream": stream}
        _set(made, "__dict__", fields)
        return made


@dataclass(frozen=True)
class Histogram:
    """
    A distribution at one step.

    ``edges`` has one entry more than ``counts``; bucket *i* is ``[edges[i], edges[i + 1])``.
    """

    key: str
    edges: Sequence[float]
    counts: Sequence[float]
    min: float
    max: float
    sum: float
    sum_squares: float
    step: Step
    time: float
    stream: str = ""


@dataclass(frozen=True)
class Text:
    """A text at one step, Markdown as TensorBoard reads it."""

    key: str
    text: str
    step: Step
    time: float
    stream: str = ""


@dataclass(frozen=True)
class Media:
    """
    Encoded bytes with a meaning.

    ``kind`` is one of ``image`` (PNG or what ``mime`` says), ``video`` (GIF), ``audio`` (WAV),
    ``pr_curve``, ``mesh``, ``graph``, ``custom_scalars`` and ``raw`` (an event nobody could read).
    For the last five ``data`` is the serialized TensorBoard event. ``index`` tells the members of
    one batch apart; ``meta`` holds what the event says besides (width, height, sample rate, …).
    """

    kind: str
    key: str
    data: bytes
    mime: str
    step: Step
    time: float
    stream: str = ""
    index: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows under named columns, JSON values only."""

    key: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    step: Step
    time: float
    stream: str = ""


@dataclass(frozen=True)
class Param:
    """A parameter of the run. Nested names are joined with ``.`` before they get here."""

    key: str
    value: Scalar
    time: float
    stream: str = ""


@dataclass(frozen=True)
class Tag:
    """A label on the run."""

    key: str
    value: str
    time: float


@dataclass(frozen=True)
class Artifact:
    """
    A file for the run.

    ``path`` is where it goes: POSIX, relative, normalised. ``source`` is the file that holds the
    bytes now: a blob of the spool, or, when ``identity`` (device, inode, size, mtime in ns) is
    set, the user's own file, which must still have that identity when it is sent.
    """

    path: str
    source: str
    size: int
    time: float
    identity: Optional[tuple[int, int, int, int]] = None


def identity_of(found: os.stat_result) -> tuple[int, int, int, int]:
    """Return what tells whether a file is still the same file with the same content."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class RunEnd:
    """The last word of the owner of a run."""

    status: RunStatus
    time: float
    lost: Mapping[str, int] = field(default_factory=dict)


Record = Union[Metric, Histogram, Text, Media, Table, Param, Tag, Artifact, RunEnd]

#: Everything a backend may be handed. ``RunEnd`` never gets there: it becomes ``Backend.close``.
RECORD_TYPES: tuple[type, ...] = (Metric, Histogram, Text, Media, Table, Param, Tag, Artifact)


@dataclass(frozen=True)
class RunInfo:
    """
    Who a run is; written once, as ``run.json``.

    ``run_id`` is ours (the folder's name), never the backend's. ``options`` holds each backend's
    options without their secrets; ``secrets`` says for every secret that was given where it came
    from: ``"env:NAME"`` or ``"argument"``. ``resume`` maps a backend to the id of the remote run
    to continue; ``adopted`` holds those of them that the program had opened itself, which are its
    own to end; ``parents`` maps a backend to the run below which this one belongs.
    ``resumable``: should it not finish, a later start may want to continue it. ``ranks``: how many
    processes of a job record into it, where all of them do. ``job``: what a job that is requeued
    finds its run by. ``context`` holds
    the facts that nobody logged, by subject (``git``, ``command``, …), JSON values only;
    ``docs/context.md`` lists them. ``collectors`` measure while the run goes on, every
    ``sample_interval_s`` seconds. ``bounds`` says how many bytes it may take (``max_run_bytes``,
    ``max_spool_bytes``, ``min_free_bytes``); none where it says nothing.
    """

    run_id: str
    project: Optional[str]
    name: Optional[str]
    created: float
    tags: Mapping[str, str]
    backends: Sequence[str]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    resume: Mapping[str, str] = field(default_factory=dict)
    adopted: Sequence[str] = field(default_factory=list)
    parents: Mapping[str, str] = field(default_factory=dict)
    resumable: bool = False
    ranks: int = 0
    job: str = ""
    keep: Union[int, str] = 0
    cwd: str = ""
    pid: int = 0
    host: str = ""
    version: str = ""
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)
    collectors: Sequence[str] = field(default_factory=list)
    sample_interval_s: float = 10.0
    bounds: Mapping[str, Optional[int]] = field(default_factory=dict)

    def facts(self, subject: str) -> Mapping[str, Any]:
        """Return what ``context`` says of a subject; nothing where it says nothing of that form."""
        # ``run.json`` may have been written by another version.
        context: Any = self.context
        found = context.get(subject) if isinstance(context, Mapping) else None
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class RemoteRun:
    """
    A run as the backend knows it.

    ``id`` is the backend's own; ``url`` opens it in a browser where there is a server to open,
    ``look`` is the sentence (a command, an address) that tells a person where to see it.
    ``facts`` is whatever the backend wants to find again after a restart; JSON values only.
    """

    id: str
    name: str = ""
    url: Optional[str] = None
    look: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def backend_of(target: str) -> str:
    """
    Return the name of the backend that a target is delivered by: ``mlflow`` for ``mlflow@2``.

    A run has a target for each place that it goes to; most are named as their backend is.
    """
    found = re.fullmatch(r"(.+)@\d+", target)
    return found[1] if found else target
