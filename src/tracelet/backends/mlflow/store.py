"""
What the backend needs of an MLflow store, whichever way leads there.

``rest.RestStore`` talks to a server, ``sdk.SdkStore`` uses MLflow's own classes. Both answer with
the errors of ``answers``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, NamedTuple, Optional, Protocol, Sequence

__all__ = ["Experiment", "Point", "RunState", "Store", "chosen"]


class Point(NamedTuple):
    """A metric as MLflow holds it. ``timestamp`` is in milliseconds since the epoch."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True)
class Experiment:
    """An experiment: MLflow's group of runs. ``location`` is where its artifacts go."""

    id: str
    name: str
    deleted: bool = False
    location: str = ""


def chosen(
    experiments: Sequence[Experiment], name: str, number: Optional[str]
) -> Optional[Experiment]:
    """Return the experiment of this id, or of this name where there is no id, or None."""
    for each in experiments:
        if each.id == number or (number is None and each.name == name):
            return each
    return None


@dataclass(frozen=True)
class RunState:
    """A run as the store has it now. ``metrics`` are the keys that have points."""

    id: str
    experiment_id: str
    name: str
    status: str
    deleted: bool
    artifact_uri: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[str] = ()


class Store(Protocol):
    """Runs and experiments. Any method may raise what ``Backend.write`` may raise."""

    #: True: keys are names of files, so that ``a`` and ``a/b`` cannot both be.
    keys_are_files: bool
    #: How many calls of ``log_metrics`` it likes to have at the same time.
    at_once: int

    def appends(self, experiment_id: str) -> bool:
        """Return True where a point that is sent twice is there twice."""

    def experiment(self, experiment_id: str) -> Experiment:
        """Return the experiment, deleted or not."""

    def experiment_named(self, name: str) -> Optional[Experiment]:
        """Return the experiment of this name, deleted or not, or None."""

    def create_experiment(self, name: str, artifact_location: Optional[str]) -> str:
        """Create it and return its id, or raise ``ExistsError``."""

    def restore_experiment(self, experiment_id: str) -> None:
        """Bring a deleted experiment back."""

    def create_run(
        self,
        experiment_id: str,
        name: Optional[str],
        start: int,
        tags: Sequence[tuple[str, str]],
        user: str,
    ) -> RunState:
        """Create a run; ``start`` is in milliseconds since the epoch."""

    def find_run(self, experiment_id: str, tag: str, value: str) -> Optional[RunState]:
        """Return the run that has this tag, if there is one that is not deleted."""

    def run(self, run_id: str) -> RunState:
        """Return the run, or raise ``NotFoundError``."""

    def update_run(self, run_id: str, status: str, end: Optional[int]) -> None:
        """Set status and end (milliseconds since the epoch, or None)."""

    def log_metrics(self, run_id: str, points: Sequence[Point]) -> None:
        """Write at most 1,000 points, all or none."""

    def log_params(self, run_id: str, params: Sequence[tuple[str, str]]) -> None:
        """Write at most 100 parameters of different keys."""

    def set_tags(self, run_id: str, tags: Sequence[tuple[str, str]]) -> None:
        """Write at most 100 tags of different keys."""

    def history(self, run_id: str, key: str) -> Sequence[Point]:
        """Return the points of one key, as far as they can be read; for stores that append."""

    def close(self) -> None:
        """Let go of connections; the store may be used again."""
