"""``tracelet gc``, on runs that really were recorded: what goes, and above all what does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import tracelet
from tracelet.cli.commands import tracelet as command_line
from tracelet.ship import rejected
from tracelet.spool.cursor import Cursor
from tracelet.spool.rundir import RunDir, known_roots


def command(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(command_line, list(arguments), answer, catch_exceptions=False)


def recorded(name: str = "name", **config: Any) -> Path:
    """A run that waits in the spool; returns its folder."""
    config = {"mode": "offline", "silent": True, "backend": "jsonl", **config}
    with tracelet.start_logging(name, "project", config=config) as run:
        for step in range(3):
            run.log_metric("loss", 0.5, step)
    return Path(".tracelet") / run.info.run_id


def aged(path: Path, days: float) -> Path:
    """Make a run look as if nobody had touched it for so long."""
    when = time.time() - days * 86400
    for each in (path, *path.rglob("*")):
        os.utime(each, (when, when))
    return path


def spool() -> set[str]:
    return {path.parent.name for path in Path(".tracelet").glob("*/run.json")}


def test_what_was_not_delivered_stays() -> None:
    run = aged(recorded(), days=900)
    for arguments in ((), ("--older-than", "1"), (str(run),), (".tracelet",)):
        result = command("gc", *arguments)
        assert (result.exit_code, "Nothing is left over." in result.output) == (0, True)
    assert spool() == {run.name}


def test_what_was_not_delivered_goes_only_when_asked_for_twice() -> None:
    """By age, by the flag, and by a yes; a younger one stays."""
    old, young = aged(recorded(), days=10), recorded()
    assert command("gc", "--undelivered").exit_code == 2
    rest = ("gc", "--undelivered", "--older-than", "5")
    said_no = command(*rest, answer="n\n")
    assert said_no.exit_code == 1
    assert old.name in said_no.output
    assert "3 records" in said_no.output
    assert command(*rest).exit_code == 1, "nobody answers: that is no yes"
    dry = command(*rest, "--dry-run")
    assert dry.exit_code == 0
    assert "would be freed" in dry.output
    assert spool() == {old.name, young.name}
    assert command(*rest, "--yes").exit_code == 0
    assert spool() == {young.name}
    assert command("sync").exit_code == 0
    assert len(list(Path("tracelet-jsonl").rglob("*.jsonl"))) == 1


def test_delivered_runs_beyond_those_that_are_kept_go() -> None:
    """As after a shipper that was killed when all was delivered: the newest stay."""
    runs = [recorded(f"run {number}", keep_runs=2) for number in range(3)]
    everything = recorded("all", keep_runs="all")
    assert command("sync").exit_code == 0
    assert spool() == {runs[1].name, runs[2].name, everything.name}
    # What a killed shipper has not done: the first one is delivered, and still there.
    for path in Path(".tracelet").iterdir():
        if path.name == runs[1].name:
            third = path.with_name(runs[0].name)
            shutil.copytree(path, third)
            text = (third / "run.json").read_text()
            (third / "run.json").write_text(text.replace(runs[1].name, runs[0].name))
            break
    assert len(spool()) == 4
    dry = command("gc", "--dry-run")
    assert len(spool()) == 4
    result = command("gc")
    assert result.exit_code == 0
    assert result.output.count("delivered") == dry.output.count("delivered") == 1
    assert len(spool()) == 3
    assert everything.name in spool()
    assert "Nothing is left over." in command("gc").output


def test_refused_records_stay_for_a_month() -> None:
    run = recorded(keep_runs=1)
    assert command("sync").exit_code == 0
    refused = run / "rejects" / "jsonl.jsonl"
    refused.write_text('{"reason": "sent since"}\n{"reason": "no"}\n')
    cursor = Cursor(RunDir.open(run), "jsonl")
    cursor.resent = [(0, 25)]
    cursor.save()
    aged(run, days=29)
    assert "Nothing is left over." in command("gc").output
    aged(run, days=31)
    result = command("gc")
    assert result.exit_code == 0
    assert "refused records" in result.output
    assert not refused.exists()
    assert spool() == {run.name}, "it is one of those that are kept"
    refused.write_text('{"reason": "of a later session"}\n')
    assert rejected.left(RunDir.open(run), "jsonl")


def test_what_is_left_of_runs_and_folders_that_are_gone() -> None:
    """A folder that lost its run.json goes once it is not young; anybody else's folder stays."""
    run = recorded()
    half = Path(".tracelet") / "20200101-000000-000-0123abcd"
    (half / "seg").mkdir(parents=True)
    (half / "seg" / "m0001_00000000-000001").write_bytes(b"x" * 5000)
    theirs = Path(".tracelet") / "notes"
    theirs.mkdir()
    strange = Path(".tracelet") / "20200101-000000-000-0123abce"
    strange.mkdir()
    (strange / "run.json").write_text('{"format": 99}')
    aged(strange, 1.0)
    assert half.name not in command("gc").output
    aged(half, 1.0)

    other = recorded("other", spool_dir="elsewhere")
    assert len(known_roots()) == 2
    shutil.rmtree("elsewhere")
    result = command("gc")

    assert result.exit_code == 0
    assert f"{half.name}: what is left of a run, 5.0 kB" in result.output
    assert "elsewhere: is gone, forgotten" in result.output
    assert [path.name for path in known_roots()] == [".tracelet"]
    assert not half.exists()
    assert theirs.exists()
    assert strange.exists()
    assert spool() == {run.name, strange.name}
    assert other.name not in spool()


@pytest.mark.skipif(sys.platform == "win32", reason="platform: locks of another process")
@pytest.mark.parametrize("lock", ["owner", "ship"])
def test_a_run_that_somebody_has_is_left_alone(lock: str) -> None:
    """Whoever lives, and whoever delivers; also when it is asked for by name."""
    run = aged(recorded(), days=10)
    code = (
        "import sys\nfrom pathlib import Path\nfrom tracelet.spool.rundir import RunDir\n"
        f"run = RunDir.open(Path({str(run)!r}))\n"
        f"assert {'run.own()' if lock == 'owner' else 'run.shipping.acquire()'}\n"
        "print('held', flush=True)\nsys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    command("gc", str(run), "--undelivered", "--older-than", "0", "--yes")
    assert spool() == {run.name}
    holder.communicate()
    assert RunDir.open(run).info.run_id == run.name
    command("gc", str(run), "--undelivered", "--older-than", "0", "--yes")
    assert spool() == set()
