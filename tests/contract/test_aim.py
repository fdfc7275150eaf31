"""The Aim backend keeps the contract: in a repository on this machine, read back through Aim."""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Iterator, Mapping, Optional

import pytest

from services.aim_reader import seen
from tracelet.backends.aim import AimBackend, AimOptions
from tracelet.backends.base import Backend, RemoteRun, RunInfo
from tracelet.records import Metric, Record
from tracelet.testing import BackendSuite, Seen

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

if sys.version_info >= (3, 13):
    pytest.skip("platform: Aim has no build for this Python", allow_module_level=True)
pytest.importorskip("aim")


class TestAim(BackendSuite):
    package = "aim"
    fractional_step_as = 0  # Aim keeps the fraction, and leaves it out where it reads
    cannot: ClassVar[Mapping[str, str]] = {
        "busy": "A disk does not ask for a wait.",
        "unavailable": "A disk has one way to fail.",
        "lost_answer": "A call of the system returns, or the process is dead.",
        "hang": "A call of the system on a local disk cannot be cut.",
    }

    @pytest.fixture(autouse=True)
    def _store(self, _place: None, fresh_aim: Path) -> None:
        # A copy of an empty one: making the tables takes seconds.
        shutil.copytree(fresh_aim, self.folder / "store")

    def backend(self) -> Backend:
        return AimBackend(AimOptions(url=str(self.folder / "store")))

    def read_back(self, remote: RemoteRun) -> Seen:
        return seen(self.folder / "store", remote.id)

    @contextmanager
    def break_with(self, fault: str) -> Iterator[Optional[Record]]:
        if fault == "bad_record":
            yield Metric("loss", 1.0, 2**63, 1.0)
        elif fault == "refused":
            # A file where the folder should be: this holds for the superuser too.
            store = self.folder / "store" / ".aim"
            store.rename(store.with_suffix(".aside"))
            store.write_text("")
            yield None
            store.unlink()
            store.with_suffix(".aside").rename(store)
        else:
            with full_disk(90):
                yield None

    def child_of(self, parent: RemoteRun, run: RunInfo) -> tuple[Backend, RunInfo]:
        options = AimOptions(url=str(self.folder / "store"), parent=parent.id)
        return AimBackend(options), run


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let no file grow beyond ``room`` bytes."""
    if resource is None:
        pytest.skip("platform: no limit for the size of a file here")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        with suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
