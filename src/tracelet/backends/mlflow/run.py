"""
One open run: which record goes where.

Points, parameters and tags travel in calls of their own, so that one bad parameter costs no
point. Texts and histograms are collected and shown in aggregate; of media and tables so many are
files of their own that a page can show them, and the others are in archives.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Union

from tracelet.backends.base import Batch
from tracelet.backends.mlflow import media, places, values
from tracelet.backends.mlflow.answers import ChangedParamError, DuplicateError
from tracelet.backends.mlflow.archive import Archive
from tracelet.backends.mlflow.artifacts import Artifacts
from tracelet.backends.mlflow.context import ContextFile
from tracelet.backends.mlflow.embeddings import Embeddings
from tracelet.backends.mlflow.histograms import Histograms
from tracelet.backends.mlflow.layouts import Layouts
from tracelet.backends.mlflow.names import KeyKind, KeyNames
from tracelet.backends.mlflow.points import convert, deliver
from tracelet.backends.mlflow.renamed import RenamedTags
from tracelet.backends.mlflow.store import RunState, Store
from tracelet.backends.mlflow.text import Texts
from tracelet.backends.mlflow.values import PARAM_LENGTH, TAG_LENGTH, long_form, text_of
from tracelet.backends.sources import is_same
from tracelet.errors import ConfigError, RejectedError
from tracelet.records import (
    Artifact,
    Histogram,
    Media,
    Metric,
    Param,
    Record,
    RunStatus,
    Scalar,
    Table,
    Tag,
    Text,
)

__all__ = ["OpenRun"]

#: The tag that lists the metrics whose steps had fractions.
FRACTIONS_TAG = "tracelet.fractional_steps"

#: The tag that says how many records were refused, and the file beside it.
REJECTED_TAG = "tracelet.rejected"
REJECTED_FILE = "tracelet/rejected.txt"

#: Characters of a long text in one tag, where it has to go into tags.
_PIECE = 5000

_PAIRS_AT_ONCE = 100

_log = logging.getLogger("tracelet")


class OpenRun:
    """
    A run that takes records.

    Args:
        store: Where it is.
        state: What the store said about it when it was opened.
        artifacts: Where its files go.
        names: Its keys.
        workdir: What is kept over a restart.
        label: Is in the names of files that grow, where somebody else's may be; see ``sessions``.
        context: The file that says where the run comes from.
    """

    def __init__(
        self,
        store: Store,
        state: RunState,
        artifacts: Artifacts,
        names: KeyNames,
        workdir: Path,
        label: str = "",
        context: Optional[ContextFile] = None,
    ) -> None:
        self.id = state.id
        self._store = store
        self._artifacts = artifacts
        self._context = context
        self._names = names
        self._appends: Optional[bool] = None
        #: Points before this place among all of the run may be there, after a half-done write.
        self._uncertain = 0
        self._experiment_id = state.experiment_id
        self._params = values.Params(state.params)
        self._metric_key = names.of(KeyKind.METRIC)
        self._conflicts: set[str] = set()
        self._renamed = RenamedTags(names)
        self._fractions = set(_listed(state.tags.get(FRACTIONS_TAG, "")))
        self._tables = state.tags.get(media.TABLES_TAG, "")
        self._images_shown = media.IMAGES_TAG in state.tags
        self._embeddings = Embeddings(workdir / "embeddings", label)
        self._layouts = Layouts(workdir / "layouts.json", label)
        self._texts = Texts(workdir / "text", self._file, label)
        self._histograms = Histograms(workdir / "histograms", names.of(KeyKind.IMAGE), label)
        self._archive = Archive(workdir / "media", label, self._file)
        #: Files of a batch that failed half-way; they are not sent twice when it returns.
        self._done: set[tuple[str, str, float]] = set()

    def write(self, batch: Batch) -> None:
        """Write all of the batch, or raise; see ``Backend.write``."""
        metrics: list[tuple[int, Metric]] = []
        params: list[Param] = []
        tags: dict[str, str] = {}
        heavy: list[tuple[int, Record]] = []
        for index, record in enumerate(batch.records):
            if isinstance(record, Metric):
                metrics.append((index, record))
            elif isinstance(record, Param):
                params.append(record)
            elif isinstance(record, Tag):
                tags[record.key] = record.value
            else:
                heavy.append((index, record))
        certain, end = self._uncertain, batch.offset + len(batch.records)
        if metrics:
            resend = batch.resend or batch.offset < certain
            self._uncertain = max(certain, end)
            self._write_metrics(metrics, resend=resend)
        if params:
            self._write_params(params)
        if tags:
            self.set_tags(tags)
        for index, record in heavy:
            self._write_heavy(index, record, resend=batch.resend)
        if metrics:
            self._uncertain = certain
        self._done.clear()
        self._publish_names()

    def barrier(self) -> None:
        """Bring everything that was collected into the tracker."""
        self._flush(last=False)

    def set_tags(self, tags: Mapping[str, Scalar]) -> None:
        """Set tags of any name and length."""
        ready = {}
        for raw, value in tags.items():
            text = text_of(value)
            if len(text) > TAG_LENGTH:
                path = f"tracelet/tags/{self._file(raw)}.txt"
                self._store_whole(path, text)
                text = long_form(text, path)
            ready[self._names.key(KeyKind.TAG, raw)] = text
        self._send_tags(ready)

    def remark(self, text: str, *, as_file: bool) -> None:
        """Say that records were refused."""
        if as_file:
            self._artifacts.put(REJECTED_FILE, text.encode())
        self._send_tags({REJECTED_TAG: text[:TAG_LENGTH]})

    def running(self) -> bool:
        """Return True when the store says that the run has not ended."""
        return self._store.run(self.id).status == "RUNNING"

    def end(self, status: RunStatus, end: int) -> None:
        """Bring the rest, then set status and end (milliseconds since the epoch)."""
        self._flush(last=True)
        if status is not RunStatus.RUNNING:
            self._store.update_run(self.id, status.value, end)

    def close(self) -> None:
        """Let go of connections."""
        self._artifacts.close()
        self._store.close()

    # -- metrics, parameters, tags ----------------------------------------------------------

    def _write_metrics(self, metrics: Sequence[tuple[int, Metric]], *, resend: bool) -> None:
        points, fractions, refused = convert(metrics, self._metric_key)
        if refused:
            raise RejectedError(tuple(refused), next(iter(refused.values())))
        appends = resend and self._store_appends()
        deliver(self._store, self.id, points, appends=appends)
        if not fractions <= self._fractions:
            self._fractions |= fractions
            self._send_tags({FRACTIONS_TAG: _list(sorted(self._fractions))})

    def _store_appends(self) -> bool:
        if self._appends is None:
            self._appends = self._store.appends(self._experiment_id)
        return self._appends

    def _write_params(self, params: Sequence[Param]) -> None:
        wanted: list[tuple[str, str]] = []
        whole: dict[str, tuple[str, str]] = {}
        for param in params:
            text = text_of(param.value)
            if len(text) > PARAM_LENGTH:
                path = f"tracelet/params/{self._file(param.key)}.txt"
                short = long_form(text, path)
                whole[short] = (path, text)
                text = short
            wanted.append((self._names.key(KeyKind.PARAM, param.key), text))
        try:
            self._send_params(wanted, whole)
        except (ChangedParamError, DuplicateError):
            # Somebody else wrote a parameter of this run: look, and sort out anew.
            self._params = values.Params(self._store.run(self.id).params)
            self._send_params(wanted, whole)

    def _send_params(
        self, wanted: Sequence[tuple[str, str]], whole: Mapping[str, tuple[str, str]]
    ) -> None:
        plan = self._params.plan(wanted)
        for _, value in (*plan.new, *plan.changed):
            if value in whole:
                self._store_whole(*whole[value])
        for start in range(0, len(plan.new), _PAIRS_AT_ONCE):
            part = plan.new[start : start + _PAIRS_AT_ONCE]
            self._store.log_params(self.id, part)
            self._params.written(part)
        if plan.changed:
            for key, _ in plan.changed:
                if key not in self._conflicts:
                    self._conflicts.add(key)
                    _log.warning(
                        "The parameter %r was logged with another value; MLflow keeps the first, "
                        "the other one is in the tag %s%s.", key, values.CONFLICT, key,
                    )  # fmt: skip
            self.set_tags({values.CONFLICT + key: value for key, value in plan.changed})

    def _send_tags(self, tags: Mapping[str, str]) -> None:
        items = list(tags.items())
        for start in range(0, len(items), _PAIRS_AT_ONCE):
            self._store.set_tags(self.id, items[start : start + _PAIRS_AT_ONCE])

    def _publish_names(self) -> None:
        changes = self._names.changes
        due = self._renamed.due()
        if due:
            self._send_tags(due)
        self._renamed.written(due, changes)

    # -- texts longer than their place ------------------------------------------------------

    def _store_whole(self, path: str, text: str) -> None:
        """
        Keep a text as an artifact.

        Where artifacts cannot be stored, it goes into tags, piece by piece: a parameter must not
        wait for somebody who installs boto3.
        """
        try:
            self._artifacts.put(path, text.encode())
        except ConfigError as error:
            _log.warning("%s is kept in tags, because artifacts cannot be stored: %s", path, error)
            pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
            names = (f"{path}.{number}" for number in range(1, len(pieces) + 1))
            self._send_tags(
                {self._names.key(KeyKind.TAG, name): piece for name, piece in zip(names, pieces)}
            )

    # -- everything else --------------------------------------------------------------------

    def _write_heavy(self, index: int, record: Record, *, resend: bool) -> None:
        try:
            self._write_one(record, resend=resend)
        except RejectedError as error:
            raise RejectedError(error.indexes or (index,), error.reason) from error

    def _write_one(self, record: Record, *, resend: bool) -> None:
        if isinstance(record, Histogram):
            self._histograms.add(record, self._artifacts, resend=resend)
        elif isinstance(record, Text):
            self._texts.add(record)
        elif isinstance(record, (Media, Table)):
            if isinstance(record, Media) and record.kind == "custom_scalars":
                self._layouts.add(record)
            show = partial(self._show, record)
            self._archive.add(record, self._artifacts, show, resend=resend)
        elif not isinstance(record, Artifact):
            raise RejectedError((), f"MLflow has no place for {type(record).__name__}")
        elif (record.path, record.source, record.time) not in self._done:
            _require_same(record)
            path = self._embeddings.place(self._artifact_path(record.path))
            source = Path(record.source)
            self._artifacts.put(path, source)
            _require_same(record)
            for place, page in self._embeddings.pages(path, source):
                self._artifacts.put(place, page)
            self._done.add((record.path, record.source, record.time))

    def _show(self, record: Union[Media, Table]) -> None:
        """Make what a page can show of a record; the same one again makes the same."""
        if isinstance(record, Table):
            self._list_table(media.put_table(self._artifacts, record, self._file))
            return
        key = self._names.of(KeyKind.IMAGE)
        if media.put_media(self._artifacts, record, key, self._file):
            self._show_images()

    def _artifact_path(self, path: str) -> str:
        elsewhere = places.moved(path)
        if elsewhere is not None:
            _log.warning(
                "The artifact %r is stored as %r: MLflow's pages use that place.", path, elsewhere
            )
        return self._names.key(KeyKind.ARTIFACT, elsewhere or path)

    def _file(self, raw: str) -> str:
        return self._names.key(KeyKind.FILE, raw)

    def _flush(self, *, last: bool) -> None:
        self._texts.upload(self._artifacts)
        if self._layouts.present:
            self._layouts.upload(self._artifacts, self._names.chosen(KeyKind.METRIC))
        self._archive.upload(self._artifacts)
        if self._histograms.upload(self._artifacts, last=last):
            self._show_images()
        self._publish_names()
        if self._context is not None:
            self._context.upload(self._artifacts, last=last)

    def _show_images(self) -> None:
        if not self._images_shown:
            self._send_tags({media.IMAGES_TAG: "true"})
            self._images_shown = True

    def _list_table(self, path: str) -> None:
        listed = media.tables_tag([path], self._tables)
        if listed != self._tables:
            self._send_tags({media.TABLES_TAG: listed})
            self._tables = listed


def _require_same(artifact: Artifact) -> None:
    """Refuse the user's own file when it is another by now."""
    if artifact.identity is None:
        return
    try:
        found = Path(artifact.source).stat()
    except OSError as error:
        raise RejectedError((), f"{artifact.path} is gone: {error.strerror}") from error
    if not is_same(artifact, found):
        raise RejectedError((), f"{artifact.path} was changed before it could be sent")


def _listed(text: str) -> Sequence[str]:
    try:
        found: Any = json.loads(text or "[]")
    except ValueError:
        return ()
    return [str(item) for item in found] if isinstance(found, list) else ()


def _list(items: Sequence[str]) -> str:
    """Return the items as JSON, as many as a tag takes."""
    text = json.dumps(items)
    while len(text) > TAG_LENGTH:
        items = items[: len(items) // 2]
        text = json.dumps(items)
    return text
