"""One task of the server of ``clearml_server``, read as its own API would give it."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Mapping

from services.clearml_server import Clearml
from tracelet.records import Metric
from tracelet.testing import Item, Seen

STATUSES = {
    "in_progress": "RUNNING",
    "completed": "FINISHED",
    "failed": "FAILED",
    "stopped": "KILLED",
}
KINDS = {"png": "image", "gif": "video", "wav": "audio", "txt": "text"}


def seen(store: Clearml, task_id: str, status: str = "") -> Seen:
    """
    Return what there is of a task.

    Args:
        store: The server.
        task_id: The task.
        status: In place of the server's.
    """
    task = store.tasks[task_id]
    configuration = {name: each["value"] for name, each in task["configuration"].items()}
    keys = {
        (each["title"], each["series"]): (each["key"], each["step_factor"])
        for each in json.loads(configuration.get("tracelet.names", "[]"))
    }

    def named(event: Mapping[str, Any]) -> tuple[str, Any]:
        title, series = event["metric"], event["variant"]
        key, factor = keys.get(
            (title, series), (title if title == series else f"{title}/{series}", 1)
        )
        return key, event["iter"] if factor == 1 else event["iter"] / factor

    metrics: dict[str, list[Metric]] = defaultdict(list)
    for event in store.of(task_id):
        key, step = named(event)
        metrics[key].append(Metric(key, event["value"], step, event["timestamp"] / 1000))
    sections = task["hyperparams"]
    params = {_name(each): each["value"] for each in sections.get("General", {}).values()}
    for name, value in params.items():
        # The parameter says where it is whole.
        place = next((each for each in configuration if repr(each) in value), None)
        params[name] = configuration[place] if place else value
    items = [*_plots(store, task_id, named), *_samples(store, task_id, named)]
    artifacts = {}
    for each in task["execution"]["artifacts"]:
        data = store.file(each["uri"])
        assert len(data) == each["content_size"]
        artifacts[each["key"]] = data
    events = {path: data for path, data in artifacts.items() if path.startswith("tensorboard/")}
    for path, data in events.items():
        kind, _, key = path[len("tensorboard/") :].partition("/")
        key, _, name = key.rpartition("/")
        items.append(Item(kind, key, int(name.partition(".")[0]), content=data))
    return Seen(
        id=task["id"],
        project=store.projects[task["project"]]["name"],
        name=task["name"],
        status=status or STATUSES.get(task["status"], task["status"]),
        tags={_name(each): each["value"] for each in sections.get("properties", {}).values()},
        params=params,
        metrics=metrics,
        items=items,
        artifacts={path: data for path, data in artifacts.items() if path not in events},
        parent=task.get("parent"),
    )


def loaded(session: Path) -> Clearml:
    """
    Return the state of a server after the import of an offline session.

    It does what ``Task.import_offline_session`` does (which one test of its own runs), a hundred
    times as fast.
    """
    said = json.loads((session / "task.json").read_text(encoding="utf-8"))
    store, task = Clearml(serving=False), said["id"]
    project = store.call("projects.create", {"name": said["project_name"].ljust(3, "_")})["id"]
    store.tasks[task] = {**said, "project": project, "status": "created", "last_metrics": {}}
    lines = session / "metrics.jsonl"
    for line in lines.read_text(encoding="utf-8").splitlines() if lines.exists() else ():
        store.call("events.add_batch", json.loads(line))
    data = session / "data"
    for event in store.of(task, "training_debug_image"):
        assert event["url"] == str(data / event["key"])
        store.files[event["url"].lstrip("/")] = (data / event["key"]).read_bytes()
    for artifact in said["execution"]["artifacts"]:
        assert artifact["uri"].startswith(f"{said['offline_folder']}/data/")
        store.files[artifact["uri"].lstrip("/")] = Path(artifact["uri"]).read_bytes()
    return store


def _name(item: Mapping[str, Any]) -> str:
    return str(item.get("description") or item["name"])


def _plots(store: Clearml, task_id: str, named: Any) -> list[Item]:
    found = []
    for event in store.of(task_id, "plot"):
        key, step = named(event)
        trace = json.loads(event["plot_str"])["data"][0]
        if trace["type"] == "bar":
            pairs = trace["customdata"]
            edges = [pairs[0][0], *(high for _, high in pairs)]
            found.append(Item("histogram", key, step, content=(edges, trace["y"])))
        elif trace["type"] == "table":
            rows = [list(row) for row in zip(*trace["cells"]["values"])]
            found.append(Item("table", key, step, content=(trace["header"]["values"], rows)))
    return found


def _samples(store: Clearml, task_id: str, named: Any) -> list[Item]:
    found = []
    for event in store.of(task_id, "training_debug_image"):
        name, ending = event["url"].rpartition("/")[2].rsplit(".", 1)
        index = int(name.rpartition("_")[2])
        series = event["variant"]
        if index:
            assert series.endswith(f"/{index}")
            series = series[: -len(f"/{index}")]
        key, step = named({**event, "variant": series})
        data = store.file(event["url"])
        assert unquoted(event["url"]).endswith(event["key"])
        kind = KINDS[ending]
        found.append(Item(kind, key, step, index, data.decode() if kind == "text" else data))
    return found


def unquoted(url: str) -> str:
    from urllib.parse import unquote

    return unquote(url)
