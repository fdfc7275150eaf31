"""
Requests to ClearML's API server and file server: a token, time limits, no retries of its own.

The vendor's ``Session`` speaks the same protocol, but asks a server that answers 503, or fails a
TLS handshake, again and again without end, gives every larger request 300 seconds whatever it is
told, and checks each event against a schema, which is most of its time. Here the shipper decides
when to try again, so nothing waits and nothing is repeated but a login.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any, BinaryIO, Iterator, Mapping, Union

from tracelet._imports import load
from tracelet.backends.clearml.credentials import Access
from tracelet.backends.owed import Owed
from tracelet.backends.replies import reason_of, retry_after
from tracelet.errors import (
    BackendError,
    ConfigError,
    MissingPackageError,
    RejectedError,
    RetryableError,
    shortened,
)

if TYPE_CHECKING:
    import requests

__all__ = ["API_VERSION", "Connection"]

#: Old enough for every server since 2020, new enough for all that is asked here.
API_VERSION = "v2.13"

_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504, 509})
#: A token is renewed so long before it ends.
_SPARE_S = 60.0
#: How much longer a server may be silent about a file that it has, until that is remarkable.
_STORING_S = 3.0
_BOUNDARY = "tracelet-7d1c2a8e5b9f4036"


class Connection:
    """
    The way to both servers.

    Args:
        access: Addresses and keys.
        connect_s: How long a server may take to accept a connection.
        silence_s: How long it may be silent afterwards.
        upload_s: The same while a file is sent.
    """

    def __init__(self, access: Access, connect_s: float, silence_s: float, upload_s: float) -> None:
        self._access = access
        self._requests = _requests()
        self._limits = (connect_s, silence_s)
        self._upload_limits = (max(connect_s, upload_s), upload_s)
        self._lock = threading.Lock()
        self._login_lock = threading.Lock()
        self._idle: list[requests.Session] = []
        self._closings = 0
        self._token = self._renewing = ""
        self._token_end = 0.0
        self._owed_calls, self._owed_uploads = Owed(), Owed()

    def silence(self) -> float:
        """Return for how many seconds a server has owed an answer; 0: none owes one."""
        return max(self._owed_calls.silence(), self._owed_uploads.silence() - _STORING_S)

    def call(self, action: str, body: Union[bytes, Mapping[str, Any], None] = None) -> Any:
        """
        Return what the API server answers.

        Args:
            action: ``service.action``.
            body: JSON, or lines of JSON that are ready made.

        Raises:
            RejectedError: The server takes this never (HTTP 400).
            ConfigError: Wrong keys, no right, or no ClearML there.
            RetryableError: Not now.
        """
        url = f"{self._access.api}/{API_VERSION}/{action}"
        if isinstance(body, bytes):
            data, mime = body, "application/json-lines"
        else:
            data, mime = json.dumps(body or {}).encode(), "application/json"
        response = self._authorized(
            url, lambda: {"data": data, "headers": {"Content-Type": mime}}, self._limits
        )
        return self._data(response, action)

    def login(self) -> None:
        """Get a token; see ``call`` for what is raised."""
        with self._login_lock:
            self._login()

    def upload(self, path: str, source: Union[bytes, BinaryIO], size: int, mime: str) -> None:
        """
        Store a file on the file server, in place of what has the path.

        Args:
            path: Where, relative to the server; plain characters only.
            source: Its bytes, or a file that is read as they go out.
            size: How many there are.
            mime: Of what kind.
        """

        def body() -> dict[str, Any]:
            if not isinstance(source, bytes):
                source.seek(0)
            headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
            form = _Form(path, source, size, mime, self._owed_uploads)
            return {"data": form, "headers": headers}

        response = self._authorized(self._access.files + "/", body, self._upload_limits)
        if response.status_code != 200:
            raise self._refusal(response, "the upload of a file")

    def close(self) -> None:
        """Close every connection; the next request opens a new one."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._closings += 1
        for session in idle:
            session.close()

    # -- requests ---------------------------------------------------------------------------

    def _authorized(self, url: str, make: Any, limits: tuple[float, float]) -> requests.Response:
        for attempt in (1, 2):
            token = self._fresh_token()
            more = make()
            more["headers"] = {**more["headers"], "Authorization": f"Bearer {token}"}
            response = self._send(url, limits, **more)
            if response.status_code != 401 or attempt == 2:
                return response
            with self._login_lock:
                # Rights may have changed since it was issued.
                if self._token == token:
                    self._token = ""
        raise AssertionError

    def _fresh_token(self) -> str:
        with self._login_lock:
            if not self._token or time.time() > self._token_end - _SPARE_S:
                self._login()
            return self._token

    def _login(self) -> None:
        more: dict[str, Any] = {"headers": {"Content-Type": "application/json"}, "data": b"{}"}
        if self._access.key:
            more["auth"] = (self._access.key.encode(), self._access.secret.encode())
        else:
            # One token is exchanged for the next, as long as it is good.
            more["headers"]["Authorization"] = f"Bearer {self._renewing or self._access.token}"
        response = self._send(f"{self._access.api}/auth.login", self._limits, **more)
        if response.status_code == 401:
            raise ConfigError(
                f"ClearML at {self._access.api} refuses the keys",
                "check CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, or make new ones on its "
                "page Settings → Workspace",
            )
        data = self._data(response, "auth.login")
        token = data.get("token") if isinstance(data, dict) else None
        if not isinstance(token, str) or not token:
            raise self._no_clearml()
        self._token = self._renewing = token
        self._token_end = _end_of(token)

    def _send(self, url: str, limits: tuple[float, float], **more: Any) -> requests.Response:
        requests = self._requests
        uploads = url == self._access.files + "/"
        server = self._access.files if uploads else self._access.api
        owed = self._owed_uploads if uploads else self._owed_calls
        try:
            with owed.one(), self._session() as session:
                return session.post(
                    url, timeout=limits, verify=self._access.verify, allow_redirects=False, **more
                )
        except requests.Timeout as error:
            raise RetryableError(
                f"{server} did not answer in time",
                remedy="check host and port, and what listens there",
            ) from error
        except requests.exceptions.SSLError as error:
            if "certificate" not in str(error).lower():
                raise RetryableError(f"{server} broke off the TLS handshake") from error
            raise ConfigError(
                f"The certificate of {server} is not trusted",
                "set REQUESTS_CA_BUNDLE to the file of the authority that signed it (or "
                "CLEARML_API_HOST_VERIFY_CERT=false, to trust whoever answers)",
            ) from error
        except (
            requests.exceptions.InvalidURL,
            requests.exceptions.MissingSchema,
            requests.exceptions.InvalidSchema,
        ) as error:
            raise ConfigError(
                f"{server} is no address of a server", "write http://… or https://…"
            ) from error
        except requests.RequestException as error:
            raise RetryableError(
                f"{server} cannot be reached ({reason_of(error)})",
                remedy="check host and port, and whether the server runs",
            ) from error

    @contextlib.contextmanager
    def _session(self) -> Iterator[requests.Session]:
        """Give a session to one thread for one request."""
        with self._lock:
            session = self._idle.pop() if self._idle else self._new_session()
            closings = self._closings
        try:
            yield session
        finally:
            with self._lock:
                kept = closings == self._closings
                if kept:
                    self._idle.append(session)
            if not kept:
                session.close()

    def _new_session(self) -> requests.Session:
        session = self._requests.Session()
        # A `.netrc` would replace our header.
        session.auth = _no_netrc
        session.headers.update(
            {
                "User-Agent": "tracelet",
                "X-ClearML-Client": "tracelet",
                "X-ClearML-Worker": "tracelet",
            }
        )
        return session  # type: ignore[no-any-return]

    # -- answers ----------------------------------------------------------------------------

    def _data(self, response: requests.Response, what: str) -> Any:
        if response.status_code != 200:
            raise self._refusal(response, what)
        try:
            return json.loads(response.content)["data"]
        except (ValueError, KeyError, TypeError):
            raise self._no_clearml() from None

    def _refusal(self, response: requests.Response, what: str) -> BackendError:
        status, said = response.status_code, _message(response)
        if status in _BUSY:
            return RetryableError(
                f"{what}: HTTP {status} {said}",
                retry_after=retry_after(response.headers.get("Retry-After")),
            )
        if status == 401:
            return ConfigError(f"ClearML does not let these keys do {what}: {said}")
        if status == 403:
            return ConfigError(
                f"ClearML does not allow {what} ({said})",
                "use the keys of somebody who may write to this project",
            )
        if status in (400, 413):
            return RejectedError((), f"{what}: {said}")
        if status in (301, 302, 303, 307, 308, 404, 405):
            return self._no_clearml()
        return RetryableError(f"{what}: HTTP {status} {said}")

    def _no_clearml(self) -> ConfigError:
        return ConfigError(
            f"What answers at {self._access.api} is not ClearML's API server",
            "give the address of the API (https://api.clear.ml, or port 8008), not of the web page",
        )


class _Form:
    """A multipart form with one file, read piece by piece: a checkpoint need not fit in memory."""

    def __init__(
        self, path: str, source: Union[bytes, BinaryIO], size: int, mime: str, owed: Owed
    ) -> None:
        # The name of the part is the path: that is the file server's protocol.
        head = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{path}"; filename="{path}"\r\n'
            f"Content-Type: {mime}\r\n\r\n"
        )
        tail = f"\r\n--{_BOUNDARY}--\r\n"
        self._parts: list[Union[bytes, BinaryIO]] = [head.encode(), source, tail.encode()]
        self._length = len(head.encode()) + size + len(tail.encode())
        self._left = size
        self._owed = owed

    def __len__(self) -> int:
        return self._length

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes, at most ``count``; none at the end."""
        # Whoever asks for the next piece has brought away the one before.
        self._owed.heard()
        most = count if count > 0 else self._length
        while self._parts:
            part = self._parts[0]
            if isinstance(part, bytes):
                block, rest = part[:most], part[most:]
                self._parts[0] = rest
                if not rest:
                    self._parts.pop(0)
                if block:
                    return block
                continue
            block = part.read(min(most, self._left))
            self._left -= len(block)
            if block:
                return block
            self._parts.pop(0)
        return b""


def _requests() -> Any:
    try:
        load("requests")
        import requests
    except ImportError as error:
        raise MissingPackageError(
            "ClearML's servers are reached with the package 'requests', which is not installed",
            "pip install 'tracelet[clearml]'",
        ) from error
    return requests


def _no_netrc(request: Any) -> Any:
    return request


def _end_of(token: str) -> float:
    """Return when a token ends; far away where it does not say."""
    try:
        middle = token.split(".")[1]
        said = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
        return float(said["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        return float("inf")


def _message(response: requests.Response) -> str:
    try:
        said = json.loads(response.content)["meta"]["result_msg"]
    except (ValueError, KeyError, TypeError):
        said = response.reason or ""
    return shortened(" ".join(str(said).split()), 300)
