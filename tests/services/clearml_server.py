"""
A small server that speaks ClearML's protocol: tasks, projects, events and files.

The real one needs MongoDB, Elasticsearch and Redis. This one has everything in memory, and those
rules of the real one (``apiserver`` 2.0) that decide whether something arrives once, and where: the
name of an event (``bll/event/event_bll.py``), stripped names, projects of three letters at least,
escaped parameters, locked published tasks, edits that need ``force``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Iterator, Mapping, Optional
from urllib.parse import parse_qs, unquote, urlsplit

KEY, SECRET = "KEY0123456789", "secret-of-the-test"

#: Its web page exists for nobody but has to have an address.
WEB = "http://127.0.0.1:8080"


class RefusedError(Exception):
    """HTTP 400 with the vendor's subcode and words."""

    def __init__(self, subcode: int, message: str) -> None:
        super().__init__(message)
        self.subcode = subcode


class Clearml:
    """
    A server and its state, which tests read back.

    Args:
        serving: Answer on a port; else it is the state alone.
    """

    def __init__(self, *, serving: bool = True) -> None:
        self.tasks: dict[str, dict[str, Any]] = {}
        self.projects: dict[str, dict[str, Any]] = {}
        #: Event type → document id → event; the id is made as the vendor's server makes it.
        self.events: dict[str, dict[str, dict[str, Any]]] = {}
        self.files: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.received = 0
        self.fault = ""
        self.token = TOKEN
        #: What the store behind it says of every event.
        self.choking = ""
        self._lock = threading.RLock()
        self._over = threading.Event()
        self.url: str = "http://127.0.0.1:1"
        if not serving:
            return
        outer = self

        class Handler(_Handler):
            server_state = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def failing(self, fault: str) -> Iterator[None]:
        """Answer as ``tracelet.testing.contract.FAULTS`` says."""
        self.fault, self._over = fault, threading.Event()
        try:
            yield
        finally:
            self.fault = ""
            self._over.set()

    def variables(self) -> dict[str, str]:
        """Return the environment of a client."""
        return {
            "CLEARML_API_HOST": self.url,
            "CLEARML_WEB_HOST": WEB,
            "CLEARML_FILES_HOST": self.url,
            "CLEARML_API_ACCESS_KEY": KEY,
            "CLEARML_API_SECRET_KEY": SECRET,
        }

    def of(self, task: str, kind: str = "training_stats_scalar") -> list[dict[str, Any]]:
        """Return the events of a task, in the order in which they were first written."""
        return [each for each in self.events.get(kind, {}).values() if each["task"] == task]

    def file(self, url: str) -> bytes:
        """Return what the file server has at an address."""
        return self.files[unquote(urlsplit(url).path).lstrip("/")]

    # -- the API -----------------------------------------------------------------------------

    def call(self, action: str, body: Any) -> Any:
        with self._lock:
            self.calls.append(action)
            handler = getattr(self, "_" + action.replace(".", "_"), None)
            if handler is None:
                raise RefusedError(0, f"no endpoint {action}")
            return handler(body)

    def _debug_ping(self, body: Any) -> Any:
        return {"msg": "ClearML server"}

    def _test_count(self, body: Any) -> Any:
        """Tell how many points of a task there are; no endpoint of the vendor's."""
        return {"points": len(self.of(body["task"]))}

    def _users_get_current_user(self, body: Any) -> Any:
        return {"user": {"id": "u1", "name": "tester", "company": {"id": "c1", "name": "c"}}}

    def _projects_get_all(self, body: Any) -> Any:
        found = list(self.projects.values())
        if body.get("id"):
            found = [each for each in found if each["id"] in body["id"]]
        if body.get("name"):
            found = [each for each in found if re.search(body["name"], each["name"])]
        return {"projects": [_only(each, body.get("only_fields")) for each in found]}

    _projects_get_all_ex = _projects_get_all

    def _projects_get_by_id(self, body: Any) -> Any:
        return {"project": self.projects[body["project"]]}

    def _projects_create(self, body: Any) -> Any:
        name = body["name"].strip()
        if len(name) < 3:
            raise RefusedError(12, "Validation error (error for field 'name': too short)")
        if any(each["name"] == name for each in self.projects.values()):
            raise RefusedError(204, "Project with the same name already exists")
        number = uuid.uuid4().hex
        self.projects[number] = {"id": number, "name": name}
        return {"id": number}

    def _tasks_create(self, body: Any) -> Any:
        number = uuid.uuid4().hex
        if body.get("project") and body["project"] not in self.projects:
            raise RefusedError(201, "Invalid project id")
        if body.get("parent") and body["parent"] not in self.tasks:
            raise RefusedError(101, "Invalid task id: parent")
        self.tasks[number] = {
            "comment": "",
            "tags": [],
            "system_tags": [],
            "hyperparams": {},
            "configuration": {},
            "last_metrics": {},
            "script": {},
            **{name: value for name, value in body.items() if name != "input"},
            "id": number,
            "name": body["name"].strip(),
            "status": "created",
            "execution": {"artifacts": [], "parameters": {}},
            "user": "u1",
            "company": "c1",
        }
        return {"id": number}

    def _tasks_get_by_id(self, body: Any) -> Any:
        return {"task": self._task(body)}

    def _tasks_get_all(self, body: Any) -> Any:
        found = list(self.tasks.values())
        if body.get("id"):
            wanted = body["id"] if isinstance(body["id"], list) else [body["id"]]
            found = [each for each in found if each["id"] in wanted]
        if body.get("system_tags"):
            tags = {each for each in body["system_tags"] if not each.startswith("__$")}
            found = [each for each in found if not tags or tags & set(each["system_tags"])]
        return {"tasks": [_only(each, body.get("only_fields")) for each in found]}

    _tasks_get_all_ex = _tasks_get_all

    def _tasks_edit(self, body: Any) -> Any:
        task = self._task(body, editing=True)
        fields = {key: value for key, value in body.items() if key not in ("task", "force")}
        if "hyperparams" in fields:
            fields["hyperparams"] = {
                section: {_escaped(name): item for name, item in items.items()}
                for section, items in fields["hyperparams"].items()
            }
        if "execution" in fields:
            fields["execution"] = {**task["execution"], **fields["execution"]}
        task.update(fields)
        return {"updated": 1, "fields": fields}

    _tasks_update = _tasks_edit

    def _tasks_edit_hyper_params(self, body: Any) -> Any:
        task = self._task(body, editing=True)
        for item in body["hyperparams"]:
            assert isinstance(item["value"], str), item
            section = task["hyperparams"].setdefault(item["section"], {})
            section[_escaped(item["name"])] = {**item, "name": item["name"].strip()}
        return {"updated": 1}

    def _tasks_edit_configuration(self, body: Any) -> Any:
        task = self._task(body, editing=True)
        for item in body["configuration"]:
            assert isinstance(item["value"], str), item
            task["configuration"][item["name"]] = item
        return {"updated": 1}

    def _tasks_add_or_update_artifacts(self, body: Any) -> Any:
        task = self._task(body, editing=True)
        listed = {(each["key"], each["mode"]): each for each in task["execution"]["artifacts"]}
        for each in body["artifacts"]:
            item = {"mode": "output", **each}
            assert isinstance(item["timestamp"], int), item
            listed[item["key"], item["mode"]] = item
        task["execution"]["artifacts"] = list(listed.values())
        return {"updated": 1}

    def _tasks_started(self, body: Any) -> Any:
        return self._becomes(body, "in_progress")

    def _tasks_completed(self, body: Any) -> Any:
        return self._becomes(body, "completed")

    def _tasks_failed(self, body: Any) -> Any:
        return self._becomes(body, "failed")

    def _tasks_stopped(self, body: Any) -> Any:
        return self._becomes(body, "stopped")

    _tasks_stop = _tasks_stopped

    def _tasks_ping(self, body: Any) -> Any:
        self._task(body)["pinged"] = time.time()
        return {}

    def _events_add_batch(self, body: Any) -> Any:
        added = 0
        wrong: dict[str, int] = {}
        for event in body:
            self.received += 1
            reason = self._reason(event)
            if reason:
                wrong[reason] = wrong.get(reason, 0) + 1
                continue
            if event["type"] == "log":
                identity = uuid.uuid4().hex
            else:
                fields = ("iter", "metric", "variant", "key")
                said = [str(event[name]) for name in fields if name in event]
                identity = hashlib.md5("-".join([event["task"], *said]).encode()).hexdigest()
            self.events.setdefault(event["type"], {})[identity] = event
            added += 1
            if event["type"] == "training_stats_scalar":
                last = self.tasks[event["task"]].setdefault("last_metrics", {})
                title, series = (_md5(event[name]) for name in ("metric", "variant"))
                last.setdefault(title, {})[series] = {
                    "metric": event["metric"],
                    "variant": event["variant"],
                    "value": event["value"],
                }
        return {"added": added, "errors": sum(wrong.values()), "errors_info": wrong}

    def _events_add(self, body: Any) -> Any:
        return self._events_add_batch([body])

    def _reason(self, event: Mapping[str, Any]) -> Optional[str]:
        task = self.tasks.get(event.get("task", ""))
        if task is None or task["status"] == "published":
            return "Invalid task id"
        if self.choking:
            return self.choking
        number = event.get("iter", 0)
        if not isinstance(number, int) or not -(2**63) <= number < 2**63:
            return "Wrong iteration"
        if not isinstance(event.get("timestamp"), int):
            return "Wrong timestamp"
        if event["type"] == "training_stats_scalar" and not isinstance(
            event["value"], (int, float)
        ):
            return "Wrong value"
        return None

    def _task(self, body: Any, *, editing: bool = False) -> dict[str, Any]:
        task = self.tasks.get(body.get("task", ""))
        if task is None:
            raise RefusedError(101, f"Invalid task id: id={body.get('task')}, company=c1")
        if editing and task["status"] != "created" and not body.get("force"):
            raise RefusedError(110, "Task is not in the status 'created'")
        return task

    def _becomes(self, body: Any, status: str) -> Any:
        task = self._task(body)
        if task["status"] == "published":
            raise RefusedError(110, "Invalid task status: published")
        task.update(status=status, status_message=body.get("status_message", ""))
        return {"updated": 1, "fields": {"status": status}}


class _Handler(BaseHTTPRequestHandler):
    server_state: Clearml
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815 - as the library calls them

    def _answer(self) -> None:
        state = self.server_state
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = state.fault
        if fault == "hang":
            state._over.wait(60)
        if fault in ("down", "hang"):
            self.close_connection = True
        elif fault == "busy":
            self._say(429, _envelope(429, "Too many requests"), {"Retry-After": "7"})
        elif fault == "unavailable":
            self._say(503, _envelope(503, "Service unavailable"))
        elif fault == "refused":
            self._say(401, _envelope(401, "Unauthorized (invalid credentials)", 21))
        else:
            status, data = self._result(body)
            if fault == "lost_answer":
                self.close_connection = True
            else:
                self._say(status, data)

    def _result(self, body: bytes) -> tuple[int, bytes]:
        state = self.server_state
        path = urlsplit(self.path).path
        found = re.fullmatch(r"/(?:v[\d.]+/)?([a-z_]+\.[a-z_]+)", path)
        if found is None:
            return self._file(path, body)
        action = found[1]
        authorization = self.headers.get("Authorization", "")
        if action == "auth.login":
            pair = base64.b64encode(f"{KEY}:{SECRET}".encode()).decode()
            if authorization not in (f"Basic {pair}", f"Bearer {state.token}"):
                return 401, _envelope(401, "Unauthorized (invalid credentials)", 21)
            return 200, _envelope(200, "OK", data={"token": state.token})
        if action != "debug.ping" and authorization != f"Bearer {state.token}":
            return 401, _envelope(401, "Unauthorized (missing token)", 20)
        try:
            if "json-lines" in self.headers.get("Content-Type", ""):
                said: Any = [_json(line) for line in body.split(b"\n") if line.strip()]
            else:
                query = {
                    key: value[0] for key, value in parse_qs(urlsplit(self.path).query).items()
                }
                said = {**query, **_json(body or b"{}")}
            return 200, _envelope(200, "OK", data=state.call(action, said))
        except RefusedError as error:
            return 400, _envelope(400, str(error), error.subcode)
        except ValueError as error:
            return 400, _envelope(400, f"Invalid JSON: {error}")

    def _file(self, path: str, body: bytes) -> tuple[int, bytes]:
        files = self.server_state.files
        if self.command in ("GET", "HEAD"):
            name = unquote(path).lstrip("/")
            return (200, files[name]) if name in files else (404, b"")
        boundary = self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
        said = []
        for part in body.split(b"--" + boundary)[1:-1]:
            head, _, data = part.partition(b"\r\n\r\n")
            named = re.search(rb'\bname="([^"]*)"', head)
            assert named is not None, head
            said.append(named[1].decode())
            files[said[-1].lstrip("/")] = data[:-2]
        return 200, json.dumps(said).encode()

    def _say(self, status: int, data: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _json(text: bytes) -> Any:
    def refuse(word: str) -> Any:
        # The real one's Elasticsearch does.
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def _envelope(code: int, message: str, subcode: int = 0, data: Any = None) -> bytes:
    meta = {
        "id": "0" * 32,
        "trx": "0" * 32,
        "endpoint": {"name": "", "requested_version": "2.13", "actual_version": "2.13"},
        "result_code": code,
        "result_subcode": subcode,
        "result_msg": message,
        "error_stack": None,
    }
    return json.dumps({"meta": meta, "data": data if data is not None else {}}).encode()


def _token() -> str:
    def part(said: Mapping[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")

    claims = {
        "auth_type": "Bearer",
        "identity": {"user": "u1", "company": "c1", "role": "user"},
        "api_version": "2.31",
        "server_version": "2.0.0",
        "feature_set": "basic",
        "exp": int(time.time()) + 86_400,
    }
    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(claims)}.c2lnbmF0dXJl"


TOKEN = _token()


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def _only(item: Mapping[str, Any], fields: Optional[list[str]]) -> Mapping[str, Any]:
    return item if not fields else {key: item[key] for key in ["id", *fields] if key in item}


def _escaped(name: str) -> str:
    """As ``ParameterKeyEscaper`` does it."""
    name = name.strip().replace(".", "%2E").replace("$", "%24")
    return f"%5F%5F{name[2:]}" if name.startswith("__") else name


if __name__ == "__main__":
    running = Clearml()
    print(running.url, flush=True)
    sys.stdin.read()
    print(json.dumps({kind: len(found) for kind, found in running.events.items()}), flush=True)
