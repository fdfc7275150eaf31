"""What a batch becomes: rows, parameters, labels and artifacts, as the outbox keeps them."""

from __future__ import annotations

import contextlib
import math
import shutil
from pathlib import Path
from typing import Any, Optional, Sequence, Union

from tracelet.backends.sources import is_same
from tracelet.backends.wandb.media import Attic, described, images
from tracelet.backends.wandb.names import artifact_names, column, media_names
from tracelet.backends.wandb.outbox import Entry, digest
from tracelet.backends.wandb.rows import Row, row_of, rows_of
from tracelet.errors import RejectedError
from tracelet.records import Artifact, Media, Metric, Param, Record, Scalar, Tag
from tracelet.tfevents.graphs import find_graph, graph_text

__all__ = ["Entries", "digest_of"]

#: W&B shows 108 pictures of a list and drops the others.
_MOST_PICTURES = 100
#: Doubles hold no larger whole numbers, and the core keeps numbers of a configuration as doubles.
_LARGEST_INT = 2**53


class Entries:
    """
    Makes entries for one run.

    Args:
        run_id: The remote run's.
        attic: Where bytes wait.
        known: Names that were given before, as ``facts`` returned them.
    """

    def __init__(self, run_id: str, attic: Attic, known: Optional[dict[str, Any]] = None) -> None:
        self._run_id = run_id
        self._attic = attic
        self._names = {"media": media_names(), "artifacts": artifact_names()}
        for kind, pairs in (known or {}).items():
            self._names[kind].restore(pairs)

    def facts(self) -> dict[str, Any]:
        """Return the names that were given, for a restart."""
        return {kind: names.dump() for kind, names in self._names.items()}

    def light(self, records: Sequence[Record]) -> Entry:
        """Return what metrics, parameters and tags say."""
        return Entry(
            rows=rows_of(record for record in records if isinstance(record, Metric)),
            config={column(each.key): plain(each.value) for each in records if type(each) is Param},
            tags={each.key: each.value for each in records if isinstance(each, Tag)},
        )

    def heavy(self, records: Sequence[Record]) -> Entry:
        """
        Return what everything else says.

        Raises:
            RejectedError: A file is not what it was.
        """
        self._check(records)
        rows: list[Row] = []
        config: dict[str, Any] = {}
        artifacts: list[list[Any]] = []
        files: list[str] = []
        for members in _together(records):
            first = members[0]
            if isinstance(first, Artifact):
                artifacts.append(self._files([each for each in members if type(each) is Artifact]))
                continue
            layout = first.meta.get("layout") if isinstance(first, Media) else None
            if layout and first.kind == "custom_scalars":
                config["_tracelet.custom_scalars"] = layout
                continue
            value = self._value(members)
            if value is None:
                artifacts += [self._event(each) for each in members]
                continue
            name = self._names["media"].map(first.key) if value.get("files") else first.key
            if value["wandb"] in ("table", "curve", "text"):
                name = self._names["media"].map(first.key)
            if name != first.key:
                config[f"_tracelet.key.{name}"] = first.key
            rows.append(row_of(first.step, first.time, {column(name): value}))
            files += value.get("files", ())
        files += [source for each in artifacts for _, source, kept in each[3] if kept]
        return Entry(rows, config, {}, artifacts, files)

    def _value(self, members: Sequence[Any]) -> Optional[dict[str, Any]]:
        if isinstance(members[0], Media) and members[0].kind == "image":
            return images(members, self._attic)
        try:
            return described(members[0], self._attic)
        except ValueError:
            # Whatever it is, the event is kept as it came.
            return None

    def _event(self, media: Any) -> list[Any]:
        """Return the artifact of an event that W&B has no form for."""
        data, path = media.data, f"{media.kind}.tfevents"
        if media.kind == "graph":
            with contextlib.suppress(ValueError):
                data, path = graph_text(data, find_graph(data)).encode(), "graph.pbtxt"
        name = self._name(f"{media.kind}-{media.key}")
        meta = {"kind": media.kind, "key": media.key, "step": media.step, "time": media.time}
        kept = self._attic.keep(data, Path(path).suffix)
        return [name, f"tensorboard-{media.kind}", meta, [[path, kept, True]]]

    def _files(self, members: Sequence[Artifact]) -> list[Any]:
        top = members[0].path if len(members) == 1 else members[0].path.partition("/")[0]
        found = []
        for each in members:
            own = each.identity is not None
            found.append([each.path, self._snapshot(each.source) if own else each.source, own])
        return [self._name(top), "file", {"path": top}, found]

    def _snapshot(self, source: str) -> str:
        """Copy a user's own file: it may change before it is sent."""
        found = Path(source).stat()
        name = digest(source, found.st_ino, found.st_size, found.st_mtime_ns)
        target = Path(self._attic.path(name))
        if not target.exists():
            new = target.with_name(f"{name}.new")
            shutil.copyfile(source, new)
            new.replace(target)
        return name

    def _name(self, text: str) -> str:
        return f"{self._run_id}-{self._names['artifacts'].map(text)}"

    def _check(self, records: Sequence[Record]) -> None:
        bad: dict[int, str] = {}
        for index, each in enumerate(records):
            if not isinstance(each, Artifact):
                continue
            try:
                found = Path(each.source).stat()
            except OSError as error:
                bad[index] = f"{each.path}: the file cannot be read: {error.strerror}"
                continue
            if not is_same(each, found):
                bad[index] = f"{each.path}: the file is not the one that was logged"
        if bad:
            raise RejectedError(tuple(bad), next(iter(bad.values())))


def digest_of(record: Record) -> str:
    """Return what tells a record from any other."""
    if isinstance(record, Media):
        place = (record.kind, record.key, record.step, record.time, record.index)
        return digest(place, record.data)
    if isinstance(record, Artifact):
        return digest(record.path, record.size, record.time, record.source)
    return digest(record)


def plain(value: Scalar) -> Union[str, int, float, bool, None]:
    """Return a parameter as JSON and doubles hold it; else as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST_INT:
        return str(value)
    return value


def _together(records: Sequence[Record]) -> list[list[Any]]:
    """Return records in groups: pictures of one call, files of one folder."""
    groups: list[list[Any]] = []
    for record in records:
        last = groups[-1] if groups else None
        if last is not None and _belongs(last, record):
            last.append(record)
        else:
            groups.append([record])
    return groups


def _belongs(group: Sequence[Any], record: Any) -> bool:
    first = group[0]
    if isinstance(record, Artifact) and isinstance(first, Artifact):
        top, below, _ = record.path.partition("/")
        return (
            bool(below)
            and first.path.partition("/")[:2] == (top, below)
            and record.path not in {each.path for each in group}
        )
    return (
        isinstance(record, Media)
        and isinstance(first, Media)
        and record.kind == first.kind == "image"
        and (record.key, record.step, record.time) == (first.key, first.step, first.time)
        and record.index > group[-1].index
        and record.mime == first.mime
        and len(group) < _MOST_PICTURES
    )
