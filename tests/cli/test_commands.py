"""``tracelet status`` and ``tracelet sync``, on runs that really were recorded."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import tracelet
from tracelet import registry
from tracelet.cli.commands import tracelet as command_line

SECRET = "sk-planted-0123456789"


def command(*arguments: str) -> Result:
    result = CliRunner().invoke(command_line, list(arguments), catch_exceptions=False)
    assert SECRET not in result.output
    return result


def recorded(name: str = "name", points: int = 3, **config: Any) -> str:
    """A run that waits in the spool; returns its id."""
    config = {"mode": "offline", "silent": True, "backend": "jsonl", **config}
    with tracelet.start_logging(name, "project", config=config) as run:
        for step in range(points):
            run.log_metric("loss", 0.5, step)
    return run.info.run_id


def _all_of(terminal: int) -> bytes:
    """What is written to a terminal until nobody has it any more."""
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(terminal)
    return shown


def arrived(folder: Path) -> list[Path]:
    return sorted((folder / "tracelet-jsonl").rglob("*.jsonl"))


# -- the command ------------------------------------------------------------------------------


def test_the_command_is_there_in_both_ways() -> None:
    for how in ([sys.executable, "-m", "tracelet"],):
        done = subprocess.run([*how, "--version"], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, f"tracelet {tracelet.__version__}\n")


def test_help_names_every_command() -> None:
    said = command("--help").output
    for name in command_line.commands:
        assert name in said


def test_a_folder_that_is_not_there() -> None:
    result = command("status", "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.output


# -- status -----------------------------------------------------------------------------------


def test_status_without_any_run(tmp_path: Path) -> None:
    result = command("status")
    assert result.exit_code == 0
    assert result.output.startswith("No run in ")
    (tmp_path / "empty").mkdir()
    content = json.loads(command("status", "empty", "--json").output)
    assert content["runs"] == []
    assert content["total"]["runs"] == 0


def test_status_of_what_waits() -> None:
    first, second = recorded("first", 3), recorded("second", 1_204)
    result = command("status")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].split() == [
        "RUN",
        "NAME",
        "BACKEND",
        "RECORDED",
        "DELIVERED",
        "PENDING",
        "REJECTED",
        "UNSUPPORTED",
        "STATE",
    ]
    rows = {line.split()[0]: line.split() for line in lines[1:-1]}
    assert rows[first][1:8] == ["first", "jsonl", "3", "0", "3", "0", "0"]
    assert rows[second][1:8] == ["second", "jsonl", "1,204", "0", "1,204", "0", "0"]
    assert re.match(r"2 runs · 1,207 pending, the oldest from .* ago → tracelet sync", lines[-1])


def test_status_for_a_program(tmp_path: Path) -> None:
    run_id = recorded(points=3)
    content = json.loads(command("status", "--json").output)
    assert content["total"] == {
        "runs": 1,
        "recorded": 3,
        "spooled": 3,
        "lost": 0,
        "delivered": 0,
        "pending": 3,
        "rejected": 0,
        "unsupported": 0,
    }
    (run,) = content["runs"]
    assert (run["run"], run["project"], run["name"]) == (run_id, "project", "name")
    assert run["path"] == str(tmp_path / ".tracelet" / run_id)
    assert run["active"] is False
    assert run["backends"]["jsonl"]["pending"] == 3
    assert run["created"] <= content["oldest"] <= time.time()
    assert content["oldest"] == run["backends"]["jsonl"]["oldest"]
    assert content["last_error"] == ""


@pytest.mark.parametrize("where", ["root", "run"])
def test_status_of_one_folder(where: str, tmp_path: Path) -> None:
    run_id = recorded()
    recorded("elsewhere", spool_dir="elsewhere")
    folder = tmp_path / ".tracelet" / ("" if where == "root" else run_id)
    runs = json.loads(command("status", str(folder), "--json").output)["runs"]
    assert [run["run"] for run in runs] == [run_id]


def test_status_finds_runs_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_ids = {recorded(), recorded("elsewhere", spool_dir="elsewhere")}
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    runs = json.loads(command("status", "--json").output)["runs"]
    assert {run["run"] for run in runs} == run_ids


def test_status_of_a_run_that_is_active() -> None:
    config = {"mode": "offline", "silent": True}
    with tracelet.start_logging("name", backend="jsonl", config=config) as run:
        run.log_metric("loss", 1)
        found = subprocess.run(
            [sys.executable, "-m", "tracelet", "status", "--json"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        (seen,) = json.loads(found.stdout)["runs"]
        assert seen["active"] is True
        assert seen["recorded"] == 1
        run.log_metric("loss", 2)
        assert run.stop().recorded == 2


def test_status_shows_what_a_killed_training_lost(tmp_path: Path) -> None:
    """It has no last word, but has said on the way what it could not keep; so has one that has."""
    code = (
        "import os, sys, tracelet\n"
        "run = tracelet.start_logging('name', backend='jsonl', config={'mode': 'offline'})\n"
        "run.log_metric('loss', 1.0)\n"
        "run._writer._lose('disk', 2)\n"  # as where neither disk nor memory takes a record
        "run._writer._tell()\n"
        "run.log_metric('loss', 2.0)\n"
        "run._writer._lose('disk', 3)\n"
        "run._writer._tell()\n"
        "run.log_artifact('not there')\n"
        "os._exit(1) if sys.argv[1:] else None\n"
    )
    for arguments in (["killed"], []):
        subprocess.run(
            [sys.executable, "-c", code, *arguments], timeout=60, stderr=subprocess.DEVNULL
        )
    content = json.loads(command("status", "--json").output)
    killed, ended = content["runs"]
    assert killed["lost"] == {"disk": 5}
    assert ended["lost"] == {"disk": 5, "artifact": 1}
    for run in (killed, ended):
        assert run["recorded"] == run["spooled"] + sum(run["lost"].values())
        assert run["backends"]["jsonl"]["pending"] == run["spooled"] == 2
    assert content["total"]["lost"] == 11
    said = command("status").output
    assert f"{ended['run']}: lost artifact 1, disk 5" in said
    head, first, *_ = said.splitlines()
    assert dict(zip(head.split(), first.split()))["LOST"] == "5"


def test_status_says_who_holds_a_run(tmp_path: Path) -> None:
    """The training that owns it, and the process that delivers it."""
    config = {"silent": True, "jsonl": {"path": str(tmp_path / "file" / "below")}}
    (tmp_path / "file").write_text("no folder")
    with tracelet.start_logging(
        "name", backend="jsonl", config={**config, "mode": "offline"}
    ) as run:
        run.log_metric("loss", 1)
        holder = subprocess.Popen(
            [sys.executable, "-m", "tracelet.ship.sidecar"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert holder.stdin is not None
        folder = tmp_path / ".tracelet" / run.info.run_id
        holder.stdin.write(json.dumps({"add": str(folder)}).encode() + b"\n")
        holder.stdin.flush()
        deadline = time.monotonic() + 60
        seen: Any = {"shipper": None}
        while seen["shipper"] is None and time.monotonic() < deadline:
            found = subprocess.run(
                [sys.executable, "-m", "tracelet", "status", "--json"],
                capture_output=True,
                text=True,
                timeout=60,
            )
            (seen,) = json.loads(found.stdout)["runs"]
        assert (seen["owner"]["pid"], seen["shipper"]["pid"]) == (os.getpid(), holder.pid)
        holder.kill()
        holder.stdin.close()
        holder.wait(timeout=60)
    (seen,) = json.loads(command("status", "--json").output)["runs"]
    assert (seen["owner"], seen["shipper"], seen["active"]) == (None, None, False)


@pytest.mark.parametrize(("columns", "wide"), [(200, True), (130, True), (50, False)])
def test_status_fits_the_terminal(columns: int, wide: bool) -> None:
    pty = pytest.importorskip("pty", reason="platform: no terminals")
    recorded("a-name-that-is-much-longer-than-any-table-has-room-for", 1_204)
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "tracelet", "status"],
        stdout=theirs,
        env={**os.environ, "COLUMNS": str(columns)},
    )
    os.close(theirs)
    shown = _all_of(ours)
    assert child.wait(timeout=60) == 0
    lines = shown.decode().splitlines()
    if wide:
        assert lines[0].startswith("RUN ")
        assert max(map(len, lines[:2])) <= columns
        assert ("room-for" in lines[1]) == (columns == 200)
    else:
        assert max(map(len, lines[:-1])) <= columns
        assert "    1,204 pending" in lines


def test_status_of_a_folder_that_will_not_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where runs go when nothing else can be written to."""
    last_resort = Path(tempfile.mkdtemp(prefix="tracelet-"))
    try:
        recorded(spool_dir=str(last_resort))
        recorded("kept")
        first, second = json.loads(command("status", "--json").output)["runs"]
        assert (first["durable"], second["durable"]) == (False, True)
        assert f"not durable: {last_resort} does not outlive" in command("status").output
    finally:
        shutil.rmtree(last_resort)


def test_status_shows_what_stands_in_the_way(tmp_path: Path) -> None:
    recorded()
    (tmp_path / "tracelet-jsonl").write_text("in the way")
    assert command("sync", "--timeout", "1").exit_code == 1
    content = json.loads(command("status", "--json").output)
    assert content["last_error"].startswith("jsonl: ")
    assert "last error: jsonl: " in command("status").output


# -- sync -------------------------------------------------------------------------------------


def test_sync_without_anything_to_do() -> None:
    result = command("sync")
    assert (result.exit_code, result.output) == (0, "Nothing is left to deliver.\n")


def test_sync_delivers_and_says_so(tmp_path: Path) -> None:
    first, second = recorded("first"), recorded("second")
    result = command("sync")
    assert result.exit_code == 0
    one, two = result.output.splitlines()
    folder = tmp_path / "tracelet-jsonl" / "project"
    assert one == f"{first} first: jsonl 3 delivered, FINISHED → {folder / 'first.jsonl'}"
    assert two == f"{second} second: jsonl 3 delivered, FINISHED → {folder / 'second.jsonl'}"
    assert len(arrived(tmp_path)) == 2
    assert command("sync").output == "Nothing is left to deliver.\n"


@pytest.mark.parametrize("kind", ["newer", "others may write", "nonsense"])
def test_a_folder_that_is_refused_is_told(kind: str, tmp_path: Path) -> None:
    """And does not keep the others from being delivered."""
    refused, fine = recorded("first"), recorded("second")
    folder = tmp_path / ".tracelet" / refused
    if kind == "newer":
        content = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**content, "format": 2}))
        said = f"{folder} was written by a newer tracelet (format 2); update tracelet"
    elif kind == "nonsense":
        (folder / "run.json").write_text("[]")
        said = f"{folder / 'run.json'} does not describe a run"
    else:
        folder.chmod(0o777)
        said = f"{folder} can be changed by other users; remove that right first"
    result = command("sync")
    assert result.exit_code == 1
    assert f"passed over: {said}" in result.output
    assert f"{fine} second: jsonl 3 delivered" in result.output
    for target in ([refused], [str(folder)]):
        result = command("sync", *target)
        assert result.exit_code == 1
        assert said in result.output
    shown = command("status", "--json")
    content = json.loads(shown.stdout)
    assert len(content["refused"]) == 1
    assert content["refused"][0].startswith(said)
    assert f"passed over: {said}" in command("status").output


def test_sync_of_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = command("sync", "empty")
    assert (result.exit_code, result.output) == (0, "No run in empty.\n")


def test_sync_of_one_run(tmp_path: Path) -> None:
    first, second = recorded("first"), recorded("second")
    assert command("sync", second).exit_code == 0
    assert [path.stem for path in arrived(tmp_path)] == ["second"]
    assert command("sync", ".tracelet", first[:-2]).exit_code == 0
    assert len(arrived(tmp_path)) == 2


def test_sync_of_a_run_that_is_not_there() -> None:
    first = recorded("first")
    recorded("second")
    result = command("sync", "nonsense")
    assert result.exit_code == 1
    assert "'nonsense' is no folder and no run" in result.output
    assert "2 runs begin with" in command("sync", first[:2]).output


def test_sync_says_what_remains(tmp_path: Path) -> None:
    run_id = recorded()
    (tmp_path / "tracelet-jsonl").write_text("in the way")
    result = command("sync", "--timeout", "1")
    assert result.exit_code == 1
    assert result.output.startswith(f"{run_id} name: jsonl 0 delivered, 3 pending (")
    (tmp_path / "tracelet-jsonl").unlink()
    assert command("sync").exit_code == 0
    assert len(arrived(tmp_path)) == 1


def test_sync_leaves_a_run_alone_that_is_active() -> None:
    config = {"mode": "offline", "silent": True}
    with tracelet.start_logging("name", backend="jsonl", config=config) as run:
        run.log_metric("loss", 1)
        done = subprocess.run(
            [sys.executable, "-m", "tracelet", "sync"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1
        assert "is still being recorded" in done.stdout


def test_sync_closes_a_run_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import os, tracelet\n"
        "run = tracelet.start_logging('name', backend='jsonl', config={'mode': 'offline'})\n"
        "run.log_metric('loss', 1.0)\n"
        "os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, stderr=subprocess.DEVNULL)
    result = command("sync")
    assert result.exit_code == 0
    assert "1 delivered, KILLED" in result.output


def test_sync_of_a_backend_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    recorded(backend="mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    result = command("sync", "--timeout", "1")
    assert result.exit_code == 1
    assert "pip install 'tracelet[mlflow]'" in result.output


@pytest.mark.parametrize(
    ("arguments", "environment", "variable"),
    [
        ({"api_key": SECRET}, {}, "the backend's own"),
        ({}, {"TRACELET_API_KEY": SECRET}, "TRACELET_API_KEY"),
        ({}, {"TRACELET_MLFLOW__API_KEY": SECRET}, "TRACELET_MLFLOW__API_KEY"),
        ({}, {"MLFLOW_TRACKING_TOKEN": SECRET}, "MLFLOW_TRACKING_TOKEN"),
        (
            {},
            {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": SECRET},
            "MLFLOW_TRACKING_PASSWORD",
        ),
    ],
)
def test_sync_says_which_secret_is_missing(
    arguments: dict[str, Any],
    environment: dict[str, str],
    variable: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("mlflow")
    if variable == "the backend's own":
        declared = registry.backend_class("mlflow").secret_variables
        variable = declared.get("api_key", "TRACELET_API_KEY")
    with monkeypatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        recorded(backend="mlflow", backend_url="http://127.0.0.1:9", **arguments)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    result = command("sync", "--timeout", "1")
    assert result.exit_code == 1
    assert variable in result.output
    assert "secrets are not kept on disk" in result.output
    for name, value in {variable: SECRET, **environment}.items():
        monkeypatch.setenv(name, value)
    result = command("sync", "--timeout", "1")
    assert result.exit_code == 1  # nobody listens there
    assert "secrets are not kept" not in result.output


def test_progress_is_for_a_terminal(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="platform: no terminals")
    recorded(points=20_000)
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "tracelet", "sync"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    shown = _all_of(ours)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert b"delivered" in shown
    assert b"to go" in shown
    assert said.count("\n") == 1


def test_a_run_without_records_that_is_not_there_yet_is_no_success(tmp_path: Path) -> None:
    """Its name, tags and status are still to be delivered."""
    (tmp_path / "file").write_text("no folder")
    recorded(points=0, jsonl={"path": str(tmp_path / "file" / "below")})
    assert "→ tracelet sync" in command("status").output
    result = command("sync", "--timeout", "1")
    assert result.exit_code == 1
    assert "jsonl not there yet (" in result.output
    assert "→ tracelet sync" in command("status").output
