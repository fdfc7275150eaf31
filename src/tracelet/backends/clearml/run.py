"""A run that is open: how a batch of records becomes events, files and fields of a task."""

from __future__ import annotations

import json
import mimetypes
import threading
from typing import Any, Mapping, Optional, Sequence

from tracelet.backends.base import Batch
from tracelet.backends.clearml import files, plots
from tracelet.backends.clearml.events import Events, UnfitError, iteration
from tracelet.backends.clearml.files import Content
from tracelet.backends.clearml.names import Names, parameter
from tracelet.backends.clearml.task import NAMES_OBJECT, PARAMETERS, PROPERTIES, Task, chip
from tracelet.backends.sources import NotTheFileError
from tracelet.errors import RejectedError
from tracelet.records import (
    Artifact,
    Histogram,
    Media,
    Metric,
    Param,
    Record,
    Scalar,
    Step,
    Table,
    Tag,
    Text,
)
from tracelet.tfevents.meshes import read_meshes

__all__ = ["OpenRun"]

#: A longer parameter is a configuration object, which the page shows whole.
_MOST_OF_PARAMETER = 4000
#: Members of a batch of meshes that a chart shows.
_MOST_MESHES = 8
_SHOWN = ("image", "audio", "video")


class OpenRun:
    """
    Writes the records of one run into one task.

    Args:
        task: The task.
        names: Its titles and series.
    """

    def __init__(self, task: Task, names: Names) -> None:
        self.task = task
        self._names = names
        self._events = Events(task.id, names)
        self._told = len(task.names)
        self._tags = dict(task.properties)
        self._naming = threading.Lock()

    def write(self, batch: Batch) -> None:
        """Write all of the batch, or raise; see ``Backend.write``."""
        try:
            if batch.lane == "light":
                self._light(batch.records)
            else:
                self._heavy(batch.records)
        except RejectedError as error:
            if not error.indexes and len(batch.records) == 1:
                # Nobody else can be meant.
                raise RejectedError((0,), error.reason) from error
            raise

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set labels: user properties, and what one can filter the list of tasks by."""
        if not tags:
            return
        self.task.edit_params([_item(PROPERTIES, key, value, "str") for key, value in tags.items()])
        old = [chip(key, self._tags[key]) for key in tags if key in self._tags]
        self.task.edit_chips(old, [chip(key, value) for key, value in tags.items()])
        self._tags.update(tags)

    def _light(self, records: Sequence[Record]) -> None:
        metrics = [record for record in records if isinstance(record, Metric)]
        places = [index for index, record in enumerate(records) if isinstance(record, Metric)]
        lines, unfit = self._events.scalars(metrics)
        if unfit:
            raise RejectedError([places[index] for index in unfit], next(iter(unfit.values())))
        self._tell_names()
        self.task.send(lines)
        self._params({each.key: each.value for each in records if isinstance(each, Param)})
        self.set_tags({each.key: each.value for each in records if isinstance(each, Tag)})

    def _params(self, params: Mapping[str, Scalar]) -> None:
        items = []
        for key, value in params.items():
            text = str(value)
            if len(text) > _MOST_OF_PARAMETER:
                name = f"{PARAMETERS}/{parameter(key)[0]}"
                self.task.configure(name, text)
                text = f"{len(text)} characters: the configuration object {name!r}"
            items.append(_item(PARAMETERS, key, text, type(value).__name__))
        if items:
            self.task.edit_params(items)

    # -- everything else --------------------------------------------------------------------

    def _heavy(self, records: Sequence[Record]) -> None:
        # Before anything is sent: what is refused by name comes again without its neighbour.
        found = {index: _unfit(record) for index, record in enumerate(records)}
        unfit = {index: reason for index, reason in found.items() if reason is not None}
        if unfit:
            raise RejectedError(list(unfit), next(iter(unfit.values())))
        lines: list[str] = []
        listed: dict[str, Mapping[str, Any]] = {}
        for index, record in enumerate(records):
            if isinstance(record, Artifact):
                try:
                    with files.opened(record) as content:
                        listed[record.path] = self._artifact(record.path, content, record.time)
                except NotTheFileError as error:
                    raise RejectedError((index,), f"{record.path}: {error}") from error
            else:
                self._record(record, lines, listed)
        self._tell_names()
        self.task.send(lines)
        if listed:
            self.task.add_artifacts(list(listed.values()))

    def _record(
        self, record: Record, lines: list[str], listed: dict[str, Mapping[str, Any]]
    ) -> None:
        figure: Optional[Mapping[str, Any]] = None
        if isinstance(record, Histogram):
            figure = plots.histogram(record)
        elif isinstance(record, Table):
            figure = plots.table(record)
        elif isinstance(record, Text):
            # As the vendor's own capture of TensorBoard has it: a file that the page shows.
            data = record.text.encode("utf-8", "replace")
            lines.append(self._sample(record.key, record.step, record.time, data, "txt"))
        elif isinstance(record, Media) and record.kind in _SHOWN:
            ending = files.ending_of(record)
            lines.append(
                self._sample(
                    record.key, record.step, record.time, record.data, ending, record.index
                )
            )
        elif isinstance(record, Media):
            figure = _drawn(record)
            path = _event_path(record)
            content = files.content_of(record.data)
            listed[path] = self._artifact(path, content, record.time)
        if figure is not None and isinstance(record, (Histogram, Table, Media)):
            lines.append(self._events.plot(record.key, record.step, record.time, figure))

    def _sample(
        self, key: str, step: Step, time: float, data: bytes, ending: str, index: int = 0
    ) -> str:
        place, number = self._events.place(key, step)
        path = files.sample_path(place, number, index, ending)
        url = self.task.upload(path, files.content_of(data), files.mime_of(ending))
        whole = f"{self.task.folder}/{path}"
        return self._events.sample(place, number, time, url=url, path=whole, index=index)

    def _artifact(self, path: str, content: Content, time: float) -> Mapping[str, Any]:
        mime = mimetypes.guess_type(path)[0] or "application/octet-stream"
        url = self.task.upload(files.artifact_path(path), content, mime)
        return {
            "key": path,
            "type": "custom",
            "mode": "output",
            "uri": url,
            "content_size": content.size,
            "hash": content.sha256,
            "timestamp": int(time),
            "type_data": {"content_type": mime, "preview": f"{path} - {content.size} bytes"},
        }

    def _tell_names(self) -> None:
        """List the keys that are called otherwise, before the first event under such a name."""
        with self._naming:
            renamed = self._names.renamed()
            if len(renamed) > self._told:
                self.task.configure(NAMES_OBJECT, json.dumps(renamed, indent=1))
                self._told = len(renamed)


def _unfit(record: Record) -> Optional[str]:
    """Return why ClearML will never take a record; None when it may."""
    try:
        if isinstance(record, Artifact):
            files.check(record)
        elif isinstance(record, (Histogram, Table, Text, Media)):
            iteration(record.step)
            if isinstance(record, Table):
                json.dumps(list(map(list, record.rows)))
    except (UnfitError, NotTheFileError, TypeError, ValueError) as error:
        return f"{getattr(record, 'key', '') or getattr(record, 'path', '')}: {error}"
    return None


def _drawn(media: Media) -> Optional[Mapping[str, Any]]:
    """Return the chart of an event that was kept whole, where there is one."""
    try:
        if media.kind == "pr_curve":
            return plots.curve(media)
        if media.kind == "mesh":
            return plots.mesh(media, read_meshes(media.data, _MOST_MESHES)[1])
    except (ValueError, TypeError):
        return None  # Damaged; the event itself is an artifact.
    return None


def _event_path(media: Media) -> str:
    ending = "pb" if media.index == 0 else f"{media.index}.pb"
    step = 0 if media.step is None else media.step
    return f"tensorboard/{media.kind}/{media.key}/{step}.{ending}"


def _item(section: str, key: str, value: str, kind: str) -> Mapping[str, str]:
    name, original = parameter(key)
    item = {"section": section, "name": name, "value": value, "type": kind}
    return {**item, "description": original} if original is not None else item
