"""Which folder of events a run is in."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Optional

from tracelet.backends.plain.backend import FolderBackend
from tracelet.backends.plain.folder import answered
from tracelet.backends.tensorboard import journal
from tracelet.backends.tensorboard.journal import EventJournal
from tracelet.backends.tensorboard.options import TensorBoardOptions
from tracelet.errors import RunGoneError
from tracelet.records import RemoteRun, RunInfo


class TensorBoardBackend(FolderBackend[TensorBoardOptions, EventJournal]):
    """Writes each run into a folder of event files."""

    name = "tensorboard"
    Options = TensorBoardOptions
    option: ClassVar[str] = "logdir"
    owner = staticmethod(journal.owner)

    def look(self, run: RunInfo) -> str:
        """Return the command that shows the run."""
        return f"tensorboard --logdir {self._folder}"

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        """
        Make the run's folder, or go on in it.

        Raises:
            ConfigError: The folder cannot be used, or ``resume.id`` is no id of ours.
            RunGoneError: The run to continue is not there.
            RetryableError: The disk does not work now, or another process has the file open.
        """
        self._let_go()
        path = self._places.find(run)[0] if resume is None else self._known(resume.id)
        with answered(path):
            path.mkdir(parents=True, exist_ok=True)
            file = journal.opened(path, run)
        try:
            with answered(path):
                single = self._options.precision == "single"
                self._open = EventJournal(run, file, self._options.parent, single=single)
        except BaseException:
            file.close()
            raise
        return RemoteRun(
            id=self._places.remote_id(path), name=run.name or path.name, look=self.look(run)
        )

    def _known(self, run_id: str) -> Path:
        path = self._place(run_id)
        if not any(path.glob(journal.EVENTS)):
            raise RunGoneError(f"There is no run in {str(path)!r} to continue.")
        return path
