"""
Who we are for a tracking server: the order in which MLflow looks for it.

A name with a password wins over a token; a variable wins over ``~/.mlflow/credentials``
(``mlflow/utils/credentials.py``, ``rest_utils.py``). What a user says in the call wins over both.
Values never leave here but for the header of a request or the address of a database.
"""

from __future__ import annotations

import base64
import configparser
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from pydantic import SecretStr

from tracelet.backends.mlflow import uri
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.findings import Finding

__all__ = [
    "VARIABLES",
    "Credentials",
    "effective",
    "explained",
    "from_environment",
    "userinfo",
    "variables",
]

#: The option that each of MLflow's variables fills.
VARIABLES: Mapping[str, str] = {
    "username": "MLFLOW_TRACKING_USERNAME",
    "password": "MLFLOW_TRACKING_PASSWORD",
    "api_key": "MLFLOW_TRACKING_TOKEN",
}


@dataclass(frozen=True)
class Credentials:
    """A name with a password, or a token, or nothing."""

    username: Optional[str] = None
    password: Optional[str] = None
    token: Optional[str] = None

    def __repr__(self) -> str:
        return f"Credentials({self.kind})"

    @property
    def kind(self) -> str:
        """What is sent: ``basic``, ``bearer`` or ``none``."""
        if self.username and self.password is not None:
            return "basic"
        return "bearer" if self.token else "none"

    def header(self) -> Optional[str]:
        """Return the value of the ``Authorization`` header."""
        if self.kind == "basic":
            pair = f"{self.username}:{self.password}".encode()
            return "Basic " + base64.b64encode(pair).decode("ascii")
        return f"Bearer {self.token}" if self.token else None


def from_environment(
    given: Mapping[str, Any], environ: Mapping[str, str], home: Path
) -> dict[str, str]:
    """
    Return which options are to be filled from MLflow's variables.

    Args:
        given: The options that the user gave.
        environ: The environment.
        home: Where ``.mlflow/credentials`` would be.

    Returns:
        Option → name of the variable.
    """
    if any(given.get(option) is not None for option in VARIABLES):
        # Somebody who names a credential in the call does not want another one mixed in; only
        # the missing half of a pair is looked up.
        pair = ("username", "password")
        halves = [option for option in pair if given.get(option) is not None]
        wanted = [option for option in pair if option not in halves] if len(halves) == 1 else []
    elif _pair(environ, home) is not None:
        wanted = ["username", "password"]
    else:
        wanted = ["api_key"]
    return {option: VARIABLES[option] for option in wanted if environ.get(VARIABLES[option])}


def effective(options: MlflowOptions, environ: Mapping[str, str], home: Path) -> Credentials:
    """
    Return what to send, where the requests are made.

    Options without a credential are completed here once more, because ``tracelet sync`` runs in
    another environment than the training did.
    """
    username, password = userinfo(options)
    token = options.api_key.get_secret_value() if options.api_key is not None else None
    if username is None and password is None and token is None:
        pair = _pair(environ, home)
        if pair is not None:
            username, password = pair
        else:
            token = environ.get(VARIABLES["api_key"]) or None
    elif (username is None) != (password is None) and token is None:
        found = _pair(environ, home) or (None, None)
        username, password = username or found[0], password if password is not None else found[1]
        if username is not None and password is None:
            password = ""  # http://token@host, a habit of some hosted services
    return Credentials(username, password, token)


def variables(
    options: MlflowOptions, environ: Mapping[str, str], home: Path
) -> Mapping[str, Optional[str]]:
    """Return how MLflow's variables have to be so that it sends the same; None: not set."""
    sent = effective(options, environ, home)
    if sent == effective(MlflowOptions(), environ, home):
        return {}
    values = {"username": sent.username, "password": sent.password, "api_key": sent.token}
    return {variable: values[option] for option, variable in VARIABLES.items()}


def explained(
    options: MlflowOptions, sources: Mapping[str, str], environ: Mapping[str, str], home: Path
) -> Sequence[Finding]:
    """
    Say what is sent and where it comes from, and what is there and is not sent.

    Args:
        options: The complete options.
        sources: Where they came from, as ``Backend.resolve`` says.
        environ: The environment.
        home: Where ``.mlflow/credentials`` would be.
    """
    kind = effective(options, environ, home).kind
    sent = {"basic": ("username", "password"), "bearer": ("api_key",), "none": ()}[kind]
    origins = dict.fromkeys(_origin(option, sources, environ) for option in sent)
    if kind == "none":
        findings = [Finding("ok", "credentials", "none are sent")]
    else:
        what = "a name with a password" if kind == "basic" else "a token"
        findings = [Finding("ok", "credentials", f"{what}, from {' and '.join(origins)}")]
    unsent = [
        variable
        for option, variable in VARIABLES.items()
        if environ.get(variable) and variable not in origins
    ]
    if unsent:
        why = {
            "basic": "a name with a password wins over a token",
            "bearer": "a name needs a password, and the other way round",
            "none": "a name needs a password, and the other way round",
        }[kind]
        if sent and all(sources.get(option) == "argument" for option in sent):
            why = "what is given in the call wins"
        text = f"{' and '.join(unsent)}: set and not sent, because {why}"
        findings.append(Finding("note", "credentials", text))
    return findings


def _origin(option: str, sources: Mapping[str, str], environ: Mapping[str, str]) -> str:
    source = sources.get(option, "")
    if source.startswith("env:"):
        return source[4:]
    if source == "argument":
        return "the call"
    return VARIABLES[option] if environ.get(VARIABLES[option]) else "~/.mlflow/credentials"


def userinfo(options: MlflowOptions) -> tuple[Optional[str], Optional[str]]:
    """Return the name and the password that the options hold, for the address of a database."""
    return _reveal(options.username, 0), _reveal(options.password, 1)


def _reveal(secret: Optional[SecretStr], half: int) -> Optional[str]:
    """
    Return the secret itself.

    When the address came from a variable with the credentials inside, the variable is what
    ``sync`` can look up again: then its value is the whole address.
    """
    if secret is None:
        return None
    value = secret.get_secret_value()
    if "://" in value:
        _, *both = uri.without_userinfo(value)
        if any(part is not None for part in both):
            return both[half]
    return value


def _pair(environ: Mapping[str, str], home: Path) -> Optional[tuple[str, str]]:
    stored = _credentials_file(home)
    username = environ.get(VARIABLES["username"]) or stored.get("mlflow_tracking_username")
    password = environ.get(VARIABLES["password"]) or stored.get("mlflow_tracking_password")
    return (username, password) if username and password else None


def _credentials_file(home: Path) -> Mapping[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(home / ".mlflow" / "credentials", encoding="utf-8")
        return dict(parser["mlflow"])
    except (KeyError, configparser.Error, UnicodeDecodeError, OSError):
        return {}
