"""
The disk under the spool: full, read-only, not there. Small file systems of our own, real programs.

What TensorBoard and the backend write is on another disk, that is well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from tests.pipeline.programs import SOURCE, jsonl, left_over, wait_for

Mount = Callable[[str], Path]

PROGRAM = """
import json, os, pathlib, sys, time
import tracelet
from tensorboardX import SummaryWriter

spool, out = sys.argv[1:]
config = {"jsonl": {"path": out}, **({"spool_dir": spool} if spool else {})}
run = tracelet.start_logging("name", "project", "jsonl", config=config)
writer, step = SummaryWriter(f"{out}-events"), 0

def log(count):
    global step
    for _ in range(count):
        writer.add_scalar("loss", step / 2, step)
        step += 1

def fill():
    "To the last byte."
    for size in (65536, 1):
        with open(f"{spool}/filler", "ab", buffering=0) as file:
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass

def stop(**how):
    writer.close()
    report = run.stop(**how)
    assert report.check() == []
    print(json.dumps({"recorded": report.recorded, "lost": dict(report.lost), "line": str(report)}))
"""


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    made = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"mode=700,{options}", "none", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True)
        except OSError:
            pytest.skip("platform: there is no mount")
        if done.returncode:
            pytest.skip("platform: nothing may be mounted here")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _run(folder: Path, code: str, spool: str, out: Path, **variables: str) -> tuple[Any, str]:
    """Run a program; return what it found, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + code, spool, str(out)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def _delivered(out: Path) -> tuple[list[int], str, Path]:
    (file,) = out.rglob("*.jsonl")
    # A host that cannot write down how far it is tries again after up to half a minute.
    wait_for(lambda: jsonl(file)[1] is not None, timeout=100.0)
    points, status = jsonl(file)
    return [step for step, _ in points], str(status), file


def test_a_disk_that_is_full_for_three_seconds(tmp_path: Path, mount: Mount) -> None:
    disk, out = mount("size=6m"), tmp_path / "out"
    (tmp_path / "model.bin").write_bytes(b"weights" * 50_000)
    found, _ = _run(
        tmp_path,
        """
import numpy
log(500)
fill()
began = time.monotonic()
while time.monotonic() - began < 3.0:
    log(50)
    time.sleep(0.005)
# What is large, and what is the user's own: no exception, and no room.
writer.add_image("noise", numpy.random.rand(3, 400, 400), 0)
run.log_artifact("model.bin")
run.log_text("note", "x" * 1_000_000)
os.unlink(f"{spool}/filler")
log(500)
stop(timeout=60.0)
print(json.dumps({"steps": step, "recorded": run.stop().recorded, "lost": dict(run.stop().lost)}))
""",
        str(disk),
        out,
    )
    steps, status, file = _delivered(out)
    assert found["lost"] == {}
    assert found["recorded"] == found["steps"] + 3
    assert steps == list(range(found["steps"]))
    assert status == "FINISHED"
    said = [json.loads(line) for line in file.read_text().splitlines()]
    assert {"media", "artifact", "text"} <= {line["type"] for line in said}
    wait_for(lambda: not left_over(disk))


def test_a_disk_that_stays_full_has_room_for_the_end_of_the_run(
    tmp_path: Path, mount: Mount
) -> None:
    disk, out = mount("size=6m"), tmp_path / "out"
    found, _ = _run(
        tmp_path,
        """
log(500)
run.flush(30.0)
fill()
log(20_000)
run.log_params({"lr": 0.1})
stop(timeout=3.0)
""",
        str(disk),
        out,
    )
    steps, status, file = _delivered(out)
    assert status == "FINISHED"
    assert found["recorded"] == 20_501
    assert set(found["lost"]) == {"disk"}
    # The first of what had waited are there as well: as many as the reserve has room for.
    assert steps == list(range(20_500 - found["lost"]["disk"]))
    assert 500 < len(steps) < 1500
    assert '"param"' in file.read_text()
    assert f"lost (disk {found['lost']['disk']:,})" in found["line"]


def test_where_nothing_can_be_written_at_the_start(tmp_path: Path, mount: Mount) -> None:
    """One warning, and everything arrives."""
    closed, out = mount("size=1m,ro"), tmp_path / "out"
    (tmp_path / "temporary").mkdir()
    found, said = _run(
        closed,
        """
log(300)
stop()
""",
        "",
        out,
        XDG_STATE_HOME=str(closed / "state"),
        TMPDIR=str(closed),
        TEMP=str(tmp_path / "temporary"),
    )
    assert _delivered(out)[:2] == (list(range(300)), "FINISHED")
    assert (found["recorded"], found["lost"]) == (300, {})
    assert said.count("no folder can be written to but") == 1
    assert len(list((tmp_path / "temporary").glob("tracelet-spool-*"))) == 1


def test_a_full_disk_at_the_start(tmp_path: Path, mount: Mount) -> None:
    """The folder that runs go to by default is passed over; one that was named is an error."""
    disk, out = mount("size=256k"), tmp_path / "out"
    (disk / "filler").write_bytes(bytes(200 * 1024))
    found, said = _run(
        disk,
        """
assert ".tracelet" not in str(run._run_dir.path), run._run_dir.path
log(100)
stop()
try:
    tracelet.start_logging(config={"spool_dir": "here"}, backend="jsonl")
    raise AssertionError("it started")
except tracelet.SpoolError as error:
    assert "spool_dir" in str(error), error
""",
        "",
        out,
        XDG_STATE_HOME=str(tmp_path / "state"),
    )
    assert _delivered(out)[:2] == (list(range(100)), "FINISHED")
    assert (found["recorded"], found["lost"]) == (100, {})
    assert "cannot be written" not in said
