"""Real tracking servers on this machine, and a way between that can be broken."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Sequence
from urllib.parse import urlsplit

import pytest

#: The interpreter whose MLflow serves; another one shows that versions get on with each other.
SERVER_PYTHON = os.environ.get("MLFLOW_SERVER_PYTHON", sys.executable)


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    folder: Path


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """
    ``mlflow server`` with all of its workers; it can be killed and started again.

    Args:
        folder: Its working directory; takes its log.
        arguments: Those of ``mlflow server``; the port is added.
        python: The interpreter that has MLflow.
        environment: Further variables.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        *,
        python: str = SERVER_PYTHON,
        environment: Optional[Mapping[str, str]] = None,
    ) -> None:
        self.port = free_port()
        self.log = folder / "server.log"
        self._folder = folder
        self._command = [python, "-m", "mlflow", "server", *arguments, "--port", str(self.port)]
        self._variables = {
            **{name: value for name, value in os.environ.items() if "MLFLOW" not in name},
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_ALLOW_FILE_STORE": "true",
            "PYTHONWARNINGS": "ignore",
            **(environment or {}),
        }
        self._variables.pop("PYTHONPATH", None)
        self._process: Optional[subprocess.Popen[bytes]] = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, wait_s: float = 120.0) -> None:
        """Start it, and return when it answers; two busy cores need half a minute."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                env=self._variables,
                start_new_session=True,
            )
        _wait(self._process, self.port, wait_s, self.log)

    def kill(self) -> None:
        """End it and its workers without a word."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(8)

    def end(self) -> None:
        """End it, and what is left of it."""
        if self._process is not None:
            _end(self._process)


@contextlib.contextmanager
def serving(
    folder: Path,
    *,
    store: Optional[str] = None,
    python: str = SERVER_PYTHON,
    more: Sequence[str] = (),
    environment: Optional[Mapping[str, str]] = None,
    artifacts: Optional[str] = None,
    wait_s: float = 120.0,
) -> Iterator[Server]:
    """
    Run ``mlflow server`` in ``folder``: on SQLite, unless ``store`` says otherwise.

    Args:
        folder: Where it keeps everything.
        store: The backend store's URI.
        python: The interpreter that has MLflow.
        more: Further arguments.
        environment: Further variables.
        artifacts: Where the server keeps artifacts, if not in ``folder``.
        wait_s: How long it may take to answer.
    """
    arguments = [
        *("--host", "127.0.0.1"),
        *("--backend-store-uri", store or f"sqlite:///{folder.as_posix()}/mlflow.db"),
        *("--artifacts-destination", artifacts or str(folder / "artifacts")),
        *("--workers", "1", *more),
    ]
    server = ServerProcess(folder, arguments, python=python, environment=environment)
    try:
        server.start(wait_s)
        yield Server(server.url, folder)
    finally:
        server.end()


def _wait(process: subprocess.Popen[bytes], port: int, wait_s: float, log: Path) -> None:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline and process.poll() is None:
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as probe,
        ):
            # Not `/health`: the first question to the store takes its time.
            probe.request("GET", "/api/2.0/mlflow/experiments/search?max_results=1")
            if probe.getresponse().status in (200, 401):
                return
        time.sleep(0.1)
    raise RuntimeError(f"no MLflow server:\n{log.read_text(errors='replace')[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    # The whole group: the parent of an old server leaves its workers behind.
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(8)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server on SQLite for all tests of the session."""
    with serving(tmp_path_factory.mktemp("mlflow-server")) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_file_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server on a folder of files."""
    folder = tmp_path_factory.mktemp("mlflow-file-server")
    with serving(folder, store=str(folder / "mlruns")) as server:
        yield server


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store with tables and nothing in it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = tmp_path_factory.mktemp("fresh")
    store = SqlAlchemyStore(f"sqlite:///{folder}/mlflow.db", str(folder / "mlruns"))
    store.engine.dispose()
    return folder / "mlflow.db"


class FaultyWay:
    """
    A port that leads to a server, or misbehaves.

    ``fault`` is None, or ``down``, ``busy``, ``unavailable``, ``lost_answer``, ``hang``,
    ``refused``, or an answer of the test's own: ``(status, headers, body)``. ``host`` is the name
    under which the server believes to be asked; with ``tls`` the way is encrypted.
    """

    def __init__(self, url: str, *, host: str = "", tls: Optional[ssl.SSLContext] = None) -> None:
        self._upstream = urlsplit(url).netloc
        self._tls = tls
        self._host = host or self._upstream
        self._listener: Optional[_Listener] = None
        self._fault: Any = None
        self._ended = threading.Event()
        #: What came through: method and path.
        self.requests: list[tuple[str, str]] = []
        self._port = 0
        self._listen()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @contextlib.contextmanager
    def broken(self, fault: Any) -> Iterator[None]:
        """Misbehave until the context ends, towards open connections as well."""
        self._fault = fault
        if fault == "down":
            self._hang_up()
        try:
            yield
        finally:
            self._fault = None
            if fault == "down":
                self._listen()
            if fault == "hang":
                self._ended.set()
                self._ended = threading.Event()

    def close(self) -> None:
        self._ended.set()
        self._hang_up()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Pass one request on, or not."""
        fault, path = self._fault, handler.path
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length)
        if len(body) < length:
            # The client died in the middle; the server would wait for the rest.
            handler.close_connection = True
            return
        self.requests.append((handler.command, path))
        if fault == "hang":
            self._ended.wait(60)
            handler.close_connection = True
            return
        made = fault if isinstance(fault, tuple) else _ANSWERS.get(fault)
        if made is None:
            made = self._pass_on(handler, body)
        if fault == "lost_answer":
            handler.close_connection = True
            return
        status, headers, content = made
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _pass_on(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            headers = {**dict(handler.headers.items()), "Host": self._host}
            connection.request(handler.command, handler.path, body, headers)
            response = connection.getresponse()
            content = response.read()
            kept = ("content-type", "www-authenticate", "location", "retry-after")
            passed = {n: v for n, v in response.getheaders() if n.lower() in kept}
            return response.status, passed, content
        finally:
            connection.close()

    def _listen(self) -> None:
        self._listener = _Listener(self, self._port, self._tls)
        self._port = self._listener.server_address[1]
        threading.Thread(
            target=self._listener.serve_forever, args=(0.02,), name="faulty-way", daemon=True
        ).start()

    def _hang_up(self) -> None:
        if self._listener is not None:
            self._listener.shutdown()
            self._listener.server_close()
            self._listener.hang_up()
            self._listener = None


_ANSWERS: dict[Any, tuple[int, dict[str, str], bytes]] = {
    "busy": (429, {"Retry-After": "2"}, b"slow down"),
    "unavailable": (503, {}, b"<html>try later</html>"),
    "refused": (401, {"WWW-Authenticate": 'Basic realm="mlflow"'}, b"who are you?"),
}


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, way: FaultyWay, port: int, tls: Optional[ssl.SSLContext]) -> None:
        self.way = way
        self._tls = tls
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        request, address = super().get_request()
        if self._tls is not None:
            request = self._tls.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            )
        return request, address

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is what is being tested."""

    def hang_up(self) -> None:
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

    def _any(self) -> None:
        self.server.way.answer(self)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815 - their names

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""
