"""What can be said in less than a second about a W&B server, without the SDK."""

from __future__ import annotations

import base64
import json
import socket
import urllib.error
import urllib.request
from typing import Optional

from tracelet._installed import is_installed
from tracelet.backends.replies import retry_after
from tracelet.backends.wandb.options import HOSTED, WandbOptions
from tracelet.errors import ConfigError, MissingPackageError, RetryableError

__all__ = ["check_key", "check_packages", "check_server"]

_ANSWER_S = 0.95
#: Shorter ones are refused by the client before it asks anybody.
_KEY_LENGTH = 40
_WHO = "query viewer { viewer { username entity } }"


def check_packages() -> None:
    """
    See whether the client is there, and what it needs for pictures.

    Raises:
        MissingPackageError: It is not.
    """
    for module, package in (("wandb", "wandb"), ("PIL", "pillow")):
        if not is_installed(module):
            raise MissingPackageError(
                f"The backend 'wandb' needs the package {package!r}, which is not installed: "
                "pip install 'tracelet[wandb]'"
            )


def check_key(key: Optional[str], url: str) -> str:
    """
    Return the key.

    Raises:
        ConfigError: There is none, or it can be none.
    """
    page = "https://wandb.ai/authorize" if url == HOSTED else f"{url}/authorize"
    if not key:
        raise ConfigError(
            f"There is no key for the W&B server {url}",
            f"set WANDB_API_KEY, or run 'wandb login' once; {page} shows the key",
        )
    if len(key.rpartition("local-")[2]) < _KEY_LENGTH or not key.isprintable() or " " in key:
        raise ConfigError(
            f"The W&B key has {len(key)} characters, and a key has {_KEY_LENGTH} at least",
            f"copy it again from {page}",
        )
    return key


def check_server(options: WandbOptions, key: str) -> None:
    """
    Ask the server who we are.

    Raises:
        ConfigError: It does not know us.
        RetryableError: There was no answer in time.
    """
    url = options.url or HOSTED
    login = base64.b64encode(f"api:{key}".encode()).decode("ascii")
    request = urllib.request.Request(  # noqa: S310 - http and https only, see ``address``
        f"{url}/graphql",
        data=json.dumps({"query": _WHO, "variables": {}}).encode(),
        headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310
            said = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise _unknown(url) from error
        if error.code == 404:
            raise ConfigError(
                f"There is no W&B server at {url}", "look at the address, WANDB_BASE_URL"
            ) from error
        raise RetryableError(
            f"the W&B server {url} answered {error.code}",
            retry_after=retry_after(error.headers.get("Retry-After")),
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        text = "did not answer in time" if isinstance(reason, socket.timeout) else str(reason)
        raise RetryableError(
            f"the W&B server {url} cannot be reached: {text}",
            remedy="the run is kept here until it can; mode='offline' needs no server",
        ) from error
    viewer = (said.get("data") or {}).get("viewer") if isinstance(said, dict) else None
    if viewer is None:
        raise _unknown(url)


def _unknown(url: str) -> ConfigError:
    return ConfigError(
        f"The W&B server {url} does not know the key",
        "set WANDB_API_KEY to one of this server, or run 'wandb login --relogin'",
    )
