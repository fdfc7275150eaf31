"""How a batch gets into a run's file exactly once."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Optional

from tracelet.backends.base import BackendOptions, Batch
from tracelet.backends.jsonl.options import JsonlOptions
from tracelet.backends.plain import journal
from tracelet.backends.plain.backend import FolderBackend
from tracelet.backends.plain.files import RunFiles
from tracelet.backends.plain.folder import answered
from tracelet.backends.plain.journal import Journal
from tracelet.backends.plain.lines import LineFile
from tracelet.errors import RetryableError, RunGoneError
from tracelet.records import RemoteRun, RunInfo, RunStatus


class JsonlBackend(FolderBackend[JsonlOptions]):
    """Writes each run into a file of its own."""

    name = "jsonl"
    Options = JsonlOptions
    suffix: ClassVar[str] = ".jsonl"
    owner = staticmethod(journal.owner)

    def __init__(self, options: BackendOptions) -> None:
        super().__init__(options)
        self._open: Optional[Journal] = None

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        """
        Make the run's file, or go on in it.

        Raises:
            ConfigError: The folder cannot be used, or ``resume.id`` is no id of ours.
            RunGoneError: The file of the run to continue is not there.
            RetryableError: The disk does not work now, or another process has the file open.
        """
        self._let_go()
        lines = self._begin(run) if resume is None else self._continue(resume.id)
        path = lines.path
        files = RunFiles(path.with_suffix(".files"))
        try:
            with answered(path):
                self._open = Journal(run, lines, files, self._options.parent)
        except BaseException:
            lines.close()
            raise
        return RemoteRun(
            id=self._places.remote_id(path), name=run.name or path.stem, look=str(path)
        )

    def write(self, batch: Batch) -> None:
        """
        Append what is not there yet.

        Raises:
            RejectedError: A record has no form in JSON; an artifact's file is not what it was.
            RunGoneError: Somebody deleted the file.
            RetryableError: The disk does not take it now; nothing of the batch is in the file.
        """
        here = self._opened()
        with answered(here.path, RetryableError):
            here.write(batch)

    def barrier(self) -> None:
        """
        Make what was written survive the machine.

        Raises:
            RetryableError: The disk does not take it now.
        """
        here = self._opened()
        with answered(here.path, RetryableError):
            here.sync()

    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        """
        Write how the run ended; ``RUNNING`` only lets go of the file.

        Raises:
            RetryableError: The disk does not take it now; the run is still open.
        """
        here = self._open
        if here is None:
            return
        with answered(here.path, RetryableError):
            here.end(status, time)
        self._let_go()

    def _begin(self, run: RunInfo) -> LineFile:
        path, exists = self._places.find(run)
        with answered(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return LineFile(path, create=not exists)
            except FileExistsError as error:
                # The next try finds it there, and takes the longer name.
                raise RetryableError(f"another run began {str(path)!r} just now") from error

    def _continue(self, run_id: str) -> LineFile:
        path = self._place(run_id)
        if not path.is_file():
            raise RunGoneError(f"There is no file {str(path)!r} to continue.")
        with answered(path):
            return LineFile(path, create=False)

    def _opened(self) -> Journal:
        if self._open is None:
            raise RuntimeError("This backend is not open.")
        return self._open

    def _let_go(self) -> None:
        here, self._open = self._open, None
        if here is not None:
            here.close()
