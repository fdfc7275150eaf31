"""
Requests to a tracking server: a few sessions, time limits, and no retries of its own.

A request that could not be made is an outage, unless the certificate is to blame. The shipper
decides when to try again, so nothing here waits and nothing is repeated.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import socket
import threading
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Iterator, Mapping, Union

from tracelet._imports import load
from tracelet.backends.mlflow import answers, credentials, uri
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.backends.owed import Owed
from tracelet.backends.replies import reason_of
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

#: No answer to a call is larger, and none takes longer from the first byte that is sent to the last
#: one that comes (or twice the limit of silence): one that comes by the byte never ends.
_LARGEST = 64 * 2**20
_LONGEST_S = 60.0
_PIECE = 65_536

#: How much longer a server may be silent about a file that it has, until that is remarkable.
_STORING_S = 3.0

#: How long a sign of life is waited for.
_SIGN_S = 2.0

#: After so many requests a connection is made anew. A server's worker that is quicker to answer
#: when several connections are opened at once gets them all, and keeps them while the others idle;
#: one at a time they go to whoever has nothing to do.
_REQUESTS_PER_CONNECTION = 5


class Limits:
    """How long a server may take to accept a connection, to be silent afterwards, and in all."""

    def __init__(self, connect_s: float, silence_s: float, whole_s: float = _LONGEST_S) -> None:
        self.connect_s = connect_s
        self.silence_s = silence_s
        self._whole_s = whole_s
        self._timeouts = 0

    def now(self) -> tuple[float, float]:
        """Return the two limits for the next request, in seconds."""
        patience = self.silence_s * 2 ** min(self._timeouts, 6)
        return self.connect_s, min(patience, max(_MOST_PATIENCE_S, self.silence_s))

    def whole(self) -> float:
        """Return how long the next request may take from its beginning to its end, in seconds."""
        return max(self._whole_s, 2 * self.now()[1])

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
        #: Sessions that nobody uses just now, each with its sockets and number of requests.
        self._idle: list[tuple[requests.Session, _Sockets, int]] = []
        self._closings = 0
        self._owed_calls, self._owed_uploads = Owed(), Owed()

    def silence(self) -> float:
        """Return for how many seconds the server has owed an answer; 0: it owes none."""
        # To store a file that has arrived takes longer than to write a line.
        return max(self._owed_calls.silence(), self._owed_uploads.silence() - _STORING_S)

    def ping(self, path: str, query: Mapping[str, str]) -> None:
        """Ask for something small; what does not come in no time does not come."""
        calls = self._calls
        limits = Limits(min(_SIGN_S, calls.connect_s), min(_SIGN_S, calls.silence_s), _SIGN_S)
        self._json(path, "GET", limits, params=query)

    def get(self, path: str, query: Mapping[str, str]) -> Any:
        """Return the JSON that ``path`` answers with."""
        return self._json(path, "GET", self._calls, params=query)

    def text(self, path: str) -> str:
        """Return the text that ``path`` answers with."""
        return self._send(path, "GET", self._calls)[0]

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
        for session, _, _ in idle:
            session.close()

    def _json(self, path: str, method: str, limits: Limits, **more: Any) -> Any:
        text, answered = self._send(path, method, limits, **more)
        if not text.strip():
            # MLflow says `{}` when it has nothing to say; an answer that broke off is no yes.
            raise RetryableError(
                f"{self.url} answered without a word",
                remedy="check what stands before the server: it let an answer get lost",
            )
        try:
            found = answers.parsed(text)
        except ValueError:
            raise _no_mlflow(self.url, answered) from None
        if not isinstance(found, dict):
            raise _no_mlflow(self.url, answered)
        return found

    def _send(self, path: str, method: str, limits: Limits, **more: Any) -> tuple[str, str]:
        """Return the text of the answer, and the address that it came from."""
        if limits is self._calls:
            owed: Owed = self._owed_calls
        elif limits is self._uploads:
            owed = self._owed_uploads
            if hasattr(more["data"], "read"):
                more["data"] = _Noticed(more["data"], owed)
        else:
            return self._exchange(path, method, limits, **more)
        with owed.one():
            return self._exchange(path, method, limits, **more)

    def _exchange(self, path: str, method: str, limits: Limits, **more: Any) -> tuple[str, str]:
        requests = self._requests
        headers = {**self._headers, **more.pop("headers", {})}
        try:
            with self._session() as (session, sockets):
                watch = _Watch(sockets, limits.whole()) if limits is not self._uploads else None
                with watch or contextlib.nullcontext():
                    response = session.request(
                        method,
                        self.url + path,
                        headers=headers,
                        timeout=limits.now(),
                        verify=self._verify,
                        cert=self._cert,
                        stream=True,
                        **more,
                    )
                    text = _text(response)
                if sockets.cut:
                    limits.silent()
                    raise RetryableError(
                        f"{self.url} did not come to the end of its answer",
                        remedy="check what stands before the server, and the way to it",
                    )
        except requests.Timeout as error:
            limits.silent()
            raise RetryableError(
                f"{self.url} did not answer in time ({reason_of(error)})", remedy=_unheard(error)
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
            raise ConfigError(f"{self.url} cannot be asked: {reason_of(error)}") from error
        except requests.RequestException as error:
            if "timed out" in str(error).lower():
                # In the middle of an answer, which requests does not call a time-out.
                limits.silent()
            raise RetryableError(
                f"{self.url} cannot be reached ({reason_of(error)})", remedy=_unheard(error)
            ) from error
        except OSError as error:
            if "TLS" not in str(error):
                raise RetryableError(f"{self.url} cannot be reached ({error})") from error
            # The file of a certificate is not there; requests says so with a plain OSError.
            raise ConfigError(f"{self.url} cannot be asked: {error}") from error
        except _nonsense() as error:
            raise RetryableError(
                f"{self.url} answered with something that is not HTTP ({reason_of(error)})",
                remedy=_unheard(error),
            ) from error
        limits.answered()
        if any(former.status_code in (301, 302, 303) for former in response.history):
            raise _no_mlflow(self.url, response.url)
        if response.status_code != 200:
            sent = self._headers.get("Authorization", "").partition(" ")[0]
            raise answers.of_response(response.status_code, response.headers, text, path, sent=sent)
        return text, response.url

    @contextlib.contextmanager
    def _session(self) -> Iterator[tuple[requests.Session, _Sockets]]:
        """Give a session to one thread for one request."""
        with self._lock:
            session, sockets, count = self._idle.pop() if self._idle else (None, _Sockets(), 0)
            closings = self._closings
        if session is None:
            session = self._requests.Session()
            adapter = _adapter()()
            session.mount("http://", adapter)
            session.mount("https://", adapter)
        _here.sockets = sockets
        try:
            yield session, sockets
        finally:
            _here.sockets = None
            count += 1
            with self._lock:
                kept = closings == self._closings
                if kept and count < _REQUESTS_PER_CONNECTION and not sockets.cut:
                    self._idle.append((session, sockets, count))
                    session = None
            if session is not None:
                session.close()


class _Noticed:
    """A file on its way out: every piece that is asked for shows that the one before is taken."""

    def __init__(self, file: IO[bytes], owed: Owed) -> None:
        self._file = file
        self._owed = owed

    def read(self, size: int = -1) -> bytes:
        """Return the next piece."""
        self._owed.heard()
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Sockets:
    """The sockets of one session; another thread can break them off."""

    def __init__(self) -> None:
        self._all: list[weakref.ref[Any]] = []
        self.cut = False

    def add(self, sock: Any) -> None:
        """Take note of a connection that was made."""
        self._all = [each for each in self._all if each() is not None]
        self._all.append(weakref.ref(sock))
        if self.cut:
            self.break_off()

    def break_off(self) -> None:
        """End whatever is said there, in both directions."""
        self.cut = True
        for each in self._all:
            sock = each()
            if sock is not None:
                with contextlib.suppress(OSError, ValueError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Watch:
    """
    Breaks off what takes too long in all.

    The limits of ``requests`` are for each piece: an answer of one byte every few seconds keeps
    all of them, and never ends.
    """

    def __init__(self, sockets: _Sockets, seconds: float) -> None:
        self._timer = threading.Timer(seconds, sockets.break_off)
        self._timer.daemon = True
        self._timer.name = "tracelet-mlflow-watch"

    def __enter__(self) -> None:
        # No thread can be started when the interpreter is about to end.
        with contextlib.suppress(RuntimeError):
            self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._timer.ident is not None:
            self._timer.join(1.0)


#: The sockets of the session that this thread uses just now.
_here = threading.local()


@functools.cache
def _adapter() -> Any:
    """Return the class of what makes the connections of a session, and takes note of each."""
    from requests.adapters import HTTPAdapter
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    def noting(pool: Any) -> Any:
        class Noting(pool.ConnectionCls):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                sockets = getattr(_here, "sockets", None)
                if sockets is not None and self.sock is not None:
                    sockets.add(self.sock)

        return type(pool.__name__, (pool,), {"ConnectionCls": Noting})

    kinds = {"http": noting(HTTPConnectionPool), "https": noting(HTTPSConnectionPool)}

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
            super().init_poolmanager(*arguments, **named)
            self.poolmanager.pool_classes_by_scheme = kinds

        def proxy_manager_for(self, *arguments: Any, **named: Any) -> Any:
            manager = super().proxy_manager_for(*arguments, **named)
            manager.pool_classes_by_scheme = kinds
            return manager

    return Adapter


def _text(response: requests.Response) -> str:
    """Return the body, whatever it says about its alphabet: all that MLflow says is UTF-8."""
    pieces, size = [], 0
    for piece in response.iter_content(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST:
            response.close()
            break
    return b"".join(pieces).decode("utf-8", "replace")


def _nonsense() -> tuple[type[Exception], ...]:
    """Return what comes through `requests` when an answer is none."""
    from urllib3.exceptions import HTTPError

    return HTTPError, http.client.HTTPException, ValueError


def _requests() -> Any:
    try:
        load("requests")
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


def _tls(url: str, error: BaseException) -> BackendError:
    reason, low = reason_of(error), str(error).lower()
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
