"""
Whoever delivers dies before each of its system calls, or sees it fail, once and for ever.

What comes next delivers the rest: everything is there once, whatever happened before.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Iterator, NamedTuple

import pytest
from tests.pipeline.lives import Life, Mother
from tests.pipeline.programs import jsonl, left_over, wait_for

from tracelet.records import Param, RunEnd, RunInfo, RunStatus, Text
from tracelet.ship import state
from tracelet.ship.drain import drain
from tracelet.spool.rundir import RunDir, find_runs, new_run_id
from tracelet.spool.writer import SpoolWriter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: forks"),
    pytest.mark.skipif(sys.platform == "darwin", reason="platform: finds processes in /proc"),
]

#: ``make soak`` goes to every place; CI to every so many-th.
LONG = int(os.environ.get("TRACELET_KILLS", "3")) >= 10
ERRORS = ("ENOSPC", "EIO", "EACCES", "EINTR", "EMFILE", "ESTALE")
POINTS = 400
#: Places that a delivery must come past, or this sweep would not mean what it says.
PLACES = {
    "removed": {
        ("fcntl.lockf", ""),
        ("open", "names.jsonl"),
        ("open", "ship.lock"),
        ("os.fsync", ""),
        ("os.fdatasync", ""),
        ("os.remove", "-000001"),
        ("os.remove", "run.json"),
        ("os.rename", "cursors/jsonl.json"),
        ("os.rename", "ship.json"),
    },
    "packed": {
        ("os.rename", "-000002.gz"),
        ("os.remove", "-000002"),
        ("os.utime", ".gz"),
    },
    "stripped": {
        ("os.rename", ".gz"),
        ("os.remove", "blobs/"),
    },
}
FIELDS: dict[str, dict[str, Any]] = {
    "removed": {},
    "packed": {"keep": True},
    "stripped": {"resumable": True},
}


class Case(NamedTuple):
    """A run that was left, and the calls that its delivery makes."""

    name: str
    folder: Path
    calls: list[tuple[str, str]]

    def again(self, place: Path) -> Path:
        """Return a copy of the folder."""
        shutil.copytree(self.folder, place)
        return place


@pytest.fixture(scope="module")
def mother(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mother]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        with Mother() as mother:
            yield mother


@pytest.fixture(scope="module", params=sorted(FIELDS))
def case(
    request: pytest.FixtureRequest, mother: Mother, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    """A run of several segments, with children, texts and files, that somebody left."""
    name = request.param
    folder = tmp_path_factory.mktemp(name) / "left"
    folder.mkdir()
    told = {"project": "p", "name": "n", "created": 1.0, "tags": {}, "backends": ["jsonl"]}
    # Relative to the folder that whoever delivers works in.
    options = {"jsonl": {"path": "out"}}
    info = RunInfo(run_id=new_run_id(), **told, options=options, cwd="/", **FIELDS[name])
    run = RunDir.create(folder / ".tracelet", info)
    log = SpoolWriter(run, segment_bytes=8000)
    child = SpoolWriter(run, main=False, segment_bytes=8000)
    (folder / "notes").write_text("as it was")
    for number in range(POINTS):
        log.scalar("/logs", "loss", number / 7, number, None)
        child.scalar("/logs", "of the child", number / 7, number, None)
    log.record(Param("lr", 0.1, 1.0))
    log.record(Text("story", "once", 1, 1.0))
    log.artifact(folder / "notes")
    status = RunStatus.FAILED if name == "stripped" else RunStatus.FINISHED
    log.record(RunEnd(status, 1.0))
    log.close()
    child.close()
    trial = Case(name, folder, []).again(folder.parent / "trial")
    _over(mother.deliverer(trial, log=str(folder.parent / "calls")))
    _check(name, trial)
    lines = (folder.parent / "calls").read_text().splitlines()
    calls = [(call, what) for call, what in map(json.loads, lines)]
    for call, part in PLACES[name]:
        assert any(each == call and part in what for each, what in calls), (call, part)
    return Case(name, folder, calls)


def _over(life: Life) -> None:
    wait_for(lambda: life.over, timeout=120.0)


def _settled(folder: Path) -> None:
    """Deliver what is left, on a machine that is well."""
    here = os.getcwd()
    os.chdir(folder)
    try:
        for run in find_runs(folder / ".tracelet"):
            states = drain(run)
            for each in states.values():
                assert (each.state, each.pending) == ("closed", 0)
    finally:
        os.chdir(here)


def _check(name: str, folder: Path) -> None:
    """Everything is there once, and of the run nothing that it should not leave."""
    # Who died between making its file and its first line has left an empty one.
    (path,) = [each for each in (folder / "out" / "p").glob("*.jsonl") if each.stat().st_size]
    points, status = jsonl(path)
    assert points == [(number, number / 7) for number in range(POINTS)]
    assert status == ("FAILED" if name == "stripped" else "FINISHED")
    kinds: dict[str, int] = {}
    for line in path.read_text().splitlines():
        content = json.loads(line)
        kinds[content["type"]] = kinds.get(content["type"], 0) + 1
    assert kinds["metric"] == 2 * POINTS
    assert (kinds["param"], kinds["text"], kinds["artifact"]) == (1, 1, 1)
    files = [each for each in (folder / "out").rglob("notes") if each.is_file()]
    assert [each.read_text() for each in files] == ["as it was"]
    left = left_over(folder / ".tracelet")
    if name == "removed":
        assert left == []
        return
    (kept,) = left
    assert {each.suffix for each in (kept / "seg").iterdir() if each.name[0] != "."} == {".gz"}
    (found,) = state.read(RunDir.open(kept)).values()
    assert found.delivered == 2 * POINTS + 3
    assert found.complete


def _places(case: Case, every: int) -> list[int]:
    """Return the places to go to: all, or some of them, and each kind of call at least once."""
    if LONG:
        return list(range(len(case.calls)))
    kinds = {call: number for number, (call, _) in enumerate(case.calls)}
    return sorted({*range(0, len(case.calls), every), *kinds.values()})


def test_it_dies_before_any_of_its_calls(case: Case, mother: Mother, tmp_path: Path) -> None:
    """And whoever is next dies a little later, before it is left alone."""
    for at in _places(case, 19):
        folder = case.again(tmp_path / str(at))
        _over(mother.deliverer(folder, at=at))
        _over(mother.deliverer(folder, at=at // 2 + 3))
        _settled(folder)
        _check(case.name, folder)
        shutil.rmtree(folder)


def test_any_of_its_calls_fails_once(case: Case, mother: Mother, tmp_path: Path) -> None:
    """It goes on by itself, or the next one does."""
    errors = itertools.cycle(ERRORS)
    for at in _places(case, 29):
        for error in ERRORS if LONG else [next(errors)]:
            folder = case.again(tmp_path / f"{at}{error}")
            life = mother.deliverer(folder, at=at, error=error)
            _over(life)
            _settled(folder)
            _check(case.name, folder)
            shutil.rmtree(folder)


def test_all_of_its_calls_fail_from_some_place_on(
    case: Case, mother: Mother, tmp_path: Path
) -> None:
    """It gives up in its time, and the next one finds everything."""
    for at, error in zip(_places(case, 60)[:: 1 if LONG else 4], itertools.cycle(ERRORS)):
        folder = case.again(tmp_path / str(at))
        _over(mother.deliverer(folder, at=at, error=error, for_ever=True))
        _settled(folder)
        _check(case.name, folder)
        shutil.rmtree(folder)
