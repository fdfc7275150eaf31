"""
Replacing a method of a class or a name of a module, and putting the very same object back.

A patch exists to see a call before the library does. It must not change what the call returns or
raises, what ``inspect.signature`` says about it, or anything once it is off.
"""

from __future__ import annotations

import functools
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Callable, Iterable, Mapping, Optional, Sequence, Union

from tracelet._guard import Guard

__all__ = ["Modules", "Patch", "Patches", "Swap"]

_MARK = "__tracelet_patch__"
_ABSENT = object()

Owner = Union[type, ModuleType]


class Patch:
    """
    One method of one class, or one function of a module, replaced.

    Args:
        owner: The class or module.
        name: The method or function.
        build: Makes the tap from the original.
        guard: The tap's own; retired when the patch comes off, so that a tap which somebody else
            still holds only passes its calls on.
    """

    def __init__(
        self,
        owner: Owner,
        name: str,
        build: Callable[[Callable[..., Any], Guard], Callable[..., Any]],
        guard: Guard,
    ) -> None:
        self.owner = owner
        self.name = name
        self.guard = guard
        self._build = build
        self._own = True
        self._original: Any = _ABSENT
        self._tap: Any = _ABSENT
        #: The tap that was made last, on or off. (A wrapper by somebody else carries our mark too:
        #: ``functools.wraps`` copies it.)
        self.made: Any = None

    def apply(self) -> None:
        """Put the tap on; a second time changes nothing."""
        if self._tap is not _ABSENT:
            return
        original = self.owner.__dict__.get(self.name, _ABSENT)
        self._own = original is not _ABSENT
        if not self._own:
            original = getattr(self.owner, self.name)
        earlier = getattr(original, _MARK, None)
        if isinstance(earlier, Patch) and earlier.made is original:
            # A tap of ours is there: one that somebody put back after its time, or another
            # integration's. Two of them would record everything twice.
            earlier.guard.retire()
            original = earlier.original
        self._original = original
        self._tap = _named(self._build(original, self.guard), original, self.name)
        self.made = self._tap
        setattr(self._tap, _MARK, self)
        setattr(self.owner, self.name, self._tap)

    def revert(self) -> None:
        """
        Put the original back; a second time changes nothing.

        Where somebody has patched over us, their wrapper stays, and ours only passes calls on.
        """
        if self._tap is _ABSENT:
            return
        self.guard.retire()
        if self.owner.__dict__.get(self.name) is self._tap:
            if self._own:
                setattr(self.owner, self.name, self._original)
            else:
                delattr(self.owner, self.name)
        self._tap = _ABSENT

    @property
    def original(self) -> Any:
        """What was there before."""
        return self._original


class Swap:
    """
    A name of a module that means another object for a while.

    Args:
        owner: The module.
        name: The name, which is there.
        value: What it is to mean.
    """

    def __init__(self, owner: Owner, name: str, value: object) -> None:
        self.owner = owner
        self.name = name
        self._value = value
        self._original: Any = _ABSENT

    def apply(self) -> None:
        """Put the value there; a second time changes nothing."""
        if self._original is _ABSENT:
            self._original = getattr(self.owner, self.name)
            setattr(self.owner, self.name, self._value)

    def revert(self) -> None:
        """Put the original back, unless somebody has put something else there."""
        if self._original is not _ABSENT and getattr(self.owner, self.name) is self._value:
            setattr(self.owner, self.name, self._original)
        self._original = _ABSENT


def _named(tap: Callable[..., Any], original: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Give a tap the original's signature and documentation, and our name in tracebacks."""
    wrapped: Any = functools.wraps(original)(tap)
    ours = f"_tracelet_{name.strip('_')}"
    changes = {"co_name": ours}
    if sys.version_info >= (3, 11):
        changes["co_qualname"] = ours
    wrapped.__code__ = wrapped.__code__.replace(**changes)
    return wrapped  # type: ignore[no-any-return]


#: For each module what is to be replaced in it, once it has been imported.
Modules = Mapping[str, Callable[[ModuleType], Iterable[Union[Patch, Swap]]]]


class Patches:
    """
    The patches of one library: on what is imported already, and on what will be.

    Args:
        name: The library, for the log.
        modules: For each module the function that says what to patch in it.
    """

    def __init__(self, name: str, modules: Modules) -> None:
        self._modules = modules
        self._guard = Guard(f"{name} import")
        self._applied: list[Union[Patch, Swap]] = []
        self._finder = _LateImport(list(modules), self._patch, self._guard)
        self._on = False

    def apply(self) -> None:
        """Patch every module that is there, and wait for the others; twice is once."""
        if self._on:
            return
        self._on = True
        # First the finder, then the look: a module that another thread imports just now is seen
        # by one of them, and a patch that is on already is not put on again.
        sys.meta_path.insert(0, self._finder)
        for name in self._modules:
            _wait_for_import(name)
            module = sys.modules.get(name)
            if module is not None:
                self._patch(module)

    def revert(self) -> None:
        """Take everything off, in the opposite order."""
        self._on = False
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        while self._applied:
            self._applied.pop().revert()

    def _patch(self, module: ModuleType) -> None:
        if not self._on:
            return
        with self._guard:
            known = {(patch.owner, patch.name) for patch in self._applied}
            for patch in self._modules[module.__name__](module):
                if (patch.owner, patch.name) not in known:
                    patch.apply()
                    self._applied.append(patch)


def _wait_for_import(name: str) -> None:
    """
    Return when no other thread is in the middle of importing a module.

    It may have asked all finders before ours was there. The import system waits in the same way
    when two threads import one module; where it has another name for that, nothing is waited for.
    """
    wait = getattr(sys.modules.get("_frozen_importlib"), "_lock_unlock_module", None)
    if wait is not None:
        wait(name)


class _LateImport:
    """
    A finder that finds nothing itself: it lets the others look, and listens to the end of the load.

    The loader stays the library's own, so nothing of this is to be seen on the module.
    """

    def __init__(
        self, names: Sequence[str], loaded: Callable[[ModuleType], None], guard: Guard
    ) -> None:
        self._names = frozenset(names)
        self._loaded = loaded
        self._guard = guard
        self._looking = threading.local()

    def find_spec(
        self,
        name: str,
        path: Optional[Sequence[str]] = None,
        target: Optional[ModuleType] = None,
    ) -> Optional[ModuleSpec]:
        if name not in self._names or getattr(self._looking, "now", False):
            return None
        spec = None
        with self._guard:
            self._looking.now = True
            try:
                spec = self._look(name, path, target)
            finally:
                self._looking.now = False
            if spec is not None and spec.loader is not None:
                self._listen(spec.loader)
        return spec

    def _look(
        self, name: str, path: Optional[Sequence[str]], target: Optional[ModuleType]
    ) -> Optional[ModuleSpec]:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec: Optional[ModuleSpec] = find(name, path, target)
            if spec is not None:
                return spec
        return None

    def _listen(self, loader: Any) -> None:
        """Be called when the loader has executed the module; then the loader is as it was."""
        before = vars(loader).get("exec_module", _ABSENT)
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            if before is _ABSENT:
                vars(loader).pop("exec_module", None)
            else:
                loader.exec_module = before
            execute(module)
            if module.__name__ in self._names:
                self._loaded(module)

        loader.exec_module = exec_module
