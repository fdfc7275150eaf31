"""
Can the artifacts of a run be stored, judged by the address that its experiment has for them.

``mlflow-artifacts:`` is the server's business. Everything else is the client's, that is, ours: a
folder, or a cloud store with a package and credentials of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Mapping, Optional, Sequence
from urllib.parse import urlsplit

from tracelet._installed import is_installed
from tracelet.backends.mlflow import uri
from tracelet.backends.mlflow.artifacts import SERVER_STORES, SERVICE, require_shared
from tracelet.backends.mlflow.diagnosis import disk
from tracelet.backends.mlflow.store import Experiment
from tracelet.backends.mlflow.uri import StoreKind
from tracelet.errors import ConfigError
from tracelet.findings import Finding, of_error

__all__ = ["doubt", "location_of", "remarks"]

#: What MLflow's client imports to reach a store, and what to install for it.
_CLIENTS: Mapping[str, tuple[str, str]] = {
    "s3": ("boto3", "boto3"),
    "r2": ("boto3", "boto3"),
    "gs": ("google.cloud.storage", "google-cloud-storage"),
    "wasbs": ("azure.storage.blob", "azure-storage-blob"),
    "abfss": ("azure.storage.filedatalake", "azure-storage-file-datalake"),
    "hdfs": ("pyarrow", "pyarrow"),
    "viewfs": ("pyarrow", "pyarrow"),
    "sftp": ("pysftp", "pysftp"),
    "oss": ("aliyunstoreplugin", "aliyunstoreplugin"),
}
#: Any of these says who we are for S3; so does the role of a machine, which cannot be seen here.
_AWS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def location_of(wanted: Optional[Experiment], newest_first: Sequence[Experiment]) -> Optional[str]:
    """
    Return where the artifacts of a run go, or None where that cannot be known.

    Args:
        wanted: The experiment, if there is one already.
        newest_first: Others of the store. A new one gets the store's own root with its id behind,
            so the newest that looks so tells the root of today.
    """
    if wanted is not None:
        return wanted.location or None
    for each in newest_first:
        root, slash, last = each.location.rstrip("/").rpartition("/")
        if slash and last == each.id:
            return f"{root}/<id>"
    return None


def doubt(location: str, url: str) -> Optional[Finding]:
    """
    Return what will go wrong with artifacts, or None.

    Args:
        location: Where the experiment keeps them.
        url: The tracking URI.
    """
    parts = urlsplit(location)
    served = uri.kind_of(url) is StoreKind.SERVER
    if parts.scheme == "mlflow-artifacts":
        return _proxied(url)
    if parts.scheme in ("http", "https") and SERVICE in parts.path:
        return None
    folder = uri.artifact_folder(location)
    if folder is not None:
        return _of_client(folder, url) if served else _of_folder(folder)
    return _of_cloud(location, served=served)


def remarks(location: str, url: str, environ: Mapping[str, str], home: Path) -> Iterator[Finding]:
    """
    Say what can be said about artifacts when nothing speaks against them.

    Args:
        location: Where the experiment keeps them.
        url: The tracking URI.
        environ: The environment.
        home: The home directory.
    """
    shown, scheme = _shown(location), urlsplit(location).scheme
    if scheme == "mlflow-artifacts":
        served = uri.kind_of(url) is StoreKind.SERVER
        text = "the server takes them and stores them itself"
        beside = "go to the folder mlartifacts beside the store, as its server's do"
        yield Finding("ok", "artifacts", text if served else beside)
        return
    yield Finding("ok", "artifacts", f"go to {shown}")
    if scheme != "s3":
        return
    if not environ.get("MLFLOW_S3_ENDPOINT_URL") and not environ.get("AWS_ENDPOINT_URL"):
        yield Finding(
            "note",
            "artifacts",
            "MLFLOW_S3_ENDPOINT_URL is not set, so Amazon's own S3 is asked",
            "set it where the store is another one",
        )
    if not any(environ.get(name) for name in _AWS) and not (home / ".aws").is_dir():
        yield Finding(
            "note",
            "artifacts",
            "there are no credentials for S3 here, unless this machine has a role",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )


def _proxied(url: str) -> Optional[Finding]:
    if uri.kind_of(url) is not StoreKind.DATABASE:
        return None
    return Finding(
        "problem",
        "artifacts",
        "artifacts of this experiment are kept by a tracking server, which a database is not",
        "use the server's address (http://…) instead of the database's",
    )


def _of_client(folder: Path, url: str) -> Finding:
    """Judge a folder that a server names to its clients; ``folder`` is the experiment's."""
    try:
        require_shared(folder.parent, url)
        disk.check_folder(folder)
    except ConfigError as error:
        found = f"artifacts cannot be stored: {error.found}"
        return Finding("problem", "artifacts", found, SERVER_STORES)
    return Finding(
        "note",
        "artifacts",
        f"artifacts are written to the folder {folder.parent} of this machine, because the server "
        "says so; its pages show them only where it has the same disk",
        SERVER_STORES,
    )


def _of_folder(folder: Path) -> Optional[Finding]:
    try:
        disk.check_folder(folder)
    except ConfigError as error:
        return of_error(error, "artifacts")
    return None


def _of_cloud(location: str, *, served: bool) -> Optional[Finding]:
    module, package = _CLIENTS.get(urlsplit(location).scheme, ("mlflow", "mlflow"))
    missing = [
        name for what, name in ((module, package), ("mlflow", "mlflow")) if not is_installed(what)
    ]
    if not missing:
        return None
    remedy = f"pip install {' '.join(dict.fromkeys(missing))}"
    return Finding(
        "problem",
        "artifacts",
        f"artifacts go to {_shown(location)} from here, which needs the package {missing[0]!r}",
        f"{remedy}, or {SERVER_STORES}" if served else remedy,
    )


def _shown(location: str) -> str:
    return uri.without_userinfo(location)[0].partition("?")[0]
