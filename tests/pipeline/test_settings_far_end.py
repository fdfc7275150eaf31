"""
Every setting changes something that can be seen from outside.

The list of settings is read from the class: a new one without a check here fails. The far end is
the file that the jsonl backend writes, the memory of the memory backend, or a server that notes
what it is asked.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import pytest
from click.testing import CliRunner
from tests.pipeline.programs import sidecars

import tracelet
from tracelet.backends import memory
from tracelet.cli.commands import tracelet as command_line
from tracelet.errors import RetryableError
from tracelet.records import Text
from tracelet.settings import TraceletSettings
from tracelet.ship import shipment
from tracelet.ship.retry import Backoff
from tracelet.spool.writer import SpoolWriter

Check = Callable[..., None]
CHECKS: dict[str, Check] = {}


def seen_at_the_far_end(setting: str) -> Callable[[Check], Check]:
    def note(check: Check) -> Check:
        CHECKS[setting] = check
        return check

    return note


@pytest.mark.parametrize("setting", TraceletSettings.names())
def test_a_setting_is_seen_at_the_far_end(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert setting in CHECKS, f"the setting {setting!r} has no check in {__file__}"
    CHECKS[setting](tmp_path, capsys)


def test_no_check_is_left_from_a_setting_that_is_gone() -> None:
    assert set(CHECKS) <= set(TraceletSettings.names())


@pytest.fixture(autouse=True)
def _store() -> Iterator[None]:
    memory.clear()
    yield
    memory.clear()


# -- looking at the far end -------------------------------------------------------------------


def record(config: Optional[dict[str, Any]] = None, **arguments: Any) -> tracelet.Run:
    """A run with one point, to the jsonl backend unless it is said otherwise."""
    arguments.setdefault("backend", "jsonl")
    run = tracelet.start_logging(**arguments, config={"silent": True, **(config or {})})
    run.log_metric("loss", 0.5, 1)
    return run


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jsonl"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def first_line(folder: Path) -> dict[str, Any]:
    (path,) = files(folder / "tracelet-jsonl")
    return lines(path)[0]


def points(path: Path) -> list[float]:
    return [line["value"] for line in lines(path) if line["type"] == "metric"]


def soon(holds: Callable[[], bool], patience_s: float = 20.0) -> bool:
    deadline = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def spool(folder: Path) -> list[Path]:
    """The runs that are in the spool."""
    return sorted(path.parent for path in folder.glob("*/run.json"))


# -- one check for each -----------------------------------------------------------------------


@seen_at_the_far_end("backend")
def _(tmp_path: Path, _capsys: Any) -> None:
    record(backend=["jsonl", "memory"], config={"shipper": "thread"}).stop()
    assert len(files(tmp_path / "tracelet-jsonl")) == 1
    assert len(memory.runs()) == 1


@seen_at_the_far_end("project")
def _(tmp_path: Path, _capsys: Any) -> None:
    record(project="vision").stop()
    assert first_line(tmp_path)["project"] == "vision"


@seen_at_the_far_end("exp_name")
def _(tmp_path: Path, _capsys: Any) -> None:
    record(exp_name="baseline").stop()
    assert first_line(tmp_path)["name"] == "baseline"


@seen_at_the_far_end("experiment_name")
def _(tmp_path: Path, _capsys: Any) -> None:
    record(project="weaker", config={"experiment_name": "stronger"}).stop()
    assert first_line(tmp_path)["project"] == "stronger"


@seen_at_the_far_end("run_name")
def _(tmp_path: Path, _capsys: Any) -> None:
    record(exp_name="weaker", config={"run_name": "stronger"}).stop()
    assert first_line(tmp_path)["name"] == "stronger"


@seen_at_the_far_end("tags")
def _(tmp_path: Path, _capsys: Any) -> None:
    record({"tags": {"team": "ml", "seed": 7, "big": True}}).stop()
    assert first_line(tmp_path)["tags"] == {"team": "ml", "seed": "7", "big": "True"}


@seen_at_the_far_end("backend_url")
def _(tmp_path: Path, _capsys: Any) -> None:
    record(backend_url=str(tmp_path / "elsewhere")).stop()
    assert len(files(tmp_path / "elsewhere")) == 1


@seen_at_the_far_end("api_key")
def _(tmp_path: Path, _capsys: Any) -> None:
    pytest.importorskip("mlflow")
    heard: list[Optional[str]] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers["Authorization"])
            self.send_response(401)
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - http.server's names

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with pytest.raises(tracelet.ConfigError):
            tracelet.start_logging(
                backend="mlflow",
                backend_url=f"http://127.0.0.1:{server.server_port}",
                api_key="sesame",
                config={"silent": True},
            )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert "Bearer sesame" in heard


@seen_at_the_far_end("spool_dir")
def _(tmp_path: Path, _capsys: Any) -> None:
    with record({"spool_dir": "over/there"}) as run:
        assert [path.name for path in spool(tmp_path / "over" / "there")] == [run.info.run_id]
    assert not (tmp_path / ".tracelet").exists()


@seen_at_the_far_end("shipper")
def _(_tmp_path: Path, _capsys: Any) -> None:
    for shipper, processes in (("thread", 0), ("process", 1)):
        run = record({"shipper": shipper})
        assert len(sidecars()) == processes
        assert run.stop().complete


@seen_at_the_far_end("mode")
def _(tmp_path: Path, _capsys: Any) -> None:
    record({"mode": "disabled"}).stop()
    assert list(tmp_path.iterdir()) == []
    report = record({"mode": "offline"}).stop()
    assert (report.recorded, report.pending) == (1, 1)
    assert "1 pending → tracelet sync" in str(report)
    assert not (tmp_path / "tracelet-jsonl").exists()
    done = subprocess.run(
        [sys.executable, "-m", "tracelet", "sync", ".tracelet"], capture_output=True, timeout=60
    )
    assert done.returncode == 0
    assert [points(path) for path in files(tmp_path / "tracelet-jsonl")] == [[0.5]]


@seen_at_the_far_end("run_id")
def _(tmp_path: Path, _capsys: Any) -> None:
    with record() as run:
        former = run.remote().id
    record({"run_id": former}).stop()
    (path,) = files(tmp_path / "tracelet-jsonl")
    assert points(path) == [0.5, 0.5]


DIES = """
import os, tracelet
run = tracelet.start_logging("name", "project", "jsonl", config={"mode": "offline"})
run.log_metric("loss", 0.25, 0)
os._exit(1)
"""


@seen_at_the_far_end("resume")
def _(tmp_path: Path, _capsys: Any) -> None:
    for resume, expected in (("never", [[0.5]]), ("auto", [[0.25, 0.5]])):
        subprocess.run([sys.executable, "-c", DIES], timeout=60)
        where = tmp_path / resume
        run = record({"resume": resume, "mode": "offline"}, exp_name="name", project="project")
        run.stop()
        last = tmp_path / ".tracelet" / run.info.run_id
        subprocess.run([sys.executable, "-m", "tracelet", "sync", str(last)], timeout=60)
        (tmp_path / "tracelet-jsonl").rename(where)
        assert [points(path) for path in files(where)] == expected


@seen_at_the_far_end("ranks")
def _(tmp_path: Path, _capsys: Any) -> None:
    found = {}
    for ranks, number in (("zero", 0), ("zero", 1), ("all", 0), ("each", 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RANK", str(number))
            patch.setenv("WORLD_SIZE", "2")
            record({"ranks": ranks}, exp_name=f"{ranks} {number}").stop()
        for path in files(tmp_path / "tracelet-jsonl"):
            found[path.stem] = {line["key"] for line in lines(path) if line["type"] == "metric"}
    assert found == {"zero 0": {"loss"}, "all 0": {"rank0/loss"}, "each 1": {"loss"}}


@seen_at_the_far_end("keep_runs")
def _(tmp_path: Path, _capsys: Any) -> None:
    root = tmp_path / ".tracelet"
    record({"keep_runs": 0}).stop()
    assert soon(lambda: spool(root) == [])
    kept = []
    for _number in range(3):
        with record({"keep_runs": 2}) as run:
            kept.append(run.info.run_id)
    assert soon(lambda: len(spool(root)) == 2)
    assert {path.name for path in spool(root)} < set(kept)
    assert soon(lambda: all(path.suffix == ".gz" for path in root.glob("*/seg/*")))
    with record({"keep_runs": "all"}) as run:
        kept.append(run.info.run_id)
    assert soon(lambda: bool(list((root / kept[-1] / "seg").glob("*.gz"))))
    assert len(spool(root)) == 3


def dropped(folder: Path, **bounds: Any) -> int:
    """Return how many texts a run lacks in the end that was away for a while."""
    away = True

    def refuse(call: str) -> None:
        if away and call == "write":
            raise RetryableError("away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "before_call", refuse)
        patch.setattr(Backoff, "failed", lambda *_: 0.05)
        patch.setattr(shipment, "BOUNDS_S", 0.05)
        patch.setitem(SpoolWriter.__init__.__kwdefaults__, "segment_bytes", 300_000)
        run = record(bounds, backend="memory")
        for step in range(400):
            run.log_text("note", "word " * 2000, step)
        there = folder / ".tracelet" / run.info.run_id / "seg"
        if bounds["max_run_bytes"] or bounds["max_spool_bytes"]:
            # Some segments stay: a batch of a megabyte is on its way.
            assert soon(lambda: 0 < size_of(there) < 2_500_000, patience_s=15.0)
        away = False
        report = run.stop(timeout=60.0)
    (stored,) = memory.runs().values()
    memory.clear()
    texts = [each for each in stored.records if isinstance(each, Text)]
    assert report.check() == []
    assert report.backends["memory"].thinned == (
        {"text": 400 - len(texts)} if len(texts) < 400 else {}
    )
    assert texts[-1].step == 399
    return int(stored.tags.get("tracelet.dropped.text", 0))


def size_of(folder: Path) -> int:
    found = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


@seen_at_the_far_end("max_run_bytes")
def _(tmp_path: Path, _capsys: Any) -> None:
    assert dropped(tmp_path, max_run_bytes=100_000, max_spool_bytes=0, min_free_bytes=0) > 100
    assert dropped(tmp_path, max_run_bytes=0, max_spool_bytes=0, min_free_bytes=0) == 0


@seen_at_the_far_end("max_spool_bytes")
def _(tmp_path: Path, _capsys: Any) -> None:
    assert dropped(tmp_path, max_run_bytes=0, max_spool_bytes=100_000, min_free_bytes=0) > 100


@seen_at_the_far_end("min_free_bytes")
def _(tmp_path: Path, _capsys: Any) -> None:
    for least, lost in ((0, 0), (1 << 60, 1)):
        run = record({"mode": "offline", "min_free_bytes": least}, exp_name=f"least {least}")
        run.log_text("note", "large " * 100_000)
        run.log_text("note", "small")
        report = run.stop()
        assert report.lost == ({"room": lost} if lost else {})
        assert report.recorded == 3
    run_delivered = CliRunner().invoke(command_line, ["sync"], catch_exceptions=False)
    assert run_delivered.exit_code == 0
    assert {
        sum(line["type"] == "text" for line in lines(path))
        for path in files(tmp_path / "tracelet-jsonl")
    } == {1, 2}


@seen_at_the_far_end("keep_tensorboard")
def _(tmp_path: Path, _capsys: Any) -> None:
    writers = pytest.importorskip("tensorboardX")
    for keep in (True, False):
        with record({"keep_tensorboard": keep}, exp_name=str(keep)):
            writer = writers.SummaryWriter(str(tmp_path / f"keep {keep}"))
            writer.add_scalar("accuracy", 0.75, 2)
            writer.close()
        assert any(0.75 in points(path) for path in files(tmp_path / "tracelet-jsonl"))
        assert bool(list(tmp_path.glob(f"keep {keep}/**/events.out.*"))) is keep


@seen_at_the_far_end("snapshot")
def _(tmp_path: Path, _capsys: Any) -> None:
    for snapshot in (True, False):
        (tmp_path / "model").write_bytes(b"then")
        run = record({"snapshot": snapshot, "mode": "offline"}, exp_name=f"copy {snapshot}")
        run.log_artifact("model")
        (tmp_path / "model").write_bytes(b"now!")
        run.stop()
        copies = list((tmp_path / ".tracelet" / run.info.run_id / "blobs").iterdir())
        assert len(copies) == snapshot
        subprocess.run([sys.executable, "-m", "tracelet", "sync", ".tracelet"], timeout=60)
        kept = (tmp_path / "tracelet-jsonl").glob(f"**/copy*{snapshot}.files/**/model")
        # Without a copy, what arrives is not what was logged, and is never passed off as that.
        assert (b"then" in [path.read_bytes() for path in kept]) is snapshot


@seen_at_the_far_end("collect")
def _(tmp_path: Path, _capsys: Any) -> None:
    config = {"system_interval_s": 0.1}
    for given, wanted, measured in (
        (True, {"command", "packages", "hardware"}, True),
        (["packages"], {"packages"}, False),
        ("system,command", {"command"}, True),
        (False, set(), False),
    ):
        name = f"collect {given}"
        with record({"collect": given, **config}, exp_name=name, project=str(given)) as run:
            run.remote()
            path = files(tmp_path / "tracelet-jsonl" / str(given))[0]
            if measured:
                assert soon(lambda path=path: '"system/' in path.read_text())
            else:
                time.sleep(0.5)
        assert ('"system/' in path.read_text()) is measured
        context = lines(path)[0]["context"]
        # Where the tests run there may be no repository, and no variable of the list.
        assert set(context) - {"git", "environment"} == wanted
    with pytest.raises(tracelet.SettingsError, match="Did you mean 'packages'"):
        record({"collect": ["package"]})


@seen_at_the_far_end("system_interval_s")
def _(tmp_path: Path, _capsys: Any) -> None:
    with record({"system_interval_s": 0.2, "collect": ["system"]}) as run:
        run.remote()
        (path,) = files(tmp_path / "tracelet-jsonl")

        def times() -> list[float]:
            key = "system/cpu_utilization_percentage"
            return [line["time"] for line in lines(path) if line.get("key") == key]

        assert soon(lambda: len(times()) >= 4)
    assert 0.1 < (times()[3] - times()[0]) / 3 < 5.0


@seen_at_the_far_end("strict")
def _(_tmp_path: Path, _capsys: Any) -> None:
    with record() as run:
        run.log_artifact("missing")
    with record({"strict": True}) as run, pytest.raises(tracelet.TraceletError):
        run.log_artifact("missing")


@seen_at_the_far_end("silent")
def _(_tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record().stop()
    assert capsys.readouterr().err == ""
    record({"silent": False}).stop()
    said = capsys.readouterr().err.splitlines()
    # On a slow machine stop says what it waits for, too.
    assert [line for line in said if "waiting for" not in line] == [said[0], said[-1]]
    assert said[0] != said[-1]


@seen_at_the_far_end("durability")
def _(tmp_path: Path, _capsys: Any) -> None:
    confirmed: dict[str, int] = {}
    original = os.fdatasync

    def fdatasync(fd: int) -> None:
        path, size = os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size
        original(fd)
        confirmed[path] = size

    (tmp_path / "model").write_bytes(b"weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", fdatasync)
        for durability in ("process", "power"):
            run = record({"durability": durability, "mode": "offline"})
            folder = tmp_path / ".tracelet" / run.info.run_id
            for log in (
                lambda run=run: run.log_params({"lr": 0.1, "depth": {"a": 1, "b": 2}}),
                lambda run=run: run.set_tags({"team": "vision"}),
                lambda run=run: run.log_artifact(tmp_path / "model"),
            ):
                confirmed.clear()
                log()
                (segment,) = (folder / "seg").iterdir()
                whole = confirmed.get(str(segment)) == segment.stat().st_size
                assert whole is (durability == "power")
            run.stop()


@seen_at_the_far_end("handle_sigterm")
def _(_tmp_path: Path, _capsys: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with record():
        assert signal.getsignal(signal.SIGTERM) is before
    with record({"handle_sigterm": True}):
        assert signal.getsignal(signal.SIGTERM) is not before
    # What becomes of the run is in `test_exit_status.py`.


@seen_at_the_far_end("disable")
def _(tmp_path: Path, _capsys: Any) -> None:
    writers = pytest.importorskip("tensorboardX")
    for disable, arrived in (([], [0.5, 0.75]), (["tensorboardx"], [0.5])):
        name = f"without {len(disable)}"
        with record({"disable": disable}, exp_name=name):
            writer = writers.SummaryWriter(str(tmp_path / name))
            writer.add_scalar("accuracy", 0.75, 2)
            writer.close()
        (path,) = [path for path in files(tmp_path / "tracelet-jsonl") if name[-1] in path.stem]
        assert points(path) == arrived
