"""
Which server, which key: the order in which W&B looks for them, without its SDK.

A variable wins over the settings files (``wandb/settings`` in the working directory, then
``~/.config/wandb/settings``); a key is ``WANDB_API_KEY``, else the ``netrc`` entry of the host that
``wandb login`` wrote (``wandb/sdk/lib/wbauth``, ``wandb/old/settings.py``).
"""

from __future__ import annotations

import configparser
import netrc
import os
from pathlib import Path
from typing import Mapping, Optional
from urllib.parse import urlsplit

from tracelet.backends.wandb.options import HOSTED
from tracelet.errors import ConfigError

__all__ = ["VARIABLES", "absolute", "from_files", "stored_key", "web_address"]

#: The option that each of W&B's variables fills.
VARIABLES: Mapping[str, str] = {
    "url": "WANDB_BASE_URL",
    "entity": "WANDB_ENTITY",
    "project": "WANDB_PROJECT",
    "dir": "WANDB_DIR",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "notes": "WANDB_NOTES",
}


def absolute(url: str) -> str:
    """
    Return a server's address in its one form.

    Raises:
        ConfigError: It can never work.
    """
    parts = urlsplit(url.strip().rstrip("/"))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"The W&B address {url!r} is no address of a server",
            f"write 'https://{url.strip('/')}'" if "://" not in url else f"for example {HOSTED!r}",
        )
    if parts.hostname == "wandb.ai":
        # The web page's address; the vendor's client refuses it as well.
        raise ConfigError(f"The W&B address {url!r} is that of the web page", f"write {HOSTED!r}")
    return parts.geturl()


def web_address(url: str) -> str:
    """Return where the web page of a server is."""
    return "https://wandb.ai" if url == HOSTED else url


def from_files(environ: Mapping[str, str], cwd: Path) -> Mapping[str, str]:
    """Return what W&B's settings files say, the stronger one last."""
    home = Path(environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb")
    found: dict[str, str] = {}
    for path in (home / "settings", cwd / "wandb" / "settings"):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(path, encoding="utf-8")
            found.update(parser["default"])
        except (KeyError, configparser.Error, UnicodeDecodeError, OSError):
            continue
    return found


def stored_key(url: str, environ: Mapping[str, str]) -> Optional[str]:
    """Return the key that ``wandb login`` stored for a server."""
    named = environ.get("NETRC")
    names = [Path(named)] if named else [Path.home() / name for name in (".netrc", "_netrc")]
    for path in names:
        try:
            found = netrc.netrc(os.fspath(path)).authenticators(urlsplit(url).hostname or "")
        except (OSError, netrc.NetrcParseError):
            continue
        if found is not None and found[2]:
            return found[2]
    return None
