"""What a backend's author found in the store, in words that every store has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Sequence

from tracelet.records import Metric, Step


@dataclass(frozen=True)
class Item:
    """
    One thing in the store that is neither a number, nor a label, nor a plain file.

    Args:
        kind: ``histogram``, ``text``, ``table``, or the ``kind`` of a ``records.Media``.
        key: The raw key, if the store can tell it; otherwise its own.
        step: As the store has it; None where the form of the thing has no step.
        index: Tells the members of one batch of images apart.
        content: What the store gives back: the bytes of a medium, the ``str`` of a text,
            ``(edges, counts)`` of a histogram, ``(columns, rows)`` of a table, each as lists. None
            where the kind was declared ``"converted"`` and there is nothing to compare.
    """

    kind: str
    key: str
    step: Step = None
    index: int = 0
    content: Any = None


@dataclass(frozen=True)
class Seen:
    """
    One run as somebody finds it who looks into the store without tracelet.

    Args:
        id: The store's id of the run.
        project: The group that the run is in.
        name: The run's name there.
        status: ``RUNNING``, ``FINISHED``, ``FAILED`` or ``KILLED``, in whatever way the store
            shows it.
        tags: Labels, as text.
        params: Parameters, as text: ``str(value)``.
        metrics: Curves: raw key → points in the order in which the store lists them. Keys are the
            raw ones where the store keeps them somewhere (a tag, a file); ``Metric.stream`` is
            ignored, ``Metric.time`` is in seconds.
        items: Everything with a meaning of its own.
        artifacts: Files: path → bytes.
        parent: The store's id of the run that this one belongs to.
    """

    id: str
    project: str
    name: str
    status: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Sequence[Metric]] = field(default_factory=dict)
    items: Sequence[Item] = ()
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    parent: Optional[str] = None

    def curve(self, key: str) -> list[tuple[Step, float]]:
        """Return step and value of every point of ``key``, as the store lists them."""
        return [(point.step, point.value) for point in self.metrics.get(key, ())]

    def find(self, kind: str, key: str) -> list[Item]:
        """Return the items of this kind and key."""
        return [item for item in self.items if (item.kind, item.key) == (kind, key)]
