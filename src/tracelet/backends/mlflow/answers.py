"""
What a "no" of MLflow means: later, never, or "a person has to change something".

The same words serve the REST interface and the SDK, because a server passes on what its store
said. Texts are matched where MLflow has one error code for several things.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Mapping, Optional, Sequence

from tracelet.backends.replies import retry_after
from tracelet.errors import (
    BackendError,
    ConfigError,
    RejectedError,
    RetryableError,
    RunGoneError,
)

__all__ = [
    "ChangedParamError",
    "DuplicateError",
    "ExistsError",
    "NotFoundError",
    "loaded",
    "of_code",
    "of_response",
    "parsed",
]

#: How much of a server's text is worth keeping.
_SHOWN = 300

_RETRY_STATUS = frozenset({408, 425, 429})
_RETRY_CODES = frozenset(
    {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", "ABORTED"}
)
_REFUSED_CODES = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"})
#: Errors of the operating system as they print; those that come from a full or sick disk pass.
_OS_ERROR = ("[errno 5]", "[errno 27]", "[errno 28]", "[errno 122]", "disk i/o error")
_DUPLICATE = ("unique constraint", "duplicate key", "duplicate entry", "uniqueviolation")
_NO_RIGHT = ("permission denied", "read-only file system", "readonly database")
_LOCKED = ("database is locked", "database table is locked", "no space left", "disk is full")


class DuplicateError(RejectedError):
    """The store refused a point because it has it already (servers up to 3.15)."""


class ChangedParamError(RejectedError):
    """A parameter has another value there, and parameters are written once."""


class ExistsError(BackendError):
    """What was to be created is there already."""


class NotFoundError(RunGoneError):
    """The run or experiment does not exist, or no longer."""


def of_response(
    status: int, headers: Mapping[str, str], text: str, what: str, *, sent: str = ""
) -> BackendError:
    """
    Return the error for an HTTP answer that is no success.

    Args:
        status: Its status code.
        headers: Its headers, in any case.
        text: Its body.
        what: The path that was asked for, without the host.
        sent: How we said who we are: ``Basic``, ``Bearer`` or nothing.
    """
    code, message = _json_error(text)
    shown = _shortened(message or text)
    if code == "FEATURE_DISABLED":
        return ConfigError(f"The MLflow server does not do that: {shown}")
    if status in _RETRY_STATUS or status >= 500:
        return RetryableError(
            f"MLflow answered {status} to {what}: {shown}",
            retry_after=retry_after(headers.get("Retry-After")),
            remedy="look into the server's own log, and what stands before it",
            # Also what a request with something broken in it gets.
            doubtful=status == 500,
        )
    if status == 401:
        return _unauthorized(headers, sent)
    if status == 403:
        return _forbidden(headers, text, what)
    if status == 407:
        return ConfigError(
            "The proxy before the MLflow server wants credentials (407)",
            "put them into the address in HTTP_PROXY or HTTPS_PROXY",
        )
    if code:
        return of_code(code, message, what)
    if status in (404, 405) or 300 <= status < 400:
        return ConfigError(
            f"There is no MLflow at this address ({what} answered {status})",
            "check the address and its path",
        )
    return RejectedError((), f"MLflow answered {status} to {what}: {shown}")


def of_code(code: str, message: str, what: str) -> BackendError:
    """
    Return the error for one of MLflow's error codes.

    Args:
        code: For example ``INVALID_PARAMETER_VALUE``.
        message: The text beside it.
        what: What was being done.
    """
    low = message.lower()
    shown = f"{what}: {_shortened(message)}"
    if code in _RETRY_CODES or any(words in low for words in (*_LOCKED, *_OS_ERROR)):
        return RetryableError(f"MLflow is busy, {shown}")
    by_text = _of_text(code, low, shown)
    if by_text is not None:
        return by_text
    if code in _REFUSED_CODES:
        return ConfigError(f"MLflow refuses the credentials, {shown}")
    if code == "ENDPOINT_NOT_FOUND":
        return ConfigError(f"This MLflow server is too old or no MLflow server, {shown}")
    if code == "INTERNAL_ERROR":
        # Neither "later" nor "never": the shipper tries a few times, then looks for the culprit.
        return BackendError(shown)
    return RejectedError((), shown)


def _of_text(code: str, low: str, shown: str) -> Optional[BackendError]:
    """Return the error for what is told apart by its text only, or by text and code."""
    if code == "RESOURCE_ALREADY_EXISTS":
        return ExistsError(shown)
    if any(words in low for words in _DUPLICATE):
        return DuplicateError((), shown)
    if "changing param value" in low:
        return ChangedParamError((), shown)
    if code == "RESOURCE_DOES_NOT_EXIST":
        return NotFoundError(f"MLflow does not know it any more, {shown}")
    if "must be in the 'active' state" in low or "must be in 'active' state" in low:
        return RunGoneError(f"The run was deleted in MLflow, {shown}")
    if any(words in low for words in _NO_RIGHT):
        return ConfigError(f"No right to write there, {shown}")
    return None


def loaded(names: Sequence[tuple[str, str]]) -> tuple[type[Exception], ...]:
    """
    Return those exceptions that can have been raised; to be asked only when something was.

    Args:
        names: Of each the module and the class. What nobody has imported is left out.
    """
    found = ((sys.modules.get(module), name) for module, name in names)
    return tuple(getattr(module, name) for module, name in found if module is not None)


def parsed(text: str) -> Any:
    """Return what JSON says. Raises ``ValueError`` where that is nothing."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _unauthorized(headers: Mapping[str, str], sent: str) -> ConfigError:
    if not sent:
        return ConfigError(
            "The MLflow server wants credentials (401), and there are none",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        )
    wanted = headers.get("WWW-Authenticate", "").partition(" ")[0].lower()
    if sent == "Bearer" and wanted == "basic":
        return ConfigError(
            "The MLflow server refuses the credentials (401): it wants a name with a password, "
            "and was sent a token",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    return ConfigError(
        "The MLflow server refuses the credentials (401)",
        "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the token",
    )


def _forbidden(headers: Mapping[str, str], text: str, what: str) -> ConfigError:
    if "AirTunes" in headers.get("Server", ""):
        return ConfigError(
            "What answers there is macOS's AirPlay receiver (it takes port 5000), and not MLflow",
            "give MLflow another port, or switch the receiver off in the system's settings",
        )
    if "invalid host header" in text.lower():
        return ConfigError(
            "The MLflow server does not know itself by this host name (403, host validation)",
            "start it with --allowed-hosts (or MLFLOW_SERVER_ALLOWED_HOSTS) and the name in it",
        )
    said = _shortened(_json_error(text)[1] or text)
    return ConfigError(
        f"The MLflow server permits this user no {what} (403, {said!r})",
        "ask whoever runs it for the right, or check who is logged in",
    )


def _json_error(text: str) -> tuple[str, str]:
    try:
        body = parsed(text)
    except ValueError:
        return "", ""
    if not isinstance(body, dict):
        return "", ""
    return str(body.get("error_code") or ""), str(body.get("message") or "")


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "…"
