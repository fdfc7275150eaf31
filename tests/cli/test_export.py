"""``tracelet export``: what comes out is read by those whom it is for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import tracelet
from tracelet.cli.commands import tracelet as command_line
from tracelet.ship import snapshot
from tracelet.spool.packing import pack

pq = pytest.importorskip("pyarrow.parquet")


def command(*arguments: str) -> Result:
    return CliRunner().invoke(command_line, list(arguments))


def recorded(points: int = 2_000, **config: Any) -> str:
    """A run that waits in the spool, logged through a real writer; returns its id."""
    config = {"mode": "offline", "silent": True, **config}
    with tracelet.start_logging("name", "project", "jsonl", config=config) as run:
        log(run, points)
    return str(run.info.run_id)


def log(run: tracelet.Run, points: int, folder: str = "runs/a") -> None:
    from tensorboardX import SummaryWriter

    with SummaryWriter(folder) as writer:
        for step in range(points):
            writer.add_scalar("loss", step / 7, step)
        writer.add_text("note", "hello", 1)
        writer.add_histogram("weights", [1.0, 2.0, 2.0], 2)
    run.log_params({"lr": 0.1, "name": "adam"})
    run.set_tags({"team": "ml"})
    Path("model.pth").write_bytes(b"weights")
    run.log_artifact("model.pth")


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    return list(pq.read_table(folder / f"{name}.parquet").to_pylist())


def content(folder: Path) -> dict[str, Any]:
    """Every file; of one of lines the lines, because two kinds of records take turns in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        if path.suffix != ".jsonl"
        else sorted(path.read_bytes().splitlines())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_run_that_was_never_delivered_is_exported_whole_and_stays_as_it_is() -> None:
    run_id = recorded()
    spool = Path(".tracelet", run_id)
    before = content(spool)
    done = command("export", run_id[:18], "-o", "out")
    assert done.exit_code == 0, done.output
    folder = Path("out/project/name")
    assert done.output.rstrip().endswith(f"→ {folder.absolute()}")
    metrics = table(folder, "metrics")
    assert [(row["step"], row["value"]) for row in metrics] == [
        (step, step / 7) for step in range(2_000)
    ]
    assert {(row["run_id"], row["key"]) for row in metrics} == {(run_id, "loss")}
    assert {row["key"]: row["value"] for row in table(folder, "params")} == {
        "lr": "0.1",
        "name": "adam",
    }
    assert {"key": "team", "value": "ml"}.items() <= table(folder, "tags")[-1].items()
    [text], [histogram], [artifact], [run] = (
        table(folder, name) for name in ("texts", "histograms", "artifacts", "run")
    )
    assert (text["text"], text["step"]) == ("hello", 1)
    assert sum(histogram["counts"]) == 3
    assert (folder.parent / artifact["file"]).read_bytes() == b"weights"
    assert (run["status"], run["name"]) == ("FINISHED", "name")
    assert content(spool) == before
    assert [path.name for path in Path("out").iterdir()] == ["project"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_the_same_export_again_gives_the_same_files(kind: str) -> None:
    run_id, other = recorded(300), recorded(30)
    for _ in range(2):
        assert command("export", run_id, other, "--format", kind, "-o", "out").exit_code == 0
        first = content(Path("out"))
    assert command("export", ".tracelet", "--format", kind, "-o", "out").exit_code == 0
    assert content(Path("out")) == first
    # Two runs of one name, and each is there.
    assert len([p for p in Path("out/project").iterdir() if p.suffix != ".files"]) == 2


def test_a_kept_run_is_exported_after_it_was_delivered() -> None:
    config = {"silent": True, "keep_runs": "all", "backend_url": "delivered"}
    with tracelet.start_logging("name", "project", "jsonl", config=config) as run:
        log(run, 50)
    done = command("export", run.info.run_id, "--format", "jsonl", "-o", "out")
    assert done.exit_code == 0, done.output

    def records(path: str) -> list[Any]:
        lines = map(json.loads, Path(path).read_text().splitlines())
        found = [line for line in lines if line["type"] not in ("run", "end")]
        return sorted(found, key=lambda line: (line["lane"], line["n"]))

    assert records("out/project/name.jsonl") == records("delivered/project/name.jsonl")


def test_a_run_that_is_being_recorded_is_exported_as_far_as_it_is() -> None:
    """Also while its sidecar delivers it: nobody waits for a lock."""
    config = {"silent": True, "keep_runs": "all"}
    with tracelet.start_logging("name", "project", "jsonl", config=config) as run:
        log(run, 100)
        done = command("export", run.info.run_id, "-o", "out")
        assert done.exit_code == 0, done.output
        folder = Path("out/project/name")
        assert len(table(folder, "metrics")) == 100
        assert table(folder, "run")[0]["status"] == "RUNNING"
        log(run, 20, "runs/a")
        assert run.info.run_id in {path.name for path in Path(".tracelet").iterdir()}
    assert command("export", run.info.run_id, "-o", "out").exit_code == 0
    assert len(table(folder, "metrics")) == 120
    assert table(folder, "run")[0]["status"] == "FINISHED"


def test_a_segment_that_is_compressed_meanwhile_is_exported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = recorded(30)
    original = snapshot._take

    def late(source: Path, target: Path, *, link: bool) -> None:
        if source.parent.name == "seg" and source.suffix != ".gz":
            pack(source)
        original(source, target, link=link)

    monkeypatch.setattr(snapshot, "_take", late)
    done = command("export", run_id, "-o", "out")
    assert done.exit_code == 0, done.output
    assert len(table(Path("out/project/name"), "metrics")) == 30


def test_a_run_of_which_a_part_was_deleted_is_not_exported() -> None:
    run_id = recorded(3)
    [segment] = Path(".tracelet", run_id, "seg").glob("m*-000001")
    segment.rename(segment.with_name(segment.name[:-1] + "2"))
    done = command("export", run_id, "-o", "out")
    assert done.exit_code == 1
    assert "is not here any more as a whole" in done.output
    assert list(Path("out").iterdir()) == []


def test_what_is_wrong_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = recorded(3)
    assert "no folder and no run" in command("export", "nothing", "-o", "out").output
    Path("file").write_text("")
    done = command("export", run_id, "-o", "file/out")
    assert (done.exit_code, "cannot be written" in done.output) == (1, True)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = command("export", run_id, "-o", "out")
    assert done.exit_code == 1
    assert "pip install 'tracelet[parquet]'" in done.output
    assert "Traceback" not in done.output
