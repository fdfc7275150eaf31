"""
A machine that loses its power, after a run that asked for ``durability="power"``.

What is left then is what the disk had confirmed: of each file as much as there was when it was
asked, and no file whose folder was not asked for since. That is copied, and read.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Callable

import pytest
from spooling import decoded, new_run, read

from tracelet.records import Artifact, Param, RunEnd, RunStatus
from tracelet.spool import writer as module
from tracelet.spool.files import Files
from tracelet.spool.rundir import RunDir, sync_folder
from tracelet.spool.writer import SpoolWriter

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="platform: finds files by their descriptors"
)


class Disk(Files):
    """Knows what it has confirmed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sizes: dict[Path, int] = {}
        self.names: dict[Path, set[str]] = {}
        self.refuses = False
        patch.setattr(module, "sync_folder", self.sync_folder)

    def sync(self, fd: int) -> None:  # type: ignore[override]
        path, size = Path(os.readlink(f"/proc/self/fd/{fd}")), os.fstat(fd).st_size
        if self.refuses:
            raise OSError(errno.EIO, "bad sector")
        Files.sync(fd)
        self.sizes[path] = size

    def sync_folder(self, path: Path) -> None:
        names = {each.name for each in path.iterdir()}
        sync_folder(path)
        self.names[path] = names

    def after_the_cut(self, run: RunDir, folder: Path) -> RunDir:
        """Return what is there when the machine is back."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run.path, folder)
        for path in [*run.path.glob("seg/*"), *run.path.glob("blobs/*")]:
            copy = folder / path.relative_to(run.path)
            if path.name not in self.names.get(path.parent, ()):
                copy.unlink()
            else:
                os.truncate(copy, self.sizes.get(path, 0))
        return RunDir.open(folder)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return new_run(tmp_path / "spool")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "keep_confirming", lambda _: None)


def _left(run: RunDir) -> list[Any]:
    return [decoded(item) for item in read(run)[0]] if run.segment_numbers() else []


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.02)


@pytest.mark.usefixtures("nobody_asks")
def test_what_was_confirmed_is_there(run: RunDir, disk: Disk, tmp_path: Path) -> None:
    """Whatever kind it is, in however many files it lies; and the end of the run with it."""
    log = SpoolWriter(run, files=disk, segment_bytes=3000, power=True)
    (tmp_path / "model").write_bytes(b"weights" * 1000)
    expected: list[Any] = []
    for turn in range(30):
        param = Param(f"p{turn}", turn, 1.0)
        log.record(param)
        expected.append(param)
        for step in range(10):
            point = ("a", "loss", step / 3, step, 1.0)
            log.scalar(*point)
            expected.append(point)
        if turn % 10 == 0:
            data = bytes([turn]) * (module.INLINE_BYTES + 1)
            log.event("a", data, None)
            expected.append(("a", None, data))
        log.confirm()
        assert _left(disk.after_the_cut(run, tmp_path / "cut")) == expected
    assert len(run.segment_numbers()[log.name]) > 3

    log.artifact(tmp_path / "model")
    log.confirm()
    back = disk.after_the_cut(run, tmp_path / "cut")
    artifact = _left(back)[-1]
    assert isinstance(artifact, Artifact)
    assert (back.path / artifact.source).read_bytes() == b"weights" * 1000

    log.scalar("a", "loss", 1.0, 1, 1.0)
    log.record(RunEnd(RunStatus.FAILED, 9.0))
    log.close()
    _, reader = read(disk.after_the_cut(run, tmp_path / "cut"))
    assert reader.end is not None
    assert (reader.end.status, reader.damaged) == (RunStatus.FAILED, {})


@pytest.mark.usefixtures("nobody_asks")
def test_nothing_is_confirmed_where_nobody_asked_for_it(
    run: RunDir, disk: Disk, tmp_path: Path
) -> None:
    """The process beside does it; no call of the program waits for a disk."""
    log = SpoolWriter(run, files=disk, segment_bytes=3000)
    for step in range(200):
        log.scalar("a", "loss", 1.0, step, 1.0)
    log.confirm()
    log.close()
    assert (disk.sizes, disk.names) == ({}, {})
    assert _left(disk.after_the_cut(run, tmp_path / "cut")) == []


def test_what_nobody_waits_for_is_confirmed_a_moment_later(
    run: RunDir, disk: Disk, tmp_path: Path
) -> None:
    """By a thread, which goes with its writer."""
    log = SpoolWriter(run, files=disk, power=True)
    for turn in (1, 2):
        for step in range(50):
            log.scalar("a", "loss", 1.0, step, 1.0)
        _wait_for(lambda: len(_left(disk.after_the_cut(run, tmp_path / "cut"))) == 50 * turn)  # noqa: B023
    assert [each.name for each in threading.enumerate()].count("tracelet-disk") == 1
    log.close()
    _wait_for(lambda: "tracelet-disk" not in [each.name for each in threading.enumerate()])

    # A writer that is forgotten is not kept alive by it.
    other = SpoolWriter(run, main=False, files=disk, power=True)
    other.scalar("a", "loss", 1.0, 1, 1.0)
    there = weakref.ref(other)
    del other
    _wait_for(lambda: there() is None)
    _wait_for(lambda: "tracelet-disk" not in [each.name for each in threading.enumerate()])


def test_a_forked_child_has_its_own_confirmed(
    run: RunDir, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a file of its own, and nothing of its parent's threads."""
    log = SpoolWriter(run, files=disk, power=True)
    log.scalar("a", "loss", 1.0, 1, 1.0)
    said = tmp_path / "said"
    child = os.fork()
    if not child:
        try:
            log.scalar("a", "child", 1.0, 1, 1.0)
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                if any(log.name in path.name for path in dict(disk.sizes)):
                    said.write_text("confirmed")
                    break
                time.sleep(0.02)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert said.exists()
    log.close()


@pytest.mark.usefixtures("nobody_asks")
def test_a_disk_that_does_not_confirm_is_not_asked_twice(
    run: RunDir, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would say yes; the writer goes on in another segment, and no call of it fails."""
    log = SpoolWriter(run, files=disk, power=True)
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    disk.refuses = True
    log.record(Param("a", 1, 1.0))
    log.confirm()
    disk.refuses = False
    for step in range(3):
        log.record(Param(f"b{step}", 1, 1.0))
    assert len(run.segment_numbers()[log.name]) == 2
    log.close()
    assert [record.key for record in _left(run)] == ["a", "b0", "b1", "b2"]
