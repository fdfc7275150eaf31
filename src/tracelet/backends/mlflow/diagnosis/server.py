"""What a tracking server says to a question that it answers only to those whom it lets in."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Optional, Sequence
from urllib.parse import urlsplit, urlunsplit

from tracelet.backends.mlflow.answers import NotFoundError
from tracelet.backends.mlflow.diagnosis.packages import check_remote
from tracelet.backends.mlflow.http import Connection
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.backends.mlflow.rest import RestStore, experiment_of
from tracelet.backends.mlflow.store import Experiment, chosen
from tracelet.errors import BackendError, ConfigError, RejectedError, RetryableError

__all__ = ["Questions"]

_SEARCH = "/api/2.0/mlflow/experiments/search"
#: More than most servers have, so that one question answers what is to be known.
_PAGE = 50


class Questions:
    """
    Questions to a server, each as patient as the time that is left allows.

    Args:
        url: Its address.
        options: Credentials, certificates, time limits; ours may be shorter.
        deadline: Until when, on the monotonic clock.
        connect_s: How long it may take to accept a connection.

    Raises:
        MissingPackageError: A package is missing.
    """

    def __init__(self, url: str, options: MlflowOptions, deadline: float, connect_s: float) -> None:
        check_remote()
        self.url = url
        self._options = options
        self._deadline = deadline
        self._connect_s = connect_s
        #: The newest experiments, once ``experiments`` has asked for them, and whether these are
        #: all there are.
        self.newest: Sequence[Experiment] = ()
        self.complete = False

    @property
    def left_s(self) -> float:
        """How much time is left, in seconds."""
        return self._deadline - time.monotonic()

    def experiments(self) -> None:
        """
        Ask for the newest experiments.

        Not ``/health``: that answers without credentials and whatever the host's name is.

        Raises:
            ConfigError: The server refuses, or is none.
            RetryableError: There was no answer in time.
        """
        with contextlib.closing(self._connection()) as connection:
            query = {"max_results": str(_PAGE), "view_type": "ALL"}
            try:
                answer = connection.get(_SEARCH, query)
            except RejectedError as error:
                raise ConfigError(
                    f"What answers at {self.url} is not MLflow ({error.reason})",
                    "check the address and its path",
                ) from error
        if not isinstance(answer, dict) or not set(answer) <= {"experiments", "next_page_token"}:
            raise ConfigError(
                f"What answers at {self.url} is not MLflow", "check the address and its path"
            )
        self.newest = _experiments(answer)
        self.complete = not answer.get("next_page_token")

    def experiment(self, name: str, number: Optional[str]) -> Optional[Experiment]:
        """
        Return one experiment, deleted or not, by its name or its id, or None.

        Raises:
            BackendError: It cannot be said.
        """
        known = chosen(self.newest, name, number)
        if known is not None or self.complete:
            return known
        with contextlib.closing(self._connection()) as connection:
            store = RestStore(connection)
            try:
                return store.experiment_named(name) if number is None else store.experiment(number)
            except NotFoundError:
                return None

    def version(self) -> Optional[str]:
        """Return the version of the server, or None when it does not say."""
        with contextlib.closing(self._connection()) as connection:
            try:
                text = connection.text("/version").strip()
            except BackendError:
                return None
        return text if text[:1].isdigit() and len(text) < 40 else None

    def root(self) -> Optional[str]:
        """Return the address without its path, if MLflow answers there."""
        parts = urlsplit(self.url)
        bare = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
        if bare == self.url:
            return None
        try:
            Questions(bare, self._options, self._deadline, self._connect_s).experiments()
        except BackendError:
            return None
        return bare

    def _connection(self) -> Connection:
        left = self.left_s
        if left <= 0:
            raise RetryableError(f"{self.url} did not answer in time")
        limits = {
            "connect_timeout_s": min(self._connect_s, self._options.connect_timeout_s, left),
            "timeout_s": min(left, self._options.timeout_s),
        }
        return Connection(self.url, self._options.model_copy(update=limits))


def _experiments(answer: Any) -> Sequence[Experiment]:
    try:
        return tuple(experiment_of(each) for each in answer.get("experiments") or ())
    except (KeyError, TypeError, AttributeError):
        return ()  # from something that is nearly MLflow
