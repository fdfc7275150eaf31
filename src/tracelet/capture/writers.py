"""
One family of writers, patched: what both libraries have in common.

A library brings a ``SummaryWriter`` with its ``add_*`` methods and an ``EventFileWriter``, the one
place that all of them, and all other libraries' writers, end in.
"""

from __future__ import annotations

import os
import sys
import weakref
from functools import partial
from types import ModuleType
from typing import Any, Callable, ClassVar, Iterator, Mapping, Optional

from tracelet._guard import Guard, around
from tracelet._patching import Patch, Patches, Swap
from tracelet.capture import methods
from tracelet.capture.base import Sink
from tracelet.capture.embeddings import embedding
from tracelet.capture.silence import Silence
from tracelet.capture.stranded import leave_alone
from tracelet.capture.taps import (
    Family,
    Recorder,
    event_recorder,
    event_tap,
    scalar_tap,
)

__all__ = ["Writers"]

Build = Callable[[Callable[..., Any], Guard], Callable[..., Any]]


class Writers:
    """
    An ``Integration`` with a family of writers; a library's own class says what is different.

    Installing twice with the same arguments is once; with others, the first is taken off.
    """

    name: ClassVar[str]
    #: The module of ``EventFileWriter``.
    module: ClassVar[str]
    #: The module of ``SummaryWriter``.
    writer_module: ClassVar[str]

    def __init__(self) -> None:
        self._patches: Optional[Patches] = None
        #: One; more if the module is loaded anew meanwhile.
        self._silences: list[Silence] = []
        self._installed: Optional[tuple[Sink, bool]] = None
        #: In a forked child: what keeps it away from the files of its parent.
        self._aboard: list[Swap] = []

    # -- what a library says --------------------------------------------------------------

    def family(self, module: ModuleType) -> Family:
        """Return the classes of the library. ``module`` is ``writer_module``."""
        raise NotImplementedError

    def quiet(self, closed: bool) -> Mapping[str, Any]:
        """Return the attributes that make an ``EventFileWriter`` without a file do nothing."""
        raise NotImplementedError

    def stranded(self, writer: Any) -> bool:
        """Tell, in a forked child, whether an ``EventFileWriter``'s thread is in the parent."""
        raise NotImplementedError

    def more(self, module: ModuleType, record: Recorder, sink: Sink) -> Iterator[Patch]:
        """Yield further patches in ``writer_module``."""
        yield from ()

    # -- Integration ----------------------------------------------------------------------

    def install(self, sink: Sink, *, keep: bool = True) -> None:
        """
        Put the taps on; twice is once.

        Args:
            sink: Where records go.
            keep: False: the library's event files are not written while installed.
        """
        if self._installed is not None:
            if self._installed[0] is sink and self._installed[1] is keep:
                return
            self.uninstall()
        self._installed = (sink, keep)
        self._patches = Patches(
            self.name,
            {
                self.module: partial(self._events, sink=sink, keep=keep),
                self.writer_module: partial(self._methods, sink=sink, keep=keep),
            },
        )
        self._patches.apply()
        _on.add(self)
        if _forked:
            self._leave_alone()

    def uninstall(self) -> None:
        """Take the taps off: the very same objects are back. Twice is once."""
        _on.discard(self)
        self._installed = None
        while self._aboard:
            self._aboard.pop().revert()
        if self._patches is not None:
            self._patches.revert()
            self._patches = None
        while self._silences:
            self._silences.pop().active = False

    def _leave_alone(self) -> None:
        """In a forked child: let the writers that belong to its parent do nothing."""
        module = sys.modules.get(self.module)
        if module is None or not hasattr(module, "EventFileWriter") or self._aboard:
            return  # no writer has been inherited; or this is a child of a child
        for swap in leave_alone(
            module, self.name, self.stranded, partial(self.quiet, closed=False)
        ):
            swap.apply()
            self._aboard.append(swap)

    # -- patches --------------------------------------------------------------------------

    def _patch(self, owner: type, name: str, build: Build) -> Patch:
        return Patch(owner, name, build, Guard(f"{self.name} {name.strip('_')}"))

    def _events(self, module: ModuleType, *, sink: Sink, keep: bool) -> Iterator[Patch]:
        owner: Any = module.EventFileWriter
        record = event_recorder(sink, module.event_pb2.Event)
        if keep:
            yield self._patch(
                owner, "add_event", lambda original, guard: event_tap(original, record, guard)
            )
            return
        silence = Silence(owner, self.quiet)
        self._silences.append(silence)
        yield self._patch(owner, "__init__", silence.init)
        yield self._patch(owner, "get_logdir", silence.elsewhere)
        yield self._patch(
            owner,
            "add_event",
            lambda original, guard: event_tap(silence.leave_out(original), record, guard),
        )

    def _methods(self, module: ModuleType, *, sink: Sink, keep: bool) -> Iterator[Patch]:
        family = self.family(module)
        owner = family.summary_writer
        for name, original in list(vars(owner).items()):
            if name.startswith("add_") and callable(original):
                yield self._patch(owner, name, self._build(family, name, sink, keep=keep))
        record = event_recorder(sink, sys.modules[self.module].event_pb2.Event)
        yield from self.more(module, record, sink)

    @staticmethod
    def _build(family: Family, name: str, sink: Sink, *, keep: bool) -> Build:
        """Return what makes the tap of one ``add_*`` method."""

        def build(original: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
            names = methods.arguments(original)
            if name == "add_scalar":
                return scalar_tap(original, family, sink, guard, keep=keep)
            if name == "add_scalars":
                return around(original, methods.scalars(family, sink, names), guard)
            if name == "add_hparams":
                return around(original, methods.hparams(family, names), guard)
            if name == "add_embedding":
                return around(original, embedding(family, sink, names, keep=keep), guard)
            if name == "add_histogram":
                return around(original, methods.histogram(family, names), guard)
            return around(original, methods.hinting(family, names), guard)

        return build


#: What is installed in this process, and whether it was forked from another one.
_on: weakref.WeakSet[Writers] = weakref.WeakSet()
_forked = False


def _in_child() -> None:
    global _forked  # noqa: PLW0603
    _forked = True
    for writers in list(_on):
        writers._leave_alone()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
