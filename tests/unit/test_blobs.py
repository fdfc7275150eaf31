from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from spooling import new_run, read

from tracelet.records import Artifact
from tracelet.spool import blobs, codec, writer
from tracelet.spool.blobs import files_below, identity, new_blob, take
from tracelet.spool.writer import SpoolWriter


class Usage(NamedTuple):
    """What ``shutil.disk_usage`` answers."""

    total: int
    used: int
    free: int


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "blobs"
    path.mkdir()
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(os.urandom(100_000))
    return path


@pytest.fixture(params=["in the kernel", "piece by piece"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to make a plain copy."""
    if request.param == "piece by piece":
        monkeypatch.setattr(blobs, "_PIECE_BYTES", 1000)

        def elsewhere(*_arguments: Any) -> int:
            raise OSError(errno.EXDEV, "another file system")

        monkeypatch.setattr(os, "copy_file_range", elsewhere, raising=False)


@pytest.mark.usefixtures("_way")
def test_the_bytes_are_those_of_the_call(source: Path, folder: Path) -> None:
    content = source.read_bytes()
    kept = take(source, folder)
    source.write_bytes(b"changed")
    assert kept.path.parent == folder
    assert kept.path.read_bytes() == content
    assert (kept.size, kept.identity) == (len(content), None)
    assert kept.path.stat().st_mode & 0o777 == 0o600
    source.unlink()
    assert kept.path.read_bytes() == content


def test_an_empty_file_is_a_file(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    kept = take(tmp_path / "empty", folder)
    assert (kept.size, kept.path.read_bytes()) == (0, b"")


def test_blocks_are_shared_where_the_file_system_can(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def clone(target: int, request: int, original: int) -> int:
        asked.append(request)
        os.write(target, os.pread(original, 1 << 20, 0))
        return 0

    def full(_size: int, _folder: Path) -> bool:
        raise AssertionError("a shared copy needs no room")

    monkeypatch.setattr(fcntl, "ioctl", clone)
    monkeypatch.setattr(blobs, "_room_for", full)
    kept = take(source, folder)
    assert asked == [0x40049409]
    assert kept.path.read_bytes() == source.read_bytes()
    assert kept.identity is None


def test_without_snapshot_there_is_only_a_reference(source: Path, folder: Path) -> None:
    kept = take(source, folder, snapshot=False)
    assert kept.path == source
    assert kept.identity == identity(source)
    assert list(folder.iterdir()) == []
    os.utime(source, (1, 1))
    assert kept.identity != identity(source)


@pytest.mark.parametrize(
    ("total", "free", "copied"),
    [
        (100 * 1024**3, 3 * 1024**3, True),
        (100 * 1024**3, 2 * 1024**3, False),  # below 2 GiB
        (10 * 1024**3, 1024**3, True),  # 5 % of a small disk are less than that
        (10 * 1024**3, 500 * 1024**2, False),
    ],
)
def test_the_floor_of_free_space(
    source: Path,
    folder: Path,
    total: int,
    free: int,
    copied: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blobs.shutil, "disk_usage", lambda _path: Usage(total, total - free, free))
    kept = take(source, folder)
    assert (kept.identity is None) is copied
    assert bool(list(folder.iterdir())) is copied
    if not copied:
        assert kept.path == source


def test_a_disk_that_fills_up_meanwhile_leaves_a_reference(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(blobs, "_copy", full)
    kept = take(source, folder)
    assert kept.identity == identity(source)
    assert list(folder.iterdir()) == []


def test_a_folder_of_blobs_that_is_gone_leaves_a_reference(source: Path, tmp_path: Path) -> None:
    assert take(source, tmp_path / "nowhere").identity == identity(source)


def test_a_source_that_cannot_be_read_is_an_error_now_not_later(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def read(self, _size: int) -> bytes:
            raise OSError(errno.EIO, "a bad sector")

        def fileno(self) -> int:
            return -1

    def copy(_old: Any, new: Any) -> bool:
        return original(Broken(), new)  # type: ignore[arg-type]

    original = blobs._copy
    monkeypatch.setattr(blobs, "_copy", copy)
    with pytest.raises(OSError, match="a bad sector"):
        take(source, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("snapshot", [True, False])
def test_what_is_no_file(tmp_path: Path, folder: Path, snapshot: bool) -> None:
    with pytest.raises(FileNotFoundError):
        take(tmp_path / "nothing", folder, snapshot=snapshot)
    with pytest.raises(OSError, match="not a regular file"):
        take(tmp_path, folder, snapshot=snapshot)
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=_refused, args=(tmp_path / "pipe", folder, snapshot))
    thread.start()
    thread.join(10)
    assert not thread.is_alive()  # nobody waits for somebody to write into it


def _refused(path: Path, folder: Path, snapshot: bool) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        take(path, folder, snapshot=snapshot)


def test_names_of_blobs_do_not_meet(folder: Path) -> None:
    assert len({new_blob(folder) for _ in range(50)}) == 50


# -- folders --------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "checkpoints"
    (tree / "b" / "deep").mkdir(parents=True)
    for name in ("b/deep/1.pt", "b/2.pt", "a.pt", "name é ☃"):
        (tree / name).write_text(name)
    (tmp_path / "secret").write_text("secret")
    (tree / "inside").symlink_to("b/2.pt")
    (tree / "outside").symlink_to(tmp_path / "secret")
    (tree / "broken").symlink_to("nothing")
    (tree / "round").symlink_to(tree)
    (tree / "away").symlink_to(tmp_path)
    os.mkfifo(tree / "pipe")
    return tree


def test_a_folder_is_walked_and_not_left(tree: Path) -> None:
    found = [(path.name, name) for path, name in files_below(tree)]
    assert [name for _, name in found] == ["a.pt", "inside", "name é ☃", "b/2.pt", "b/deep/1.pt"]


def test_a_link_to_a_folder_is_followed_where_the_user_named_it(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    assert "b/2.pt" in [name for _, name in files_below(tmp_path / "link")]


# -- artifacts of a run ---------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> SpoolWriter:
    return SpoolWriter(new_run(tmp_path / "spool"))


def _artifacts(log: SpoolWriter) -> dict[str, bytes]:
    items, reader = read(log.run)
    assert reader.damaged == {}
    found = {}
    for item in items:
        record = codec.decode_record(item.payload)
        assert isinstance(record, Artifact)
        content = (log.run.path / record.source).read_bytes()
        assert len(content) == record.size
        found[record.path] = content
    return found


def test_a_file_goes_under_a_folder(log: SpoolWriter, source: Path) -> None:
    content = source.read_bytes()
    assert log.artifact(source) == 1
    source.write_bytes(b"changed")
    assert log.artifact(source, "training/") == 1
    assert _artifacts(log) == {"model.bin": content, "training/model.bin": b"changed"}


def test_a_folder_keeps_its_name(log: SpoolWriter, tree: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tree.parent)
    assert log.artifact("checkpoints/", "training") == 5
    (tree / "a.pt").write_text("changed")
    found = _artifacts(log)
    assert found["training/checkpoints/a.pt"] == b"a.pt"
    assert found["training/checkpoints/b/deep/1.pt"] == b"b/deep/1.pt"
    assert found["training/checkpoints/inside"] == b"b/2.pt"
    assert len(found) == 5


def test_what_lies_beside_events_has_its_name_already(log: SpoolWriter, tree: Path) -> None:
    log.file("runs", str(tree / "a.pt"), "00000/tensors.tsv")
    log.file("runs", str(tree / "b"), "00001")
    assert set(_artifacts(log)) == {"00000/tensors.tsv", "00001/2.pt", "00001/deep/1.pt"}


def test_an_empty_folder_is_nothing(log: SpoolWriter, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert log.artifact(tmp_path / "empty") == 0
    assert log.recorded == 0


def test_a_path_that_leads_out_of_the_run_is_refused(log: SpoolWriter, source: Path) -> None:
    for path in ("/abs", "../x", "a/../../x", "C:x", "a\\b", "a\0b"):
        with pytest.raises(ValueError, match="artifact path"):
            log.artifact(source, path)
    assert log.recorded == 0


def test_one_bad_file_of_a_folder_does_not_cost_the_others(
    log: SpoolWriter, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "b" / "back\\slash").write_text("")
    original = writer.blobs.take

    def gone(source: Path, *arguments: Any, **keywords: Any) -> Any:
        if source.name == "a.pt":
            raise FileNotFoundError(errno.ENOENT, "gone meanwhile")
        return original(source, *arguments, **keywords)

    monkeypatch.setattr(writer.blobs, "take", gone)
    with pytest.raises(FileNotFoundError, match="gone meanwhile"):
        log.artifact(tree)
    assert set(_artifacts(log)) == {
        f"checkpoints/{name}" for name in ("inside", "name é ☃", "b/2.pt", "b/deep/1.pt")
    }


def test_a_reference_names_the_user_s_own_file(tmp_path: Path, source: Path) -> None:
    log = SpoolWriter(new_run(tmp_path / "spool"), snapshot=False)
    log.artifact(source)
    items, _ = read(log.run)
    record = codec.decode_record(items[0].payload)
    assert isinstance(record, Artifact)
    assert record.source == str(source)
    assert record.identity == identity(source)
    assert list(log.run.blobs.iterdir()) == []
