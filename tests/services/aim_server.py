"""Aim's repositories and servers on this machine, and a way between that can be broken."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Iterator, Optional

import pytest

from services.mlflow_server import free_port

__all__ = ["AimProcess", "Way", "aim_server", "fresh_aim"]

_INIT = "import sys; from aim.sdk.repo import Repo; Repo(sys.argv[1], init=True)"


@pytest.fixture(scope="session")
def fresh_aim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty repository, to be copied: making the tables takes seconds."""
    folder = tmp_path_factory.mktemp("aim")
    subprocess.run([sys.executable, "-c", _INIT, str(folder)], check=True)
    return folder


class AimProcess:
    """
    ``aim server`` or ``aim up`` with the process that it starts; can be killed and started again.

    Args:
        folder: The folder with the repository.
        command: ``server`` or ``up``.
        look: A path that answers with 200 once it is there.
    """

    def __init__(self, folder: Path, command: str = "server", look: str = "/status/") -> None:
        self.port = free_port()
        self.folder = folder
        self.log = folder / f"{command}.log"
        self._command, self._look = command, look
        self._process: Optional[subprocess.Popen[bytes]] = None

    @property
    def url(self) -> str:
        return f"aim://127.0.0.1:{self.port}"

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, wait_s: float = 120.0) -> None:
        code = "import sys; from aim.cli.cli import cli_entry_point; sys.exit(cli_entry_point())"
        arguments = ["--repo", str(self.folder), "--host", "127.0.0.1", "--port", str(self.port)]
        with open(self.log, "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, self._command, *arguments],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(self.page + self._look, timeout=5):
                    return
            time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"no aim {self._command}:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """End it and what it started, without a word."""
        if self._process is not None:
            # The whole group: it leaves the process that answers behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)


@pytest.fixture(scope="module")
def aim_server(tmp_path_factory: pytest.TempPathFactory, fresh_aim: Path) -> Iterator[AimProcess]:
    """One server for a module."""
    folder = tmp_path_factory.mktemp("aim-server") / "store"
    shutil.copytree(fresh_aim, folder)
    server = AimProcess(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


class Way:
    """
    A way to a port that passes everything on, until it is broken.

    Faults: ``down`` (nobody listens), ``unavailable`` (HTTP 503), ``hang`` (nothing moves any
    more), ``lost_answer`` (what is said arrives, what is answered does not).
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._fault = ""
        self._pairs: list[socket.socket] = []
        self._listening = self._listen(0)
        self.port = self._listening.getsockname()[1]

    def _listen(self, port: int) -> socket.socket:
        listening = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
        return listening

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._pairs.append(client)
        if self._fault == "unavailable":
            with contextlib.suppress(OSError):
                client.recv(65536)
                client.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                client.close()
            return
        if self._fault == "hang":
            return
        with contextlib.suppress(OSError):
            server = socket.create_connection(("127.0.0.1", self._target), timeout=10)
            server.settimeout(None)
            self._pairs.append(server)
            threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
            self._pump(server, client, True)
        client.close()  # also where the server is gone

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._fault == "hang" or (self._fault == "lost_answer" and answers):
                    continue
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            if answers:
                end.close()

    @contextlib.contextmanager
    def broken(self, fault: str) -> Iterator[None]:
        self._fault = fault
        if fault == "down":
            self._stop_listening()
        if fault in ("down", "unavailable"):
            self._cut()
        try:
            yield
        finally:
            self._fault = ""
            self._cut()
            if fault == "down":
                self._listening = self._listen(self.port)

    def close(self) -> None:
        self._stop_listening()
        self._cut()

    def _stop_listening(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _cut(self) -> None:
        pairs, self._pairs = self._pairs, []
        for end in pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
