"""A secret reaches the server it is for, and no file, log, line or argument list."""

from __future__ import annotations

import base64
import http.server
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import psutil
import pytest

import tracelet

pytest.importorskip("mlflow")

SECRET = "sk-planted-0123456789"
USER = "planted-user"


class Server(http.server.ThreadingHTTPServer):
    """Says that it is busy, and notes who asked."""

    heard: list[str]


class _Busy(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.heard.append(f"{self.client_address} {self.headers['Authorization']}")
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    busy = Server(("127.0.0.1", 0), _Busy)
    busy.heard = []
    thread = threading.Thread(target=busy.serve_forever, daemon=True)
    thread.start()
    yield busy
    busy.shutdown()
    busy.server_close()
    thread.join()


def argument_lists() -> str:
    lists = []
    for process in psutil.process_iter():
        try:
            lists.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return "\n".join(lists)


@pytest.mark.figure(15)
@pytest.mark.parametrize("shipper", ["process", "thread"])
@pytest.mark.parametrize("place", ["api_key", "config", "address", "TRACELET_API_KEY", "MLFLOW"])
def test_a_secret_is_nowhere_but_at_the_server(
    place: str,
    shipper: str,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    where = f"127.0.0.1:{server.server_port}"
    config: dict[str, Any] = {"shipper": shipper}
    arguments: dict[str, Any] = {"backend_url": f"http://{where}"}
    basic = base64.b64encode(f"{USER}:{SECRET}".encode()).decode()
    expected = f"Bearer {SECRET}"
    if place == "api_key":
        arguments["api_key"] = SECRET
    elif place == "config":
        config["mlflow"] = {"username": USER, "password": SECRET}
        expected = f"Basic {basic}"
    elif place == "address":
        arguments["backend_url"] = f"http://{USER}:{SECRET}@{where}"
        expected = f"Basic {basic}"
    elif place == "TRACELET_API_KEY":
        monkeypatch.setenv("TRACELET_API_KEY", SECRET)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
        expected = f"Basic {basic}"

    run = tracelet.start_logging("name", "project", "mlflow", config=config, **arguments)
    run.log_metric("loss", 0.5)
    before = len(server.heard)
    deadline = time.monotonic() + 30
    while len(server.heard) < before + 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    seen = argument_lists()
    report = run.stop(timeout=1.0)

    assert len(server.heard) >= before + 2, "the shipper never asked"
    assert all(line.endswith(expected) for line in server.heard)
    assert report.pending == 1
    said = "".join(capfd.readouterr()) + str(report) + repr(run.info) + seen
    for secret in (SECRET, basic):
        assert secret not in said
        for path in tmp_path.rglob("*"):
            assert path.is_dir() or secret.encode() not in path.read_bytes(), path
