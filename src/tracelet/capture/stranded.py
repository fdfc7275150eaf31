"""
Writers that a forked child has inherited, while the thread that writes for them stayed behind.

Why: what the child gives to such a writer can never be written, by nobody. Without us its eleventh
call waits for ever for room in the queue, ``flush`` and ``close`` wait from the first; in
tensorboardX the queue is shared, and the parent then waits with it. Our copy is taken before. So in
a child, and only there, such a writer is made to do nothing: its file is the parent's alone. What
works in a child by itself (a writer of its own; tensorboardX under ``multiprocessing``, whose
events go to the parent) is not touched. Off: ``uninstall``.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Callable, Iterator, Mapping

from tracelet._guard import Guard, logger
from tracelet._patching import Swap

__all__ = ["leave_alone"]

_METHODS = ("add_event", "flush", "close")
_SENTENCE = (
    "tracelet: the event file in %s belongs to the process that this one was forked from, and "
    "nothing can be written to it here; what is logged goes to the run only"
)


def leave_alone(
    module: ModuleType,
    name: str,
    stranded: Callable[[Any], bool],
    quiet: Callable[[], Mapping[str, Any]],
) -> Iterator[Swap]:
    """
    Yield what has a library's ``EventFileWriter`` do nothing where it would wait for ever.

    Args:
        module: Where the class is.
        name: The library, for the log.
        stranded: Tells whether a writer's thread is in another process.
        quiet: Returns the attributes that make the methods of one writer do nothing.
    """
    owner: Any = module.EventFileWriter
    guard = Guard(f"{name} in a forked child")
    said = False

    def aboard(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def _tracelet_aboard(*args: Any, **kwargs: Any) -> Any:
            nonlocal said
            with guard:
                writer = args[0] if args else kwargs["self"]
                if stranded(writer):
                    vars(writer).update(quiet())
                    if not said:
                        said = True
                        logger.warning(_SENTENCE, writer.get_logdir())
            return original(*args, **kwargs)

        return _tracelet_aboard

    for method in _METHODS:
        yield Swap(owner, method, aboard(getattr(owner, method)))
