"""The jsonl backend keeps the contract; its files are read here as any other program would."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Iterator, Mapping, Optional

import pytest

from tracelet.backends.base import Backend, RemoteRun, RunInfo
from tracelet.backends.jsonl import JsonlBackend, JsonlOptions
from tracelet.records import Artifact, Metric, Record
from tracelet.testing import BackendSuite, Item, Seen

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class TestJsonl(BackendSuite):
    cannot: ClassVar[Mapping[str, str]] = {
        "busy": "A disk does not ask for a wait.",
        "unavailable": "A disk has one way to fail.",
        "lost_answer": "A call of the system returns, or the process is dead.",
        "hang": "A call of the system on a local disk cannot be cut.",
    }

    def backend(self) -> Backend:
        return JsonlBackend(JsonlOptions(path=str(self.folder / "store")))

    def read_back(self, remote: RemoteRun) -> Seen:
        path = self.folder / "store" / f"{remote.id}.jsonl"
        said = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        runs = [entry for entry in said if entry["type"] == "run"]
        tags: dict[str, str] = {}
        status = ""
        metrics: dict[str, list[Metric]] = defaultdict(list)
        params: dict[str, str] = {}
        artifacts: dict[str, bytes] = {}
        items: list[Item] = []
        for entry in said:
            kind = entry["type"]
            if kind == "run":
                status = "RUNNING"
                tags.update(entry["tags"])
            elif kind == "end":
                status = entry["status"]
            elif kind == "metric":
                point = Metric(entry["key"], float(entry["value"]), entry["step"], entry["time"])
                metrics[point.key].append(point)
            elif kind == "param":
                params[entry["key"]] = str(entry["value"])
            elif kind == "tag":
                tags[entry["key"]] = entry["value"]
            elif kind == "artifact":
                artifacts[entry["path"]] = (path.parent / entry["file"]).read_bytes()
            else:
                items.append(_item(entry, path.parent))
        return Seen(
            id=remote.id,
            project=runs[0]["project"] or path.parent.name,
            name=runs[0]["name"] or path.stem,
            status=status,
            tags=tags,
            params=params,
            metrics=metrics,
            items=items,
            artifacts=artifacts,
            parent=runs[0]["parent"],
        )

    @contextmanager
    def break_with(self, fault: str) -> Iterator[Optional[Record]]:
        if fault == "bad_record":
            yield Artifact("gone.pth", str(self.folder / "gone"), 3, 1.0)
        elif fault == "refused":
            # A file where the folder should be: this holds for the superuser too.
            (self.folder / "store").write_text("")
            yield None
            (self.folder / "store").unlink()
        else:
            with full_disk(self.folder / "store"):
                yield None

    def child_of(self, parent: RemoteRun, run: RunInfo) -> tuple[Backend, RunInfo]:
        options = JsonlOptions(path=str(self.folder / "store"), parent=parent.id)
        return JsonlBackend(options), run


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Let no file grow beyond the largest one in ``folder`` and a little: lines are torn."""
    if resource is None:
        pytest.skip("platform: no limit for the size of a file here")
    largest = max([0, *(path.stat().st_size for path in folder.glob("*/*.jsonl"))])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 30, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _item(entry: dict[str, Any], folder: Path) -> Item:
    kind, content = entry["type"], None
    if kind == "media":
        kind, content = entry["kind"], (folder / entry["file"]).read_bytes()
    elif kind == "text":
        content = entry["text"]
    elif kind == "histogram":
        content = (entry["edges"], entry["counts"])
    elif kind == "table":
        content = (entry["columns"], entry["rows"])
    return Item(kind, entry["key"], entry["step"], entry.get("index", 0), content)
