"""
How the program ends, when nobody calls ``stop_logging``.

While a run is active these are watched: ``sys.excepthook`` (an exception that nobody caught),
``sys.exit`` and the prompt's ``exit`` (the code is not visible anywhere later), and ``atexit``. All
pass on to what was there before, unchanged, and are put back only if they are still ours. What ends
without Python's knowing (SIGTERM, SIGKILL, ``os._exit``, abort) leaves no word, and that is the
word: whoever ships closes such a run as KILLED.

An exit is only a word on the way. Somebody may catch the ``SystemExit`` (a tool that was called for
its result, a notebook) and the program goes on; then it is forgotten.

Two ends look like a plain return from here, and are taken for one: ``raise SystemExit(3)`` written
out, and a hook that somebody else put in the place of ours.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from functools import partial
from types import CodeType, FrameType, TracebackType
from typing import Any, Callable, Optional

from tracelet._guard import TRYING
from tracelet._patching import Swap
from tracelet.records import RunStatus

__all__ = ["Ending", "status_of"]

#: How long the end of a program may wait for delivery, in all.
EXIT_S = 15.0
#: How long the SIGTERM handler waits for the end to be written before it gives up on it.
_WORD_TIMEOUT_S = 1.0
#: The attribute of a ``SystemExit`` that our ``_Leaving`` hangs on.
_LEAVING = "_tracelet_leaving"


def status_of(error: Optional[BaseException]) -> RunStatus:
    """Return how a run ended that this exception left (None: none did)."""
    if error is None:
        return RunStatus.FINISHED
    if isinstance(error, SystemExit):
        return _status_of_code(error.code)
    # Being interrupted is not a failure of the program; so is a generator that is closed.
    if isinstance(error, KeyboardInterrupt):
        return RunStatus.KILLED
    return RunStatus.FINISHED if isinstance(error, GeneratorExit) else RunStatus.FAILED


def _status_of_code(code: object) -> RunStatus:
    return RunStatus.FINISHED if code is None or code == 0 else RunStatus.FAILED


class Ending:
    """
    Watches for the end of the program while a run is active.

    Args:
        stop: Called at the end with the status and with how many seconds it may wait; in no forked
            child.
        ended: Says whether the end is written already, so that nothing more than delivery remains.
        drain: Called, with the same, before the interpreter stops handing out threads, when it is
            this process that ships.
        sigterm: Also end the run when SIGTERM arrives, and let the signal do its work then.
    """

    def __init__(
        self,
        stop: Callable[[RunStatus, float], object],
        *,
        ended: Callable[[], bool],
        drain: Optional[Callable[[float], object]] = None,
        sigterm: bool = False,
    ) -> None:
        self._stop = stop
        self._ended = ended
        self._drain = drain
        self._sigterm = sigterm
        self._pid = os.getpid()
        self._status = RunStatus.FINISHED
        #: The exit that said so; None when something else did.
        self._word: Optional[object] = None
        self._terminated = False
        self._patience_s = EXIT_S
        self._watching = False
        self._former_excepthook: Any = None
        self._former_exit: Any = None
        self._quit: Optional[Swap] = None
        self._former_sigterm: Any = None
        # Bound once: what is put in place has to be recognised later by identity.
        self._excepthook = self._tracelet_excepthook
        self._exit = self._tracelet_exit
        self._on_sigterm = self._tracelet_sigterm

    def watch(self) -> None:
        """Begin to watch. Comes last in a start, so that our exit hook runs before older ones."""
        self._watching = True
        self._former_excepthook, sys.excepthook = sys.excepthook, self._excepthook
        self._former_exit = sys.exit
        sys.exit = self._exit  # type: ignore[assignment]
        quitter = getattr(sys.modules.get("_sitebuiltins"), "Quitter", None)
        if quitter is not None:
            self._quit = Swap(quitter, "__call__", self._quits(quitter.__call__))
            self._quit.apply()
        atexit.register(self._at_exit)
        if self._drain is not None:
            _before_threads_end(self)
        if self._sigterm and threading.current_thread() is threading.main_thread():
            current = signal.getsignal(signal.SIGTERM)
            # None: a handler that was not installed from Python, and could not be put back.
            if current is not None and current is not signal.SIG_IGN:
                self._former_sigterm = current
                signal.signal(signal.SIGTERM, self._on_sigterm)

    def unwatch(self) -> None:
        """Stop watching; put back what is still ours."""
        if not self._watching:
            return
        self._watching = False
        # Wrapped by somebody since: then ours stays inside theirs and only passes on.
        if sys.excepthook is self._excepthook:
            sys.excepthook = self._former_excepthook
        if sys.exit is self._exit:
            sys.exit = self._former_exit
        if self._quit is not None:
            self._quit.revert()
        atexit.unregister(self._at_exit)
        _draining.discard(self)
        self._restore_sigterm()

    def _restore_sigterm(self) -> None:
        former, self._former_sigterm = self._former_sigterm, None
        if (
            former is not None
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is self._on_sigterm
        ):
            signal.signal(signal.SIGTERM, former)

    # -- what is put in place ---------------------------------------------------------------

    def _tracelet_excepthook(
        self,
        kind: type[BaseException],
        error: BaseException,
        traceback: Optional[TracebackType],
    ) -> None:
        # At an interactive prompt an exception ends a line, not the program.
        if self._watching and not hasattr(sys, "ps1"):
            self._note(status_of(error))
        self._former_excepthook(kind, error, traceback)

    def _tracelet_exit(self, *arguments: Any) -> None:
        self._leave(partial(self._former_exit, *arguments), *arguments[:1])

    def _quits(self, former: Callable[..., Any]) -> Callable[..., Any]:
        def _tracelet_quit(quitter: Any, *arguments: Any, **named: Any) -> Any:
            return self._leave(
                partial(former, quitter, *arguments, **named), *arguments[:1], *named.values()
            )

        return _tracelet_quit

    def _leave(self, leave: Callable[[], Any], code: object = None) -> Any:
        # In any other thread an exit ends that thread, not the program.
        if not self._watching or threading.current_thread() is not threading.main_thread():
            return leave()
        before = self._status
        self._note(_status_of_code(code), word := object())
        try:
            came_back = leave()
        except SystemExit as error:
            with TRYING:
                setattr(error, _LEAVING, _Leaving(partial(self._stayed, word, before), word))
            raise
        self._stayed(word, before)
        return came_back

    def _stayed(self, word: object, before: RunStatus) -> None:
        """Take an exit back that was none."""
        if self._word is word:
            self._note(before)

    def _tracelet_sigterm(self, number: int, frame: Optional[FrameType]) -> None:
        former = self._former_sigterm
        self._note(RunStatus.KILLED)
        self._terminated = True
        if os.getpid() == self._pid and former is signal.SIG_DFL:
            self._end_in_a_thread()
        if callable(former):
            # The program has its own idea of what SIGTERM means; it may well go on.
            former(number, frame)
            return
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _end_in_a_thread(self) -> None:
        """
        End the run from a signal handler.

        Not in place: the handler may have interrupted the very call that holds the writer's lock.
        If so, the thread cannot get on, and is not waited for.
        """
        arguments = (RunStatus.KILLED, EXIT_S)
        thread = threading.Thread(
            target=self._stop, args=arguments, name="tracelet-sigterm", daemon=True
        )
        thread.start()
        thread.join(_WORD_TIMEOUT_S)
        if self._ended():
            thread.join()

    def _note(self, status: RunStatus, word: Optional[object] = None) -> None:
        # What a program does on its way out after SIGTERM does not change why it went.
        if not self._terminated:
            self._status, self._word = status, word

    def _at_exit(self) -> None:
        if os.getpid() != self._pid:
            return
        # The interpreter keeps what it has shown; one that ends the program is not shown. (A
        # notebook shows it, and goes on.)
        shown = getattr(getattr(sys, "last_value", None), _LEAVING, None)
        if shown is not None:
            shown.check(self._word)
        self._stop(self._status, self._patience_s)

    def drain(self) -> None:
        """Ship what is there while threads can still be started."""
        if not self._watching or os.getpid() != self._pid or self._drain is None:
            return
        began = time.monotonic()
        try:
            self._drain(self._patience_s)
        except KeyboardInterrupt:
            # It ends the waiting, here and in what follows, and nothing else.
            self._patience_s = 0.0
        self._patience_s = max(0.0, self._patience_s - (time.monotonic() - began))


class _Leaving:
    """
    Hangs on a ``SystemExit`` and sees it die: with the program, or because somebody caught it.

    The interpreter drops one that nobody caught when the program has been left, and before it calls
    any exit hook. So whether the program still runs then is whether it has been caught.

    Args:
        stayed: Called when it was.
        word: Which exit it is.
    """

    def __init__(self, stayed: Callable[[], None], word: object) -> None:
        self._stayed = stayed
        self._word = word
        self._program = _program()

    def check(self, word: Optional[object]) -> None:
        """Take it for caught if it is this one."""
        if word is self._word:
            self._stayed()

    def __del__(self) -> None:
        if _program() is self._program:
            self._stayed()


def _program() -> Optional[CodeType]:
    """Return the outermost code that the main thread is in."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    return None if frame is None else frame.f_code


_draining: set[Ending] = set()
_registered_in = 0


def _before_threads_end(ending: Ending) -> None:
    """
    Have ``drain`` called before thread pools are shut down, which is before ``atexit``.

    An SDK that uploads through a pool cannot do so any more when our own exit hook runs.
    """
    global _registered_in  # noqa: PLW0603
    _draining.add(ending)
    register = getattr(threading, "_register_atexit", None)
    if register is None or _registered_in == os.getpid():
        return
    try:
        register(_drain_all)
    except RuntimeError:
        return  # the end has begun already
    _registered_in = os.getpid()


def _drain_all() -> None:
    for ending in list(_draining):
        ending.drain()
