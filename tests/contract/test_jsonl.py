"""The jsonl backend keeps the contract; its files are read here as any other program would."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from contract.folders import FolderSuite
from tracelet.backends.base import RemoteRun
from tracelet.backends.jsonl import JsonlBackend
from tracelet.records import Metric
from tracelet.testing import Item, Seen


class TestJsonl(FolderSuite):
    kind = JsonlBackend
    grows = "*/*.jsonl"

    def read_back(self, remote: RemoteRun) -> Seen:
        path = self.store / f"{remote.id}.jsonl"
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
