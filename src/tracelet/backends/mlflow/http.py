"""
Requests to a tracking server: a few sessions, time limits, and no retries of its own.

A request that could not be made is an outage, unless the certificate is to blame. The shipper
decides when to try again, so nothing here waits and nothing is repeated.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Iterator, Mapping, Optional, Union

from tracelet.backends.mlflow import answers, credentials, uri
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.errors import BackendError, ConfigError, RetryableError

if TYPE_CHECKING:
    import requests

__all__ = ["NO_REQUESTS", "Connection", "Limits"]

#: What is missing, and the remedy.
NO_REQUESTS = (
    "A tracking server needs the package 'requests'",
    "pip install 'tracelet[mlflow-remote]'",
)

#: After a time-out the same request may take twice as long, up to this many seconds: a server
#: that is merely slow would otherwise be asked for the same thing for ever.
_MOST_PATIENCE_S = 60.0

#: After so many requests a connection is made anew. A server's worker that is quicker to answer
#: when several connections are opened at once gets them all, and keeps them while the others idle;
#: one at a time they go to whoever has nothing to do.
_REQUESTS_PER_CONNECTION = 5


class Limits:
    """How long a server may take to accept a connection, and to be silent afterwards."""

    def __init__(self, connect_s: float, silence_s: float) -> None:
        self.connect_s = connect_s
        self.silence_s = silence_s
        self._timeouts = 0

    def now(self) -> tuple[float, float]:
        """Return the two limits for the next request, in seconds."""
        patience = self.silence_s * 2 ** min(self._timeouts, 6)
        return self.connect_s, min(patience, max(_MOST_PATIENCE_S, self.silence_s))

    def answered(self) -> None:
        """The server answered in time."""
        self._timeouts = 0

    def silent(self) -> None:
        """The server took too long."""
        self._timeouts += 1


class Connection:
    """
    The way to one server.

    Args:
        url: Its address, without a slash at the end.
        options: Credentials, certificates, time limits.
    """

    def __init__(self, url: str, options: MlflowOptions) -> None:
        self.url = url
        self._requests = _requests()
        self._calls = Limits(options.connect_timeout_s, options.timeout_s)
        # The second limit holds for each piece that is sent, too; a connection that accepts
        # nothing for as long is as dead as one that says nothing.
        self._uploads = Limits(options.upload_timeout_s, options.upload_timeout_s)
        self._headers = {"User-Agent": "tracelet"}
        authorization = credentials.effective(options, os.environ, Path.home()).header()
        if authorization is not None:
            self._headers["Authorization"] = authorization
        if options.workspace:
            self._headers["X-MLFLOW-WORKSPACE"] = options.workspace
        self._verify: Union[bool, str] = not options.insecure_tls
        if options.server_cert_path is not None:
            self._verify = options.server_cert_path
        self._cert = options.client_cert_path
        self._lock = threading.Lock()
        #: Sessions that nobody uses just now, each with the number of its requests.
        self._idle: list[tuple[requests.Session, int]] = []
        self._closings = 0

    def get(self, path: str, query: Mapping[str, str]) -> Any:
        """Return the JSON that ``path`` answers with."""
        return self._json(path, "GET", self._calls, params=query)

    def text(self, path: str) -> str:
        """Return the text that ``path`` answers with."""
        return self._send(path, "GET", self._calls).text

    def post(self, path: str, body: Union[bytes, Mapping[str, Any]]) -> Any:
        """Send JSON, ready made or not, and return the JSON of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        return self._json(path, "POST", self._calls, data=data, headers=headers)

    def put(self, path: str, data: Union[bytes, IO[bytes]], mime: str) -> None:
        """Send a file; a stream is read in small pieces as it goes out."""
        self._send(path, "PUT", self._uploads, data=data, headers={"Content-Type": mime})

    def close(self) -> None:
        """Close every connection; the next request opens a new one."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._closings += 1
        for session, _ in idle:
            session.close()

    def _json(self, path: str, method: str, limits: Limits, **more: Any) -> Any:
        response = self._send(path, method, limits, **more)
        text = response.text
        if not text.strip():
            return {}
        try:
            return json.loads(text)
        except ValueError:
            raise _no_mlflow(self.url, response.url) from None

    def _send(self, path: str, method: str, limits: Limits, **more: Any) -> requests.Response:
        requests = self._requests
        headers = {**self._headers, **more.pop("headers", {})}
        try:
            with self._session() as session:
                response = session.request(
                    method,
                    self.url + path,
                    headers=headers,
                    timeout=limits.now(),
                    verify=self._verify,
                    cert=self._cert,
                    **more,
                )
        except requests.Timeout as error:
            limits.silent()
            raise RetryableError(
                f"{self.url} did not answer in time ({_reason(error)})", remedy=_unheard(error)
            ) from error
        except requests.exceptions.SSLError as error:
            raise _tls(self.url, error) from error
        except requests.exceptions.InvalidHeader:
            # Without its cause, which shows the value.
            raise ConfigError(
                "The credentials for MLflow hold a character that cannot be sent, such as a line "
                "break",
                "check the password or token",
            ) from None
        except requests.exceptions.InvalidURL as error:
            raise ConfigError(f"{self.url} cannot be asked: {_reason(error)}") from error
        except requests.RequestException as error:
            raise RetryableError(
                f"{self.url} cannot be reached ({_reason(error)})", remedy=_unheard(error)
            ) from error
        except OSError as error:
            if "TLS" not in str(error):
                raise
            # The file of a certificate is not there; requests says so with a plain OSError.
            raise ConfigError(f"{self.url} cannot be asked: {error}") from error
        limits.answered()
        if any(former.status_code in (301, 302, 303) for former in response.history):
            raise _no_mlflow(self.url, response.url)
        if response.status_code != 200:
            sent = self._headers.get("Authorization", "").partition(" ")[0]
            raise answers.of_response(
                response.status_code, response.headers, response.text, path, sent=sent
            )
        return response

    @contextlib.contextmanager
    def _session(self) -> Iterator[requests.Session]:
        """Give a session to one thread for one request."""
        with self._lock:
            session, count = self._idle.pop() if self._idle else (self._requests.Session(), 0)
            closings = self._closings
        try:
            yield session
        finally:
            count += 1
            with self._lock:
                kept = closings == self._closings
                if kept and count < _REQUESTS_PER_CONNECTION:
                    self._idle.append((session, count))
                    session = None
            if session is not None:
                session.close()


def _requests() -> Any:
    try:
        import requests
    except ImportError as error:
        raise ConfigError(*NO_REQUESTS) from error
    return requests


def _no_mlflow(url: str, answered: str) -> ConfigError:
    if answered.startswith(url.replace("http://", "https://", 1)) and not answered.startswith(url):
        right = url.replace("http://", "https://", 1)
        return ConfigError(f"{url} sends everybody on to {right}", f"write {right!r}")
    where = "" if answered.startswith(url) else f" (it led to {_bare(answered)})"
    return ConfigError(
        f"What answers at {url} is not MLflow's interface{where}",
        "check the path, and whether a login page stands in between",
    )


def _bare(url: str) -> str:
    return uri.without_userinfo(url)[0].partition("?")[0]


def _unheard(error: BaseException) -> str:
    """Return what a person could do about a server that cannot be asked, by what was in the way."""
    low = str(error).lower()
    if "proxy" in low:
        return "check the proxy in HTTP_PROXY or HTTPS_PROXY, and the exceptions in NO_PROXY"
    if any(words in low for words in ("resolve", "getaddrinfo", "name or service")):
        return "check the host's name, and whether it is known in this network (VPN, container)"
    if "refused" in low:
        return "start the server, or check host and port: nothing listens there"
    if "connect timeout" in low or "connecttimeout" in low or "unreachable" in low:
        return "check host and port, and whether a firewall lets this machine through"
    if "timed out" in low:
        return "check what listens there; what takes connections and never answers hangs"
    return "check what listens there: it hung up, or does not speak HTTP"


def _reason(error: BaseException) -> str:
    """Return the innermost reason of a chain of wrapped errors, in one line."""
    inner: Optional[BaseException] = error
    while inner is not None:
        following = getattr(inner, "reason", None)
        if not isinstance(following, BaseException):
            following = next((arg for arg in inner.args if isinstance(arg, BaseException)), None)
        if following is None:
            break
        inner = following
    text = str(inner).split(": ", 1)[-1] or type(inner).__name__
    return " ".join(text.split())[:200]


def _tls(url: str, error: BaseException) -> BackendError:
    reason, low = _reason(error), str(error).lower()
    if "wrong version number" in low or "http request" in low or "record layer" in low:
        return ConfigError(f"{url} does not speak TLS", "write http:// instead of https://")
    if "certificate" not in low:
        return RetryableError(
            f"{url} broke off the TLS handshake ({reason})",
            remedy="check that this port speaks TLS, and what it demands of a client",
        )
    return ConfigError(
        f"The certificate of {url} is not trusted ({reason})",
        "set MLFLOW_TRACKING_SERVER_CERT_PATH to the file of the authority that signed it (or "
        "MLFLOW_TRACKING_INSECURE_TLS=true, to trust whoever answers)",
    )
