"""
Run tags that say which keys are not what the program called them.

``tracelet.renamed.metric`` holds ``{"acc_1": "acc@1", …}``; what does not fit goes on in
``tracelet.renamed.metric.2`` and so on. So the originals are visible on the run's page, and a
run can be continued where its working files are gone.
"""

from __future__ import annotations

import json
from typing import Mapping

from tracelet.backends.mlflow.names import KeyKind, KeyNames
from tracelet.backends.mlflow.values import text_of

__all__ = ["RenamedTags", "originals"]

_PREFIX = "tracelet.renamed."
#: Of the 8,000 that a tag takes; the last entry may be a long one.
_FULL = 5000
#: A key longer than this is cut here; it is too long to be read, and whole nowhere but here.
_LONGEST_RAW = 2500


class RenamedTags:
    """The tags for the keys of one run."""

    def __init__(self, names: KeyNames) -> None:
        self._names = names
        self._changes = 0
        self._written: dict[str, str] = {}

    def due(self) -> Mapping[str, str]:
        """Return the tags that are not in the tracker as they should be."""
        if self._names.changes == self._changes:
            return {}
        tags: dict[str, str] = {}
        for kind in KeyKind:
            tags.update(_tags(kind, self._names.renamed(kind)))
        return {tag: value for tag, value in tags.items() if self._written.get(tag) != value}

    def written(self, tags: Mapping[str, str], changes: int) -> None:
        """Say that these tags are in the tracker, made when there were so many changes."""
        self._written.update(tags)
        self._changes = changes


def originals(kind: KeyKind, tags: Mapping[str, str]) -> Mapping[str, str]:
    """Return key → raw for one kind, from the tags of a run."""
    found: dict[str, str] = {}
    for tag, value in tags.items():
        if tag == _PREFIX + kind.value or tag.startswith(f"{_PREFIX}{kind.value}."):
            try:
                found.update(json.loads(value))
            except ValueError:
                continue  # somebody else's tag
    return found


def _tags(kind: KeyKind, renamed: Mapping[str, str]) -> Mapping[str, str]:
    groups: list[dict[str, str]] = [{}]
    size = 0
    for key, raw in renamed.items():
        shown = text_of(raw)[:_LONGEST_RAW]
        size += len(json.dumps({key: shown}, ensure_ascii=False))
        if size > _FULL and groups[-1]:
            groups.append({})
            size = len(json.dumps({key: shown}, ensure_ascii=False))
        groups[-1][key] = shown
    names = [f"{_PREFIX}{kind.value}{f'.{n}' if n > 1 else ''}" for n in range(1, len(groups) + 1)]
    return {
        name: json.dumps(group, ensure_ascii=False) for name, group in zip(names, groups) if group
    }
