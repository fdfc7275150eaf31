from __future__ import annotations

import errno
import io
import json
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any, Iterator

import pytest
from spooling import new_run

from tracelet.errors import SpoolError
from tracelet.records import RunEnd, RunInfo, RunStatus
from tracelet.spool import rundir
from tracelet.spool.reader import unfinished
from tracelet.spool.rundir import (
    RunDir,
    default_root,
    find_runs,
    is_main,
    known_roots,
    makeshift_root,
    new_run_id,
    on_network,
    remember_root,
    state_home,
    writable,
    write_private,
)
from tracelet.spool.targets import Target
from tracelet.spool.writer import SpoolWriter

not_root = pytest.mark.skipif(
    os.getuid() == 0, reason="platform: nothing is unwritable to this user"
)


@pytest.fixture
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.usefixtures("_open_umask")
def test_everything_is_its_owner_s_alone(tmp_path: Path) -> None:
    run = new_run(tmp_path / "deep" / "root")
    run.own()
    run.shipping.acquire()
    writer = SpoolWriter(run, segment_bytes=1000)
    for index in range(100):
        writer.scalar("a", "b", index, index, None)
    writer.event("a", bytes(500_000), None)
    (tmp_path / "file").write_text("an artifact")
    writer.artifact(tmp_path / "file")
    write_private(run.cursors / "memory.json", b"{}")
    run.workdir("memory")
    writer.close()
    for base, folders, names in os.walk(run.path):
        assert _mode(Path(base)) == 0o700, base
        for name in folders:
            assert _mode(Path(base, name)) == 0o700, name
        for name in names:
            assert _mode(Path(base, name)) == 0o600, name
    assert _mode(tmp_path / "deep" / "root") == 0o700
    run.release()
    run.shipping.release()


def test_a_root_ignores_itself_in_git(tmp_path: Path) -> None:
    new_run(tmp_path / "new")
    assert (tmp_path / "new" / ".gitignore").read_text() == "*\n"
    (tmp_path / "theirs").mkdir()
    new_run(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / ".gitignore").exists()


def test_a_run_comes_back_as_it_was(tmp_path: Path) -> None:
    info = RunInfo(
        run_id=new_run_id(),
        project="project é \ud800",
        name=None,
        created=1.5,
        tags={"a": "b"},
        backends=["memory", "jsonl"],
        options={"jsonl": {"url": "x"}},
        secrets={"mlflow": {"api_key": "env:KEY"}},
        resume={"memory": "id"},
        keep="all",
        cwd="/x",
        pid=7,
        host="h",
        version="1",
    )
    run = RunDir.create(tmp_path, info)
    assert RunDir.open(run.path).info == info
    assert [each.info for each in find_runs(tmp_path)] == [info]
    assert json.loads((run.path / "run.json").read_bytes())["format"] == 1


def test_what_a_later_version_adds_is_read_over(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    _change(run, added={"anything": 1})
    assert RunDir.open(run.path).info == run.info


def _change(run: RunDir, **fields: Any) -> None:
    """Change fields of ``run.json``; None takes one out."""
    path = run.path / "run.json"
    content = {**json.loads(path.read_bytes()), **fields}
    gone = [name for name, value in fields.items() if value is None]
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in gone}))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"format": 2}, "newer tracelet"),
        ({"format": "1"}, "which format"),
        ({"format": None}, "which format"),
        ({"run_id": 5}, "does not describe"),
        ({"created": None}, "not complete"),
        ({"backends": ["../other"]}, "cannot be"),
        ({"backends": ["a/b"]}, "cannot be"),
        ({"backends": [""]}, "cannot be"),
        ({"backends": "memory"}, "cannot be"),
        ({"backends": [5]}, "cannot be"),
    ],
)
def test_what_is_no_run_that_we_know_is_refused(
    tmp_path: Path, fields: dict[str, Any], sentence: str
) -> None:
    run = new_run(tmp_path)
    _change(run, **fields)
    with pytest.raises(ValueError, match=sentence):
        RunDir.open(run.path)
    assert find_runs(tmp_path) == []
    assert run.path.is_dir()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null", b"[" * 200_000, b"\xff"])
def test_a_run_json_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    run = new_run(tmp_path)
    (run.path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        RunDir.open(run.path)
    assert find_runs(tmp_path) == []


# -- what others could have planted ---------------------------------------------------------


@pytest.mark.parametrize("part", [".", "run.json", "seg", "blobs", "cursors", "rejects"])
@pytest.mark.parametrize("right", [stat.S_IWGRP, stat.S_IWOTH])
def test_what_others_can_change_is_refused(tmp_path: Path, part: str, right: int) -> None:
    run = new_run(tmp_path)
    path = run.path / part
    path.chmod(path.stat().st_mode | right)
    with pytest.raises(ValueError, match="other users"):
        RunDir.open(run.path)
    assert find_runs(tmp_path) == []


@pytest.mark.parametrize("part", ["", "run.json", "seg", "blobs", "cursors", "rejects"])
def test_links_are_refused(tmp_path: Path, part: str) -> None:
    run = new_run(tmp_path / "root")
    path = run.path / part if part else run.path
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(ValueError, match="is a link"):
        RunDir.open(run.path)
    assert find_runs(tmp_path / "root") == []


@pytest.mark.parametrize("part", [".", "run.json", "seg"])
def test_what_belongs_to_somebody_else_is_refused(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)
    if os.getuid() == 0:
        os.chown(run.path / part, 12345, -1)
    else:
        theirs = os.lstat
        monkeypatch.setattr(os, "getuid", lambda: theirs(run.path).st_uid + 1)
    with pytest.raises(ValueError, match="another user"):
        RunDir.open(run.path)
    assert find_runs(tmp_path) == []


# -- what cannot be made --------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match=r"Cannot write to the spool folder .*spool_dir"):
        new_run(tmp_path / "file")


def test_a_run_that_could_not_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any, **_keywords: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rundir, "write_private", full)
    with pytest.raises(SpoolError, match="No space left"):
        new_run(tmp_path / "root")
    assert [path.name for path in (tmp_path / "root").iterdir()] == [".gitignore"]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_private(path, b"old", sync=True)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"

    def fail(*_arguments: Any) -> None:
        raise OSError(5, "broken")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="broken"):
        write_private(path, b"newer")
    assert path.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


# -- writers and segments -------------------------------------------------------------------


def test_writers_are_listed_owners_first_in_the_order_of_their_sessions(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    names = ["c7_aa-000001", "m0002_ff-000001", "m0001_00-000002", "m0001_00-000001.gz"]
    unfinished = [".m0003_00-000001.abcd", ".m0003_00-000001", ".m0003_00-000001.gz"]
    for name in [*names, *unfinished, "nonsense", "m-x", "-", "m-²", "m-" + "9" * 99]:
        (run.segments / name).write_bytes(b"")
    assert run.segment_numbers() == {"m0001_00": [1, 2], "m0002_ff": [1], "c7_aa": [1]}
    assert list(run.segment_numbers()) == ["m0001_00", "m0002_ff", "c7_aa"]
    new = run.new_writer(main=True)
    assert new.startswith("m0003_")
    assert is_main(new)
    assert not is_main(run.new_writer(main=False))
    assert run.new_writer(main=True) != new


def test_a_session_has_a_name_of_its_own_even_if_all_segments_are_gone(tmp_path: Path) -> None:
    """A cursor may still know the old one, and would begin to read in the middle of this."""
    run = new_run(tmp_path)
    first = SpoolWriter(run)
    first.close()
    run.segment_path(first.name, 1).unlink()
    second = SpoolWriter(run)
    second.close()
    assert second.name != first.name
    assert second.name[:5] == first.name[:5] == "m0001"


def test_a_run_without_segments(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert run.segment_numbers() == {}
    run.segments.rmdir()
    assert run.segment_numbers() == {}


def test_open_makes_the_folders_that_delivery_took_away(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    for folder in run.folders:
        folder.rmdir()
    RunDir.open(run.path)
    assert all(folder.is_dir() for folder in run.folders)


def test_remove_takes_the_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(tmp_path)
    named = []
    rmtree = shutil.rmtree

    def watched(path: Path, **how: Any) -> None:
        named.append((path / "run.json").exists())
        rmtree(path, **how)

    monkeypatch.setattr(shutil, "rmtree", watched)
    run.remove()
    assert named == [False]
    assert not run.path.exists()
    assert find_runs(tmp_path) == []
    run.remove()


# -- who is alive ---------------------------------------------------------------------------


def test_an_owner_is_one_object_of_one_process(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert not run.owner_alive()
    assert run.own()
    assert run.owned
    assert run.owner_alive()
    other = RunDir.open(run.path)
    assert other.owner_alive()
    assert not other.own(patience_s=0.02)
    assert not other.owned
    run.release()
    assert not other.owner_alive()
    assert other.own()
    other.release()


def test_a_run_has_its_owner_before_anybody_can_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever looks for what was left behind puts it away under its owner's hands."""
    seen = []

    def written(path: Path, data: bytes, *, sync: bool = False) -> None:
        write_private(path, data, sync=sync)
        seen.append(RunDir.open(path.parent).owner_alive())

    monkeypatch.setattr(rundir, "write_private", written)
    info = RunInfo(new_run_id(), None, None, 1.0, {}, ["memory"])
    run = RunDir.create(tmp_path, info, owned=True)
    assert seen == [True]
    assert run.owned
    run.release()


def test_a_run_that_was_put_away_cannot_be_owned(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    other = RunDir.open(run.path)
    run.remove()
    assert not other.own(patience_s=0.0)
    (other.path).mkdir()  # half gone
    assert not other.own(patience_s=0.0)
    assert not other.owner_alive()


def test_a_run_is_unfinished_until_its_owner_says_that_it_has_finished(tmp_path: Path) -> None:
    def session(status: RunStatus | None) -> RunDir:
        run = new_run(tmp_path)
        run.own()
        writer = SpoolWriter(run)
        writer.scalar("a", "b", 1.0, 1, None)
        if status is not None:
            writer.record(RunEnd(status, 1.0))
        assert not unfinished(run)  # somebody is at it
        writer.close()
        run.release()
        return run

    assert unfinished(session(None))
    assert unfinished(session(RunStatus.FAILED))
    assert unfinished(session(RunStatus.KILLED))
    assert not unfinished(session(RunStatus.FINISHED))
    assert unfinished(new_run(tmp_path))
    taken_up = session(RunStatus.FINISHED)
    SpoolWriter(taken_up).close()
    assert unfinished(taken_up)  # the newest session counts


# -- roots ----------------------------------------------------------------------------------


def test_the_index_of_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    one, two = tmp_path / "one", tmp_path / "two é\udcff"
    one.mkdir()
    two.mkdir()
    assert known_roots(environ) == []
    for root in (one, two, one, Path("relative/../relative")):
        remember_root(root, environ)
    index = tmp_path / "state" / "tracelet" / "roots"
    assert known_roots(environ) == [one, two]  # the third does not exist
    assert len(index.read_bytes().splitlines()) == 3
    assert _mode(index) == 0o600
    assert _mode(index.parent) == 0o700
    (tmp_path / "a\nb").mkdir()
    remember_root(tmp_path / "a\nb", environ)
    assert known_roots(environ) == [one, two]
    two.rmdir()
    monkeypatch.setattr(rundir, "ROOTS_KEPT", 3)
    remember_root(tmp_path / "state", environ)
    assert known_roots(environ) == [one, tmp_path / "state"]
    assert len(index.read_bytes().splitlines()) == 2
    index.write_bytes(b"\0\n\n" + os.fsencode(one) + b"\n")
    assert known_roots(environ) == [one]


def test_an_index_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    remember_root(tmp_path, environ)
    assert known_roots(environ) == []


def test_a_planted_index_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "state" / "tracelet").mkdir(parents=True)
    (tmp_path / "precious").write_text("")
    (tmp_path / "state" / "tracelet" / "roots").symlink_to(tmp_path / "precious")
    remember_root(tmp_path, {"XDG_STATE_HOME": str(tmp_path / "state")})
    assert (tmp_path / "precious").read_text() == ""


def test_the_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    assert state_home({"XDG_STATE_HOME": "/x"}) == Path("/x/tracelet")
    for relative in ("", "x/y"):
        expected = Path("/somebody/.local/state/tracelet")
        assert state_home({"XDG_STATE_HOME": relative}) == expected

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert state_home({}) == Path("/.local/state/tracelet")


def test_where_runs_go_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    assert default_root(tmp_path, environ) == tmp_path / ".tracelet"
    (tmp_path / "file").write_text("")
    there = tmp_path / "file"  # nothing can be made below it
    assert default_root(there, environ) == tmp_path / "state" / "tracelet" / "runs"
    assert default_root(there, {"XDG_STATE_HOME": str(there / "state")}) is None
    monkeypatch.setattr(rundir, "on_network", lambda _path: True)
    assert default_root(tmp_path, environ) == tmp_path / "state" / "tracelet" / "runs"


def test_a_full_disk_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although an empty file can be made there."""
    full = OSError(errno.ENOSPC, "No space left on device")

    class Full(io.BytesIO):
        def write(self, _data: object) -> int:
            raise full

    def opened(fd: int, _mode: str) -> Full:
        os.close(fd)
        return Full()

    monkeypatch.setattr(rundir, "open", opened, raising=False)
    assert writable(tmp_path) is full
    assert list(tmp_path.iterdir()) == []


def test_a_makeshift_folder_is_where_there_is_room_and_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file", tmp_path / "full", tmp_path / "memory"]
    for place in places[1:]:
        place.mkdir()
    environ = {"XDG_STATE_HOME": str(tmp_path / "file")}
    monkeypatch.setattr(rundir, "_makeshift_places", lambda _environ: places)
    original = rundir.writable
    monkeypatch.setattr(
        rundir, "writable", lambda root: OSError() if "full" in root.parts else original(root)
    )
    root = makeshift_root(environ)
    assert root is not None
    assert root.parent == tmp_path / "memory"
    assert root.stat().st_mode & 0o077 == 0
    assert list((tmp_path / "full").iterdir()) == []
    assert known_roots(environ) == []  # no run is there
    new_run(root)
    assert known_roots(environ) == [root]
    (tmp_path / "memory" / "tracelet-spool-link").symlink_to(root)
    (tmp_path / "memory" / "tracelet-spool-open").mkdir()
    (tmp_path / "memory" / "tracelet-spool-open").chmod(0o777)
    new_run(tmp_path / "memory" / "tracelet-spool-open")
    assert known_roots(environ) == [root]
    assert makeshift_root(environ) == root  # one is enough
    taken = tmp_path / "memory" / root.name
    shutil.rmtree(root)
    found: list[Any] = []
    at_once = [
        threading.Thread(target=lambda: found.append(makeshift_root(environ))) for _ in range(8)
    ]
    for thread in at_once:
        thread.start()
    for thread in at_once:
        thread.join()
    assert set(found) == {root}, "as the ranks of a job do"
    taken.chmod(0o777)  # not ours alone
    other = makeshift_root(environ)
    assert other is not None
    assert (other.parent, other == taken) == (taken.parent, False)
    monkeypatch.setattr(rundir, "_makeshift_places", lambda _environ: places[:2])
    assert makeshift_root(environ) is None


def test_the_places_for_a_makeshift_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    assert rundir._makeshift_places({})[0] == Path(tempfile.gettempdir())
    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert rundir._makeshift_places({"XDG_RUNTIME_DIR": "/run/user/7"}) == [
        Path("/dev/shm"),
        Path("/run/user/7"),
    ]


@not_root
def test_a_folder_without_the_right_to_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert isinstance(writable(tmp_path / "root"), PermissionError)
    tmp_path.chmod(0o700)


def test_a_probe_leaves_nothing(tmp_path: Path) -> None:
    assert writable(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert isinstance(writable(tmp_path / "file"), OSError)


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("server:/x / nfs4 rw 0 0", True),
        ("/dev/sda / ext4 rw 0 0", False),
        ("/dev/sda / ext4 rw 0 0\nserver:/x {tmp} nfs rw 0 0", True),
        ("server:/x / nfs rw 0 0\n/dev/sda {tmp} ext4 rw 0 0", False),
        ("/dev/sda / ext4 rw 0 0\nserver:/x {tmp}/other lustre rw 0 0", False),
        ("x / fuse.sshfs rw 0 0", True),
        ("x / fuse.fuse-overlayfs rw 0 0", False),
        ("nonsense", False),
    ],
)
def test_network_mounts_are_known(
    tmp_path: Path, mounts: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = mounts.replace("{tmp}", str(tmp_path).replace(" ", "\\040"))
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_keywords: text)
    assert on_network(tmp_path / "run") is expected


def test_run_ids_sort_by_time_and_never_repeat() -> None:
    assert new_run_id(0.0) < new_run_id(1_000_000_000.0) < new_run_id()
    assert len({new_run_id(0.0) for _ in range(100)}) == 100


# -- where else a run goes ------------------------------------------------------------------------


def test_a_further_target_is_seen_by_whoever_opens_the_run(tmp_path: Path) -> None:
    """With options of its own, and without what the training knew of the first place."""
    known = {"resume": {"mlflow": "1"}, "parents": {"mlflow": "2"}, "adopted": ["mlflow"]}
    first = RunInfo("id", "project", "name", 1.0, {}, ["mlflow"], **known)  # type: ignore[arg-type]
    run = RunDir.create(tmp_path, first)
    stale = RunDir.open(run.path)
    added = Target({"path": "/elsewhere"}, {"url": "env:SOME_URL"}, "other")
    run.retarget({"mlflow@2": added, "mlflow": Target(project=None)})
    again = RunDir.open(run.path)
    assert again.info == run.info
    assert list(again.info.backends) == [*first.backends, "mlflow@2"]
    assert again.info.options["mlflow@2"] == {"path": "/elsewhere"}
    assert again.info.secrets["mlflow@2"] == {"url": "env:SOME_URL"}
    assert again.first.backends == first.backends
    seen = again.info_for("mlflow@2")
    assert (seen.project, seen.resume, seen.parents, seen.adopted) == ("other", {}, {}, [])
    assert again.info_for("mlflow").parents == {"mlflow": "2"}
    assert again.info_for("mlflow").resume == {}
    assert stale.retargeted()
    assert not again.retargeted()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"format": 1}',
        b'{"format": 1, "targets": {"../x": {}}}',
        b'{"format": 1, "targets": {"x": 1}}',
        b'{"format": 1, "targets": {"x": {"options": []}}}',
        b'{"format": 2, "targets": {}}',
    ],
)
def test_targets_that_cannot_be_are_refused(tmp_path: Path, content: bytes) -> None:
    run = new_run(tmp_path)
    (run.path / "targets.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"targets\.json"):
        RunDir.open(run.path)


def test_targets_that_somebody_planted_are_refused(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    (tmp_path / "planted").write_text('{"format": 1, "targets": {}}')
    (run.path / "targets.json").symlink_to(tmp_path / "planted")
    with pytest.raises(ValueError, match="is a link"):
        RunDir.open(run.path)
