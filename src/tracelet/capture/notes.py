"""
What the taps tell each other on one thread, for the time of one call.

The method taps know what the user wrote; the event tap sees everything that is written. A wrong or
missing note may cost fidelity, never data.
"""

from __future__ import annotations

import os
import re
import threading
from typing import Any, Final, Mapping, NamedTuple, Optional, Union

__all__ = ["SURE", "Hint", "Notes", "Point", "Series", "here", "normal", "speakable", "stream_of"]

#: The next event on this thread is the recorded scalar: nothing else can come before it.
SURE: Final = object()

#: The attribute of a writer that remembers its stream.
STREAM: Final = "_tracelet_stream"


class Hint(NamedTuple):
    """What an ``add_*`` call said that its event will not."""

    tag: Optional[str]
    no_step: bool
    step: Optional[float]
    #: The writer stamps its events itself and gives them no time (tensorboardX's ``use_metadata``).
    untimed: bool


class Point(NamedTuple):
    """A scalar that only TensorBoard can judge: recorded when its event comes by."""

    tag: Any
    value: Any
    step: Any


class Series(NamedTuple):
    """A call of ``add_scalars``: each series is written to a directory of its own."""

    tag: str
    #: What the name of such a directory begins with; the rest is the series.
    prefix: str
    values: Mapping[Any, Any]
    step: Any
    #: Series that are recorded already.
    recorded: set[str]


class Notes:
    """The notes of one thread."""

    __slots__ = ("_outer", "folder", "hint", "hparams", "mark", "pending", "stream")

    def __init__(self) -> None:
        #: ``SURE``, or the tag of the scalar that is recorded already and about to be written.
        self.mark: Any = None
        self.pending: Union[Point, Series, None] = None
        self.hint: Optional[Hint] = None
        #: The exact hyperparameters of the ``add_hparams`` under way.
        self.hparams: Optional[dict[str, Any]] = None
        #: The stream everything belongs to, whatever directory it is written to.
        self.stream: Optional[str] = None
        #: Where writers say their log directory is, for as long as files are written beside events.
        self.folder: Optional[str] = None
        self._outer: list[tuple[Any, Union[Point, Series, None]]] = []

    def interrupt(self) -> None:
        """
        Keep the notes of the call that is under way; ``forget`` brings them back.

        A signal handler or a finalizer may log in the middle of a call.
        """
        self._outer.append((self.mark, self.pending))
        self.mark = self.pending = None

    def forget(self) -> None:
        """A scalar call is over."""
        if self._outer:
            self.mark, self.pending = self._outer.pop()
        else:
            self.mark = self.pending = None


class _Here(threading.local):
    def __init__(self) -> None:
        self.notes = Notes()


here = _Here()


def stream_of(writer: Any, folder: str) -> str:
    """
    Return the stream of a writer: its log directory, absolute, as it was when first asked for.

    Args:
        writer: A writer of either kind; a private attribute of it remembers the answer.
        folder: Name of the attribute that holds its log directory.
    """
    known: Optional[str] = vars(writer).get(STREAM)
    if known is None:
        logdir = os.fsdecode(getattr(writer, folder))
        # (Not resolved: a link that is moved later must not part a stream in two.)
        known = logdir if "://" in logdir else os.path.abspath(logdir)  # noqa: PTH100
        setattr(writer, STREAM, known)
    return known


def speakable(text: str) -> bool:
    """Tell whether a text can be written as UTF-8 (a lone surrogate cannot)."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def normal(tag: str) -> str:
    """Return a tag as every writer would clean it, to compare what two of them made of one."""
    return re.sub(r"[^-/\w.]", "_", tag).lstrip("/")
