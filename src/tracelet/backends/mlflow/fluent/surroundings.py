"""
What MLflow reads in this process: its variables and its tracking URI, set to where our run is.

MLflow's client takes address and credentials from the environment with every call, so they have to
be there for as long as its calls are to land in our run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Mapping, Optional

from tracelet._guard import TRYING
from tracelet.backends.mlflow import credentials, uri
from tracelet.backends.mlflow.fluent.stack import stack_top
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.backends.mlflow.uri import StoreKind

__all__ = ["RUN_ID", "Surroundings"]

_URI = "MLFLOW_TRACKING_URI"
RUN_ID = "MLFLOW_RUN_ID"


class Surroundings:
    """
    The process's environment, as far as MLflow reads it.

    Args:
        options: The run's, complete.
    """

    def __init__(self, options: MlflowOptions) -> None:
        self._options = options
        self._url = options.url or ""
        self._cwd = Path.cwd()
        #: What each variable was, and what it has been made; None: not set.
        self._before: dict[str, Optional[str]] = {}
        self._made: dict[str, Optional[str]] = {}
        #: The tracking URI that the program had chosen, while it is another.
        self._chosen: Any = None

    def enter(self, continued: str) -> None:
        """
        Set what is not so already.

        A program that has a run open in another store needs everything as it is.

        Args:
            continued: The id of the run that ``MLFLOW_RUN_ID`` named and that is ours now, or
                nothing: the variable is used up then, as by MLflow's own first run.
        """
        if stack_top() is not None and not self.here():
            return
        for name, value in self._variables().items():
            self._before[name] = os.environ.get(name)
            self._made[name] = value
            _put(name, value)
        if continued and os.environ.get(RUN_ID, "").strip() == continued:
            del os.environ[RUN_ID]
        tracking = _tracking()
        chosen = getattr(tracking, "_tracking_uri", None)
        if tracking is not None and chosen is not None and not self._same(str(chosen)):
            self._chosen = chosen
            tracking.set_tracking_uri(self._full_url())

    def leave(self) -> None:
        """Put back what is still as we set it."""
        tracking = _tracking()
        if self._chosen is not None and tracking is not None:
            before = os.environ.get(_URI)
            if tracking._tracking_uri == self._full_url():  # noqa: SLF001 - has no other name
                tracking.set_tracking_uri(self._chosen)
                # It writes the variable as well, which has a history of its own.
                _put(_URI, before)
            self._chosen = None
        for name, value in self._made.items():
            if os.environ.get(name) == value:
                _put(name, self._before[name])
        self._made.clear()

    def here(self) -> bool:
        """Return True while MLflow's calls go to the run's store."""
        tracking = _tracking()
        with TRYING:
            return tracking is not None and self._same(str(tracking.get_tracking_uri()))
        return False

    def _variables(self) -> Mapping[str, Optional[str]]:
        options, kind = self._options, uri.kind_of(self._url)
        found: dict[str, Optional[str]] = {}
        # Also MLflow's default, which would change with the working directory.
        if not self._same(os.environ.get(_URI, "")):
            found[_URI] = self._full_url()
        if kind is StoreKind.FOLDER:
            # From 3.13 on MLflow refuses a folder of files otherwise.
            found["MLFLOW_ALLOW_FILE_STORE"] = "true"
        if kind is StoreKind.SERVER:
            found.update(credentials.variables(options, os.environ, Path.home()))
            chosen = {
                "MLFLOW_WORKSPACE": options.workspace,
                "MLFLOW_TRACKING_INSECURE_TLS": "true" if options.insecure_tls else None,
                "MLFLOW_TRACKING_SERVER_CERT_PATH": options.server_cert_path,
                "MLFLOW_TRACKING_CLIENT_CERT_PATH": options.client_cert_path,
            }
            found.update({name: value for name, value in chosen.items() if value is not None})
        return {name: value for name, value in found.items() if os.environ.get(name) != value}

    def _full_url(self) -> str:
        """Return the address; a database's with name and password, which have no variable."""
        if uri.kind_of(self._url) is StoreKind.DATABASE:
            return uri.with_userinfo(self._url, *credentials.userinfo(self._options))
        return self._url

    def _same(self, address: str) -> bool:
        if not address:
            return False
        if address in (self._url, self._full_url()):
            return True
        with TRYING:
            bare, _, _ = uri.without_userinfo(uri.absolute(address, self._cwd))
            return bare == self._url
        return False


def _put(name: str, value: Optional[str]) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _tracking() -> Any:
    return sys.modules.get("mlflow.tracking._tracking_service.utils")
