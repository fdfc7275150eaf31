"""Which file a run is in."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import ClassVar, Optional

from tracelet.backends.jsonl.options import JsonlOptions
from tracelet.backends.plain import lines
from tracelet.backends.plain.backend import FolderBackend
from tracelet.backends.plain.files import RunFiles
from tracelet.backends.plain.folder import answered
from tracelet.backends.plain.lines import LineFile, LineJournal
from tracelet.errors import RetryableError, RunGoneError
from tracelet.records import RemoteRun, RunInfo

#: A file's lock parts processes. From the look at a file to its first line no other run of this one
#: may look at it.
_beginning = threading.Lock()


class JsonlBackend(FolderBackend[JsonlOptions, LineJournal]):
    """Writes each run into a file of its own."""

    name = "jsonl"
    Options = JsonlOptions
    suffix: ClassVar[str] = ".jsonl"
    owner = staticmethod(lines.owner)

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        """
        Make the run's file, or go on in it.

        Raises:
            ConfigError: The folder cannot be used, or ``resume.id`` is no id of ours.
            RunGoneError: The file of the run to continue is not there.
            RetryableError: The disk does not work now, or another process has the file open.
        """
        self._let_go()
        with _beginning:
            file = self._begin(run) if resume is None else self._continue(resume.id)
            path = file.path
            files = RunFiles(path.with_suffix(".files"))
            try:
                with answered(path):
                    self._open = LineJournal(run, file, files, self._options.parent)
            except BaseException:
                file.close()
                raise
        return RemoteRun(
            id=self._places.remote_id(path), name=run.name or path.stem, look=str(path)
        )

    def _begin(self, run: RunInfo) -> LineFile:
        path, exists = self._places.find(run)
        with answered(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # The next try finds it there, and takes the longer name.
            late = f"another run began {str(path)!r} just now"
            try:
                file = LineFile(path, create=not exists)
            except FileExistsError as error:
                raise RetryableError(late) from error
            # An empty file may have got its first line between the look at it and our lock.
            if file.owner not in (run.run_id, None):
                file.close()
                raise RetryableError(late)
            return file

    def _continue(self, run_id: str) -> LineFile:
        path = self._place(run_id)
        if not path.is_file():
            raise RunGoneError(f"There is no file {str(path)!r} to continue.")
        with answered(path):
            return LineFile(path, create=False)
