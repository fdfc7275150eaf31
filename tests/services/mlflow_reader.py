"""What MLflow has of a run, read with MLflow's own client and nothing of ours."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import logging
import os
import re
import zipfile
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

import mlflow
from mlflow.tracking._tracking_service import utils
from mlflow.utils.file_utils import local_file_uri_to_path

from tracelet.records import Metric
from tracelet.testing import Item, Seen

_IMAGE = re.compile(r"images/(.+)\+step\+(-?\d+)\+timestamp\+(\d+)\+[0-9a-f-]{36}\.png")
_SECTION = re.compile(r"\n---\n\n### (?:Step (\S+) · )?\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\n\n")
_FILE = re.compile(r"tensorboard/(audio|video|tables|raw/\w+)/(.+)/step_([-\d.]+)_\w+\.\w+")
_DRAWN = ("meshes", "pr_curves")
_OURS = ("images/", "tensorboard/")


@contextlib.contextmanager
def tracking(url: str) -> Iterator[mlflow.MlflowClient]:
    """Use this store; MLflow 3.1 reads artifacts through its global setting only."""
    before, variable = utils._tracking_uri, os.environ.get("MLFLOW_TRACKING_URI")
    allowed = os.environ.get("MLFLOW_ALLOW_FILE_STORE")
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    mlflow.set_tracking_uri(url)
    handlers = list(logging.getLogger().handlers)
    try:
        client = mlflow.MlflowClient(tracking_uri=url)
        # MLflow 3.1 replaces everybody's handlers when it opens a database.
        logging.getLogger().handlers[:] = handlers
        yield client
    finally:
        utils._tracking_uri = before
        for name, value in (
            ("MLFLOW_TRACKING_URI", variable),
            ("MLFLOW_ALLOW_FILE_STORE", allowed),
        ):
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def seen(url: str, run_id: str) -> Seen:
    """
    Return the run.

    Args:
        url: The tracking URI.
        run_id: MLflow's id.
    """
    with tracking(url) as client:
        run = client.get_run(run_id)
        experiment = client.get_experiment(run.info.experiment_id)
        renamed = {kind: _originals(run.data.tags, kind) for kind in _KINDS}
        metrics = {
            renamed["metric"].get(key, key): [
                Metric(key, point.value, point.step, point.timestamp / 1000)
                for point in client.get_metric_history(run_id, key)
            ]
            for key in run.data.metrics
        }
        files = _files(client, run, url)
    return Seen(
        id=run.info.run_id,
        project=experiment.name,
        name=run.info.run_name,
        status=run.info.status,
        tags={renamed["tag"].get(key, key): value for key, value in run.data.tags.items()},
        params={renamed["param"].get(key, key): value for key, value in run.data.params.items()},
        metrics=metrics,
        items=list(_items(files, renamed)),
        artifacts={
            renamed["artifact"].get(path, path): data
            for path, data in files.items()
            if not path.startswith(_OURS)
        },
        parent=run.data.tags.get("mlflow.parentRunId"),
    )


_KINDS = ("metric", "param", "tag", "image", "file", "artifact")


def _originals(tags: Mapping[str, str], kind: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for tag, value in tags.items():
        if re.fullmatch(rf"tracelet\.renamed\.{kind}(\.\d+)?", tag):
            found.update(json.loads(value))
    return found


def _files(client: mlflow.MlflowClient, run: Any, url: str) -> dict[str, bytes]:
    """Read a folder as it is, and everything else as the server's page does."""
    address = run.info.artifact_uri
    if urlsplit(address).scheme in ("", "file"):
        root = local_file_uri_to_path(address)
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(Path(root).rglob("*"))
            if path.is_file()
        }
    found: dict[str, bytes] = {}
    folders = [""]
    while folders:
        for item in client.list_artifacts(run.info.run_id, folders.pop()):
            if item.is_dir:
                folders.append(item.path)
                continue
            query = urlencode({"run_id": run.info.run_id, "path": item.path})
            with urlopen(
                Request(f"{url}/get-artifact?{query}", headers=_authorization())
            ) as answer:
                found[item.path] = answer.read()
    return dict(sorted(found.items()))


def _authorization() -> dict[str, str]:
    """What MLflow's client sends when these variables are set."""
    name = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if name is None:
        return {}
    pair = f"{name}:{os.environ['MLFLOW_TRACKING_PASSWORD']}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _items(files: Mapping[str, bytes], renamed: Mapping[str, Mapping[str, str]]) -> Iterator[Item]:
    for path, data in files.items():
        image, file = _IMAGE.fullmatch(path), _FILE.fullmatch(path)
        if image is not None and data[:4] != b"GIF8" and not image[1].startswith("histograms~"):
            shown = image[1].replace("~", "/")
            raw = renamed["image"].get(shown, shown)
            if _is_drawn(shown, files):
                continue
            # The second and later members of a batch are called <key>/<place>.
            base, _, place = raw.rpartition("/")
            step = int(image[2])
            if place.isdigit() and any(
                other.startswith(f"images/{base.replace('/', '~')}+step+{step}+") for other in files
            ):
                yield Item("image", base, step, int(place), data)
            else:
                yield Item("image", raw, step, 0, data)
        elif path.startswith("tensorboard/text/"):
            yield from _texts(data.decode())
        elif path.startswith("tensorboard/data/media"):
            yield from _archived(data)
        elif path.startswith("tensorboard/data/histograms"):
            for line in gzip.decompress(data).splitlines():
                found = json.loads(line)
                content = (found["edges"], found["counts"])
                yield Item("histogram", found["key"], found["step"], 0, content)
        elif file is not None:
            key = renamed["file"].get(file[2], file[2])
            yield _file(file[1], key, float(file[3]), data)


def _is_drawn(shown: str, files: Mapping[str, bytes]) -> bool:
    """Tell whether an image is our own look at what lies elsewhere."""
    places = tuple(f"tensorboard/{folder}/{shown}/" for folder in _DRAWN)
    return any(path.startswith(places) for path in files)


def _file(kind: str, key: str, step: float, data: bytes) -> Item:
    content: Any = data
    if kind == "tables":
        kind, found = "table", json.loads(data)
        content = (found["columns"], found["data"])
    return Item(kind.rpartition("/")[2], key, step, 0, content)


def _archived(data: bytes) -> Iterator[Item]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for line in archive.read("index.jsonl").splitlines():
            found = json.loads(line)
            content: Any = archive.read(found["file"])
            if found["kind"] == "table":
                table = json.loads(content)
                content = (table["columns"], table["data"])
            yield Item(found["kind"], found["key"], found["step"], found["index"], content)


def _texts(content: str) -> Iterator[Item]:
    title, *parts = _SECTION.split(content)
    for step, text in zip(parts[::2], parts[1::2]):
        shown: Optional[int] = None if step is None else int(step)
        yield Item("text", title.partition("\n")[0][2:], shown, 0, text[:-1])
