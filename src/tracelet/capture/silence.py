"""
``keep_tensorboard=False``: writers that write no file, and are plain writers again afterwards.

A new ``EventFileWriter`` becomes an instance of a silent subclass before it has touched the disk.
Its constructor's arguments are kept: the first time it is used once nobody wants silence any more,
the constructor runs, and the class is the plain one again. A writer that lived before is only left
out; its file stays as it is.
"""

from __future__ import annotations

import inspect
import os
import threading
from functools import partialmethod
from typing import Any, Callable, Mapping

from tracelet._guard import Guard
from tracelet.capture.notes import here

__all__ = ["Silence"]

_SILENCE = "_tracelet_silence"
_ARGUMENTS = "_tracelet_arguments"
_CLOSED = "_tracelet_closed"
_QUIET = "_tracelet_quiet"

_waking = threading.RLock()


def _renew_lock() -> None:
    global _waking  # noqa: PLW0603 - a forked child may have inherited it locked
    _waking = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Silence:
    """
    Silence of one library's ``EventFileWriter`` for as long as it is ``active``.

    Args:
        owner: The class.
        quiet: Given whether the writer is closed, the attributes that make its methods do nothing.
    """

    def __init__(self, owner: type, quiet: Callable[[bool], Mapping[str, Any]]) -> None:
        self.active = True
        self.owner = owner
        self.quiet = quiet
        constructor: Any = owner.__dict__["__init__"]
        #: What a writer has once its constructor has run.
        self.attributes = frozenset(inspect.unwrap(constructor).__code__.co_names)
        self._kinds: dict[type, type] = {}

    def init(self, original: Callable[..., Any], _: Guard) -> Callable[..., Any]:
        """Build the tap of ``__init__``."""
        signature = inspect.signature(original)

        def tapped(*args: Any, **kwargs: Any) -> Any:
            if self.active:
                try:
                    given = signature.bind(*args, **kwargs).arguments
                except TypeError:
                    given = None  # the original says so itself
                if given is not None:
                    self._hush(args[0], given["logdir"], args[1:], kwargs)
                    return None
            return original(*args, **kwargs)

        return tapped

    def _hush(
        self, writer: Any, logdir: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        vars(writer)["_logdir"] = logdir
        vars(writer)[_ARGUMENTS] = args, kwargs
        vars(writer)[_SILENCE] = self
        kind = type(writer)
        if kind.__dict__.get("__getattr__") is not _getattr:
            writer.__class__ = self._silent(kind)

    def _silent(self, kind: type) -> type:
        silent = self._kinds.get(kind)
        if silent is None:
            # A mixin would change the layout of the object, and so the class could not be changed.
            own: dict[str, Any] = {
                "__module__": kind.__module__,
                "__doc__": kind.__doc__,
                "__getattr__": _getattr,
                "flush": partialmethod(_quietly, kind.flush),  # type: ignore[attr-defined]
                "close": partialmethod(_close, kind.close),  # type: ignore[attr-defined]
            }
            if hasattr(kind, "reopen"):
                own["reopen"] = _reopen
            silent = type(kind.__name__, (kind,), own)
            silent.__qualname__ = kind.__qualname__
            self._kinds[kind] = silent
        return silent

    def leave_out(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Build what stands for ``add_event``: nothing is written, mistakes are as loud as ever."""

        def add_event(*args: Any, **kwargs: Any) -> Any:
            event = args[1] if len(args) > 1 else kwargs.get("event")
            if self.active and hasattr(event, "SerializeToString"):
                return None
            return original(*args, **kwargs)

        return add_event

    @staticmethod
    def elsewhere(original: Callable[..., Any], _: Guard) -> Callable[..., Any]:
        """Build the tap of ``get_logdir``: files beside the events go to a folder of ours."""

        def tapped(*args: Any, **kwargs: Any) -> Any:
            folder = here.notes.folder
            return original(*args, **kwargs) if folder is None else folder

        return tapped


def _getattr(writer: Any, name: str) -> Any:
    """Look for what a silent writer would have if its constructor had run."""
    own = vars(writer)
    silence = own.get(_SILENCE)
    if silence is None:
        with _waking:  # another thread is just waking it
            if name in own:
                return own[name]
    if silence is None or name not in silence.attributes:
        raise AttributeError(f"{type(writer).__name__!r} object has no attribute {name!r}")
    if silence.active or own.get(_QUIET) or own.get(_CLOSED):
        quiet = silence.quiet(bool(own.get(_CLOSED)) and not silence.active)
        if name in quiet:
            return quiet[name]
        raise AttributeError(f"{type(writer).__name__!r} object has no file, so no {name!r}")
    _wake(writer, silence)
    return getattr(writer, name)


def _wake(writer: Any, silence: Silence) -> None:
    """Let a silent writer become a plain one."""
    own = vars(writer)
    with _waking:
        if _ARGUMENTS not in own:
            return
        args, kwargs = own[_ARGUMENTS]
        own[_SILENCE] = None
        try:
            silence.owner.__init__(writer, *args, **kwargs)  # type: ignore[misc]
        except BaseException:
            own[_SILENCE] = silence
            raise
        if own[_SILENCE] is not None:
            return  # that constructor is tapped again: it sleeps on
        writer.__class__ = type(writer).__base__
        for name in (_ARGUMENTS, _SILENCE, _QUIET):
            own.pop(name, None)


def _quietly(writer: Any, method: Callable[[Any], Any]) -> Any:
    """Run a method of the plain class that must not be a reason to open a file."""
    own = vars(writer)
    own[_QUIET] = True
    try:
        return method(writer)
    finally:
        own.pop(_QUIET, None)


def _close(writer: Any, method: Callable[[Any], Any]) -> Any:
    done = _quietly(writer, method)
    if vars(writer).get(_SILENCE) is not None:
        vars(writer)[_CLOSED] = True
    return done


def _reopen(writer: Any) -> None:
    vars(writer).pop(_CLOSED, None)
