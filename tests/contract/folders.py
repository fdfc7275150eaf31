"""What the contract's hooks are where the store is a folder of this machine."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Iterator, Mapping, Optional

import pytest

from tracelet.backends.base import Backend, RemoteRun, RunInfo
from tracelet.backends.plain.backend import FolderBackend
from tracelet.records import Artifact, Record
from tracelet.testing import BackendSuite

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class FolderSuite(BackendSuite):
    #: The backend.
    kind: ClassVar[type[FolderBackend[Any]]]
    #: Which of its files grows, as a pattern below the folder.
    grows: ClassVar[str]
    cannot: ClassVar[Mapping[str, str]] = {
        "busy": "A disk does not ask for a wait.",
        "unavailable": "A disk has one way to fail.",
        "lost_answer": "A call of the system returns, or the process is dead.",
        "hang": "A call of the system on a local disk cannot be cut.",
    }

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def backend(self, **options: Any) -> Backend:
        options[self.kind.option] = str(self.store)
        return self.kind(self.kind.Options(**options))

    def child_of(self, parent: RemoteRun, run: RunInfo) -> tuple[Backend, RunInfo]:
        return self.backend(parent=parent.id), run

    @contextmanager
    def break_with(self, fault: str) -> Iterator[Optional[Record]]:
        if fault == "bad_record":
            yield Artifact("gone.pth", str(self.folder / "gone"), 3, 1.0)
        elif fault == "refused":
            # A file where the folder should be: this holds for the superuser too.
            self.store.write_text("")
            yield None
            self.store.unlink()
        else:
            with self._full_disk():
                yield None

    @contextmanager
    def _full_disk(self) -> Iterator[None]:
        """Let no file grow beyond the largest one that grows, and a little: entries are torn."""
        if resource is None:
            pytest.skip("platform: no limit for the size of a file here")
        largest = max([0, *(path.stat().st_size for path in self.store.glob(self.grows))])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 30, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
