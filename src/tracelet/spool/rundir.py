"""
A run's folder: where everything about one run lies until it is delivered.

The layout is part of the format (``docs/spool-format.md``). Folders are made for their owner
alone (0700), files are created exclusively, and nothing that another user could have planted is
ever adopted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, Mapping, Optional, Sequence

from tracelet.errors import SpoolError
from tracelet.records import RunInfo
from tracelet.spool.locks import ProcessLock
from tracelet.spool.targets import Target, merged, read_targets, seen_from, text_of_targets

__all__ = [
    "RunDir",
    "default_root",
    "durable",
    "find_runs",
    "forget_roots",
    "known_roots",
    "makeshift_root",
    "new_run_id",
    "remember_root",
]

FORMAT = 1
_INFO = "run.json"
_TARGETS = "targets.json"
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
#: A folder must take so much before runs are put there: an empty file can be made on a full disk.
PROBE_BYTES = 64 * 1024
#: How a folder of ours among temporary files is called.
_MAKESHIFT = "tracelet-spool-"
#: So many folders are remembered before those that are gone are forgotten.
ROOTS_KEPT = 200


def new_run_id(now: Optional[float] = None) -> str:
    """Return a folder name that sorts by time and never repeats: ``20261123-054312-123-7f3a…``."""
    now = time.time() if now is None else now
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    return f"{stamp}-{int(now % 1 * 1000):03d}-{secrets.token_hex(4)}"


def write_private(path: Path, data: bytes, *, sync: bool = False) -> None:
    """
    Put ``data`` in place of the file at once: a reader sees the old bytes or the new ones.

    Args:
        path: The file.
        data: All of its content.
        sync: Also make it survive the machine, not only the process.
    """
    # Exclusive and unguessable, so that two writers never share one temporary file.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make names in a folder survive the machine, where a folder can be forced to disk."""
    if sys.platform == "win32":  # pragma: no cover
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in {errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}:
            raise
    finally:
        os.close(fd)


class RunDir:
    """One run on disk."""

    def __init__(
        self, path: Path, info: RunInfo, targets: Mapping[str, Target] = MappingProxyType({})
    ) -> None:
        self.path = path
        #: As ``run.json`` has it, and where it goes besides.
        self.first = info
        self.targets = targets
        #: Who the run is, with every place that it goes to.
        self.info = merged(info, targets)
        self.segments = path / "seg"
        self.blobs = path / "blobs"
        self.cursors = path / "cursors"
        self.rejects = path / "rejects"
        #: Room that the owner gives up on a full disk, so that the end of the run fits.
        self.reserve = path / "reserve"
        self._owner = ProcessLock(path / "owner.lock")
        self.shipping = ProcessLock(path / "ship.lock")

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    @classmethod
    def create(
        cls,
        root: Path,
        info: RunInfo,
        *,
        owned: bool = False,
        before: Callable[[RunDir], object] = lambda _: None,
    ) -> RunDir:
        """
        Make the folder of a new run below ``root``.

        Args:
            root: The folder that holds runs; made if need be.
            info: Who the run is.
            owned: Be its owner before anybody can find it. Else whoever looks for what was left
                behind may take it up, find nothing in it, and put it away.
            before: Called with the run before anybody can find it.

        Raises:
            SpoolError: The folder cannot be made.
        """
        path = root / info.run_id
        run = cls(path, info)
        made = False
        try:
            make_root(root)
            path.mkdir(mode=0o700)
            made = True
            for folder in run.folders:
                folder.mkdir(mode=0o700)
            if owned:
                run._become_owner()
            before(run)
            run._write_info()
        except OSError as error:
            if made:
                run.release()
                shutil.rmtree(path, ignore_errors=True)
            raise SpoolError(
                f"Cannot write to the spool folder {root}: {error.strerror or error}. "
                "Give a writable one with spool_dir (or TRACELET_SPOOL_DIR)."
            ) from error
        return run

    def _write_info(self) -> None:
        content = {"format": FORMAT, **dataclasses.asdict(self.info)}
        text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
        # Without it nobody would know what the rest is: the one thing forced to disk here.
        write_private(self.path / _INFO, text.encode("utf-8", "surrogatepass"), sync=True)

    def describe(self, info: RunInfo) -> None:
        """
        Say anew who the run is, which another rank has made before its owner came.

        Args:
            info: With the same ``run_id``. The caller owns the run. Raises OSError.
        """
        self.info = info
        self._write_info()

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """
        Open the folder of an existing run.

        Raises:
            ValueError: It is not a run's folder, it is of a newer format, or it is not ours alone.
            OSError: It cannot be read.
        """
        path = Path(os.path.abspath(path))  # noqa: PTH100 - a link stays one
        _refuse_foreign(path, path / _INFO)
        if os.path.lexists(path / _TARGETS):
            _refuse_foreign(path / _TARGETS)
        run = cls(path, _info(path / _INFO), read_targets(path / _TARGETS))
        for folder in run.folders:
            # Not there: the run was delivered, and only what was refused is left of it.
            with contextlib.suppress(OSError):
                folder.mkdir(mode=0o700, exist_ok=True)
        _refuse_foreign(*(folder for folder in run.folders if os.path.lexists(folder)))
        return run

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that every run has."""
        return (self.segments, self.blobs, self.cursors, self.rejects)

    def workdir(self, backend: str) -> Path:
        """Return the folder where a backend keeps what it derives; made on first use."""
        path = self.path / "work"
        for each in (path, path / backend):  # parents that mkdir makes itself are open to all
            each.mkdir(mode=0o700, exist_ok=True)
        return path / backend

    def info_for(self, target: str) -> RunInfo:
        """Return who the run is for one of the places that it goes to."""
        return seen_from(self.info, target, self.targets)

    def retarget(self, targets: Mapping[str, Target]) -> None:
        """
        Write down where else the run goes. The caller holds ``shipping``.

        Raises:
            OSError: The disk does not take it.
        """
        write_private(self.path / _TARGETS, text_of_targets(targets), sync=True)
        self.targets, self.info = dict(targets), merged(self.first, targets)

    def retargeted(self) -> bool:
        """Return True when somebody has changed where the run goes since it was opened."""
        try:
            return dict(read_targets(self.path / _TARGETS)) != dict(self.targets)
        except ValueError:
            return True

    def exists(self) -> bool:
        """Return False once the run has been put away as a whole."""
        return (self.path / _INFO).exists()

    # -- who is alive ---------------------------------------------------------------------

    def own(self, patience_s: float = 1.0) -> bool:
        """
        Become the owner: the one process whose life is the run's life.

        Args:
            patience_s: How long to try; whoever looks whether the owner lives holds the lock for
                an instant.

        Returns:
            False when somebody else is, or when there is no such run any more.
        """
        deadline = time.monotonic() + patience_s
        try:
            while not self._become_owner():
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.01)
        except FileNotFoundError:
            return False
        if self.exists():
            return True
        # Whoever had it put it away, between somebody's look at it and our lock.
        self.release()
        return False

    def _become_owner(self) -> bool:
        note = json.dumps({"pid": os.getpid(), "host": self.info.host, "since": time.time()})
        return self._owner.acquire(note.encode())

    def release(self) -> None:
        """Stop being the owner."""
        self._owner.release()

    @property
    def owned(self) -> bool:
        """True in the owning process itself."""
        return self._owner.held

    def owner_alive(self) -> bool:
        """Return True while some process owns the run."""
        return self.owned or self._owner.taken_elsewhere()

    def busy(self) -> bool:
        """Return True while some process owns the run or delivers it, this one included."""
        return self.owner_alive() or self.shipping.held or self.shipping.taken_elsewhere()

    def owner(self) -> Optional[Mapping[str, Any]]:
        """Return what the process says of itself that owns the run; None when nobody does."""
        return self._owner.holder()

    @property
    def lockless(self) -> bool:
        """True in the owning process where the file system has no locks."""
        return self._owner.lockless

    def beat(self) -> None:
        """Give a sign of life where the file system has no locks; nothing elsewhere."""
        self._owner.beat()

    # -- segments -------------------------------------------------------------------------

    def segment_path(self, writer: str, number: int) -> Path:
        """Return where a writer's segment is, whether it exists or not."""
        return self.segments / f"{writer}-{number:06d}"

    def segment_numbers(self) -> dict[str, list[int]]:
        """Return for each writer, owners' sessions first, the segments that are there."""
        found: dict[str, set[int]] = {}
        try:
            names = [path.name for path in self.segments.iterdir()]
        except FileNotFoundError:
            return {}
        for name in names:
            if name.startswith("."):
                continue  # being made; it has its name once it has its header
            writer, dash, number = name[: -3 if name.endswith(".gz") else None].rpartition("-")
            if dash and number.isdecimal() and len(number) < 18:
                found.setdefault(writer, set()).add(int(number))
        return {writer: sorted(found[writer]) for writer in sorted(found, key=writer_order)}

    def suspect(self, segment: str) -> None:
        """Have the writer of a segment go on in a new one: the disk would not confirm this one."""
        os.close(os.open(self._suspicion(segment), os.O_WRONLY | os.O_CREAT | _NOFOLLOW, 0o600))

    def is_suspect(self, segment: str) -> bool:
        """Return True when that was asked for; once."""
        try:
            self._suspicion(segment).unlink()
        except OSError:
            return False
        return True

    def _suspicion(self, segment: str) -> Path:
        return self.segments / f".{segment}.suspect"

    def new_writer(
        self,
        *,
        main: bool,
        sampler: bool = False,
        rank: Optional[int] = None,
        forked: bool = False,
    ) -> str:
        """
        Return a name for the segments of one process; no two processes ever have the same.

        Args:
            main: It is the owner's: these are ordered by the session's number.
            sampler: It holds what whoever ships has measured.
            rank: Not the owner, but another rank of its job; or what that one has forked.
            forked: The latter.
        """
        if not main:
            which = "" if rank is None else f"r{rank}{'f' if forked else ''}"
            return f"{'s' if sampler else 'c'}{os.getpid()}{which}_{secrets.token_hex(4)}"
        sessions = [
            writer[1:].partition("_")[0] for writer in self.segment_numbers() if is_main(writer)
        ]
        last = max((int(number) for number in sessions if number.isdecimal()), default=0)
        return f"m{last + 1:04d}_{secrets.token_hex(4)}"

    def remove(self) -> None:
        """Delete the folder and everything in it."""
        # The name goes first: a folder that vanishes half-way must not look like a run.
        (self.path / _INFO).unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


def is_main(writer: str) -> bool:
    """Return True for the segments of a run's owner, False for those of its children."""
    return writer.startswith("m")


def is_sampler(writer: str) -> bool:
    """Return True for the segments of what was measured: nobody logged it, and no count has it."""
    return writer.startswith("s")


def rank_of(writer: str) -> Optional[int]:
    """Return the rank in a writer's name; None for the owner, its children and samplers."""
    _, letter, number = writer.partition("_")[0].partition("r")
    number = number.removesuffix("f")
    return int(number) if letter and number.isdecimal() and len(number) < 12 else None


def leads(writer: str) -> bool:
    """Return True for the process of a rank itself, the owner's included; False for its forks."""
    return is_main(writer) or (
        rank_of(writer) is not None and not writer.partition("_")[0].endswith("f")
    )


def writer_order(writer: str) -> tuple[bool, str]:
    """Sort key: owners in the order of their sessions, then children, then samplers."""
    return (not is_main(writer), writer)


# -- roots --------------------------------------------------------------------------------


def make_root(root: Path) -> None:
    """Make the folder that holds runs; git is told to leave it alone."""
    if not root.is_dir():
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NOFOLLOW
        with open(os.open(root / ".gitignore", flags, 0o600), "wb") as file:
            file.write(b"*\n")


def state_home(environ: Mapping[str, str]) -> Path:
    """Return the folder for this user's state (``XDG_STATE_HOME`` or its default)."""
    home = environ.get("XDG_STATE_HOME", "")
    if Path(home).is_absolute():  # a relative one is to be passed over (XDG Base Directory)
        return Path(home) / "tracelet"
    try:
        return Path.home() / ".local" / "state" / "tracelet"
    except RuntimeError:
        # A user without a home (a container with a number for a user). It cannot be written to.
        return Path(os.sep) / ".local" / "state" / "tracelet"


def writable(root: Path) -> Optional[OSError]:
    """Return None when runs can be written below ``root``, else what is in the way."""
    try:
        make_root(root)
        probe = root / f".probe-{secrets.token_hex(4)}"
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Not zeros, which some file systems keep for nothing.
            with open(fd, "wb") as file:
                file.write(os.urandom(PROBE_BYTES))
        finally:
            probe.unlink()
    except OSError as error:
        return error
    return None


def could_be_written(root: Path) -> Optional[OSError]:
    """Return the same as ``writable``, as far as that can be told without making ``root``."""
    existing = root
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return error
    return None


def default_root(
    cwd: Path,
    environ: Mapping[str, str],
    test: Callable[[Path], Optional[OSError]] = writable,
) -> Optional[Path]:
    """
    Return where runs go when the user named no folder: ``./.tracelet``, or the user's state
    folder where that cannot be written or lies on a network mount. None: neither can be written.

    Args:
        cwd: The working directory.
        environ: The environment, which may name the state folder.
        test: How to find out; ``could_be_written`` leaves nothing behind.
    """
    local = cwd / ".tracelet"
    if not on_network(cwd) and test(local) is None:
        return local
    fallback = state_home(environ) / "runs"
    return fallback if test(fallback) is None else None


def makeshift_root(environ: Mapping[str, str]) -> Optional[Path]:
    """
    Make a folder for runs where no lasting one can be: among temporary files, else in memory.

    Returns:
        None when that cannot be written to either.
    """
    for place in _makeshift_places(environ):
        for former in _makeshift_roots(place):
            if writable(former) is None:
                return former
        try:
            root = _new_makeshift(place)
        except OSError:
            continue
        if writable(root) is None:
            return root
        with contextlib.suppress(OSError):  # another process has been luckier with it
            root.rmdir()
    return None


def _new_makeshift(place: Path) -> Path:
    """Make a folder that is its owner's alone. Raises OSError."""
    user = str(os.getuid()) if hasattr(os, "getuid") else "own"
    root = place / f"{_MAKESHIFT}{user}"
    try:
        # The ranks of a job, who start at once, have to find the same one.
        root.mkdir(mode=0o700)
    except FileExistsError:
        if root in _makeshift_roots(place):
            return root
        # Somebody else has taken the name. Nobody can know this one before.
        return Path(tempfile.mkdtemp(prefix=_MAKESHIFT, dir=place))
    return root


def _makeshift_places(environ: Mapping[str, str]) -> list[Path]:
    places = [Path("/dev/shm"), Path(environ.get("XDG_RUNTIME_DIR") or "/dev/shm")]  # noqa: S108 - tried as a place, with mkdtemp
    with contextlib.suppress(OSError):  # there is none
        places.insert(0, Path(tempfile.gettempdir()))
    return [place for place in dict.fromkeys(places) if place.is_absolute()]


_NETWORK_TYPES = (
    *("nfs", "cifs", "smb", "afs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "fuse.ssh"),
    *("fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs", "fuse.rclone", "fuse.s3fs"),
)


def on_network(path: Path) -> bool:
    """Return True when ``path`` is known to lie on a network file system (Linux only)."""
    return file_system(path).startswith(_NETWORK_TYPES)


def durable(root: Path) -> bool:
    """Return False for a folder of runs that will not outlive this machine's next start."""
    if in_memory(root):
        return False
    # Where runs go when nothing else can be written to.
    last_resort = root.parent == Path(tempfile.gettempdir()) and root.name.startswith("tracelet-")
    return not last_resort


def in_memory(path: Path) -> bool:
    """Return True when ``path`` is known to lie in the memory of this machine (Linux only)."""
    return file_system(path) in ("tmpfs", "ramfs")


def file_system(path: Path) -> str:
    """Return the type of the file system that ``path`` lies on; empty where only Linux says."""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    real = os.path.realpath(path)
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def remember_root(root: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Add ``root`` to this user's index, so that left-over runs are found from anywhere."""
    index = state_home(environ) / "roots"
    line = os.path.abspath(root)  # noqa: PTH100 - a link stays one
    known = _lines(index)
    if line in known or "\n" in line:
        return
    # An index is a comfort; a run must not fail for it.
    with contextlib.suppress(OSError):
        index.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(known) >= ROOTS_KEPT:
            # Folders come and go; once in a while those that went are forgotten.
            kept = [each for each in dict.fromkeys(known) if Path(each).is_dir()]
            text = "".join(f"{each}\n" for each in [*kept, line])
            write_private(index, text.encode("utf-8", "surrogateescape"))
            return
        fd = os.open(index, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NOFOLLOW, 0o600)
        with open(fd, "ab", buffering=0) as file:
            file.write(f"{line}\n".encode("utf-8", "surrogateescape"))


def known_roots(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Return every folder this user has spooled to and that still exists."""
    index = state_home(environ) / "roots"
    known = [Path(line) for line in dict.fromkeys(_lines(index)) if Path(line).is_dir()]
    # Where nothing can be written there is no index, either.
    found = [
        each
        for place in _makeshift_places(environ)
        for each in _makeshift_roots(place)
        if each not in known and _children(each)
    ]
    return known + found


def _makeshift_roots(place: Path) -> list[Path]:
    """Return the folders of that kind in a place that are ours alone."""
    found = []
    for each in sorted(place.glob(f"{_MAKESHIFT}*")):
        with contextlib.suppress(OSError, ValueError):
            _refuse_foreign(each)
            found.append(each)
    return found


def forget_roots(environ: Mapping[str, str] = os.environ, *, dry_run: bool = False) -> list[Path]:
    """
    Take the folders that are gone out of this user's index.

    Args:
        environ: The environment, which may name the state folder.
        dry_run: Leave the index as it is.

    Returns:
        Those folders.

    Raises:
        OSError: The index cannot be written.
    """
    index = state_home(environ) / "roots"
    known = list(dict.fromkeys(_lines(index)))
    gone = [line for line in known if not Path(line).is_dir()]
    if gone and not dry_run:
        text = "".join(f"{line}\n" for line in known if line not in gone)
        write_private(index, text.encode("utf-8", "surrogateescape"))
    return [Path(line) for line in gone]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return []
    return [line for line in text.split("\n") if line and "\0" not in line]


def find_runs(root: Path, refused: Optional[list[str]] = None) -> list[RunDir]:
    """
    Return the runs below ``root`` that can be opened, oldest first.

    Args:
        root: Where to look.
        refused: Gets a sentence for each of the others.
    """
    runs = []
    for path in _children(root):
        try:
            runs.append(RunDir.open(path))
        except (OSError, ValueError, TypeError) as error:
            # Put away between our look at the folder and this.
            if refused is not None and os.path.lexists(path / _INFO):
                refused.append(str(error))
    return runs


def _children(root: Path) -> Sequence[Path]:
    try:
        return sorted(path.parent for path in root.glob(f"*/{_INFO}"))
    except OSError:
        return ()


def _info(path: Path) -> RunInfo:
    """Read ``run.json``. Raises ValueError when it does not describe a run that we know."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read") from error
    if not isinstance(content, dict) or not isinstance(content.get("run_id"), str):
        raise ValueError(f"{path} does not describe a run")
    version = content.get("format")
    if not isinstance(version, int):
        raise ValueError(f"{path} does not say which format it has")
    if version > FORMAT:
        raise ValueError(
            f"{path.parent} was written by a newer tracelet (format {version}); "
            "update tracelet to deliver it"
        )
    if not isinstance(content.get("context", {}), dict):
        content["context"] = {}  # it is told, not relied on
    known = {field.name for field in dataclasses.fields(RunInfo)}
    try:
        info = RunInfo(**{key: value for key, value in content.items() if key in known})
    except TypeError as error:
        raise ValueError(f"{path} is not complete: {error}") from error
    backends = info.backends
    if not isinstance(backends, list) or not all(map(_is_plain_name, backends)):
        raise ValueError(f"{path} names backends that cannot be")
    return info


def _is_plain_name(name: object) -> bool:
    """A backend's name becomes a file's: it must not lead anywhere."""
    return isinstance(name, str) and bool(name) and Path(name).name == name


def _refuse_foreign(*paths: Path) -> None:
    """A planted folder must not make us send somebody's files: take only what is ours alone."""
    if not hasattr(os, "getuid"):  # pragma: no cover - Windows keeps this in its access lists
        return
    for each in paths:
        found = os.lstat(each)
        if stat.S_ISLNK(found.st_mode):
            raise ValueError(f"{each} is a link, not a part of a run of tracelet's")
        if found.st_uid != os.getuid():
            raise ValueError(f"{each} belongs to another user")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError(f"{each} can be changed by other users; remove that right first")


def load_json(path: Path) -> Optional[dict[str, Any]]:
    """Return the object in a file, or None when there is no readable one."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
