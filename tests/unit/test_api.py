"""The three functions and the run they hand out, with the memory backend as the far end."""

from __future__ import annotations

import contextlib
import errno
import inspect
import io
import json
import os
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest

import tracelet
from tracelet.backends import memory
from tracelet.cli import status
from tracelet.records import Artifact, Histogram, Media, Param, Table, Text
from tracelet.run.disabled import DisabledRun
from tracelet.spool import rundir
from tracelet.spool.rundir import find_runs

QUIET = {"shipper": "thread", "silent": True}


@pytest.fixture(autouse=True)
def _store() -> Iterator[None]:
    memory.clear()
    yield
    memory.before_call = None
    memory.clear()


def start(**config: Any) -> tracelet.Run:
    return tracelet.start_logging("name", "project", "memory", config={**QUIET, **config})


def stored() -> memory.StoredRun:
    """Return the only run that arrived."""
    (run,) = memory.runs().values()
    return run


def of_type(kind: type) -> list[Any]:
    return [record for record in stored().records if type(record) is kind]


# -- the one active run -----------------------------------------------------------------------


def test_without_a_run_there_is_none_and_stop_does_nothing() -> None:
    assert tracelet.get_active_experiment() is None
    assert tracelet.stop_logging() is None


def test_a_run_is_active_from_start_to_stop() -> None:
    run = start()
    assert tracelet.get_active_experiment() is run
    run.log_metric("loss", 0.1, 3)
    report = tracelet.stop_logging()
    assert tracelet.get_active_experiment() is None
    assert report is not None
    assert (report.recorded, report.lost, report.check()) == (1, {}, [])
    assert report.complete
    assert report.status is tracelet.RunStatus.FINISHED
    assert (stored().project, stored().name) == ("project", "name")
    assert stored().status is tracelet.RunStatus.FINISHED
    ((point,),) = stored().metrics.values()
    assert (point.key, point.value, point.step) == ("loss", 0.1, 3)


def test_stopping_twice_gives_the_same_account() -> None:
    run = start()
    assert run.stop() is run.stop(tracelet.RunStatus.FAILED)
    assert tracelet.get_active_experiment() is None
    assert tracelet.stop_logging() is None


def test_a_start_ends_the_run_that_is_active_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = start()
    first.log_metric("loss", 1)
    second = start(silent=False)
    assert tracelet.get_active_experiment() is second
    assert "the run 'name' was still active; it is ended now" in capsys.readouterr().err
    second.log_metric("loss", 2)
    tracelet.stop_logging()
    assert [run.status for run in memory.runs().values()] == [tracelet.RunStatus.FINISHED] * 2
    assert [run.metrics["loss"][0].value for run in memory.runs().values()] == [1, 2]


def test_a_start_that_is_refused_leaves_the_active_run_alone() -> None:
    run = start()
    with pytest.raises(tracelet.SettingsError):
        start(projct="a")
    assert tracelet.get_active_experiment() is run
    run.log_metric("loss", 1)
    assert run.stop().complete


def test_runs_in_a_loop_are_complete_each() -> None:
    for number in range(5):
        tracelet.start_logging(f"run {number}", backend="memory", config=QUIET)
        tracelet.get_active_experiment().log_metric("loss", number)  # type: ignore[union-attr]
        tracelet.stop_logging()
    runs = list(memory.runs().values())
    assert [run.name for run in runs] == [f"run {number}" for number in range(5)]
    assert [run.metrics["loss"][0].value for run in runs] == list(range(5))


def test_starting_and_stopping_from_many_threads() -> None:
    def sweep(number: int) -> None:
        for _ in range(3):
            run = tracelet.start_logging(f"thread {number}", backend="memory", config=QUIET)
            run.log_metric("loss", number)
            tracelet.stop_logging()

    threads = [threading.Thread(target=sweep, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert len(memory.runs()) == 12
    assert tracelet.get_active_experiment() is None


def test_starting_takes_no_more_than_the_documented_arguments() -> None:
    signature = inspect.signature(tracelet.start_logging)
    assert list(signature.parameters) == [
        "exp_name",
        "project",
        "backend",
        "backend_url",
        "api_key",
        "config",
    ]
    assert all(each.default is None for each in signature.parameters.values())


# -- as a block -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (ValueError("x"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(3), "FAILED"),
        (SystemExit("text"), "FAILED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(), "FINISHED"),
        (GeneratorExit(), "FINISHED"),
    ],
)
def test_leaving_the_block_ends_the_run(error: Any, status: str) -> None:
    def work() -> None:
        with start():
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)) as caught:
            work()
        assert caught.value is error
    assert stored().status == status


# -- logging ----------------------------------------------------------------------------------


def test_metrics() -> None:
    with start() as run:
        run.log_metric("a", np.float32(0.1), step=np.int64(1))
        run.log_metrics({"a": 0.2, "b": True}, step=2)
        run.log_metric("c", 1)
        run.log_metric("c", 2)
    metrics = stored().metrics
    assert [(point.value, point.step) for point in metrics["a"]] == [
        (float(np.float32(0.1)), 1),
        (0.2, 2),
    ]
    assert [(point.value, point.step) for point in metrics["b"]] == [(1.0, 2)]
    assert [point.step for point in metrics["c"]] == [0, 1]


def test_parameters_and_tags() -> None:
    with start(tags={"seed": 7}) as run:
        run.log_params({"optimizer": {"name": "adam", "lr": 1e-3}, "layers": [1, 2]})
        run.set_tags({"team": "vision", "seed": 8})
    assert stored().params == {"optimizer.name": "adam", "optimizer.lr": 1e-3, "layers": "[1, 2]"}
    assert stored().tags == {"seed": "8", "team": "vision"}


def test_a_file_keeps_the_bytes_it_had(tmp_path: Path) -> None:
    model = tmp_path / "model.pth"
    model.write_bytes(b"then")
    with start() as run:
        run.log_artifact(model)
        run.log_artifact("model.pth", "models/")
        model.write_bytes(b"now!")
    assert stored().files == {"model.pth": b"then", "models/model.pth": b"then"}


@pytest.mark.parametrize("name", ["checkpoints/", "checkpoints", "./checkpoints/."])
def test_a_folder_keeps_its_own_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "deep").mkdir(parents=True)
    (tmp_path / "checkpoints" / "a.pt").write_bytes(b"a")
    (tmp_path / "checkpoints" / "deep" / "b.pt").write_bytes(b"b")
    with start() as run:
        run.log_artifact(name, "training")
    assert stored().files == {
        "training/checkpoints/a.pt": b"a",
        "training/checkpoints/deep/b.pt": b"b",
    }


def test_everything_else(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), dtype=np.uint8)
    with start() as run:
        run.log_text("notes", "**bold**", 1)
        run.log_image("image", pixels, 2)
        run.log_histogram("weights", [1.0, 2.0], 3, bins=2)
        run.log_histogram("counted", edges=[0, 1], counts=[5], step=4)
        run.log_table("table", [{"a": 1}], step=5)
    (text,) = of_type(Text)
    assert (text.key, text.text, text.step) == ("notes", "**bold**", 1)
    (image,) = of_type(Media)
    assert (image.kind, image.key, image.mime, image.step) == ("image", "image", "image/png", 2)
    assert [(each.key, each.step, sum(each.counts)) for each in of_type(Histogram)] == [
        ("weights", 3, 2.0),
        ("counted", 4, 5.0),
    ]
    (table,) = of_type(Table)
    assert (list(table.columns), [list(row) for row in table.rows]) == (["a"], [[1]])


def test_a_figure_is_an_image() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = pyplot.figure()
    with start() as run:
        run.log_figure("figure", figure)
    pyplot.close(figure)
    (image,) = of_type(Media)
    assert image.data.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("log_metric", ("loss", "0.5")),
        ("log_metric", ("loss", None)),
        ("log_metric", (5, 0.5)),
        ("log_metric", ("loss", 0.5, "1")),
        ("log_metrics", ([("loss", 1)],)),
        ("log_metrics", ({"fine": 1, "loss": "no"},)),
        ("log_params", (["a"],)),
        ("set_tags", ("a=b",)),
        ("set_tags", ({"a": [1]},)),
        ("log_artifact", (5,)),
        ("log_artifact", (None,)),
        ("log_artifact", (".", 5)),
        ("log_text", ("notes", 5)),
        ("log_image", ("image", 5)),
        ("log_figure", ("figure", 5)),
        ("log_histogram", ("weights", "text")),
        ("log_histogram", ("weights",)),
        ("log_histogram", ("weights", [1], 0, {"edges": [0, 1]})),
        ("log_table", ("table", 5)),
        ("log_table", ("table", [[1]])),
    ],
)
def test_a_value_of_the_wrong_type_raises_at_once(method: str, arguments: Any) -> None:
    more = (
        arguments[-1]
        if arguments and isinstance(arguments[-1], dict) and len(arguments) > 2
        else {}
    )
    with start() as run:
        with pytest.raises(TypeError):
            getattr(run, method)(*(arguments[:-1] if more else arguments), **more)
        report = run.stop()
    # All or nothing: what was right in the same call is not recorded either.
    assert (report.recorded, stored().records) == (0, [])


def test_what_the_world_does_is_a_warning_and_a_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with start(silent=False) as run:
        run.log_artifact("missing.pth")
        run.log_artifact("missing.pth")
        run.log_artifact("bad.png", "../elsewhere")
        run.log_image("image", "bad.png")
        run.log_image("image", "missing.png")
        run.log_histogram("weights", [float("nan")])
        run.log_table("table", {"a": [1], "b": []})
        run.log_metric("loss", 1)
        report = run.stop()
    assert report.lost == {"artifact": 3, "image": 2, "histogram": 1, "table": 1}
    assert (report.recorded, report.spooled, report.check()) == (8, 1, [])
    said = capsys.readouterr().err
    assert said.count("'missing.pth'") == 1
    assert "8 recorded, 7 lost (artifact 3, histogram 1, image 2, table 1)" in said


def test_strict_raises_instead(tmp_path: Path) -> None:
    with start(strict=True) as run:
        with pytest.raises(tracelet.TraceletError, match=r"missing\.pth") as caught:
            run.log_artifact("missing.pth")
        assert isinstance(caught.value.__cause__, FileNotFoundError)
        with pytest.raises(tracelet.TraceletError):
            run.log_image("image", "missing.png")


def test_logging_after_the_end_is_counted_and_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = start(silent=False)
    run.stop()
    capsys.readouterr()
    run.log_metric("loss", 1)
    run.log_params({"a": 1})
    assert capsys.readouterr().err == (
        "tracelet: The run has ended; nothing more is recorded in it.\n"
    )
    assert stored().records == []


# -- the far end ------------------------------------------------------------------------------


def test_flush_waits_until_everything_is_there() -> None:
    with start() as run:
        assert run.flush(30)
        run.log_metric("loss", 1)
        assert run.flush(30)
        assert len(stored().records) == 1


def test_flush_gives_up_in_time() -> None:
    with start() as run:
        run.flush(30)
        gate = threading.Event()
        memory.before_call = lambda call: gate.wait(30) and None
        run.log_metric("loss", 1)
        began = time.monotonic()
        assert not run.flush(0.2)
        assert time.monotonic() - began < 5
        gate.set()


def test_the_run_as_the_backend_knows_it() -> None:
    with start() as run:
        assert run.remote().id == run.info.run_id
        assert run.remote("memory").id == run.info.run_id
        with pytest.raises(tracelet.TraceletError, match="memory"):
            run.remote("mlflow")


def test_who_the_run_is() -> None:
    with start(tags={"a": 1}) as run:
        info = run.info
        assert (info.project, info.name, info.tags) == ("project", "name", {"a": "1"})
        assert info.pid == os.getpid()
        assert list(info.backends) == ["memory"]
        assert "name" in repr(run)


# -- switched off -----------------------------------------------------------------------------


def harmless(run: tracelet.Run) -> None:
    """Every public call, with nonsense; none may raise."""
    for name, method in inspect.getmembers(run, callable):
        if name.startswith("_"):
            continue
        needed = [
            each
            for each in inspect.signature(method).parameters.values()
            if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
        ]
        method(*[object()] * len(needed))


@pytest.mark.parametrize("how", ["variable", "setting", "mode variable"])
def test_switched_off(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config: dict[str, Any] = {}
    if how == "variable":
        monkeypatch.setenv("TRACELET_DISABLED", "1")
        config = {"nonsense": True}  # not even read
    elif how == "setting":
        config = {"mode": "disabled"}
    else:
        monkeypatch.setenv("TRACELET_MODE", "disabled")
    threads = threading.enumerate()
    hooks = (sys.excepthook, sys.exit)
    with tracelet.start_logging("name", "project", "mlflow", config=config) as run:
        assert isinstance(run, tracelet.Run)
        assert tracelet.get_active_experiment() is run
        assert (sys.excepthook, sys.exit) == hooks
        harmless(run)
    assert tracelet.get_active_experiment() is None
    assert list(tmp_path.iterdir()) == []
    assert threading.enumerate() == threads


def test_the_switch_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACELET_DISABLED", "0")
    with start() as run:
        assert not isinstance(run, DisabledRun)


def test_a_run_that_is_off_overrides_every_call() -> None:
    public = {
        name
        for name, member in vars(tracelet.Run).items()
        if callable(member) and (not name.startswith("_") or name == "__exit__")
    }
    assert public <= set(vars(DisabledRun))


# -- the start --------------------------------------------------------------------------------


def test_nothing_is_started_when_something_is_wrong(tmp_path: Path) -> None:
    threads = threading.enumerate()
    for wrong in (
        {"backend": "memry"},
        {"config": {"projct": 1}},
        {"backend": "memory", "config": {"memory": {"prent": 1}}},
        {"backend": "memory", "api_key": "key"},
        {"backend": "memory", "backend_url": "http://h"},
    ):
        with pytest.raises(tracelet.SettingsError):
            tracelet.start_logging(**wrong)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    assert threading.enumerate() == threads


def test_a_backend_that_says_no_stops_the_start(tmp_path: Path) -> None:
    def refuse(call: str) -> None:
        raise tracelet.ConfigError("The password is wrong.")

    memory.before_call = refuse
    with pytest.raises(tracelet.ConfigError, match="password"):
        start()
    assert tracelet.get_active_experiment() is None
    assert list(tmp_path.iterdir()) == []


def test_a_backend_that_is_away_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    from tracelet.errors import RetryableError

    def away(call: str) -> None:
        if call == "preflight":
            raise RetryableError("connection refused")

    memory.before_call = away
    with start(silent=False) as run:
        run.log_metric("loss", 1)
    said = capsys.readouterr().err
    assert said.count("memory is away: connection refused;") == 1
    assert len(stored().records) == 1


def test_a_backend_that_is_away_is_an_error_when_strict() -> None:
    from tracelet.errors import RetryableError

    def away(call: str) -> None:
        raise RetryableError("connection refused")

    memory.before_call = away
    with pytest.raises(tracelet.TraceletError, match="connection refused"):
        start(strict=True)
    assert tracelet.get_active_experiment() is None


def test_a_backend_that_does_not_answer_holds_nobody_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    start().stop()  # what is imported once is imported now
    gate = threading.Event()

    def hang(call: str) -> None:
        if call == "preflight":
            gate.wait(30)
            raise tracelet.ConfigError("too late, but no.")

    memory.before_call = hang
    began = time.monotonic()
    run = start(silent=False)
    assert time.monotonic() - began < 1.0
    gate.set()
    deadline = time.monotonic() + 10
    said = ""
    while "refuses" not in said and time.monotonic() < deadline:
        time.sleep(0.01)
        said += capsys.readouterr().err
    assert "memory is away: it has not answered yet;" in said
    assert "memory refuses: too late, but no." in said
    run.stop()


def test_a_broken_check_is_no_reason_to_stop(capsys: pytest.CaptureFixture[str]) -> None:
    from tracelet import _guard

    def broken(call: str) -> None:
        if call == "preflight":
            raise ZeroDivisionError

    memory.before_call = broken
    with _guard.collecting() as errors, start(silent=False):
        pass
    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert "the check itself failed" in capsys.readouterr().err


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() == 0, reason="platform: root may write"
)
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(tracelet.SpoolError, match="spool_dir"):
        start(spool_dir=str(tmp_path / "closed"))


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(tracelet.SpoolError, match="spool_dir"):
        start(spool_dir=str(tmp_path / "file"))
    assert tracelet.get_active_experiment() is None


def test_without_a_folder_of_its_own_the_spool_goes_to_a_private_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".tracelet").write_text("in the way")
    (tmp_path / "state").write_text("in the way")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with pytest.raises(tracelet.SpoolError):
        start(strict=True)
    with start(silent=False) as run:
        run.log_metric("loss", 1)
        (folder,) = (tmp_path / "temporary").iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert capsys.readouterr().err.count("no folder can be written to but") == 1
    assert len(stored().records) == 1


def test_what_is_not_delivered_from_such_a_folder_is_said_not_to_be_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tracelet.run.start.default_root", lambda *_: None)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with start(silent=False, mode="offline") as run:
        run.log_metric("loss", 1)
    (root,) = (tmp_path / "temporary").iterdir()
    assert f"not durable, in {root}" in capsys.readouterr().err
    (seen,) = [status.describe(each) for each in find_runs(root)]
    assert seen["durable"] is False
    status.show(root, as_json=False)
    assert f"not durable: {root}" in capsys.readouterr().out


def test_without_any_folder_at_all_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tracelet.run.start.default_root", lambda *_: None)
    monkeypatch.setattr("tracelet.run.start.makeshift_root", lambda *_: None)
    with start(silent=False) as run:
        run.log_metric("loss", 1)
        assert tracelet.get_active_experiment() is run
    assert tracelet.get_active_experiment() is None
    said = capsys.readouterr().err
    assert said.count("nothing of this run is recorded") == 1
    assert memory.runs() == {}


def test_a_spool_on_a_network_mount_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tracelet.run.start.on_network", lambda path: path.name == "far")

    def without_locks(_fd: int) -> bool:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("tracelet.spool.locks._try", without_locks)
    with start(silent=False, spool_dir=str(tmp_path / "far")) as run:
        run.log_metric("loss", 1)
    said = capsys.readouterr().err
    assert said.count("lies on a network mount") == 1
    assert said.count("without locks") == 1
    assert len(stored().records) == 1


def test_a_disk_that_stalls_is_told_of_once_and_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(silent=False)
    slow = {"now": True}
    write = run._writer._write

    def writing(fd: int, data: Any) -> int:
        if slow["now"]:
            time.sleep(0.6)
        return write(fd, data)

    run._writer._write = writing
    for number in range(50):
        run.log_metric("loss", number)
    slow["now"] = False
    report = run.stop()
    assert (report.recorded, report.lost, report.complete) == (50, {}, True)
    assert report.notes == ["the disk stalled once"]
    said = capsys.readouterr().err
    assert said.count("the disk held up a write for 0.") == 1
    assert " · the disk stalled once" in said


def test_a_clock_that_was_set_is_told_of_and_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Times follow it only after a minute; then whoever looks at the curve should know."""
    run = start(silent=False)
    monkeypatch.setattr("tracelet.spool.writer.LOOK_S", 0.0)
    monkeypatch.setattr("tracelet.spool.writer.CLOCK_PATIENCE_S", 0.05)
    run._writer._anchor += 3600.0  # as if the clock had been put back since
    deadline = time.monotonic() + 30
    logged = 0
    while not run._writer.jumps and time.monotonic() < deadline:
        run.log_metric("loss", logged)
        logged += 1
        time.sleep(0.01)
    run.log_metric("loss", logged)
    report = run.stop()
    assert (report.recorded, report.complete) == (logged + 1, True)
    assert report.notes == ["the clock was set once"]
    said = capsys.readouterr().err
    assert said.count("the clock of this machine was put back by 3,600 s while the run") == 1
    assert " · the clock was set once" in said
    first, *_, last = stored().metrics["loss"]
    assert first.time - last.time == pytest.approx(3600.0, abs=30.0)


def test_the_spool_is_for_its_owner_alone(tmp_path: Path) -> None:
    with start() as run:
        run.log_metric("loss", 1)
        root = tmp_path / ".tracelet"
        for path in [root, *root.rglob("*")]:
            if path.name == ".gitignore":
                continue
            with contextlib.suppress(FileNotFoundError):  # put in a file's place meanwhile
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert (root / ".gitignore").read_text().strip() == "*"


def test_the_start_line_and_the_closing_line(capsys: pytest.CaptureFixture[str]) -> None:
    with start(silent=False) as run:
        run.log_metric("loss", 1)
    look = f"tracelet.backends.memory.runs()[{run.info.run_id!r}]"
    assert capsys.readouterr().err.splitlines() == [
        f"tracelet: recording 'name' → memory: {look}",
        f"tracelet: 1 recorded · memory 1 delivered → {look}",
    ]


def test_what_is_written_about_a_run(tmp_path: Path) -> None:
    with start(tags={"a": 1}, keep_runs="all") as run:
        content = json.loads((tmp_path / ".tracelet" / run.info.run_id / "run.json").read_text())
    assert content["project"] == "project"
    assert content["tags"] == {"a": "1"}
    assert content["keep"] == "all"
    assert content["cwd"] == str(tmp_path)


def test_artifacts_by_reference(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"1")
    with start(snapshot=False) as run:
        run.log_artifact("model")
    (artifact,) = of_type(Artifact)
    assert artifact.source == str(tmp_path / "model")


def test_parameters_are_records_of_their_own() -> None:
    with start() as run:
        run.log_params({"a": 1, "b": 2})
        assert run.stop().recorded == 2
    assert {each.key for each in of_type(Param)} == {"a", "b"}


def test_an_image_from_memory() -> None:
    pytest.importorskip("PIL")
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    with start() as run:
        run.log_image("image", buffer.getvalue())
    (image,) = of_type(Media)
    assert image.data == buffer.getvalue()


def test_a_run_has_its_owner_before_it_can_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another training in the same spool would take it for one that was left, and put it away."""
    owned = []
    written = rundir.write_private

    def write_private(path: Path, data: bytes, **how: Any) -> None:
        if path.name == "run.json":
            owned.append(rundir.RunDir(path.parent, None).owner_alive())  # type: ignore[arg-type]
        written(path, data, **how)

    monkeypatch.setattr(rundir, "write_private", write_private)
    start().stop()
    assert owned == [True]
