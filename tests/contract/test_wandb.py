"""
The W&B backend keeps the contract, with the vendor's client and core, against a server of ours.

That server speaks the protocol (``tests/services/wandb_server.py``); what it stored is read here.
"""

from __future__ import annotations

import html
import json
import re
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Iterator, Mapping, Optional

import pytest

from services.wandb_server import KEY, WandbServer
from tracelet.backends.base import Backend, RemoteRun, RunInfo
from tracelet.backends.wandb import WandbBackend, WandbOptions
from tracelet.backends.wandb.service import Service
from tracelet.records import Artifact, Metric, Record
from tracelet.testing import BackendSuite, Item, Seen

pytest.importorskip("wandb.sdk")


@pytest.fixture(scope="module")
def server() -> Iterator[WandbServer]:
    found = WandbServer()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One core for all tests, as it is for all runs of a sidecar."""
    service = Service()
    service.acquire().setup()
    yield service
    service.release()


class TestWandb(BackendSuite):
    package = "wandb"
    cannot: ClassVar[Mapping[str, str]] = {
        "awkward_names": "W&B refuses some characters in a project's name; they are replaced.",
    }
    forms: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("pr_curve", "mesh", "graph", "custom_scalars", "raw"), "converted"),
    }
    hang_limit_s = 60.0

    @pytest.fixture(autouse=True)
    def _server(self, server: WandbServer, warm: Service, request: pytest.FixtureRequest) -> None:
        self.server = server
        if "test_20" in request.node.name:
            # What is left behind shows only when nobody else uses the core.
            warm.release()

    def backend(self) -> Backend:
        return WandbBackend(WandbOptions(url=self.server.url, api_key=KEY, timeout_s=20))

    def read_back(self, remote: RemoteRun) -> Seen:
        return seen(self.server, remote.id)

    @contextmanager
    def break_with(self, fault: str) -> Iterator[Optional[Record]]:
        if fault == "bad_record":
            yield Artifact("gone.pth", str(self.folder / "gone"), 3, 1.0)
            return
        with self.server.failing(fault):
            yield None

    def child_of(self, parent: RemoteRun, run: RunInfo) -> tuple[Backend, RunInfo]:
        return self.backend(), replace(run, parents={"wandb": parent.id})


def seen(server: WandbServer, run_id: str) -> Seen:
    """Return a run as the server has it."""
    run = server.run(run_id)
    keys = {
        name[len("_tracelet.key.") :]: raw
        for name, raw in run.config.items()
        if name.startswith("_tracelet.key.")
    }
    metrics: dict[str, list[Metric]] = defaultdict(list)
    items: list[Item] = []
    for row in run.history:
        step, when = row.get("global_step"), row["_timestamp"]
        for name, value in row.items():
            if name in ("_step", "_runtime", "_timestamp", "global_step", "_wandb"):
                continue
            key = name.removeprefix("tracelet:")
            if isinstance(value, dict):
                items += _items(run.files, keys.get(key, key), step, value)
            else:
                metrics[key].append(Metric(key, float(value), step, when))
    files: dict[str, bytes] = {}
    with server.lock:
        artifacts = [each for each in server.artifacts.values() if each.run == run_id]
    for artifact in artifacts:
        if not artifact.committed:
            continue
        contents = {
            path: server.blobs[entry["digest"]]
            for path, entry in artifact.manifest["contents"].items()
        }
        if artifact.kind == "file":
            files.update(contents)
        elif artifact.kind.startswith("tensorboard-"):
            meta = artifact.metadata
            items.append(Item(meta["kind"], meta["key"], meta["step"], 0, contents))
    params = {
        name.removeprefix("tracelet:"): str(value)
        for name, value in run.config.items()
        if name not in ("_wandb", "tags") and not name.startswith("_tracelet.")
    }
    state = {"finished": "FINISHED", "running": "RUNNING", "failed": "FAILED"}[run.state]
    return Seen(
        id=run.id,
        project=run.project,
        name=run.name,
        status="KILLED" if state == "FAILED" and "killed" in run.tags else state,
        tags=run.config.get("tags", {}),
        params=params,
        metrics=metrics,
        items=items,
        artifacts=files,
        parent=run.config.get("_tracelet.parent"),
    )


def _items(files: Mapping[str, bytes], key: str, step: Any, value: dict[str, Any]) -> list[Item]:
    kind = value["_type"]
    if kind == "histogram":
        return [Item("histogram", key, step, 0, (value["bins"], value["values"]))]
    if kind == "images/separated":
        return [
            Item("image", key, step, int(value["captions"][number]), files[name])
            for number, name in enumerate(value["filenames"])
        ]
    if kind == "html-file":
        page = files[value["path"]].decode()
        text = re.search(r"<pre[^>]*>(.*)</pre>", page, re.DOTALL)
        assert text is not None
        return [Item("text", key, step, 0, html.unescape(text[1]))]
    if kind == "table-file":
        found = json.loads(files[value["path"]])
        if "precision" in found["columns"]:
            return [Item("pr_curve", re.sub("_table$", "", key), step)]
        return [Item("table", key, step, 0, (found["columns"], found["data"]))]
    names = {"image-file": "image", "audio-file": "audio", "video-file": "video"}
    names["object3D-file"] = "mesh"
    return [Item(names[kind], key, step, 0, files[value["path"]])]
