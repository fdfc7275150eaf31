"""
Where the files of a run go, by the address that the store gave the run.

``mlflow-artifacts:`` is the server itself: one PUT for each file, read in pieces as it goes out.
A folder is written to directly, each file under its name only when it is whole. Everything else
(S3, Google, Azure, DBFS, plug-ins) is MLflow's own client's business.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import inspect
import mimetypes
import os
import shutil
import warnings
from pathlib import Path
from typing import IO, Any, Iterator, Optional, Protocol, Union
from urllib.parse import quote, unquote, urlsplit

from tracelet._imports import load
from tracelet.backends.mlflow import answers, uri
from tracelet.backends.mlflow.http import Connection
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.backends.mlflow.uri import StoreKind
from tracelet.errors import BackendError, ConfigError, RejectedError, RetryableError

__all__ = ["SERVER_STORES", "SERVICE", "Artifacts", "Source", "artifacts_at", "require_shared"]

#: The bytes themselves, or the file that holds them.
Source = Union[bytes, Path]

#: A file where a folder should be or the reverse, or a name that the disk does not take.
_IMPOSSIBLE = frozenset(
    {
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.ENAMETOOLONG,
        errno.EINVAL,
    }
)

SERVICE = "/api/2.0/mlflow-artifacts/artifacts"

#: What to do about a server that leaves its artifacts to its clients.
SERVER_STORES = "start the server with --artifacts-destination instead of --default-artifact-root"


class Artifacts(Protocol):
    """The files of one run."""

    def put(self, path: str, source: Source) -> None:
        """
        Store a file; the same path again replaces it.

        Args:
            path: POSIX, relative to the run's own folder.
            source: What is in it.

        Raises:
            RetryableError: Try again later.
            RejectedError: Never under this path.
            ConfigError: A person has to change something first.
        """

    def close(self) -> None:
        """Let go of connections."""


def artifacts_at(
    address: str, store_url: str, connection: Optional[Connection], options: MlflowOptions
) -> Artifacts:
    """
    Return the way to the artifacts of a run.

    Args:
        address: The run's artifact URI.
        store_url: The tracking URI.
        connection: The connection to the tracking server, if it is one.
        options: Credentials and time limits.
    """
    parts = urlsplit(address)
    if parts.scheme == "mlflow-artifacts":
        return _served(address, store_url, connection, options)
    if parts.scheme in ("http", "https") and SERVICE in parts.path:
        base, _, tail = address.partition(SERVICE)
        return ServerArtifacts(Connection(base, options), tail.strip("/"), own=True)
    folder = uri.artifact_folder(address)
    if folder is not None:
        served = uri.kind_of(store_url) is StoreKind.SERVER
        return FolderArtifacts(folder, server=store_url if served else None)
    return ClientArtifacts(address, store_url)


class ServerArtifacts:
    """Files that a tracking server takes in and stores wherever it stores them."""

    def __init__(self, connection: Connection, root: str, *, own: bool = False) -> None:
        self._connection = connection
        self._root = root
        self._own = own

    def put(self, path: str, source: Source) -> None:
        target = quote("/".join(part for part in (self._root, path) if part))
        mime = mimetypes.guess_type(path)[0] or "application/octet-stream"
        with _opened(source) as data:
            self._connection.put(f"{SERVICE}/{target}", data, mime)

    def close(self) -> None:
        if self._own:
            self._connection.close()


class FolderArtifacts:
    """
    Files in a folder of this machine.

    Args:
        root: The folder.
        server: The address of the server that named it, if one did.
    """

    def __init__(self, root: Path, *, server: Optional[str] = None) -> None:
        self._root = root
        self._server = server

    def put(self, path: str, source: Source) -> None:
        if self._server is not None:
            # Not when the run is opened: points do not need the folder, and arrive without it.
            # <root>/<experiment>/<run>/artifacts
            parents = self._root.parents
            require_shared(parents[2] if len(parents) > 2 else self._root, self._server)
        target = self._root / path
        # Not beside the target: a foreign name among the images hides them all while it is there.
        # The same name every time, so that a crash leaves one such file at most.
        digest = hashlib.sha256(path.encode()).hexdigest()[:16]
        partial = self._root.parent / f".tracelet-{digest}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, Path):
                shutil.copyfile(source, partial)
            else:
                partial.write_bytes(source)
            partial.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise _of_os(error, path) from error

    def close(self) -> None:
        return


class NoArtifacts:
    """A place that cannot be reached from here; points do not need it, and arrive all the same."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def put(self, path: str, source: Source) -> None:
        raise ConfigError(self._reason)

    def close(self) -> None:
        return


class ClientArtifacts:
    """Files in a store that only MLflow's own client can reach."""

    def __init__(self, address: str, store_url: str) -> None:
        self._address = address
        self._store_url = store_url
        self._repository: Any = None

    def put(self, path: str, source: Source) -> None:
        folder, _, name = path.rpartition("/")
        with _named(source, name) as file, _translated(self._address, path):
            self._open().log_artifact(str(file), folder or None)

    def close(self) -> None:
        return

    def _open(self) -> Any:
        if self._repository is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                load("mlflow.store.artifact.artifact_repository_registry")
                from mlflow.store.artifact.artifact_repository_registry import (
                    get_artifact_repository,
                )
            # 3.1.1 takes the address alone; later versions also whose artifacts these are.
            named = "tracking_uri" in inspect.signature(get_artifact_repository).parameters
            more = {"tracking_uri": self._store_url} if named else {}
            self._repository = get_artifact_repository(self._address, **more)
        return self._repository


def _served(
    address: str, store_url: str, connection: Optional[Connection], options: MlflowOptions
) -> Artifacts:
    parts = urlsplit(address)
    root = unquote(parts.path).strip("/")
    kind = uri.kind_of(store_url)
    if kind is StoreKind.SERVER:
        if parts.netloc and parts.netloc != urlsplit(store_url).netloc:
            other = f"{urlsplit(store_url).scheme}://{parts.netloc}"
            return ServerArtifacts(Connection(other, options), root, own=True)
        if connection is None:
            # Written out, because MLflow 3.1 would ask its global setting for the server.
            return ClientArtifacts(f"{store_url}{SERVICE}/{root}", store_url)
        return ServerArtifacts(connection, root)
    if kind in (StoreKind.SQLITE, StoreKind.FOLDER):
        # The experiment was made through a server that has this store. Its default place for
        # artifacts is the folder `mlartifacts` beside the store, where its page looks for them.
        return FolderArtifacts(uri.local(store_url).parent / "mlartifacts" / root)
    return NoArtifacts(
        "The artifacts of this experiment are kept by a tracking server: use its address "
        "(http://…) instead of the database's."
    )


def require_shared(root: Path, store_url: str) -> None:
    """
    Refuse to write where no page will ever look.

    A server started with ``--default-artifact-root /some/folder`` tells its *clients* to write
    there. That is right on one machine and on a shared disk, and a loss everywhere else.

    Args:
        root: The folder that holds those of the experiments.
        store_url: The tracking URI.

    Raises:
        ConfigError: The folder is not there, and the server is on another machine.
    """
    host = urlsplit(store_url).hostname or ""
    if host in ("localhost", "127.0.0.1", "::1", "0.0.0.0"):  # noqa: S104 - compared, not bound
        return
    if not root.is_dir():
        raise ConfigError(
            f"The MLflow server wants artifacts in the folder {root} of this machine, which is "
            "not there",
            SERVER_STORES,
        )


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Union[bytes, IO[bytes]]]:
    if isinstance(source, bytes):
        yield source
        return
    try:
        file = open(source, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise _of_os(error, str(source)) from error
    with file:
        # `requests` sends an empty stream in chunks, which some servers do not take.
        yield file if os.fstat(file.fileno()).st_size else b""


@contextlib.contextmanager
def _named(source: Source, name: str) -> Iterator[Path]:
    """Give the file its final name: MLflow's client takes it from the local path."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="tracelet-") as folder:
        path = Path(folder) / name
        if isinstance(source, bytes):
            path.write_bytes(source)
        else:
            try:
                path.symlink_to(source.resolve())
            except OSError:  # Windows, mostly
                shutil.copyfile(source, path)
        yield path


@contextlib.contextmanager
def _translated(address: str, path: str) -> Iterator[None]:
    where = f"{urlsplit(address).scheme}://{urlsplit(address).hostname or ''}"
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"Artifacts go to {where}, which needs the package {error.name!r} here."
        ) from error
    except OSError as error:
        raise RetryableError(f"{path} could not be stored at {where}: {error}") from error
    except _cloud_errors() as error:
        text = f"{path} could not be stored at {where}: {error}"
        raise (ConfigError(text) if _refused(error) else RetryableError(text)) from error


def _cloud_errors() -> tuple[type[Exception], ...]:
    """Return the parents of what clients raise."""
    names = (
        ("mlflow.exceptions", "MlflowException"),
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("boto3.exceptions", "Boto3Error"),
        ("google.api_core.exceptions", "GoogleAPIError"),
        ("google.auth.exceptions", "GoogleAuthError"),
        ("azure.core.exceptions", "AzureError"),
    )
    return answers.loaded(names)


def _refused(error: Exception) -> bool:
    """Return True for missing or refused credentials and missing buckets."""
    words = (
        "credentials", "accessdenied", "access denied", "invalidaccesskeyid", "forbidden",
        "signaturedoesnotmatch", "nosuchbucket", "unauthorized", "permission",
    )  # fmt: skip
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in words)


def _of_os(error: OSError, path: str) -> BackendError:
    if error.errno in _IMPOSSIBLE:
        return RejectedError((), f"{path} cannot be a file there: {error.strerror}")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ConfigError(f"No right to write {error.filename or path}: {error.strerror}")
    if error.errno == errno.ENOENT:
        return RejectedError((), f"{error.filename or path} is gone")
    return RetryableError(f"{path} could not be stored: {error}")
