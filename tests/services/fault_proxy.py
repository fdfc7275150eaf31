"""
A way to a real tracking server on which anything can go wrong, by route and by time.

It sits between at the level of bytes: connections are refused, reset, held or garbled, answers are
made up, delayed, dripped, or cut off after the server has done what it was asked for.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Callable, Iterator, Optional
from urllib.parse import urlsplit

__all__ = ["Answer", "Fault", "FaultProxy", "Seen"]

HTML = b"<html><head><title>no</title></head><body><h1>no</h1></body></html>"
#: The most connections that are served at once; the kernel keeps the others waiting.
MOST = 128


@dataclass(frozen=True)
class Answer:
    """An answer that no server gave."""

    status: int
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)

    def wire(self) -> bytes:
        """Return its bytes."""
        lines = [f"HTTP/1.1 {self.status} Made Up"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines += [f"Content-Length: {len(self.body)}", "", ""]
        return "\r\n".join(lines).encode("latin1") + self.body


@dataclass
class Fault:
    """
    What goes wrong, and when.

    Args:
        kind: ``answer`` (made up, the server hears nothing), ``hang`` (nothing ever comes),
            ``drip`` (a byte at a time), ``cut`` (the server does it, the answer breaks off
            half-way), ``lost`` (the server does it, no answer comes), ``reset`` (in the middle of
            the request), ``garbage`` (no HTTP at all).
        route: A regular expression that is searched in method and path.
        answer: For ``answer``.
        body: A regular expression that is searched in the request's body, too.
        every: Only each so manieth request that fits.
        times: Only so many.
        pause_s: Between the bytes of ``drip``.
    """

    kind: str
    route: str = ""
    answer: Optional[Answer] = None
    body: str = ""
    every: int = 1
    times: Optional[int] = None
    pause_s: float = 0.5
    #: How many requests fitted, and how many were spoilt.
    fitting: int = field(default=0, init=False)
    spoilt: int = field(default=0, init=False)

    def spoils(self, request: Seen) -> bool:
        """Say whether this request is one of those, and count it."""
        if not re.search(self.route, f"{request.method} {request.path}"):
            return False
        if self.body and not re.search(self.body.encode(), request.body):
            return False
        self.fitting += 1
        if self.fitting % self.every or (self.times is not None and self.spoilt >= self.times):
            return False
        self.spoilt += 1
        return True


@dataclass(frozen=True)
class Seen:
    """A request that came; ``at`` on the monotonic clock."""

    method: str
    path: str
    body: bytes
    at: float


class FaultProxy:
    """
    A port of this machine that leads to a server.

    Args:
        url: The server's address; it may be there later, or no longer.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._listener: Optional[socket.socket] = None
        self._open: set[socket.socket] = set()
        self._slots = threading.BoundedSemaphore(MOST)
        self._closed = threading.Event()
        self._release = threading.Event()
        self.seen: list[Seen] = []
        #: What the server has answered, and when that was sent on.
        self.answered: list[tuple[Seen, float]] = []
        self._port = 0
        self._listen()

    @property
    def url(self) -> str:
        """Where it listens, or would."""
        return f"http://127.0.0.1:{self._port}"

    def requests(self, route: str = "") -> list[Seen]:
        """Return what came so far, of one route."""
        with self._lock:
            return [each for each in self.seen if re.search(route, f"{each.method} {each.path}")]

    @property
    def spoilt(self) -> int:
        """How many requests went wrong, by the faults that there are now."""
        with self._lock:
            return sum(each.spoilt for each in self._faults)

    # -- what goes wrong ------------------------------------------------------------------

    @contextlib.contextmanager
    def fault(self, *faults: Fault) -> Iterator[None]:
        """Misbehave until the context ends; the first fault that fits is it."""
        self.set(*faults)
        try:
            yield
        finally:
            self.set()

    def set(self, *faults: Fault) -> None:
        """Misbehave like this from now on; what hangs is let go of."""
        with self._lock:
            self._faults = list(faults)
            release, self._release = self._release, threading.Event()
        release.set()

    def down(self) -> None:
        """Refuse connections, and break off those that there are."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            found = list(self._open)
        for each in found:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def up(self) -> None:
        """Take connections again."""
        if self._listener is None:
            self._listen()

    def later(self, seconds: float, what: Callable[[], None]) -> threading.Timer:
        """Do something after a while."""
        timer = threading.Timer(seconds, what)
        timer.daemon = True
        timer.start()
        return timer

    def close(self) -> None:
        """End everything."""
        self._closed.set()
        self.set()
        self.down()

    # -- one connection -------------------------------------------------------------------

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(MOST)
        self._port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(
            target=self._accept, args=(listener,), name="fault-proxy", daemon=True
        ).start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._closed.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._slots.acquire()
            with self._lock:
                self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            client.settimeout(120)
            with client, contextlib.suppress(OSError, ValueError):
                reader = client.makefile("rb")
                while self._one(client, reader):
                    pass
        finally:
            with self._lock:
                self._open.discard(client)
            self._slots.release()

    def _one(self, client: socket.socket, reader: object) -> bool:
        """Serve one request; return True when the connection is good for another."""
        head = _head(reader)
        if not head:
            return False
        method, path, _ = head.split(b"\r\n", 1)[0].decode("latin1").split(" ", 2)
        length = _length(head)
        early = self._early(method, path)
        if early is not None:
            # With the larger part of the request unread, the kernel says so.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        body = reader.read(length)  # type: ignore[attr-defined]
        if len(body) < length:
            return False
        request = Seen(method, path, body, time.monotonic())
        with self._lock:
            self.seen.append(request)
            fault = next((each for each in self._faults if each.spoils(request)), None)
            release = self._release
        if fault is None:
            client.sendall(self._passed_on(head, body))
            with self._lock:
                self.answered.append((request, time.monotonic()))
            return True
        return self._spoil(client, fault, release, head, body)

    def _early(self, method: str, path: str) -> Optional[Fault]:
        request = Seen(method, path, b"", time.monotonic())
        with self._lock:
            resets = [each for each in self._faults if each.kind == "reset"]
            found = next((each for each in resets if each.spoils(request)), None)
            if found is not None:
                self.seen.append(request)
            return found

    def _spoil(
        self,
        client: socket.socket,
        fault: Fault,
        release: threading.Event,
        head: bytes,
        body: bytes,
    ) -> bool:
        if fault.kind == "answer":
            client.sendall((fault.answer or Answer(500)).wire())
            return True
        if fault.kind == "hang":
            release.wait(300)
        elif fault.kind == "garbage":
            client.sendall(b"\x15\x03\x01\x00\x02\x02\x46 this is not the protocol\r\n\r\n\x00\xff")
        elif fault.kind == "lost":
            self._passed_on(head, body)
        elif fault.kind == "cut":
            answer = self._passed_on(head, body)
            client.sendall(answer[: max(1, len(answer) - 2)])
        elif fault.kind == "drip":
            for byte in self._passed_on(head, body):
                client.sendall(bytes([byte]))
                if release.wait(fault.pause_s):
                    break
        return False

    def _passed_on(self, head: bytes, body: bytes) -> bytes:
        """Return what the server answers, all of it."""
        first, _, rest = head.partition(b"\r\n")
        fields = [line for line in rest.split(b"\r\n") if line]
        kept = [line for line in fields if not line.lower().startswith((b"connection:", b"host:"))]
        host = b"Host: %s:%d" % (self._server[0].encode(), self._server[1])
        request = b"\r\n".join([first, host, *kept, b"Connection: close", b"", b""]) + body
        with socket.create_connection(self._server, 10) as upstream:
            upstream.settimeout(120)
            upstream.sendall(request)
            pieces = []
            while True:
                piece = upstream.recv(65536)
                if not piece:
                    break
                pieces.append(piece)
        answer = b"".join(pieces)
        # It ends its connection; ours goes on.
        return re.sub(rb"(?i)\r\nconnection: close", b"", answer, count=1)


def _head(reader: object) -> bytes:
    lines = []
    while True:
        line = reader.readline(65536)  # type: ignore[attr-defined]
        if not line:
            return b""
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)


def _length(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return int(found[1]) if found else 0
