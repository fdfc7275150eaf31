"""How long `tracelet doctor` takes, from the shell's point of view, and what it says."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Iterator, Mapping, NamedTuple, Optional
from urllib.parse import urlsplit

from benchmarks.measure import spread
from benchmarks.report import run, table
from benchmarks.stores import black_hole, free_port, server, sqlite

LIMIT_S = 2.0
PASSWORD = "correct-horse-battery"


class Case(NamedTuple):
    """A far end, where the command is given, and a word that the right remedy has."""

    name: str
    url: str
    remedy: str
    folder: Optional[Path] = None
    variables: Mapping[str, str] = {}


def measure(quick: bool) -> None:
    """Run the whole command, interpreter and all, several times for each far end."""
    times = 3 if quick else 9
    rows = []
    with contextlib.ExitStack() as stack:
        for case in _cases(stack):
            seconds, answers = zip(*(_examined(case) for _ in range(times)))
            slowest = max(seconds)
            remedy = answers[-1] or "-"
            right = case.remedy in remedy if case.remedy else not answers[-1]
            rows.append(
                [
                    case.name,
                    spread(seconds).text(2),
                    f"{slowest:.2f}",
                    "yes" if slowest < LIMIT_S else "NO",
                    "yes" if right else f"NO: {remedy}",
                ]
            )
            print(f"{case.name}: {rows[-1][1]} s, {remedy}", flush=True)
    print()
    table(["far end", "whole command, s", "slowest", f"< {LIMIT_S:.0f}", "right remedy"], rows)


def _cases(stack: contextlib.ExitStack) -> Iterator[Case]:
    yield Case("fresh folder", "", "")
    yield Case("SQLite", sqlite(), "")
    yield Case("nothing listens", f"http://127.0.0.1:{free_port()}", "start the server")
    yield Case("hanging port", stack.enter_context(black_hole()), "what listens there")
    address = stack.enter_context(
        server(
            f"sqlite:///{Path.cwd() / 'gated.db'}",
            *("--app-name", "basic-auth"),
            MLFLOW_FLASK_SERVER_SECRET_KEY="any",
            MLFLOW_AUTH_ADMIN_PASSWORD=PASSWORD,
        )
    )
    known = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    wrong = {**known, "MLFLOW_TRACKING_PASSWORD": "wrong"}
    yield Case("server with a login", address, "", variables=known)
    yield Case("wrong password", address, "MLFLOW_TRACKING_PASSWORD", variables=wrong)
    other = stack.enter_context(_by_another_name(address))
    yield Case("wrong Host header", other, "--allowed-hosts", variables=known)
    yield Case("wrong prefix", f"{address}/wrong", "write 'http", variables=known)
    for name, option, remedy in (
        ("read-only folder", "ro", "make it writable"),
        ("full disk", "size=64k", "make room"),
    ):
        folder = stack.enter_context(_mounted(option))
        if folder is None:
            print(f"{name}: no file system can be mounted here", flush=True)
            continue
        yield Case(name, "", remedy, folder)


def _examined(case: Case) -> tuple[float, str]:
    """Return how long it took, and the remedy for the store's problem, if there is one."""
    command = [sys.executable, "-m", "tracelet", "doctor", "--json"]
    command += ["--backend-url", case.url] if case.url else []
    begin = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=case.folder,
        env={**os.environ, **case.variables},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begin
    problems = [
        each
        for each in json.loads(done.stdout)["findings"]
        if each["level"] == "problem" and each["area"] == "mlflow"
    ]
    return seconds, problems[0]["remedy"] if problems else ""


@contextmanager
def _by_another_name(address: str) -> Iterator[str]:
    """Ask the server at ``address`` in the name of a host that it does not know."""

    class Way(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
            with contextlib.closing(connection):
                headers = {**dict(self.headers.items()), "Host": "mlflow-server:5000"}
                connection.request("GET", self.path, headers=headers)
                answer = connection.getresponse()
                body = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    way = ThreadingHTTPServer(("127.0.0.1", 0), Way)
    threading.Thread(target=way.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{way.server_port}"
    finally:
        way.shutdown()
        way.server_close()


@contextmanager
def _mounted(option: str) -> Iterator[Optional[Path]]:
    """Mount a file system of its own and fill it, as far as it can be written."""
    folder = Path.cwd() / f"disk-{option.partition('=')[0]}"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", option, "tracelet", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        yield None
        return
    try:
        with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


if __name__ == "__main__":
    run("Figure 6: doctor", measure)
