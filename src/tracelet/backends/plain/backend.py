"""How a batch gets into a folder that the user names, exactly once."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, Iterable, Mapping, Optional, TypeVar, cast

from tracelet.backends.base import Backend, BackendOptions, Batch
from tracelet.backends.plain import folder
from tracelet.backends.plain.folder import answered
from tracelet.backends.plain.journal import Journal
from tracelet.backends.plain.places import Places
from tracelet.errors import ConfigError, RetryableError
from tracelet.findings import Finding
from tracelet.records import RECORD_TYPES, RunInfo, RunStatus

__all__ = ["FolderBackend", "FolderOptions"]


class FolderOptions(BackendOptions):
    """
    What a user may say to any of them; each adds the option that names its folder.

    Args:
        url: The folder for all projects, also as ``file://…``; this is what ``backend_url`` sets.
        parent: Id of the run that this one belongs to.
    """

    url: Optional[str] = None
    parent: Optional[str] = None


T = TypeVar("T", bound=FolderOptions)
J = TypeVar("J", bound=Journal)


class FolderBackend(Backend, Generic[T, J]):
    """
    Writes each run into ``<folder>/<project>/<name>``.

    The folder is ``tracelet-<name of the backend>`` in the working directory by default.
    """

    accepts: ClassVar[frozenset[type]] = frozenset(RECORD_TYPES)
    #: The option that names the folder, besides ``url``.
    option: ClassVar[str] = "path"
    #: What the name of a run's file ends in; empty where a run is a folder.
    suffix: ClassVar[str] = ""

    @classmethod
    def resolve(
        cls,
        options: Mapping[str, Any],
        environ: Mapping[str, str],  # noqa: ARG003 - these backends have no variables
        cwd: Path,
    ) -> tuple[T, Mapping[str, str]]:
        """
        Make the folder absolute.

        Raises:
            pydantic.ValidationError: An option is unknown or of the wrong type.
            ConfigError: ``url`` is no folder, or says something else than the other option.
        """
        given = cast("T", cls.Options(**options))
        absolute = str(cls._chosen(given, cwd))
        return given.model_copy(update={cls.option: absolute, "url": None}), {}

    def __init__(self, options: BackendOptions) -> None:
        super().__init__(options)
        self._options = cast("T", self.Options.model_validate(options.model_dump()))
        self._folder = self._chosen(self._options, Path.cwd())
        self._places = Places(self._folder, self.suffix, self.owner)
        self._open: Optional[J] = None

    @staticmethod
    @abstractmethod
    def owner(path: Path) -> Optional[str]:
        """Return the id of the run that began a place; None when nothing says so."""

    def preflight(self) -> None:
        """
        Make the folder, and see whether one may write into it.

        Raises:
            ConfigError: One may not.
            RetryableError: The disk fails in a way that may pass.
        """
        folder.make(self._folder, self.option)

    def examine(
        self,
        project: Optional[str],
        sources: Mapping[str, str],
        deadline: float,
    ) -> Iterable[Finding]:
        """See whether one may write into the folder, or make it; see ``Backend.examine``."""
        return folder.examined(self._folder, self.option)

    def look(self, run: RunInfo) -> str:
        """Return the path of the run's file or folder."""
        return str(self._places.find(run)[0])

    def write(self, batch: Batch) -> None:
        """
        Append what is not there yet.

        Raises:
            RejectedError: A record has no form here; an artifact's file is not what it was.
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
        self._complete()
        self._let_go()

    def _complete(self) -> None:
        """Do what is to be done with an ended run while it is still open. Raises as ``close``."""
        return

    def _opened(self) -> J:
        if self._open is None:
            raise RuntimeError("This backend is not open.")
        return self._open

    def _let_go(self) -> None:
        here, self._open = self._open, None
        if here is not None:
            here.close()

    def _place(self, run_id: str) -> Path:
        """
        Return where the run is that an id means.

        Raises:
            ConfigError: It is no id of ours.
        """
        path = self._places.path_of(run_id)
        if path is None:
            raise ConfigError(
                f"{run_id!r} is no run of the {self.name} backend: say 'project/name'."
            )
        return path

    @classmethod
    def _chosen(cls, options: T, cwd: Path) -> Path:
        given = {cls.option: getattr(options, cls.option), "url": options.url}
        return folder.chosen(cls.name, given, f"tracelet-{cls.name}", cwd)
