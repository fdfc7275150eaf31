"""The MLflow that the benchmarks deliver into: a SQLite file, or a real server in front of one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import psutil

import tracelet

__all__ = ["black_hole", "client", "free_port", "server", "shipping", "sqlite", "tracked"]

PROJECT = "benchmark"


def sqlite(name: str = "mlflow.db") -> str:
    """Make a store with its schema and one experiment in it; return its URI."""
    uri = f"sqlite:///{Path.cwd() / name}"
    client(uri).create_experiment(PROJECT)
    return uri


def client(uri: str) -> Any:
    """Return MLflow's own client."""
    from mlflow import MlflowClient

    return MlflowClient(uri)


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def black_hole() -> Iterator[str]:
    """Accept in the kernel's queue and never say a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def server(store: str, *more: str, workers: int = 1, **variables: str) -> Iterator[str]:
    """
    Run ``mlflow server`` in front of ``store``; yields its address.

    Args:
        store: The backend store's URI.
        more: Further arguments.
        workers: How many processes answer.
        variables: Further variables of its environment.
    """
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--artifacts-destination", str(Path.cwd() / "artifacts")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers), *more]
    process = subprocess.Popen(
        command,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{address}/health", process)
        yield address
    finally:
        # The whole group: MLflow's older servers do not end their workers.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"mlflow server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("mlflow server did not start")


def shipping() -> psutil.Process:
    """Return the process that ships for this one."""
    for child in psutil.Process().children(recursive=True):
        if "tracelet.ship.sidecar" in " ".join(child.cmdline()):
            return child
    raise RuntimeError("nobody ships")


@contextmanager
def tracked(uri: str, **config: Any) -> Iterator[Any]:
    """Log what happens inside to MLflow at ``uri``; the block begins when the run is open there."""
    run = tracelet.start_logging(
        project=PROJECT, backend="mlflow", backend_url=uri, config={"silent": True, **config}
    )
    run.remote("mlflow")
    try:
        yield run
    finally:
        tracelet.stop_logging()
