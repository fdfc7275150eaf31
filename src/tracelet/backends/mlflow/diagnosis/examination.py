"""
Everything about a store that ``tracelet doctor`` shows, in the order in which it would fail.

What cannot be seen once something before it has failed is left out: behind a refused password
there is nothing to say about artifacts.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Iterator, Mapping, Optional, Sequence

from tracelet.backends.mlflow import credentials, look, preflight, uri, versions
from tracelet.backends.mlflow.diagnosis import artifacts, disk, packages
from tracelet.backends.mlflow.diagnosis.server import Questions
from tracelet.backends.mlflow.opening import wanted_experiment
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.backends.mlflow.store import Experiment, chosen
from tracelet.backends.mlflow.uri import StoreKind
from tracelet.errors import BackendError, TraceletError
from tracelet.findings import Finding, of_error

__all__ = ["Examination"]

#: How long a server may take to accept a connection.
_CONNECT_S = 0.8
#: What is left of the time for the words about a server that does not answer.
_RESERVE_S = 0.15
#: How long a database that somebody has locked is waited for.
_LOCKED_S = 0.7
#: The file store is refused from here on, and there is a database to move to since long.
_REFUSES_FILES = (3, 13, 0)
#: The oldest that is supported.
_OLDEST = (3, 1, 1)


class Examination:
    """
    The examination of one store.

    Args:
        url: An absolute tracking URI.
        options: The complete options.
        project: What a run would belong to.
        sources: Where options came from, as ``Backend.resolve`` says.
        deadline: Until when, on the monotonic clock.
    """

    def __init__(
        self,
        url: str,
        options: MlflowOptions,
        project: Optional[str],
        sources: Mapping[str, str],
        deadline: float,
    ) -> None:
        self._url = url
        self._options = options
        self._name, self._number = wanted_experiment(project, options)
        self._sources = sources
        self._deadline = deadline - _RESERVE_S
        self._kind = uri.kind_of(url)

    def findings(self, *, through_sdk: bool) -> Iterator[Finding]:
        """
        Look, and tell what was found.

        Args:
            through_sdk: As for ``Preflight``.
        """
        yield Finding("ok", "address", f"{self._url}, {self._why()}")
        well = True
        for found in self._reached(through_sdk=through_sdk):
            well = well and found.level != "problem"
            yield found
        if well:
            served = self._kind is StoreKind.SERVER
            where = self._url if served else look.command(self._url, Path.cwd())
            yield Finding("ok", "look", where)

    def _reached(self, *, through_sdk: bool) -> Iterator[Finding]:
        try:
            if self._kind is StoreKind.SERVER and not through_sdk:
                yield from self._server()
                return
            packages.check(self._url, self._kind)
            if self._kind is StoreKind.SQLITE:
                yield from self._sqlite(uri.database_path(self._url))
            elif self._kind is StoreKind.FOLDER:
                yield from self._folder(uri.folder(self._url))
            else:
                yield from self._elsewhere()
        except (BackendError, TraceletError, OSError) as error:
            yield of_error(error, "server" if self._kind is StoreKind.SERVER else "store")

    def _why(self) -> str:
        source = self._sources.get("url", "")
        if source.startswith("env:"):
            return f"from {source[4:]}"
        if source != "default":
            return "as given"
        version = versions.text(versions.mlflow() or (0, 0, 0))
        if self._kind is StoreKind.FOLDER and uri.holds_experiments(uri.folder(self._url)):
            return f"MLflow {version}'s default: there are experiments in this folder"
        return f"MLflow {version}'s default in this folder"

    # -- a tracking server ------------------------------------------------------------------

    def _server(self) -> Iterator[Finding]:
        environ, home = os.environ, Path.home()
        yield from credentials.explained(self._options, self._sources, environ, home)
        questions = Questions(self._url, self._options, self._deadline, _CONNECT_S)
        try:
            questions.experiments()
        except TraceletError as error:  # it answered, and said no
            yield self._refusal(error, questions)
            return
        yield Finding("ok", "server", "MLflow answers")
        try:
            wanted = questions.experiment(self._name, self._number)
        except BackendError as error:
            yield of_error(error, "experiment")
            return
        yield from self._experiment(wanted)
        yield from self._artifacts(self._place(wanted, questions.newest))
        # Last: a server with a login needs half a second for each question.
        yield from self._version(questions.version())

    def _refusal(self, error: TraceletError, questions: Questions) -> Finding:
        found = of_error(error, "server")
        root = questions.root()
        if root is None:
            return found
        return Finding("problem", "server", found.text, f"write {root!r}: MLflow answers there")

    def _version(self, text: Optional[str]) -> Iterator[Finding]:
        if text is None:
            return
        if versions.parsed(text) < _OLDEST:
            yield Finding(
                "note",
                "version",
                f"MLflow {text}, older than {versions.text(_OLDEST)}: not tried",
                "update the server",
            )
        else:
            yield Finding("ok", "version", f"the server's MLflow is {text}")

    # -- this machine -----------------------------------------------------------------------

    def _sqlite(self, path: Path) -> Iterator[Finding]:
        disk.check_sqlite(path)
        content = disk.content(path, _LOCKED_S)
        disk.check_schema(path, content.schema)
        if content.schema is None:
            yield Finding("ok", "store", "will be made by the first run; the folder is writable")
        else:
            yield Finding("ok", "store", "can be read and written")
        yield from self._room(path.parent)
        wanted = chosen(content.experiments, self._name, self._number)
        yield from self._experiment(wanted)
        yield from self._artifacts(self._place(wanted, content.experiments))

    def _folder(self, folder: Path) -> Iterator[Finding]:
        disk.check_folder(folder)
        yield Finding("ok", "store", "a folder of files, which can be written")
        if (versions.mlflow() or (0, 0, 0)) >= _REFUSES_FILES:
            migrate = shlex.join(
                ["mlflow", "migrate-filestore", "--source", str(folder), "--target", "sqlite:///…"]
            )
            yield Finding(
                "note",
                "store",
                "MLflow from 3.13 on refuses folders of files by itself; tracelet writes to it all "
                "the same",
                f"look at it with '{look.command(self._url, Path.cwd())}', or move to a database "
                f"with '{migrate}'",
            )
        yield from self._room(folder)

    def _elsewhere(self) -> Iterator[Finding]:
        if self._kind is StoreKind.PLUG_IN:
            yield Finding("note", "store", "only MLflow's own client can ask this service")
            return
        if self._kind is StoreKind.DATABASE:
            named = any(half is not None for half in credentials.userinfo(self._options))
            told = "a name for the database" if named else "none for the database"
            yield Finding("ok", "credentials", told)
        preflight.check_port(self._url)
        yield Finding("ok", "server", "takes connections; only MLflow's own client can ask more")

    def _room(self, folder: Path) -> Iterator[Finding]:
        yield Finding("ok", "disk", f"{disk.free_bytes(folder) / 1e9:,.1f} GB free")

    # -- everywhere -------------------------------------------------------------------------

    def _experiment(self, wanted: Optional[Experiment]) -> Iterator[Finding]:
        if wanted is not None and not wanted.deleted:
            yield Finding("ok", "experiment", f"{wanted.name!r} is there, with the id {wanted.id}")
        elif wanted is not None and self._options.restore_experiment:
            yield Finding(
                "note", "experiment", f"{wanted.name!r} was deleted; the next run restores it"
            )
        elif wanted is not None:
            yield Finding(
                "problem",
                "experiment",
                f"{wanted.name!r} was deleted",
                f"mlflow experiments restore -x {wanted.id}, or choose another project",
            )
        elif self._number is not None:
            yield Finding(
                "problem",
                "experiment",
                f"there is none with the id {self._number!r}, which MLFLOW_EXPERIMENT_ID names",
                "unset the variable, or give a project",
            )
        else:
            yield Finding("ok", "experiment", f"{self._name!r} will be made by the first run")

    def _place(self, wanted: Optional[Experiment], newest: Sequence[Experiment]) -> Optional[str]:
        return preflight.location(self._kind, self._options, wanted, newest)

    def _artifacts(self, location: Optional[str]) -> Iterator[Finding]:
        if location is None:
            yield Finding(
                "ok", "artifacts", "the server has no experiment that tells where they go"
            )
            return
        found = artifacts.doubt(location, self._url)
        if found is not None:
            yield found
            return
        yield from artifacts.remarks(location, self._url, os.environ, Path.home())
