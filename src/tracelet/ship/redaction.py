"""
Keeps secrets out of whatever is written down here: the log, the published state, the rejects.

Backends and SDKs put into an error's text what they please, addresses with passwords included.
What came through the pipe, or out of the environment, is therefore known here by its value; what
only looks like a secret is found by the rules of ``_redaction``.
"""

from __future__ import annotations

import base64
import re
from typing import Any, Iterator, Mapping
from urllib.parse import quote, unquote

from tracelet._redaction import redacted_text

__all__ = ["learn", "redacted", "values_of"]

#: A shorter value would be found in the middle of ordinary words.
_SHORTEST = 4

_secrets: frozenset[str] = frozenset()


def learn(credentials: Mapping[str, Mapping[str, Any]]) -> None:
    """Remember the secret options of some backends, for as long as this process lives."""
    global _secrets  # noqa: PLW0603 - replaced as a whole: others are reading it
    _secrets = _secrets | values_of(credentials)


def values_of(credentials: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    """Return the values that must not stand anywhere, in every form that they may have."""
    found = {
        form
        for options in credentials.values()
        for value in options.values()
        for text in _texts(value)
        for form in _forms(text)
    }
    return frozenset(form for form in found if len(form) >= _SHORTEST)


def redacted(text: str) -> str:
    """Return the text without any secret that is known, and without what looks like one."""
    return redacted_text(text, _secrets)


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a value, however deep."""
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret as it is, and as it may appear in an address or a header."""
    found = re.search(r"://([^/?#\s@]*)@", secret)
    if found is None:
        yield from (secret, quote(secret, safe=""), unquote(secret))
        return
    # Of an address only the user's part is secret.
    user, _, password = found[1].partition(":")
    yield from (found[1], password, unquote(password))
    yield base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
