"""Figure 8: how long `start_logging` holds the program, also when nobody answers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Iterator

from benchmarks.measure import spread
from benchmarks.report import run, table
from benchmarks.stores import black_hole, free_port

# torch and tracelet are imported already; the clock stops when the call is over, either way.
SCRIPT = """
import os, sys, time
import torch.utils.tensorboard
import tracelet
url = sys.argv[1] or None
key = sys.argv[2] or None
begin = time.perf_counter()
try:
    tracelet.start_logging(
        project="start", backend="mlflow", backend_url=url, api_key=key, config={"silent": True}
    )
    how = "goes on"
except tracelet.TraceletError as error:
    how = f"raises {type(error).__name__}"
print(time.perf_counter() - begin, how, sep="|", flush=True)
os._exit(0)
"""


class _Refusing(BaseHTTPRequestHandler):
    """A server behind a login."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="mlflow"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 (the name is the server's)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def measure(quick: bool) -> None:
    """Start in a fresh process, several times for each kind of far end."""
    times = 3 if quick else 9
    rows = []
    with _login() as login, black_hole() as hole:
        refused = f"http://127.0.0.1:{free_port()}"
        for name, url, key, limit in (
            ("fresh folder, SQLite", "", "", "<= 0.5"),
            ("port refused", refused, "", "<= 0.5"),
            ("port accepts, never answers", hole, "", "<= 1"),
            ("wrong password", login, "wrong", "raises"),
        ):
            seconds, how = zip(*(_started(url, key) for _ in range(times)))
            rows.append([name, spread(seconds).text(2), " / ".join(sorted(set(how))), limit])
            print(f"{name}: {rows[-1][1]} s", flush=True)
    print()
    table(["far end", "start_logging, s", "then", "limit, s"], rows)


def _started(url: str, key: str) -> tuple[float, str]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, url, key],
            cwd=folder,
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds, how = done.stdout.strip().split("|")
        return float(seconds), how


@contextmanager
def _login() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    run("Figure 8: start", measure)
