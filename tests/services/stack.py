"""What a team runs: PostgreSQL, an S3 endpoint, and a tracking server with two workers on top."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import pytest
from benchmarks.postgres import Postgres, postgres

from services.mlflow_server import Server, ServerProcess
from services.s3 import BUCKET, S3, s3

__all__ = ["Stack", "in_front_of", "mlflow_stack", "storage"]


@dataclass(frozen=True)
class Storage:
    """What lies below a tracking server."""

    database: Postgres
    objects: S3


@dataclass(frozen=True)
class Stack:
    """All of it."""

    server: Server
    process: ServerProcess
    database: Postgres
    objects: S3


@contextlib.contextmanager
def storing(folder: Path) -> Iterator[Storage]:
    """Run database and endpoint; both start at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as ended, ThreadPoolExecutor(1) as pool:
        objects = pool.submit(ended.enter_context, s3(folder))
        database = ended.enter_context(postgres("mlflow"))
        yield Storage(database, objects.result())


@contextlib.contextmanager
def in_front_of(storage: Storage, folder: Path, *more: str, s3_url: str = "") -> Iterator[Stack]:
    """
    Run the tracking server.

    Args:
        storage: What it stands on.
        folder: Its own.
        more: Further arguments.
        s3_url: Another way to the endpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    objects = S3(s3_url) if s3_url else storage.objects
    process = ServerProcess(
        folder,
        [
            *("--host", "127.0.0.1", "--workers", "2"),
            *("--backend-store-uri", storage.database.url()),
            *("--artifacts-destination", f"s3://{BUCKET}/artifacts"),
            *more,
        ],
        environment=objects.environment,
    )
    try:
        process.start()
        yield Stack(Server(process.url, folder), process, storage.database, storage.objects)
    finally:
        process.end()


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """One database and one endpoint for all tests of the session."""
    with storing(tmp_path_factory.mktemp("storage")) as found:
        yield found


@pytest.fixture(scope="session")
def mlflow_stack(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One server on both."""
    with in_front_of(storage, tmp_path_factory.mktemp("stack")) as stack:
        yield stack
