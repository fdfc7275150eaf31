"""What the files of the jsonl backend look like, and what may happen to them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelet.backends.base import Batch, RemoteRun, RunInfo
from tracelet.backends.jsonl import JsonlBackend, JsonlOptions
from tracelet.backends.plain.lines import LineFile, owner
from tracelet.backends.plain.names import file_name
from tracelet.errors import ConfigError, RejectedError, RetryableError, RunGoneError
from tracelet.records import Artifact, Histogram, Media, Metric, Param, RunStatus, Table


def info(run_id: str = "20260101-000000-aa", **changes: Any) -> RunInfo:
    who = {"project": "vision", "name": "baseline", "created": 1.0, "tags": {}, **changes}
    return RunInfo(run_id=run_id, backends=["jsonl"], **who)


def opened(folder: Path, run: RunInfo) -> tuple[JsonlBackend, Path]:
    backend = JsonlBackend(JsonlOptions(path=str(folder)))
    return backend, Path(backend.open(run, None, folder).look)


def points(first: int, count: int) -> list[Metric]:
    return [Metric("loss", step / 3, step, 1.0 + step) for step in range(first, first + count)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def steps(path: Path) -> list[int]:
    return [entry["step"] for entry in lines(path) if entry["type"] == "metric"]


def test_a_file_is_readable_and_says_all(tmp_path: Path) -> None:
    backend, path = opened(tmp_path, info(tags={"team": "größer"}))
    backend.write(Batch([Metric("loss", 0.1, 1, 2.5, "runs/a"), Param("lr", 1e-3, 2.5)]))
    backend.close(RunStatus.FINISHED, 3.0)
    assert path == tmp_path / "vision" / "baseline.jsonl"
    head, metric, param, end = lines(path)
    assert (head["type"], head["format"], head["run_id"]) == ("run", 1, "20260101-000000-aa")
    assert (head["project"], head["name"]) == ("vision", "baseline")
    assert metric == {
        "lane": "light",
        "n": 0,
        "type": "metric",
        "key": "loss",
        "value": 0.1,
        "step": 1,
        "time": 2.5,
        "stream": "runs/a",
    }
    assert (param["n"], param["type"], param["value"]) == (1, "param", 0.001)
    assert end == {"type": "end", "status": "FINISHED", "time": 3.0}
    assert "größer" in path.read_text(encoding="utf-8")


def test_what_json_has_no_number_for_is_a_word(tmp_path: Path) -> None:
    backend, path = opened(tmp_path, info())
    backend.write(
        Batch(
            [
                Metric("a", math.nan, 0, 1.0),
                Metric("a", math.inf, 1, 1.0),
                Metric("a", -math.inf, 2, 1.0),
                Histogram("h", (-math.inf, 0.0), (1.0,), math.nan, 0.0, 0.0, 0.0, 1, 1.0),
                Table("t", ("a",), ((math.nan,), (1.5,)), 1, 1.0),
            ]
        )
    )
    backend.close(RunStatus.RUNNING)
    _, *metrics, histogram, table = lines(path)
    assert [entry["value"] for entry in metrics] == ["NaN", "Infinity", "-Infinity"]
    assert (histogram["edges"], histogram["min"]) == (["-Infinity", 0.0], "NaN")
    assert table["rows"] == [["NaN"], [1.5]]
    assert [float(entry["value"]) for entry in metrics][1:] == [math.inf, -math.inf]


@pytest.mark.parametrize("text", ["\x85\u2028\u2029", "\ud800 half a pair", "a\nb\rc\0"])
def test_no_text_breaks_a_line(tmp_path: Path, text: str) -> None:
    backend, path = opened(tmp_path, info())
    backend.write(Batch([Param("it", text, 1.0)]))
    backend.close(RunStatus.RUNNING)
    read = path.read_bytes().decode().splitlines()
    assert len(read) == 2
    assert json.loads(read[1])["value"] == text


def test_media_and_artifacts_are_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"weights")
    backend, path = opened(tmp_path, info())
    backend.write(
        Batch(
            [
                Media("image", "a/b", b"picture", "image/png", 3, 1.0),
                Artifact("models/.model pth", str(tmp_path / "model"), 7, 1.0),
            ],
            lane="heavy",
        )
    )
    backend.close(RunStatus.FINISHED)
    _, media, artifact, _ = lines(path)
    assert media["file"].startswith("baseline.files/media/image/a%2Fb/3-0-")
    assert media["file"].endswith(".png")
    assert (path.parent / media["file"]).read_bytes() == b"picture"
    assert artifact["file"] == "baseline.files/artifacts/models/.model pth"
    assert (path.parent / artifact["file"]).read_bytes() == b"weights"
    assert "source" not in artifact
    assert sorted(p.name for p in (path.parent / "baseline.files").iterdir()) == [
        "artifacts",
        "media",
    ]


def test_an_artifact_may_be_called_like_the_folder_of_another(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).write_text(name)
    sent = {"a": "one", "a/b": "two", "a/b/c": "three"}
    backend, path = opened(tmp_path, info())
    for number, (where, source) in enumerate(sent.items()):
        size = (tmp_path / source).stat().st_size
        record = Artifact(where, str(tmp_path / source), size, 1.0)
        backend.write(Batch([record], offset=number, lane="heavy"))
    backend.close(RunStatus.FINISHED)
    found = {e["path"]: e["file"] for e in lines(path) if e["type"] == "artifact"}
    assert {p: (path.parent / file).read_text() for p, file in found.items()} == sent


def test_a_torn_line_is_cut_when_the_file_is_opened(tmp_path: Path) -> None:
    backend, path = opened(tmp_path, info())
    backend.write(Batch(points(0, 10)))
    backend.close(RunStatus.RUNNING)
    whole = path.read_bytes()
    for length in range(len(whole) - 150, len(whole)):
        path.write_bytes(whole[:length])
        backend, _ = opened(tmp_path, info())
        backend.write(Batch(points(0, 10), resend=True))
        backend.close(RunStatus.RUNNING)
        assert steps(path) == list(range(10))


def test_a_file_of_nothing_but_a_torn_line_is_begun_anew(tmp_path: Path) -> None:
    opened(tmp_path, info("first"))[0].close(RunStatus.FINISHED)
    backend, path = opened(tmp_path, info("second"))
    backend.close(RunStatus.RUNNING)
    path.write_bytes(path.read_bytes()[:20])
    backend, again = opened(tmp_path, info("second"))
    backend.write(Batch(points(0, 3)))
    backend.close(RunStatus.RUNNING)
    assert again == path
    assert [entry["type"] for entry in lines(path)] == ["run", *["metric"] * 3]


def test_a_file_whose_maker_died_before_its_first_word_is_taken(tmp_path: Path) -> None:
    """By the run that made it, as a rule; and nothing else is left of that."""
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tracelet.backends.jsonl import JsonlBackend, JsonlOptions, backend\n"
        "from tracelet.backends.base import RunInfo\n"
        "backend.LineJournal = lambda *_: os._exit(9)\n"
        "run = RunInfo('first', 'vision', 'baseline', 1.0, {}, ['jsonl'])\n"
        "JsonlBackend(JsonlOptions(path=sys.argv[1])).open(run, None, Path())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == 9
    empty = tmp_path / "vision" / "baseline.jsonl"
    assert empty.read_bytes() == b""
    # Whoever reads it finds no run and no line; whoever comes goes on in it.
    assert owner(empty) is None
    assert lines(empty) == []
    paths = []
    for run_id in ("first", "second", "first"):
        backend, path = opened(tmp_path, info(run_id))
        backend.write(Batch(points(0, 3), resend=True))
        backend.close(RunStatus.FINISHED)
        paths.append(path)
    assert paths[0] == paths[2] == empty
    assert sorted(empty.parent.glob("*.jsonl")) == sorted(set(paths))
    for path in paths:
        assert steps(path) == [0, 1, 2]


def test_a_file_that_another_run_begins_meanwhile_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was empty when it was looked at; two runs in one file could not be parted again."""
    path = tmp_path / "vision" / "baseline.jsonl"
    path.parent.mkdir()
    path.touch()
    other = JsonlBackend(JsonlOptions(path=str(tmp_path)))
    made = LineFile.__init__

    def late(lines: LineFile, where: Path, *, create: bool) -> None:
        monkeypatch.setattr(LineFile, "__init__", made)
        other.open(info("other"), None, tmp_path)
        other.close(RunStatus.FINISHED)
        made(lines, where, create=create)

    monkeypatch.setattr(LineFile, "__init__", late)
    monkeypatch.setattr("tracelet.backends.jsonl.backend._beginning", threading.RLock())
    with pytest.raises(RetryableError, match="just now"):
        opened(tmp_path, info("ours"))
    backend, again = opened(tmp_path, info("ours"))
    backend.close(RunStatus.FINISHED)
    assert again != path
    assert [entry.get("run_id") for entry in lines(path)] == ["other", None]


def test_a_rejected_record_does_not_move_the_ones_behind_it(tmp_path: Path) -> None:
    """The first time it was left out; when the range goes again, it is in it again."""
    gone = Artifact("gone", str(tmp_path / "gone"), 1, 1.0)
    pictures = [Media("image", "p", bytes([n]), "image/png", n, 1.0) for n in range(6)]
    whole = [*pictures[:2], gone, *pictures[2:]]
    backend, path = opened(tmp_path, info())
    with pytest.raises(RejectedError) as caught:
        backend.write(Batch(whole, lane="heavy"))
    assert caught.value.indexes == (2,)
    backend.write(Batch(pictures, lane="heavy"))
    (tmp_path / "gone").write_bytes(b"!")
    backend.write(Batch(whole, lane="heavy", resend=True))
    backend.close(RunStatus.FINISHED)
    assert sorted(e["step"] for e in lines(path) if e["type"] == "media") == list(range(6))
    assert len([e for e in lines(path) if e["type"] == "artifact"]) == 1


def test_what_has_no_form_in_json_is_rejected_by_name(tmp_path: Path) -> None:
    odd = Media("image", "odd", b"", "image/png", 0, 1.0, meta={"what": object()})
    good = Media("image", "good", b"", "image/png", 0, 1.0)
    backend, path = opened(tmp_path, info())
    with pytest.raises(RejectedError, match="odd") as caught:
        backend.write(Batch([good, odd], lane="heavy"))
    backend.close(RunStatus.RUNNING)
    assert caught.value.indexes == (1,)
    assert len(lines(path)) == 1


def test_a_second_run_of_a_name_has_a_file_of_its_own_and_finds_it_again(tmp_path: Path) -> None:
    paths = []
    for run_id in ("first", "second", "third", "second", "first"):
        backend, path = opened(tmp_path, info(run_id))
        backend.close(RunStatus.FINISHED)
        paths.append(path)
    assert paths[0].name == "baseline.jsonl"
    assert len(set(paths)) == 3
    assert (paths[3], paths[4]) == (paths[1], paths[0])


def test_runs_of_one_name_that_begin_at_once_have_files_of_their_own(tmp_path: Path) -> None:
    """Also where an empty file is there for whoever comes first."""
    (tmp_path / "vision").mkdir()
    (tmp_path / "vision" / "baseline.jsonl").touch()
    paths: list[Path] = []

    def begin(number: int) -> None:
        backend, path = opened(tmp_path, info(f"run{number}"))
        backend.close(RunStatus.FINISHED)
        paths.append(path)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 16
    assert {entry["type"] for entry in lines(tmp_path / "vision" / "baseline.jsonl")} == {
        "run",
        "end",
    }
    assert all(len(lines(path)) == 2 for path in paths)


def test_another_process_cannot_write_the_same_file(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("platform: no record locks here")
    backend, path = opened(tmp_path, info())
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tracelet.backends.plain.lines import LineFile\n"
        "try:\n"
        "    LineFile(Path(sys.argv[1]), create=False)\n"
        "except BlockingIOError:\n"
        "    print('busy')\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ask = lambda: subprocess.run(  # noqa: E731
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert ask().stdout.strip() == "busy"
    backend.close(RunStatus.RUNNING)
    assert ask().stdout.strip() == ""


def test_a_file_that_was_deleted_is_noticed(tmp_path: Path) -> None:
    backend, path = opened(tmp_path, info())
    path.unlink()
    with pytest.raises(RunGoneError):
        backend.write(Batch(points(0, 1)))
    backend.close(RunStatus.RUNNING)


@pytest.mark.parametrize("run_id", ["", "a", "a/b/c", "../a", "a/..", "/etc", "a/b\0", "./a"])
def test_an_id_of_another_kind_is_an_error(tmp_path: Path, run_id: str) -> None:
    backend = JsonlBackend(JsonlOptions(path=str(tmp_path)))
    with pytest.raises(ConfigError):
        backend.open(info(), RemoteRun(id=run_id), tmp_path)


def test_look_tells_the_path_before_and_after_the_run_is_open(tmp_path: Path) -> None:
    backend = JsonlBackend(JsonlOptions(path=str(tmp_path)))
    before = backend.look(info())
    remote = backend.open(info(), None, tmp_path)
    assert before == remote.look == backend.look(info()) == str(tmp_path / "vision/baseline.jsonl")
    assert remote.id == "vision/baseline"
    backend.close(RunStatus.FINISHED)


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ({}, "tracelet-jsonl"),
        ({"path": "logs"}, "logs"),
        ({"url": "logs/"}, "logs"),
        ({"url": "logs", "path": "./logs"}, "logs"),
    ],
)
def test_the_folder_is_made_absolute(tmp_path: Path, given: dict[str, str], folder: str) -> None:
    options, secrets = JsonlBackend.resolve(given, {}, tmp_path)
    assert options.path == str(tmp_path / folder)
    assert secrets == {}


def test_a_file_address_is_a_folder(tmp_path: Path) -> None:
    options, _ = JsonlBackend.resolve({"url": (tmp_path / "a b").as_uri()}, {}, tmp_path)
    assert options.path == str(tmp_path / "a b")


@pytest.mark.parametrize("given", [{"url": "http://host:5000"}, {"url": "a", "path": "b"}])
def test_what_is_no_folder_is_an_error(tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        JsonlBackend.resolve(given, {}, tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        JsonlBackend(JsonlOptions(path=str(tmp_path / "file" / "logs"))).preflight()


def test_a_disk_that_fails_later_is_retryable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, path = opened(tmp_path, info())
    backend.write(Batch(points(0, 3)))
    with monkeypatch.context() as patch:
        # A disk that is full in the middle of a line.
        patch.setattr(os, "write", _full_after(70))
        with pytest.raises(RetryableError):
            backend.write(Batch(points(3, 3), offset=3))
    assert steps(path) == [0, 1, 2]
    backend.write(Batch(points(3, 3), offset=3, resend=True))
    backend.close(RunStatus.FINISHED)
    assert steps(path) == list(range(6))


def _full_after(room: int) -> Any:
    left, write = [room], os.write

    def limited(descriptor: int, data: Any) -> int:
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        written = write(descriptor, data[: left[0]])
        left[0] -= written
        return written

    return limited


@given(st.text(max_size=80), st.text(max_size=80))
def test_different_names_have_different_files(one: str, other: str) -> None:
    assert (file_name(one) == file_name(other)) == (one == other)


@given(st.text(max_size=400))
def test_any_name_is_a_name_that_every_system_takes(text: str) -> None:
    name = file_name(text)
    assert 0 < len(name.encode()) < 240
    assert not set(name) & set('<>:"/\\|?*\0')
    assert name[0] != "."
    assert name[-1] not in ". "
    assert name.split(".")[0].lower() not in ("con", "nul", "aux", "prn", "com1", "lpt1")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("baseline", "baseline"),
        ("größer (2)", "größer (2)"),
        ("team/vision", "team%2Fvision"),
        ("100%", "100%25"),
        ("..", "%2E%2E"),
        ("con", "%63on"),
        ("a~b", "a%7Eb"),
        ("a ", "a%20"),
        ("", "%"),
    ],
)
def test_names_are_readable(text: str, name: str) -> None:
    assert file_name(text) == name
