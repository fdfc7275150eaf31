"""A real PostgreSQL of our own: nothing of the system's clusters is used or touched."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator, Optional

from benchmarks.stores import free_port

__all__ = ["Postgres", "postgres"]

_SCRIPT = Path(__file__).parents[1] / ".ci" / "postgresql"
#: As in an address that somebody copied out of a manual.
USER, PASSWORD = "user", "password"


class Postgres:
    """
    A server in a folder of its own. It refuses to run as root, and then runs as another user.

    Args:
        programs: Where ``initdb`` and ``postgres`` are.
        folder: Where it keeps its data.
        owner: Whose name it runs under, when it cannot run under ours.
    """

    def __init__(self, programs: Path, folder: Path, owner: Optional[str]) -> None:
        self._programs = programs
        self._folder = folder
        self._as: dict[str, Any] = (
            {} if owner is None else {"user": owner, "group": owner, "extra_groups": []}
        )
        self._process: Optional[subprocess.Popen[bytes]] = None
        self.port = free_port()

    def url(self, database: str = "mlflow") -> str:
        """Return the address as MLflow is given it."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def make(self, *databases: str) -> None:
        """Make the cluster, start it, and make databases in it."""
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        options = ["-A", "scram-sha-256", "--pwfile", str(secret), "-U", USER, "-E", "UTF8"]
        self._run("initdb", "--no-sync", "--no-locale", *options, "-D", str(self._data))
        self.start()
        for database in databases:
            self.create(database)

    def create(self, database: str) -> None:
        """Make a database."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"'.encode())

    def start(self, wait_s: float = 30.0) -> None:
        """Start it, and return when it takes connections."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            # The tests end long before the machine does.
            "fsync": "off",
            "full_page_writes": "off",
        }
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        log = self._folder / "log"
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                start_new_session=True,
                **self._as,
            )
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._takes_connections():
                return
            time.sleep(0.05)
        raise RuntimeError(f"no PostgreSQL:\n{log.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        """Break all connections off and end it, as a restart of the machine does."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait(5)
            self._process = None

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=self._folder,
            timeout=60,
            **self._as,
        )
        assert done.returncode == 0, done.stderr

    def _takes_connections(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@contextlib.contextmanager
def postgres(*databases: str) -> Iterator[Postgres]:
    """Run a PostgreSQL with these databases."""
    found = subprocess.run([str(_SCRIPT)], check=False, capture_output=True, text=True, timeout=280)
    if found.returncode:
        raise RuntimeError(found.stderr.strip())
    owner = _other_user() if os.geteuid() == 0 else None
    # Not below pytest's folders, which nobody else may enter.
    folder = Path(tempfile.mkdtemp(prefix="tracelet-postgres-"))
    server = Postgres(Path(found.stdout.strip()), folder, owner)
    try:
        if owner is not None:
            shutil.chown(folder, owner, owner)
        server.make(*databases)
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _other_user() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
