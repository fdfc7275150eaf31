"""
Locks that die with the process that holds them, and only with it.

POSIX record locks on purpose: a ``flock`` is shared with every forked worker, so that a killed
trainer looks alive as long as one of its workers is. The price is a rule: a process must open a
lock file once and never again, because closing *any* descriptor of it lets go of the lock. The
rule is kept here: what this process holds is known by the file's identity, and answered from
memory. (Windows has mandatory byte locks with the semantics we want; the locked byte lies far
behind the end, where nobody reads.)

Some network file systems have no locks. There the file says who holds it (process, its start, the
machine's boot), and one that is not of this machine counts as long as somebody touches the file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import sys
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, Mapping, Optional, Union

__all__ = ["ProcessLock", "lives", "lock_descriptor", "passport", "try_lock"]

_OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
#: What a file system answers that has no locks.
_LOCKLESS = frozenset(
    getattr(errno, name)
    for name in ("EINVAL", "ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP")
    if hasattr(errno, name)
)
#: Without locks, a holder on another machine is taken for alive so long after its last sign.
SILENCE_S = 600.0

if sys.platform == "win32":  # pragma: no cover - Linux is what the tests run on
    import msvcrt

    _FAR = 0x7FFF0000

    def _try(fd: int) -> bool:
        os.lseek(fd, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try(fd: int) -> bool:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True


def try_lock(fd: int) -> Optional[bool]:
    """
    Take the lock on an open, writable descriptor.

    Returns:
        False when another process has it, None where the file system has no locks.
    """
    try:
        return _try(fd)
    except OSError as error:
        if error.errno in _LOCKLESS:
            return None
        raise


def lock_descriptor(fd: int) -> bool:
    """Take the lock on an open, writable descriptor; False when another process has it."""
    return bool(try_lock(fd))


# -- who somebody is, where there are no locks --------------------------------------------


def passport(pid: Optional[int] = None) -> dict[str, Any]:
    """Return what tells a process from every other one: itself, its start, boot and machine."""
    return dict(_passport(pid or os.getpid(), os.getpid()))


@lru_cache(maxsize=4)
def _passport(pid: int, _asked_by: int) -> Mapping[str, Any]:
    return {
        "pid": pid,
        "start": _started(pid),
        "boot": _line("/proc/sys/kernel/random/boot_id"),
        "space": _space(),
        "host": platform.node(),
    }


def lives(found: Mapping[str, Any]) -> Optional[bool]:
    """
    Tell whether the process of a passport still runs.

    Returns:
        None when that cannot be seen from here: another machine, another container.
    """
    mine = passport()
    if found.get("host") != mine["host"]:
        return None
    if found.get("boot") != mine["boot"]:
        return False
    pid = found.get("pid")
    if found.get("space") != mine["space"] or not isinstance(pid, int) or pid <= 0:
        return None
    if mine["start"]:
        return _started(pid) > 0 and _started(pid) == found.get("start")
    if os.name != "posix":  # pragma: no cover - Windows has locks, and kill() there kills
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _started(pid: int) -> int:
    """Return when a process was started, in clock ticks since the boot; 0 when not known."""
    line = _line(f"/proc/{pid}/stat")
    try:
        # The name in parentheses may hold anything; the start is the 20th field behind it.
        return int(line.rpartition(")")[2].split()[19])
    except (IndexError, ValueError):
        return 0


def _space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


# -- lock files ---------------------------------------------------------------------------

#: The lock files that this process holds, by device and inode.
_held: dict[tuple[int, int], int] = {}
#: Between opening a lock file and knowing it as ours, no other thread may open and close it.
_turn = threading.Lock()


def _renew_turn() -> None:
    global _turn  # noqa: PLW0603 - a forked child may have inherited it locked
    _turn = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_turn)


def _identity(file: Union[int, Path]) -> Optional[tuple[int, int]]:
    try:
        found = os.stat(file)  # noqa: PTH116 - a descriptor will do as well
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _ours(identity: Optional[tuple[int, int]]) -> bool:
    """Return True when this very process, by whatever object, holds the lock of a file."""
    return identity is not None and _held.get(identity) == os.getpid()


class ProcessLock:
    """One lock file, held by at most one process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: Optional[int] = None
        self._pid = 0
        self._identity: Optional[tuple[int, int]] = None
        self._lockless = False

    @property
    def held(self) -> bool:
        """True while this very process holds the lock here; a forked child does not."""
        return self._fd is not None and self._pid == os.getpid()

    @property
    def lockless(self) -> bool:
        """True while the lock is held by a note alone: the file system has none."""
        return self.held and self._lockless

    def acquire(self, note: bytes = b"") -> bool:
        """
        Take the lock without waiting.

        Args:
            note: Written into the file, for people who wonder who holds it.

        Returns:
            False when it is held: by another process, or by another part of this one.
        """
        with _turn:
            return self._acquire(note)

    def _acquire(self, note: bytes) -> bool:
        if self.held:
            return True
        if _ours(_identity(self.path)):
            return False
        fd = os.open(self.path, _OPEN, 0o600)
        try:
            taken = try_lock(fd)
            if taken is None:
                taken = not self._written_by_somebody(fd)
                self._lockless = taken
                note = json.dumps(passport()).encode()
        except OSError:
            os.close(fd)
            raise
        if not taken:
            os.close(fd)
            return False
        self._fd, self._pid, self._identity = fd, os.getpid(), _identity(fd)
        if self._identity is not None:
            _held[self._identity] = self._pid
        if note:
            with contextlib.suppress(OSError):  # the lock is what counts
                os.ftruncate(fd, 0)
                os.lseek(fd, 0, os.SEEK_SET)
                os.write(fd, note)
        return True

    def release(self) -> None:
        """Let go; harmless when not held."""
        with _turn:
            fd, self._fd = self._fd, None
            if fd is None:
                return
            if self._pid == os.getpid():
                if self._identity is not None:
                    _held.pop(self._identity, None)
                if self._lockless:
                    with contextlib.suppress(OSError):
                        os.ftruncate(fd, 0)
            os.close(fd)

    def beat(self) -> None:
        """Give a sign of life, for those who see this file through a system without locks."""
        if self._lockless and self.held:
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def taken_elsewhere(self) -> bool:
        """
        Return True when another process holds the lock.

        Never ask about a lock that this object holds: the answer would cost the lock. (Where
        another part of this process holds it, the answer is True.)
        """
        if self.held:
            raise RuntimeError(f"{self.path} is held by this process")
        with _turn:
            return _ours(_identity(self.path)) or self._taken()

    def holder(self) -> Optional[Mapping[str, Any]]:
        """
        Return what another process has said of itself that holds the lock: ``pid``, as a rule.

        Returns:
            None when nobody else holds it.
        """
        if self.held or not self.taken_elsewhere():
            return None
        try:
            found = json.loads(self.path.read_bytes()[:4096])
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {"pid": found}

    def _taken(self) -> bool:
        try:
            fd = os.open(self.path, _OPEN & ~os.O_CREAT, 0o600)
        except FileNotFoundError:
            return False
        try:
            taken = try_lock(fd)
            return self._written_by_somebody(fd) if taken is None else not taken
        finally:
            os.close(fd)

    @staticmethod
    def _written_by_somebody(fd: int) -> bool:
        """Return True when the file itself names a process that lives, or may."""
        os.lseek(fd, 0, os.SEEK_SET)
        try:
            found = json.loads(os.read(fd, 4096))
        except ValueError:
            return False
        if not isinstance(found, dict):
            return False
        alive = lives(found)
        if alive is None:
            return time.time() - os.fstat(fd).st_mtime < SILENCE_S
        return alive
