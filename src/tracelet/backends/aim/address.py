"""Which repository a run goes to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tracelet.errors import ConfigError

__all__ = ["Address", "absolute"]

_SCHEME = "aim://"
#: Aim's own variable for the name of the folder (``aim/sdk/configs.py``).
_NAME_VARIABLE = "__AIM_REPO_NAME__"


@dataclass(frozen=True)
class Address:
    """A repository, as ``aim.Repo`` takes it: a folder, or ``aim://host:port``."""

    url: str

    @property
    def remote(self) -> bool:
        """True when a server is asked."""
        return self.url.startswith(_SCHEME)

    @property
    def host(self) -> str:
        """What stands behind ``aim://``: host, port and perhaps a path."""
        return self.url[len(_SCHEME) :].rstrip("/")

    @property
    def folder(self) -> Path:
        """The repository itself, on this machine."""
        return Path(self.url) / _name(os.environ)

    @property
    def look(self) -> str:
        """What shows the repository in a browser."""
        return f"{self.url} (aim up)" if self.remote else f"aim up --repo {self.url}"


def absolute(url: Optional[str], environ: Mapping[str, str], cwd: Path) -> str:
    """
    Return what ``url`` means in this folder.

    Args:
        url: What the user gave, if anything.
        environ: The environment of the training process.
        cwd: Its working directory.

    Raises:
        ConfigError: Aim has no such address.
    """
    if url is None:
        return str(_nearest(environ, cwd))
    url = url.strip()
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme == "aim":
        if not urlsplit(url).hostname:
            raise ConfigError(f"{url!r} names no server", "say 'aim://host:53800'")
        return url.rstrip("/")
    if scheme == "file":
        url = url2pathname(urlsplit(url).path)
    elif scheme:
        remedy = "give a folder, or 'aim://host:53800' for an 'aim server'"
        raise ConfigError(f"Aim cannot write to {url!r}", remedy)
    path = Path(os.path.normpath(cwd / Path(url or ".").expanduser()))
    return str(path.parent if path.name == _name(environ) else path)


def _nearest(environ: Mapping[str, str], cwd: Path) -> Path:
    """Return the folder that Aim itself would take (``Repo.default_repo_path``)."""
    name = _name(environ)
    return next((path for path in (cwd, *cwd.parents) if (path / name).is_dir()), cwd)


def _name(environ: Mapping[str, str]) -> str:
    return environ.get(_NAME_VARIABLE) or ".aim"
