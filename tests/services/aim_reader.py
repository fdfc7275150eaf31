"""What an Aim repository holds of a run, read through Aim's own repository and query classes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Optional

from tracelet.records import Metric
from tracelet.testing import Item, Seen

__all__ = ["fresh_repository", "index", "seen"]


def index(repo: Any, run_hash: str) -> None:
    """Index a run that is still open, as ``aim up`` does all the time (``RepoIndexManager``)."""
    tree = repo.request_tree("meta", run_hash, read_only=True, skip_read_optimization=True)
    chunk = tree.subtree("meta").subtree("chunks").subtree(run_hash)
    chunk.finalize(index=repo._get_index_tree("meta", 0).view(()))


def fresh_repository(folder: Path, run_hash: Optional[str] = None) -> Any:
    """Return a repository that nobody has looked at; with a hash that run is indexed first."""
    from aim.sdk.repo import Repo

    if run_hash is not None:
        writing = Repo(str(folder))
        index(writing, run_hash)
        close(writing)
    return Repo(str(folder))


def close(repo: Any) -> None:
    """Let go of a repository's files."""
    for container in list(repo.container_pool.values()):
        container.close()
    repo.structured_db.session_cls.remove()
    repo.structured_db.engine.dispose()
    repo._resources.finalizer.detach()


def seen(folder: Path, run_hash: str) -> Seen:
    """Return one run as somebody finds it who opens the repository with Aim."""
    from aim import Run

    repo = fresh_repository(folder, run_hash)
    try:
        assert run_hash in [run.hash for run in repo.iter_runs()]
        return _seen(Run(run_hash, repo=repo, read_only=True))
    finally:
        close(repo)


def _seen(run: Any) -> Seen:
    attributes = run[...]
    status = attributes.get("tracelet", {}).get("status", "")
    return Seen(
        id=run.hash,
        project=run.experiment,
        name=run.name,
        status="RUNNING" if run.end_time is None else status,
        tags=attributes.get("labels", {}),
        params={key: str(value) for key, value in attributes.get("hparams", {}).items()},
        metrics=_metrics(run),
        items=_items(run),
        artifacts={
            name: Path(artifact.uri[len("file://") :]).read_bytes()
            for name, artifact in run.artifacts.items()
        },
        parent=attributes.get("parent"),
    )


def _metrics(run: Any) -> dict[str, list[Metric]]:
    found: dict[str, list[Metric]] = {}
    for name, context, _ in run.iter_metrics_info():
        sequence = run.get_metric(name, context)
        steps, (values, _, times) = sequence.data.numpy()
        found.setdefault(name, []).extend(
            Metric(name, float(value), _step(step), float(time))
            for step, value, time in zip(steps, values, times)
        )
    return found


_OBJECTS = (
    "aim.image",
    "list(aim.image)",
    "aim.text",
    "aim.audio",
    "aim.figure",
    "aim.distribution",
)


def _step(step: Any) -> Any:
    return int(step) if step == int(step) else float(step)


def _items(run: Any) -> list[Item]:
    found = []
    for name, context, _ in run.iter_sequence_info_by_type(_OBJECTS):
        for get in (
            run.get_image_sequence,
            run.get_text_sequence,
            run.get_audio_sequence,
            run.get_figure_sequence,
            run.get_distribution_sequence,
        ):
            sequence = get(name, context)
            for step, (value, *_) in sequence.data.items() if sequence is not None else ():
                members = value if isinstance(value, list) else [value]
                found += [_item(name, step, each) for each in members]
    return found


def _item(name: str, step: int, value: Any) -> Item:
    mark = value.storage["mark"]
    return Item(mark, name, step, value.storage["index"], _content(mark, value))


def _content(mark: str, value: Any) -> Any:
    if mark == "histogram":
        assert abs(sum(value.weights) - sum(_doubles(value, "counts"))) < 1e-9
        return _doubles(value, "edges"), _doubles(value, "counts")
    if mark == "text":
        return value.data
    if mark == "table":
        columns, rows = json.loads(value.storage["table"])
        return columns, rows
    if mark in ("image", "video", "audio"):
        return bytes(value.storage["data"])
    return bytes(value.storage["event"])


def _doubles(value: Any, name: str) -> list[float]:
    data = bytes(value.storage[name])
    return list(struct.unpack(f"<{len(data) // 8}d", data))
