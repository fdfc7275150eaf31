"""
The only place that swallows an exception.

Whatever goes wrong in our part of somebody else's call stays here: it is counted by site, logged
once with its traceback, and a site that fails twenty times in a row switches itself off. In our own
tests ``collecting`` keeps the errors, and a fixture raises them.

The functions that build a tap are here as well, because the ``except Exception`` of a tap has
to stand in the very function that replaces the library's: anything around it would cost more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from types import TracebackType
from typing import Any, Callable, Final, Iterator, Mapping, NamedTuple, Optional, Protocol

__all__ = [
    "SKIP",
    "TRYING",
    "Guard",
    "Kept",
    "Note",
    "Usual",
    "around",
    "collecting",
    "failures",
    "quick_tap",
    "tap",
]

#: A site that failed so often without one success in between is switched off.
PATIENCE: Final = 20

logger = logging.getLogger("tracelet")
if not logger.handlers:
    logger.addHandler(logging.NullHandler())

#: ``with TRYING:`` for what is done in another way if it fails, and counted there.
TRYING: Final = contextlib.suppress(Exception)

_counts: dict[str, int] = {}
_lock = threading.Lock()
_collectors: list[list[BaseException]] = []


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603 - a forked child may have inherited it locked
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Guard:
    """
    Keeps the failures of one site away from the user's program.

    As a context manager it costs no allocation; ``if guard.enabled`` is the caller's business.

    Args:
        site: What it guards, for people: ``"tensorboard add_scalar"``.
        on_failure: Called with the site for every record that was lost there.
    """

    __slots__ = ("_logged", "_on_failure", "_retired", "enabled", "failing", "fine", "site")

    def __init__(self, site: str, on_failure: Optional[Callable[[str], None]] = None) -> None:
        self.site = site
        #: False after too many failures in a row, and after ``retire``.
        self.enabled = True
        #: Failures since the last success.
        self.failing = 0
        #: Enabled, and the last call was no failure: one look for a tap that is in a hurry.
        self.fine = True
        self._on_failure = on_failure
        self._logged = False
        self._retired = False

    def ok(self) -> None:
        """Say that the site works (again)."""
        self.failing = 0
        self.fine = self.enabled

    def failed(self, error: BaseException) -> None:
        """
        Take note of a failure; never raises.

        Args:
            error: What was caught.
        """
        self.fine = False
        if _collectors:
            _collectors[-1].append(error)
        self._count()
        self.failing += 1
        if not self._logged:
            # Set first: a handler that logs through a patched method must not come back here.
            self._logged = True
            self._say("tracelet: %s failed; the program goes on without this record", error)
        if self.failing >= PATIENCE and self.enabled:
            self.enabled = False
            self._say(f"tracelet: %s failed {PATIENCE} times in a row and is off now", error)

    def missed(self) -> None:
        """Count a call that came while the site was switched off."""
        if not self._retired:
            self._count()

    def retire(self) -> None:
        """Switch the site off for good, because its patch was taken off; nothing is counted."""
        self._retired = True
        self.enabled = self.fine = False

    def _count(self) -> None:
        with _lock:
            _counts[self.site] = _counts.get(self.site, 0) + 1
        if self._on_failure is not None:
            with contextlib.suppress(Exception):
                self._on_failure(self.site)

    def _say(self, text: str, error: BaseException) -> None:
        with contextlib.suppress(Exception):
            logger.warning(text, self.site, exc_info=error)

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> bool:
        if error is None:
            self.ok()
            return False
        if not isinstance(error, Exception):
            return False
        self.failed(error)
        return True


class Kept:
    """Keeps what was raised inside the ``with`` block in ``error``, for another thread to see."""

    def __init__(self) -> None:
        self.error: Optional[BaseException] = None

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> bool:
        self.error = error
        return True


def failures() -> Mapping[str, int]:
    """Return how many records were lost at which site, in this process."""
    with _lock:
        return dict(_counts)


@contextlib.contextmanager
def collecting() -> Iterator[list[BaseException]]:
    """
    Keep the errors that are swallowed inside the ``with`` block.

    Returns:
        A list that fills; the innermost block has them. A test that wanted its errors clears it.
    """
    errors: list[BaseException] = []
    _collectors.append(errors)
    try:
        yield errors
    finally:
        # By identity: two empty lists are equal.
        _collectors[:] = [collector for collector in _collectors if collector is not errors]


class Note(Protocol):
    """Something a tap has told another one for the time of one call."""

    def forget(self) -> None:
        """Take it back."""


#: What a ``record`` function answers when the original need not run.
SKIP: Final = object()


def tap(
    original: Callable[..., Any],
    record: Callable[[tuple[Any, ...], dict[str, Any]], Any],
    guard: Guard,
) -> Callable[..., Any]:
    """
    Build the function that replaces ``original``: it records, then calls the original.

    Args:
        original: Called once with the very same arguments; its result and its exception are the
            caller's.
        record: Called first, with the arguments as a tuple and a dictionary. It answers None; or a
            ``Note``, forgotten when the original is through; or ``SKIP``.
        guard: Keeps what ``record`` raises.
    """

    def tapped(*args: Any, **kwargs: Any) -> Any:
        if guard.enabled:
            try:
                note = record(args, kwargs)
                if guard.failing:
                    guard.ok()
            except Exception as error:
                guard.failed(error)
            else:
                if note is None:
                    return original(*args, **kwargs)
                if note is SKIP:
                    return None
                try:
                    return original(*args, **kwargs)
                finally:
                    note.forget()
        else:
            guard.missed()
        return original(*args, **kwargs)

    return tapped


class Usual(NamedTuple):
    """What ``quick_tap`` has to know of the calls that almost all are."""

    #: The class whose method it is; and that of its attribute ``file_writer``.
    writer: Any
    file_writer: Any
    #: Its writers may have a default step and time, as ``_default_metadata``.
    metadata: bool
    #: From the type of a value to what makes a double of it, or None where that is not certain.
    doubles: Mapping[type, Callable[[Any], Optional[float]]]
    #: Tells whether the original may be left out, if it ever may.
    needless: Optional[Callable[[Any, float], bool]]
    #: Records: stream, tag, double, step, no time.
    scalar: Callable[[str, str, float, int, None], None]
    #: The thread's notes are its attribute ``notes``; theirs are ``stream`` and ``mark``.
    here: Any
    #: The mark for the time of the original.
    mark: object


def quick_tap(
    original: Callable[..., Any], tapped: Callable[..., Any], usual: Usual, guard: Guard
) -> Callable[..., Any]:
    """
    Build a shorter way through the tap of ``add_scalar``, for writer, tag, value and a step that is
    a whole number of 31 bits.

    One function does what ``tap`` and its ``record`` do in three: calls are what costs here, and
    code that a training step has driven out of the cache costs several times as much.

    Args:
        original: As for ``tap``.
        tapped: From ``tap``: takes every call that is not as ``usual`` says, as it came.
        usual: What is.
        guard: The same that ``tapped`` has.
    """
    summary_writer, file_writer, metadata, doubles, needless, scalar, here, mark = usual

    def quick(*args: Any, **kwargs: Any) -> Any:
        number: Optional[float] = None
        step: Any
        try:
            if kwargs:
                writer, tag, value = args
                step = kwargs["global_step"] if len(kwargs) == 1 else None
            else:
                writer, tag, value, step = args
            notes = here.notes
            files = writer.file_writer
            if (
                guard.fine
                and type(tag) is str
                and tag.isascii()
                and type(step) is int
                and not step >> 31
                and type(writer) is summary_writer
                and type(files) is file_writer
                and notes.mark is None
                and notes.stream is None
                and not (metadata and files._default_metadata)  # noqa: SLF001 - TensorBoardX's
            ):
                stream = writer._tracelet_stream  # noqa: SLF001 - ours
                number = value if type(value) is float else doubles[type(value)](value)
        except Exception:
            number = None  # ``tapped`` finds out what it is
        if number is None:
            return tapped(*args, **kwargs)
        try:
            scalar(stream, tag, number, step, None)
            skip = needless is not None and needless(writer, number)
        except Exception as error:
            guard.failed(error)
        else:
            if skip:
                return None
            try:
                notes.mark = mark
                if kwargs:
                    return original(writer, tag, value, global_step=step)
                return original(writer, tag, value, step)
            finally:
                notes.mark = None
        return original(*args, **kwargs)

    return quick


Call = tuple[tuple[Any, ...], dict[str, Any]]


def around(
    original: Callable[..., Any],
    steps: Callable[[tuple[Any, ...], dict[str, Any]], Iterator[Call]],
    guard: Guard,
) -> Callable[..., Any]:
    """
    Build the function that replaces ``original``, with something to do before and after it.

    Args:
        original: As for ``tap``.
        steps: A generator function. It yields the arguments for the original once, or ends without
            a word. What follows its ``yield`` runs only when the original came back; a ``finally``
            runs always.
        guard: Keeps what ``steps`` raises.
    """

    def tapped(*args: Any, **kwargs: Any) -> Any:
        running = None
        if guard.enabled:
            try:
                running = steps(args, kwargs)
                call = next(running, None)
                if call is None:
                    running = None
                else:
                    args, kwargs = call
            except Exception as error:
                running = None
                guard.failed(error)
        if running is None:
            return original(*args, **kwargs)
        try:
            result = original(*args, **kwargs)
        except BaseException:
            _end(running, guard)
            raise
        try:
            next(running, None)
            guard.ok()
        except Exception as error:
            guard.failed(error)
        return result

    return tapped


def _end(running: Iterator[Call], guard: Guard) -> None:
    try:
        running.close()  # type: ignore[attr-defined]
    except Exception as error:
        guard.failed(error)
