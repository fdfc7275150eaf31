"""What can be said in less than a second about where a run is to go, without Aim's SDK."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Optional
from urllib.parse import urlsplit

from tracelet._installed import is_installed
from tracelet.backends.aim.address import Address
from tracelet.errors import ConfigError, MissingPackageError, RetryableError

__all__ = ["check", "check_package"]

_CONNECT_S = 0.5
_ANSWER_S = 0.95
#: The first version that was tried, and the first that may be another thing altogether.
_OLDEST, _BEYOND = (3, 29, 1), (4,)


def check(address: Address) -> None:
    """
    Say no when it is no.

    Raises:
        MissingPackageError: The package is missing, or is another one.
        ConfigError: It will never work like this.
        RetryableError: There was no answer in time.
    """
    check_package()
    if address.remote:
        _check_server(address)
    else:
        _check_folder(address)


def check_package() -> None:
    """
    See that Aim is there, in a version whose inner parts are known.

    Raises:
        MissingPackageError: It is not.
    """
    if not is_installed("aim"):
        # The registry says so first, and more of it where this Python is too new.
        raise MissingPackageError(
            "The backend 'aim' needs the package 'aim', which is not installed: "
            "pip install 'tracelet[aim]'"
        )
    try:
        found = version("aim")
    except PackageNotFoundError:
        return  # from a source tree: what it can do is seen when the run is opened
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdecimal())
    if not _OLDEST <= numbers < _BEYOND:
        raise MissingPackageError(
            f"The backend 'aim' needs aim>=3.29.1,<4, and {found} is installed: "
            "pip install -U 'tracelet[aim]'"
        )


def _check_folder(address: Address) -> None:
    folder = address.folder
    if folder.exists():
        if not folder.is_dir():
            raise ConfigError(
                f"{str(folder)!r} is no Aim repository but a file",
                "give another folder with backend_url",
            )
        # A repository that one may read, but not write: each run makes files in these.
        places = [folder, *(folder / part for part in ("meta", "seqs", "locks"))]
    else:
        places = [next(path for path in folder.parents if path.exists())]
    for place in places:
        if place.exists() and not _writable(place):
            raise ConfigError(
                f"Nothing can be written into {str(place)!r}",
                "give another folder for the Aim repository with backend_url",
            )


def _writable(place: Path) -> bool:
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _check_server(address: Address) -> None:
    deadline = time.monotonic() + _ANSWER_S
    try:
        status, body = _asked(address, "http", deadline)
        if status in (301, 302, 307, 308, 400, 426):
            # A server behind TLS says so in one of these ways; Aim's client finds out the same way.
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, body = _asked(address, "https", deadline)
    except (OSError, http.client.HTTPException) as error:
        try:
            status, body = _asked(address, "https", deadline)
        except (OSError, http.client.HTTPException):
            raise RetryableError(
                f"no Aim server answers at {address.url}: {str(error) or type(error).__name__}",
                remedy="start it with 'aim server'",
            ) from error
    if status in (401, 403):
        raise ConfigError(f"The Aim server at {address.url} refuses us (HTTP {status}).")
    if status >= 500 or status == 429:
        raise RetryableError(f"the Aim server at {address.url} answers with HTTP {status}")
    if not _is_ours(body):
        raise ConfigError(
            f"{address.url} is no Aim tracking server",
            "give the address of 'aim server' (port 53800 by default), not that of 'aim up'",
        )


def _asked(address: Address, scheme: str, deadline: float) -> tuple[int, bytes]:
    parts = urlsplit(f"{scheme}://{address.host}")
    host = parts.hostname or ""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    connection: http.client.HTTPConnection
    if scheme == "https":
        context = _context(os.environ.get("__AIM_CLIENT_SSL_CERTIFICATES_FILE__"))
        connection = http.client.HTTPSConnection(
            host, parts.port, timeout=min(_CONNECT_S, left), context=context
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=min(_CONNECT_S, left))
    with contextlib.closing(connection):
        connection.connect()
        connection.sock.settimeout(max(0.05, deadline - time.monotonic()))
        connection.request("GET", f"{parts.path}/status/")
        answer = connection.getresponse()
        return answer.status, answer.read(10_000)


def _context(certificates: Optional[str]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates)


def _is_ours(body: bytes) -> bool:
    try:
        said = json.loads(body)
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("status") == "OK"
