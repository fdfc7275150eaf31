"""The MLflow backend keeps the contract where teams run MLflow: PostgreSQL, S3, passwords."""

from __future__ import annotations

from typing import Any, ClassVar, Iterator

import pytest
from tests.contract.test_mlflow import TestServer as _OnServer

from services.mlflow_server import FaultyWay, Server, serving
from services.s3 import BUCKET
from services.stack import Stack, Storage, mlflow_stack, storage

__all__ = ["mlflow_stack", "storage"]

pytestmark = pytest.mark.figure(3)

ADMIN, PASSWORD = "admin", "a-password-of-twenty-characters"


class _OnStack(_OnServer):
    """A way that can be broken, in front of some server."""

    def reached(self, server: Server) -> Iterator[None]:
        self.direct = server.url
        self.way = FaultyWay(self.direct)
        self.url = self.way.url
        yield
        self.way.close()


@pytest.mark.stores
class TestServerWithPostgresAndS3(_OnStack):
    """Two workers; artifacts go through the server."""

    @pytest.fixture(autouse=True)
    def _store(self, _place: None, mlflow_stack: Stack) -> Iterator[None]:
        yield from self.reached(mlflow_stack.server)


@pytest.mark.stores
class TestServerWithPostgresAndDirectS3(_OnStack):
    """Clients bring the artifacts to S3 themselves."""

    @pytest.fixture(autouse=True)
    def _store(
        self, _place: None, mlflow_stack: Stack, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[None]:
        for name, value in mlflow_stack.objects.environment.items():
            monkeypatch.setenv(name, value)
        yield from self.reached(mlflow_stack.server)

    def given(self) -> dict[str, Any]:
        return {**super().given(), "artifact_location": f"s3://{BUCKET}/direct"}


@pytest.fixture(scope="module")
def guarded_server(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants a password; it remembers for a minute that one was right."""
    folder = tmp_path_factory.mktemp("guarded")
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = sqlite:///{folder}/auth.db\n"
        f"admin_username = {ADMIN}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "auth_cache_ttl_seconds = 60\n"
    )
    with serving(
        folder,
        store=storage.database.url(),
        artifacts=f"s3://{BUCKET}/guarded",
        more=["--app-name", "basic-auth"],
        environment={
            **storage.objects.environment,
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "nobody-knows",
        },
    ) as server:
        yield server


@pytest.mark.stores
class TestServerWithPasswords(_OnStack):
    """MLflow's own basic auth."""

    hang_limit_s: ClassVar[float] = 20.0

    @pytest.fixture(autouse=True)
    def _store(
        self, _place: None, guarded_server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[None]:
        # For the reader; the backend is given them as options.
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        yield from self.reached(guarded_server)

    def given(self) -> dict[str, Any]:
        return {**super().given(), "username": ADMIN, "password": PASSWORD}
