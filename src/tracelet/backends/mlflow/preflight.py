"""
What can be said in less than a second about where a run is to go, without MLflow's SDK.

Asked in the training process, before training starts: a wrong answer here costs a minute, the same
answer ten hours later costs the run.
"""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import Optional, Sequence

from tracelet.backends.mlflow import uri
from tracelet.backends.mlflow.diagnosis import artifacts, disk, packages
from tracelet.backends.mlflow.diagnosis.server import Questions
from tracelet.backends.mlflow.opening import wanted_experiment
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.backends.mlflow.store import Experiment, chosen
from tracelet.backends.mlflow.uri import StoreKind
from tracelet.errors import BackendError, RetryableError
from tracelet.findings import Finding

__all__ = ["Preflight", "check_port", "location"]

#: Start waits a second at most; a server that needs longer is shipped to anyway, but may still say
#: "no" in the meantime: checking a password takes MLflow half a second.
_CONNECT_S = 0.5
_ANSWER_S = 0.95
#: A server that answered within so long is asked once more, where one answer was not enough.
_QUICK_S = 0.2
#: How long a database that is being written to is waited for.
_PATIENCE_S = 0.05


class Preflight:
    """
    The check of one store.

    Args:
        url: An absolute tracking URI.
        options: Credentials.
        through_sdk: The server is talked to by MLflow's own client, whose credentials come from
            a plug-in: only its port can be tried.
    """

    def __init__(self, url: str, options: MlflowOptions, *, through_sdk: bool = False) -> None:
        self._url = url
        self._options = options
        self._through_sdk = through_sdk
        self._kind = uri.kind_of(url)
        self._questions: Optional[Questions] = None
        self._took_s = 0.0

    def check(self) -> None:
        """
        Say no when it is no.

        Raises:
            MissingPackageError: A package is missing.
            ConfigError: It will never work like this.
            RetryableError: There was no answer in time.
        """
        if self._kind is StoreKind.SERVER and not self._through_sdk:
            began = time.monotonic()
            questions = Questions(self._url, self._options, began + _ANSWER_S, _CONNECT_S)
            questions.experiments()
            self._questions, self._took_s = questions, time.monotonic() - began
            return
        packages.check(self._url, self._kind)
        if self._kind is StoreKind.SQLITE:
            disk.check_sqlite(uri.database_path(self._url))
        elif self._kind is StoreKind.FOLDER:
            disk.check_folder(uri.folder(self._url))
        elif self._kind in (StoreKind.DATABASE, StoreKind.SERVER):
            check_port(self._url)

    def doubts(self, project: Optional[str]) -> Sequence[Finding]:
        """Say what will go wrong with the artifacts of a run of this project."""
        place = None
        # What cannot be found out in no time is not worth a start's time.
        with contextlib.suppress(BackendError, OSError):
            place = self._place(*wanted_experiment(project, self._options))
        found = None if place is None else artifacts.doubt(place, self._url)
        return () if found is None else (found,)

    def _place(self, name: str, number: Optional[str]) -> Optional[str]:
        newest: Sequence[Experiment]
        if self._questions is not None:
            if not self._questions.complete and self._took_s > _QUICK_S:
                return None
            wanted, newest = self._questions.experiment(name, number), self._questions.newest
        elif self._kind is StoreKind.SQLITE:
            path = uri.database_path(self._url)
            newest = disk.content(path, _PATIENCE_S, writable=False).experiments
            wanted = chosen(newest, name, number)
        else:
            return None
        return location(self._kind, self._options, wanted, newest)


def location(
    kind: StoreKind,
    options: MlflowOptions,
    wanted: Optional[Experiment],
    newest: Sequence[Experiment],
) -> Optional[str]:
    """
    Return where the artifacts of a run would go, or None where that cannot be known.

    Args:
        kind: What the tracking URI leads to.
        options: The complete options.
        wanted: The experiment, if there is one already.
        newest: The newest experiments of the store.
    """
    if wanted is None and options.artifact_location is not None:
        return options.artifact_location
    if wanted is None and kind is StoreKind.SQLITE:
        return str(Path.cwd() / "mlruns")
    return artifacts.location_of(wanted, newest)


def check_port(url: str) -> None:
    """
    Try the port of a database's or a tracking server.

    Raises:
        RetryableError: Nobody takes a connection.
    """
    address = uri.host_and_port(url)
    if address is None:
        return
    try:
        socket.create_connection(address, _CONNECT_S).close()
    except OSError as error:
        raise RetryableError(
            f"{address[0]}:{address[1]} cannot be reached ({error})",
            remedy="check host and port, and whether the server runs",
        ) from error
