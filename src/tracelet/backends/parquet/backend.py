"""How the lines of a run get into tables."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import ClassVar, Optional

from tracelet.backends.base import BackendOptions
from tracelet.backends.parquet.options import ParquetOptions
from tracelet.backends.plain import lines
from tracelet.backends.plain.backend import FolderBackend
from tracelet.backends.plain.files import RunFiles
from tracelet.backends.plain.folder import answered
from tracelet.backends.plain.lines import LineFile, LineJournal
from tracelet.errors import RetryableError, RunGoneError
from tracelet.records import RECORD_TYPES, RemoteRun, RunInfo, RunStatus

_LINES = ".records.jsonl"


class ParquetBackend(FolderBackend[ParquetOptions, LineJournal]):
    """Writes each run into a folder of tables."""

    name = "parquet"
    Options = ParquetOptions
    #: They are in the tables, and safe, when these have been written.
    deferred: ClassVar[frozenset[type]] = frozenset(RECORD_TYPES)

    def __init__(self, options: BackendOptions) -> None:
        super().__init__(options)
        self._writing = threading.Lock()
        #: How long the lines were that the tables were made of last.
        self._written = -1

    @staticmethod
    def owner(path: Path) -> Optional[str]:
        """Return the id of the run that began a folder; None when nothing says so."""
        began = lines.owner(path / _LINES)
        if began is not None:
            return began
        try:
            found = json.loads((path / "run.json").read_bytes()).get("run_id")
        except (OSError, ValueError, AttributeError):
            return None
        return found if isinstance(found, str) else None

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        """
        Make the run's folder, or go on in it.

        Raises:
            ConfigError: The folder cannot be used, or ``resume.id`` is no id of ours.
            RunGoneError: The lines of the run to continue are not there.
            RetryableError: The disk does not work now, or another process writes this run.
        """
        self._let_go()
        path = self._places.find(run)[0] if resume is None else self._known(resume.id)
        with answered(path):
            path.mkdir(parents=True, exist_ok=True)
            file = LineFile(path / _LINES, create=not (path / _LINES).exists())
        try:
            with answered(path):
                here = LineJournal(run, file, RunFiles(path), self._options.parent)
        except BaseException:
            file.close()
            raise
        self._open, self._written = here, -1
        self._make_tables()
        return RemoteRun(
            id=self._places.remote_id(path), name=run.name or path.name, look=str(path)
        )

    def barrier(self) -> None:
        """
        Make the tables of what was written.

        Raises:
            RetryableError: The disk does not take it now.
        """
        super().barrier()
        self._make_tables()

    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        """
        Make the tables, with how the run ended; ``RUNNING`` only lets go of it.

        Raises:
            RetryableError: The disk does not take it now; the run is still open.
        """
        here = self._open
        super().close(status, time)
        if here is not None and not self._options.keep_lines:
            with answered(here.path, RetryableError):
                here.path.unlink(missing_ok=True)

    def _complete(self) -> None:
        self._make_tables()

    def _make_tables(self) -> None:
        from tracelet.backends.parquet.tables import write_tables

        here = self._opened()
        with self._writing, answered(here.path, RetryableError):
            size = here.file.whole
            if size != self._written:
                write_tables(here.path.parent, here.entries())
                self._written = size

    def _known(self, run_id: str) -> Path:
        path = self._place(run_id)
        if not (path / _LINES).is_file():
            raise RunGoneError(f"There are no lines in {str(path)!r} to continue.")
        return path
