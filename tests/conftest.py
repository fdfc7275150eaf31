"""
What holds for every test.

No test sees the developer's home, settings or network, none leaves a run or a process behind, and
an exception that tracelet swallowed (as it must, in a training) fails the test that caused it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

#: Marks every process that a test starts, however far it has run away (a sidecar outlives its
#: trainer on purpose).
TEST_PROCESS = "STARTED_BY_TEST_OF_TRACELET"

#: Variables that would make a test do what the developer's shell says.
FOREIGN = re.compile(
    r"(?i)^(TRACELET|MLFLOW|WANDB|CLEARML|AIM|AWS|SLURM|OMPI|PMI)_|^(LOCAL_)?RANK$|^WORLD_SIZE$"
    r"|_PROXY$"
)

#: The only reasons for a skip that `--no-skips` lets pass: the machine cannot do it, whatever is
#: installed; or a backend declares that its tracker cannot hold it.
LAWFUL_SKIP = re.compile(r"^(Skipped: )?(platform|declared): ")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="a skipped test is a failed one: for the environment that has everything",
    )


def pytest_configure() -> None:
    """
    Hear signals again that a shell has ignored for whatever runs in the background.

    What a process ignores its children ignore, and some tests interrupt theirs.
    """
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("no_skips"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not LAWFUL_SKIP.match(reason):
            report.outcome = "failed"
            report.longrepr = f"skipped where nothing may be: {reason}"
    return report


@pytest.fixture(scope="session")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for the whole session: some libraries fill theirs slowly (fonts, for example)."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _own_world(
    _home: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A working directory, a home and an environment of this test's own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if FOREIGN.search(name):
                patch.delenv(name)
        for name in ("HOME", "USERPROFILE"):
            patch.setenv(name, str(_home))
        state = tmp_path_factory.mktemp("state")
        for name in ("XDG_STATE_HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(state))
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR"):
            patch.setenv(name, str(_home / name.lower()))
        patch.setenv("MPLBACKEND", "Agg")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("DO_NOT_TRACK", "true")
        patch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        patch.chdir(tmp_path)
        yield


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that would talk to a real service fails instead."""

    def refuse(host: object) -> None:
        name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
        if not re.match(r"^(localhost|127\.[\d.]+|::1|0\.0\.0\.0)$", name):
            raise OSError(f"a test tried to reach {name!r}")

    def guarded(original: Any) -> Any:
        def connect(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                refuse(address[0])
            return original(self, address)

        return connect

    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            refuse(host)
        except OSError as error:
            raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture(autouse=True)
def _nothing_swallowed() -> Iterator[None]:
    """In a training the guard forgives; here it does not."""
    from tracelet import _guard

    with _guard.collecting() as errors:
        yield
    if errors:
        raise errors[0]


@pytest.fixture(autouse=True)
def _nothing_left_behind(_own_world: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End a run that a failed test left open, and every process that it started."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(TEST_PROCESS, mark)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    api = sys.modules.get("tracelet.api")
    run = api.get_active_experiment() if api is not None else None
    if run is not None:
        run.stop(timeout=0.0)
    left = [process for process in psutil.process_iter() if _is_ours(process, mark, before)]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=5)


def _is_ours(process: psutil.Process, mark: str, before: set[int]) -> bool:
    """Started by this test: a child that was not there before, or one that carries the mark."""
    try:
        if process.pid == os.getpid() or process.pid in before:
            return False
        if re.search("resource_tracker|forkserver", " ".join(process.cmdline())):
            return False  # the interpreter's own, shared by all tests
        if process.environ().get(TEST_PROCESS) == mark:
            return True
        return process.ppid() == os.getpid()
    except (psutil.Error, OSError):
        return False  # gone in the meantime, or somebody else's
