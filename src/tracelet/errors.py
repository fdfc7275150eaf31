"""
What can go wrong, in two texts each: what to do (shown) and what happened (the cause, logged).

Only ``TraceletError`` and its children ever reach a user, and only before training starts
(or from an explicit call with ``strict=True``). ``RetryableError``, ``RejectedError`` and
``ConfigError`` are the three answers a backend may give to the shipper.
"""

from __future__ import annotations

import difflib
from typing import Iterable, Optional, Sequence


class TraceletError(Exception):
    """
    Something a user can mend; the text is one sentence that says how.

    Args:
        found: What is wrong; the whole sentence, where that cannot be parted.
        remedy: What to do about it, where that is known apart; it ends the sentence.
    """

    def __init__(self, found: str = "", remedy: str = "") -> None:
        super().__init__(f"{found}: {remedy}." if remedy else found)
        self.found = found
        self.remedy = remedy


class SettingsError(TraceletError, ValueError):
    """A setting that is unknown, of the wrong type, or contradicts another."""


class UnknownBackendError(SettingsError):
    """A backend name that nobody has registered."""


class MissingPackageError(TraceletError, ImportError):
    """A backend was asked for whose package is not installed."""


class SpoolError(TraceletError, OSError):
    """The folder that the user named for the spool cannot be used."""


class BackendError(Exception):
    """The common parent of the three answers below."""


class RetryableError(BackendError):
    """
    Not now: the server is away, busy or slow. The same batch is tried again.

    ``retry_after`` is the shortest wait in seconds that the server asked for, ``remedy`` what a
    person could do should it not pass. ``doubtful``: it may also be these very records that the
    server stumbles over; see ``Backend.remark``.
    """

    def __init__(
        self,
        message: str = "",
        *,
        retry_after: Optional[float] = None,
        remedy: str = "",
        doubtful: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.remedy = remedy
        self.doubtful = doubtful


class RejectedError(BackendError):
    """
    Never: these records of the batch will not be taken, whatever happens.

    ``indexes`` are positions in ``batch.records``; empty means that the backend cannot tell which,
    and the shipper halves the batch until it knows. Nothing is assumed about the other records:
    they are written again.
    """

    def __init__(self, indexes: Sequence[int], reason: str) -> None:
        super().__init__(reason)
        self.indexes = tuple(indexes)
        self.reason = reason


class ConfigError(BackendError, TraceletError):
    """Wrong credentials, wrong address, no such target: a person has to change something."""


class RunGoneError(ConfigError):
    """The remote run was deleted while records for it were still here."""


def shortened(text: str, most: int) -> str:
    """
    Return ``text`` in at most ``most`` characters, cut behind a whole word where there is one.

    Trackers answer with anything, up to a whole page.
    """
    if len(text) <= most:
        return text
    head = text[: most - 1]
    if not text[most - 1].isspace():
        whole = head.rsplit(None, 1)[0]
        # One long word (an address, a base64 blob) says more in part than not at all.
        head = whole if len(whole) > most // 2 else head
    return f"{head.rstrip(' ,;:.(')}…"


def nearest(word: str, known: Iterable[str]) -> str:
    """
    Return ``" Did you mean 'x'?"`` for the known word nearest to ``word``, or an empty string.

    Args:
        word: What the user wrote.
        known: What would have been right.
    """
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
