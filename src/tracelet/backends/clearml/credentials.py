"""
Where ClearML's servers are and who we are there: the order in which ClearML looks for it.

An option wins over a variable, a variable over ``clearml.conf``
(``clearml/backend_api/session/session.py``). Keys never leave here but for the header of a request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, NamedTuple, Optional
from urllib.parse import urlsplit

from tracelet.backends.clearml import conf
from tracelet.backends.clearml.options import ClearmlOptions
from tracelet.errors import ConfigError

__all__ = ["HOSTED", "VARIABLES", "Access", "Servers", "access", "first", "servers"]

#: Variables that fill an option, the strongest first.
VARIABLES: Mapping[str, tuple[str, ...]] = {
    "url": ("CLEARML_API_HOST", "TRAINS_API_HOST"),
    "web_url": ("CLEARML_WEB_HOST", "TRAINS_WEB_HOST"),
    "files_url": ("CLEARML_FILES_HOST", "TRAINS_FILES_HOST"),
    "access_key": ("CLEARML_API_ACCESS_KEY", "TRAINS_API_ACCESS_KEY"),
    "secret_key": ("CLEARML_API_SECRET_KEY", "TRAINS_API_SECRET_KEY"),
    "auth_token": ("CLEARML_AUTH_TOKEN",),
    "verify_certificate": ("CLEARML_API_HOST_VERIFY_CERT", "TRAINS_API_HOST_VERIFY_CERT"),
}
_IN_FILE: Mapping[str, tuple[str, ...]] = {
    "url": ("api.api_server", "api.host"),
    "web_url": ("api.web_server",),
    "files_url": ("api.files_server",),
    "access_key": ("api.credentials.access_key",),
    "secret_key": ("api.credentials.secret_key",),
    "auth_token": (),
    "verify_certificate": ("api.verify_certificate",),
}

#: The vendor's own server: who has keys and names no server means this one.
HOSTED = "https://api.clear.ml"

_VERSION = re.compile(r"/(v\d+(\.\d+)?|api/v\d+(\.\d+)?)$")


class Servers(NamedTuple):
    """The three servers, without a slash at the end."""

    api: str
    web: str
    files: str


@dataclass(frozen=True)
class Access:
    """
    The servers that a request goes to, without a slash at the end, and the pair of keys.

    ``token`` is there only where the keys are not: it ends, and keys do not.
    """

    api: str
    files: str
    key: str
    secret: str
    verify: bool
    token: str = ""

    def __repr__(self) -> str:
        return f"Access({self.api!r}, key={'given' if self.key else 'missing'})"


def first(
    option: str, environ: Mapping[str, str], file: Mapping[str, str]
) -> tuple[Optional[str], str]:
    """Return what variables or the file say of an option, and the variable's name where it is."""
    for name in VARIABLES[option]:
        if environ.get(name, "").strip():
            return environ[name].strip(), name
    for name in _IN_FILE[option]:
        if file.get(name, "").strip():
            return file[name].strip(), ""
    return None, ""


def servers(options: ClearmlOptions) -> Servers:
    """Return the servers; those that are not named stand where ClearML puts them."""
    api = _address(options.url or HOSTED)
    web = _address(options.web_url or _web(api))
    return Servers(api, web, _address(options.files_url or _files(api, web)))


def access(options: ClearmlOptions, environ: Mapping[str, str], home: Path) -> Access:
    """
    Return what a request needs.

    Keys are completed here once more, because those of the file are stored nowhere else.

    Raises:
        ConfigError: There are no keys, or half of them.
    """
    key, secret = _keys(options, environ, home)
    found = servers(options)
    token = "" if key else _token(options, environ)
    return Access(found.api, found.files, key, secret, options.verify_certificate, token)


def _keys(options: ClearmlOptions, environ: Mapping[str, str], home: Path) -> tuple[str, str]:
    both = [options.access_key, options.secret_key]
    key, secret = (part.get_secret_value() if part is not None else "" for part in both)
    if options.api_key is not None:
        key, colon, secret = options.api_key.get_secret_value().partition(":")
        if not (key and colon and secret):
            raise ConfigError(
                "An API key of ClearML is a pair, and this one is not",
                "give it as 'access_key:secret_key'",
            )
    file = conf.find(options.config_file, environ, home)
    key = key or first("access_key", environ, file)[0] or ""
    secret = secret or first("secret_key", environ, file)[0] or ""
    if not key and _token(options, environ):
        return "", ""
    if not key or not secret:
        raise ConfigError(
            "ClearML is not configured here: no pair of keys was found",
            "run 'clearml-init', or set CLEARML_API_HOST, CLEARML_API_ACCESS_KEY and "
            "CLEARML_API_SECRET_KEY",
        )
    return key, secret


def _token(options: ClearmlOptions, environ: Mapping[str, str]) -> str:
    if options.auth_token is not None:
        return options.auth_token.get_secret_value()
    return first("auth_token", environ, {})[0] or ""


def _address(url: str) -> str:
    return _VERSION.sub("", url.strip().rstrip("/"))


def _web(api: str) -> str:
    """Return the web server that belongs to an API server, as the vendor's client guesses it."""
    if "://api." in api:
        return api.replace("://api.", "://app.", 1)
    return api.replace(":8008", ":8080", 1) if urlsplit(api).port == 8008 else api


def _files(api: str, web: str) -> str:
    if "://api." in api:
        return api.replace("://api.", "://files.", 1)
    parts = urlsplit(web)
    port = f":{parts.port}" if parts.port else ""
    host = parts.netloc[: len(parts.netloc) - len(port)]
    return parts._replace(netloc=f"{host}:8081").geturl()
