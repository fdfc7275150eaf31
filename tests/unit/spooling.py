"""What the tests of the spool have in common: runs, readers, and a disk that fails on demand."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Optional

from tracelet.records import RunInfo
from tracelet.spool import codec, frame
from tracelet.spool.files import Files
from tracelet.spool.reader import Item, Position, SegmentReader
from tracelet.spool.rundir import RunDir, new_run_id

ERRORS = ("EINTR", "EAGAIN", "EIO", "EDQUOT", "ESTALE", "EROFS", "ENOSPC", "EMFILE")


def new_run(root: Path, **fields: Any) -> RunDir:
    """Return the folder of a new run."""
    told = {"project": None, "name": None, "created": 0.0, "tags": {}, "backends": ["memory"]}
    return RunDir.create(root, RunInfo(**{"run_id": new_run_id(), **told, **fields}))


def decoded(item: Item) -> Any:
    """Return what was logged, as it can be compared: without the time that we took ourselves."""
    if item.type == frame.SCALAR:
        layout = frame.SCALAR_FRACTION if item.flags & frame.FRACTION else frame.SCALAR_INT
        _, value, step, when = layout.unpack(item.payload)
        return (
            item.stream,
            item.tag,
            value,
            None if item.flags & frame.NO_STEP else step,
            when if item.flags & frame.GIVEN_TIME else None,
        )
    if item.type == frame.EVENT:
        _, _, hint, data = codec.decode_event(item.payload)
        return item.stream, hint, data
    return codec.decode_record(item.payload)


def read(
    run: RunDir,
    writer: Optional[str] = None,
    *,
    position: Optional[Position] = None,
    dead: bool = True,
    reader: Optional[SegmentReader] = None,
    limit: int = 2000,
) -> tuple[list[Item], SegmentReader]:
    """Return everything that one writer (the only one, if none is named) has written."""
    found = run.segment_numbers()
    if writer is None:
        (writer,) = found
    reader = reader or SegmentReader(run, writer, position or Position())
    items: list[Item] = []
    while True:
        more = reader.read(found[writer], dead=dead, limit=limit)
        if not more:
            return items, reader
        items += more


def logged(run: RunDir, writer: Optional[str] = None, **how: Any) -> list[Any]:
    """Return what was logged, and insist that nothing of it is damaged."""
    items, reader = read(run, writer, **how)
    assert reader.damaged == {}
    assert reader.trouble == ""
    return [decoded(item) for item in items]


class Disk(Files):
    """
    A disk that fails on demand.

    ``answer`` is called before every system call with its name and decides: None lets it through,
    an errno raises it, and for ``write`` ``("short", n)`` writes only so many bytes.
    """

    def __init__(self) -> None:
        self.answer: Callable[[str], Any] = lambda _call: None
        self.calls: list[str] = []

    def _asked(self, call: str) -> Any:
        self.calls.append(call)
        answer = self.answer(call)
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        return answer

    def write(self, fd: int, data: Any) -> int:
        answer = self._asked("write")
        if answer is None:
            return os.write(fd, data)
        _, count = answer
        return os.write(fd, bytes(data)[:count]) if count else 0

    def create(self, path: Path) -> int:
        self._asked("create")
        return Files.create(path)

    def close(self, fd: int) -> None:
        # As with a network file system: the error comes, and the descriptor is gone all the same.
        os.close(fd)
        self._asked("close")

    def ftruncate(self, fd: int, size: int) -> None:
        self._asked("ftruncate")
        os.ftruncate(fd, size)

    def fstat(self, fd: int) -> os.stat_result:
        self._asked("fstat")
        return os.fstat(fd)

    def unlink(self, path: Path) -> None:
        self._asked("unlink")
        os.unlink(path)

    def show(self, fd: int, hidden: Path, path: Path) -> int:
        self._asked("show")
        return Files.show(fd, hidden, path)


def program(code: str, *arguments: object, timeout: float = 60.0) -> str:
    """
    Run a program of its own, with this module at hand; return what it printed.

    One that hangs shows where, and is ended.
    """
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", f"{_WATCHED}{code}", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            said, problem = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGUSR2)  # every stack, by ``faulthandler``
            time.sleep(1.0)
            process.kill()
            said, problem = process.communicate()
            raise AssertionError(f"it hangs\n{said}\n{problem}") from None
        assert process.returncode == 0, f"{process.returncode}\n{said}\n{problem}"
    return said


_WATCHED = """
import faulthandler, signal
faulthandler.register(signal.SIGUSR2)
"""


def number(name: str) -> int:
    """Return the number of an error's name."""
    return int(getattr(errno, name))
