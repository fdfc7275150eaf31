"""Whatever an HTTP server says, it is one of three answers, and never a crash that stops a lane."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import threading
import time
from typing import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracelet.backends.mlflow.answers import of_code, of_response, parsed
from tracelet.backends.mlflow.http import Connection
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.backends.mlflow.rest import RestStore
from tracelet.backends.mlflow.store import Point
from tracelet.backends.replies import retry_after
from tracelet.errors import BackendError, ConfigError, RejectedError, RetryableError
from tracelet.ship.shipper import trouble

PATIENT = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
CODES = ["INTERNAL_ERROR", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "", "\udcff", "1"]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)
BODIES = st.one_of(
    st.text(),
    st.builds(lambda code, more: json.dumps({"error_code": code, "message": more}),
              st.sampled_from(CODES) | JSON, JSON),
    st.just("[" * 100_000),
    st.just("9" * 10_000),
)  # fmt: skip


class Garbled:
    """A port that answers every request with the same bytes, and hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.settimeout(5)
                client.recv(65536)
                client.sendall(self.answer)
                if self.answer.endswith(b"reset"):
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()


@pytest.fixture(scope="module")
def garbled() -> Iterator[Garbled]:
    found = Garbled()
    yield found
    found.close()


def calls(store: RestStore, connection: Connection) -> list[Callable[[], object]]:
    return [
        lambda: store.log_metrics("run", [Point("loss", 1.0, 1, 1)]),
        lambda: store.create_run("1", "name", 0, [], "me"),
        lambda: store.find_run("1", "tag", "value"),
        lambda: store.experiment_named("x"),
        lambda: store.history("run", "loss"),
        lambda: connection.put("/file", b"x", "text/plain"),
        lambda: connection.ping("/", {}),
    ]


@PATIENT
@given(
    status=st.integers(-1, 1000),
    headers=st.dictionaries(
        st.sampled_from(["Retry-After", "WWW-Authenticate", "Server", "Location"]), st.text()
    ),
    body=BODIES,
    sent=st.sampled_from(["", "Basic", "Bearer", "Other"]),
)
def test_every_answer_means_something(
    status: int, headers: dict[str, str], body: str, sent: str
) -> None:
    error = of_response(status, headers, body, "what", sent=sent)
    assert isinstance(error, (RetryableError, RejectedError, ConfigError, BackendError))
    assert trouble(error).state in ("waiting", "config")
    if isinstance(error, RetryableError) and error.retry_after is not None:
        assert 0.0 <= error.retry_after < float("inf")


@PATIENT
@given(st.text(), st.text())
def test_every_code_means_something(code: str, message: str) -> None:
    assert isinstance(of_code(code, message, "what"), BackendError)


@PATIENT
@given(st.text() | st.floats().map(str) | st.sampled_from(["Thu, 01 Jan 99999 00:00:00 GMT"]))
def test_a_wait_is_a_number_of_seconds(value: str) -> None:
    found = retry_after(value)
    assert found is None or 0.0 <= found < float("inf")


def test_json_that_is_made_to_break_readers_is_none() -> None:
    for text in ("[" * 1_000_000, "1" * 100_000, '{"a":' * 100_000, "\x00", ""):
        with pytest.raises(ValueError):
            parsed(text)


ODD = [
    b"",
    b"\r\n\r\n",
    b"HTTP/1.1",
    b"HTTP/1.1 200",
    b"HTTP/1.1 99999 x\r\n\r\n",
    b"HTTP/1.1 2x0 OK\r\n\r\n{}",
    b"HTTP/9.9 200 OK\r\n\r\n{}",
    b"\x15\x03\x01\x00\x02\x02\x46",
    b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=\x00\r\n\r\n\xff\xfe",
    b"HTTP/1.1 200 OK\r\nContent-Type: a; charset=idna\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Type: a; charset=undefined\r\nContent-Length: 2\r\n\r\n\xff{",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n{}",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n[1, 2]",
    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n[1, 2]",
    b'HTTP/1.1 200 OK\r\n\r\n{"run": 5, "runs": [1], "experiment": [], "metrics": [{}]}',
    b'HTTP/1.1 200 OK\r\n\r\n{"run": {"info": {"run_id": null}}, "metrics": [{"value": "x"}]}',
    b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 200_000,
    b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://:99999/\r\n\r\n",
    b"HTTP/1.1 307 Again\r\nLocation: /\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nSet-Cookie: \xff=\x01; expires=x\r\nLocation: http://\xe9.\xe9/\r\n\r\n",
    b"HTTP/1.1 401 No\r\nWWW-Authenticate: \xff\r\n\r\n\xff",
    b"HTTP/1.1 429 No\r\nRetry-After: nan\r\n\r\n",
    b"HTTP/1.1 503 No\r\nRetry-After: Thu, 01 Jan 0000 00:00:00 -9999\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
    b"HTTP/1.1 101 Switching\r\n\r\n",
    b"HTTP/1.1 204 None\r\n\r\n",
    b"HTTP/1.1 500 No\r\n\r\n<html>reset",
]


def sound(garbled: Garbled, answer: bytes) -> None:
    """Every call gives a value, or one of the answers that a shipper knows."""
    garbled.answer = answer
    connection = Connection(garbled.url, MlflowOptions(timeout_s=3.0, upload_timeout_s=3.0))
    store = RestStore(connection)
    for call in calls(store, connection):
        with contextlib.suppress(BackendError):
            call()
    assert connection.silence() == 0.0
    connection.close()


@pytest.mark.parametrize("answer", ODD, ids=[str(number) for number in range(len(ODD))])
def test_an_odd_answer_is_an_answer(garbled: Garbled, answer: bytes) -> None:
    sound(garbled, answer)


def test_nothing_odd_is_taken_for_a_yes(garbled: Garbled) -> None:
    """What is counted as delivered was acknowledged in JSON."""
    connection = Connection(garbled.url, MlflowOptions())
    for answer, error in (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n[1, 2]", ConfigError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", RetryableError),
        (b"HTTP/1.1 200 OK\r\nContent-Le", RetryableError),
    ):
        garbled.answer = answer
        with pytest.raises(error):
            RestStore(connection).log_metrics("r", [Point("a", 1.0, 1, 1)])
    connection.close()


def test_mutated_answers(garbled: Garbled) -> None:
    """The same, by chance: bytes changed, doubled, taken out."""
    chance = random.Random(7)
    whole = json.dumps({"run": {"info": {"run_id": "r", "experiment_id": "1"}}}).encode()
    good = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        whole
    )
    until = time.monotonic() + 5.0
    for _ in range(300):
        raw = bytearray(good + whole)
        for _ in range(chance.randint(1, 8)):
            place = chance.randrange(len(raw))
            kind = chance.randrange(3)
            if kind == 0:
                raw[place] = chance.randrange(256)
            elif kind == 1:
                del raw[place : place + chance.randint(1, 20)]
                raw = raw or bytearray(b"x")
            else:
                raw[place:place] = raw[place : place + 30]
        sound(garbled, bytes(raw))
        if time.monotonic() > until:
            break


def test_an_answer_that_comes_by_the_byte_is_cut() -> None:
    """Each byte comes in time; all of them would take for ever."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not over.wait(0.1):
                    client.sendall(b"y")

    dripping = threading.Thread(target=drip, daemon=True)
    dripping.start()
    connection = Connection(f"http://127.0.0.1:{listener.getsockname()[1]}", MlflowOptions())
    began = time.monotonic()
    with pytest.raises(RetryableError):
        connection.ping("/", {})
    assert time.monotonic() - began < 30.0
    over.set()
    dripping.join(5)
    listener.close()
    connection.close()
    assert not [each for each in threading.enumerate() if each.name == "tracelet-mlflow-watch"]
