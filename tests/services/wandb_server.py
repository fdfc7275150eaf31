"""
A W&B server of this machine: as much of its protocol as the vendor's client and core speak.

It keeps what it is sent and judges nothing, but for the rule by which the real one stores a run's
history: lines go where the client says (``offset``), and a line that is there already is replaced.
Names of requests and their fields are those of ``wandb-core`` 0.26 and 0.31.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Iterator, Optional
from urllib.parse import quote, unquote, urlsplit

KEY = "0123456789abcdef" * 2 + "01234567"
ENTITY = "somebody"


@dataclass
class StoredRun:
    """One run as the server has it."""

    id: str
    entity: str
    project: str
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    notes: str = ""
    group: str = ""
    job_type: str = ""
    commit: str = ""
    state: str = "running"
    history: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    #: How often a line of the history came that was there already.
    replaced: int = 0


@dataclass
class StoredArtifact:
    """One version of an artifact."""

    run: str
    kind: str
    name: str
    digest: str
    manifest: dict[str, Any] = field(default_factory=dict)
    committed: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)


class WandbServer:
    """
    The store, and the way to it, which can be broken.

    ``fault`` is one of ``FAULTS`` of the contract, or None; it holds for paths that contain
    ``where``.
    """

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: dict[str, StoredArtifact] = {}
        self.blobs: dict[str, bytes] = {}
        self.fault: Optional[str] = None
        self.where = ""
        #: What requests asked for, in their order.
        self.asked: list[str] = []
        #: What was asked and is not known here.
        self.unknown: list[str] = []
        self.lock = threading.Lock()
        self._released = threading.Event()
        server = self

        class Handler(_Handler):
            store = server

        self._http = _Http(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @contextlib.contextmanager
    def failing(self, fault: str, where: str = "") -> Iterator[None]:
        """Fail in one way until the context ends."""
        self._released.clear()
        self.fault, self.where = fault, where
        try:
            yield
        finally:
            self.fault = None
            self._released.set()

    def wait_for_release(self) -> None:
        self._released.wait(60)

    def run(self, run_id: str) -> StoredRun:
        with self.lock:
            return next(run for run in self.runs.values() if run.id == run_id)

    def files_of(self, run_id: str) -> dict[str, dict[str, bytes]]:
        """Return the newest committed version of each artifact of a run: name → path → bytes."""
        found: dict[str, dict[str, bytes]] = {}
        with self.lock:
            for artifact in self.artifacts.values():
                if artifact.run == run_id and artifact.committed:
                    found[artifact.name] = {
                        path: self.blobs[entry["digest"]]
                        for path, entry in artifact.manifest["contents"].items()
                    }
        return found


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed hangs up in the middle; that is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    store: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            body = self._body()
            if not self._broken(body):
                self._answer(*self._respond(body))

    def _broken(self, body: bytes) -> bool:
        fault = self.store.fault
        if fault is None or self.store.where not in self.path or "/sdk/otel" in self.path:
            return False
        if fault == "hang":
            self.store.wait_for_release()
            self.close_connection = True
        elif fault == "lost_answer":
            self._respond(body)
            self._cut()
        elif fault == "down":
            self._cut()
        elif fault == "refused":
            self._answer(401, {"errors": [{"message": "user is not logged in"}]})
        else:
            headers = {"Retry-After": "1"} if fault == "busy" else {}
            self._answer(429 if fault == "busy" else 503, {"error": fault}, headers)
        return True

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, status: int, answer: Any, headers: Optional[dict[str, str]] = None) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _respond(self, body: bytes) -> tuple[int, Any]:
        path = unquote(urlsplit(self.path).path)
        if path == "/graphql":
            if not self._known():
                return 401, {"errors": [{"message": "user is not logged in"}]}
            asked = json.loads(body)
            found = re.search(r"(query|mutation)\s+(\w+)", asked["query"])
            name = found[2] if found else "viewer"
            with self.store.lock:
                self.store.asked.append(name)
                return 200, _Answers(self.store).answer(name, asked.get("variables") or {})
        if path.endswith("/file_stream"):
            _, _, entity, project, run_id, _ = path.split("/")
            with self.store.lock:
                return 200, _stream(self.store, (entity, project, run_id), json.loads(body))
        if self.command == "PUT":
            with self.store.lock:
                return 200, _upload(self.store, path, body)
        return 200, {}

    def _known(self) -> bool:
        given = self.headers.get("Authorization", "")
        wanted = base64.b64encode(f"api:{KEY}".encode()).decode()
        return given == f"Basic {wanted}"


def _place(entity: Optional[str], project: Optional[str], run_id: str) -> str:
    return f"{entity or ENTITY}/{project or 'uncategorized'}/{run_id}"


def _stream(store: WandbServer, place: tuple[str, str, str], said: dict[str, Any]) -> Any:
    run = store.runs.get(_place(*place))
    if run is None:
        return {"error": "no such run"}
    for name, chunk in (said.get("files") or {}).items():
        if name == "wandb-history.jsonl":
            for number, line in enumerate(chunk["content"], chunk["offset"]):
                while len(run.history) <= number:
                    run.history.append({})
                run.replaced += bool(run.history[number])
                run.history[number] = json.loads(line)
        elif name == "wandb-summary.json":
            run.summary = json.loads(chunk["content"][-1])
    if said.get("complete"):
        run.state = "finished" if said.get("exitcode") == 0 else "failed"
    return {}


def _upload(store: WandbServer, path: str, body: bytes) -> Any:
    kind, _, rest = path.lstrip("/").partition("/")
    if kind == "blob":
        store.blobs[rest] = body
    elif kind == "manifest":
        store.artifacts[rest].manifest = json.loads(body)
    elif kind == "runfile":
        place, _, name = rest.partition("/-/")
        store.runs[place].files[name] = body
    return {}


class _Answers:
    """GraphQL, by the name of the operation."""

    def __init__(self, store: WandbServer) -> None:
        self._store = store

    def answer(self, name: str, given: dict[str, Any]) -> Any:
        method = getattr(self, "_" + re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(), None)
        if method is None:
            self._store.unknown.append(name)
            return {"errors": [{"message": f"the operation {name} is not known here"}], "data": {}}
        return {"data": method(given.get("input") or given)}

    def _url(self, *parts: str) -> str:
        return "/".join((self._store.url, *map(quote, parts)))

    def _viewer(self, given: dict[str, Any]) -> Any:
        viewer: dict[str, Any] = {"username": ENTITY, "entity": ENTITY, "id": "u", "flags": "{}"}
        viewer.update({"teams": {"edges": []}, "email": "", "admin": False, "name": ENTITY})
        return {"viewer": viewer, "serverInfo": self._info()}

    #: As the clients of Python 3.9 call it.
    _get_viewer = _viewer

    def _artifact_type(self, given: dict[str, Any]) -> Any:
        name = str(given["name"]).partition(":")[0]
        kinds = [each.kind for each in self._store.artifacts.values() if each.name == name]
        found = {"artifactType": {"name": kinds[-1]}} if kinds else None
        return {"project": {"artifact": found}}

    def _info(self) -> Any:
        return {
            "cliVersionInfo": {"max_cli_version": "0.99.0"},
            "latestLocalVersionInfo": None,
            "features": [],
        }

    def _server_info(self, given: dict[str, Any]) -> Any:
        return {"serverInfo": self._info(), "viewer": self._viewer({})["viewer"]}

    def _server_features_query(self, given: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def _org_feature_flags(self, given: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}, "viewer": {"organizations": []}}

    def _run_resume_status(self, given: dict[str, Any]) -> Any:
        place = _place(given.get("entity"), given.get("project"), given["name"])
        run = self._store.runs.get(place)
        if run is None:
            return {"model": {"id": "m", "name": given.get("project"), "bucket": None}}
        config = {name: {"value": value} for name, value in run.config.items()}
        config.setdefault("_wandb", {"value": {}})
        config["_wandb"]["value"].setdefault("t", {"1": [1]})
        bucket = {
            "id": run.id,
            "name": run.id,
            "displayName": run.name,
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(line) for line in run.history[-1:]]),
            "eventsTail": json.dumps([]),
            "config": json.dumps(config),
            "wandbConfig": json.dumps({"t": 1}),
            "tags": run.tags,
            "group": run.group or None,
            "jobType": run.job_type or None,
            "notes": run.notes or None,
            "commit": run.commit or None,
            "state": run.state,
            "stopped": False,
            "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00",
        }
        entity = {"id": "e", "name": run.entity}
        return {"model": {"id": "m", "name": run.project, "entity": entity, "bucket": bucket}}

    def _upsert_bucket(self, given: dict[str, Any]) -> Any:
        entity, project = given.get("entity") or ENTITY, given.get("project")
        place = _place(entity, project, given["name"])
        inserted = place not in self._store.runs
        run = self._store.runs.setdefault(
            place, StoredRun(given["name"], entity, project or "uncategorized")
        )
        if given.get("config"):
            said = json.loads(given["config"])
            run.config.update({name: entry["value"] for name, entry in said.items()})
        for name, field_name in (
            ("displayName", "name"), ("tags", "tags"), ("notes", "notes"), ("groupName", "group"),
            ("jobType", "job_type"), ("commit", "commit"),
        ):  # fmt: skip
            if given.get(name) is not None:
                setattr(run, field_name, given[name])
        if given.get("summaryMetrics"):
            run.summary.update(json.loads(given["summaryMetrics"]))
        run.name = run.name or f"bright-moon-{len(self._store.runs)}"
        run.state = "running"
        bucket = {
            "id": run.id,
            "name": run.id,
            "displayName": run.name,
            "description": None,
            "config": json.dumps({}),
            "sweepName": None,
            "historyLineCount": len(run.history),
            "project": {"id": "p", "name": run.project, "entity": {"id": "e", "name": run.entity}},
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _run_stopped_status(self, given: dict[str, Any]) -> Any:
        return {"project": {"run": {"stopped": False}}}

    def _create_run_files(self, given: dict[str, Any]) -> Any:
        run_id = given.get("run") or given.get("runName") or ""
        place = _place(given.get("entity"), given.get("project"), run_id)
        files = [
            {"name": name, "uploadUrl": self._url("runfile", place, "-", name)}
            for name in given["files"]
        ]
        return {"createRunFiles": {"runID": run_id, "uploadHeaders": [], "files": files}}

    def _mark_run_files_uploaded(self, given: dict[str, Any]) -> Any:
        return {"markRunFilesUploaded": {"success": True}}

    def _create_artifact(self, given: dict[str, Any]) -> Any:
        name = given["artifactCollectionName"]
        kind = given.get("artifactTypeName", "")
        identity = hashlib.sha256(f"{kind}/{name}/{given['digest']}".encode()).hexdigest()[:24]
        known = self._store.artifacts.get(identity)
        if known is None:
            known = StoredArtifact(given.get("runName") or "", kind, name, given["digest"])
        else:
            # What was logged last comes last, also when it was there before.
            del self._store.artifacts[identity]
        self._store.artifacts[identity] = known
        known.metadata = json.loads(given.get("metadata") or "{}")
        artifact = {
            "id": identity,
            "digest": given["digest"],
            "state": "COMMITTED" if known.committed else "PENDING",
            "aliases": [],
            "artifactSequence": {"id": name, "name": name, "latestArtifact": None},
        }
        return {"createArtifact": {"artifact": artifact}}

    def _create_artifact_manifest(self, given: dict[str, Any]) -> Any:
        identity = given["artifactID"]
        file = {
            "id": "f",
            "name": "wandb_manifest.json",
            "displayName": "wandb_manifest.json",
            "uploadUrl": self._url("manifest", identity),
            "uploadHeaders": [],
        }
        return {"createArtifactManifest": {"artifactManifest": {"id": identity, "file": file}}}

    def _update_artifact_manifest(self, given: dict[str, Any]) -> Any:
        answer = self._create_artifact_manifest({"artifactID": given["artifactManifestID"]})
        return {"updateArtifactManifest": answer["createArtifactManifest"]}

    def _create_artifact_files(self, given: dict[str, Any]) -> Any:
        specs = given.get("artifactFiles") or given.get("files") or []
        edges = [
            {
                "node": {
                    "id": "f",
                    "name": spec["name"],
                    "displayName": spec["name"],
                    "uploadUrl": None
                    if spec["md5"] in self._store.blobs
                    else self._url("blob", spec["md5"]),
                    "uploadHeaders": [],
                    "storagePath": spec["md5"],
                    "artifact": {"id": spec["artifactID"]},
                    "uploadMultipartUrls": None,
                }
            }
            for spec in specs
        ]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commit_artifact(self, given: dict[str, Any]) -> Any:
        artifact = self._store.artifacts[given["artifactID"]]
        artifact.committed = True
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}
