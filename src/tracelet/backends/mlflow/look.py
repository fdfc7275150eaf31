"""Where a person sees a run: the page's address, or the command that opens it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Mapping
from urllib.parse import quote

from tracelet.backends.mlflow import uri, versions
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.backends.mlflow.uri import StoreKind

__all__ = ["command", "page_of"]

#: From 3.17 on the first page is about chats with language models and shows no run.
_RUNS_NOT_CHATS = "workflowType=machine_learning"


def page_of(experiment_id: str, run_id: str, options: MlflowOptions) -> str:
    """Return the run's page, from the ``#`` on."""
    query = _RUNS_NOT_CHATS
    if options.workspace:
        query += f"&workspace={quote(options.workspace)}"
    return f"#/experiments/{experiment_id}/runs/{run_id}?{query}"


def command(url: str, cwd: Path, environ: Mapping[str, str] = os.environ) -> str:
    """
    Return the command that shows a local store.

    Args:
        url: An absolute tracking URI.
        cwd: The folder where a person would type it.
        environ: The environment there.
    """
    kind = uri.kind_of(url)
    if kind is StoreKind.PLUG_IN:
        return url
    words = ["mlflow", "ui"]
    # `mlflow ui` does not look at MLFLOW_TRACKING_URI, only at its own variable and the folder.
    if url != uri.default(cwd) or environ.get("MLFLOW_BACKEND_STORE_URI"):
        words += ["--backend-store-uri", url]
    line = " ".join(_quoted(word) for word in words)
    if kind is StoreKind.FOLDER and (versions.mlflow() or (0, 0, 0)) >= (3, 13, 0):
        return f"{'set ' if sys.platform == 'win32' else ''}MLFLOW_ALLOW_FILE_STORE=true" + (
            f" && {line}" if sys.platform == "win32" else f" {line}"
        )
    return line


def _quoted(word: str) -> str:
    if sys.platform == "win32":
        return f'"{word}"' if " " in word else word
    return shlex.quote(word)
