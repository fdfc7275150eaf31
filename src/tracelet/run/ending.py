"""
How the program ends, when nobody calls ``stop_logging``.

While a run is active three things are watched: ``sys.excepthook`` (an exception that nobody
caught), ``sys.exit`` (the code is not visible anywhere later) and ``atexit``. All three pass on to
what was there before, unchanged, and are put back only if they are still ours. What ends without
Python's knowing (SIGTERM, SIGKILL, ``os._exit``, abort) leaves no word, and that is the word:
whoever ships closes such a run as KILLED.

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
from types import FrameType, TracebackType
from typing import Any, Callable, Optional

from tracelet.records import RunStatus

__all__ = ["Ending", "status_of"]

#: How long the end of a program may wait for delivery, in all.
EXIT_S = 15.0
#: How long the SIGTERM handler waits for the end to be written before it gives up on it.
_WORD_TIMEOUT_S = 1.0


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
        self._terminated = False
        self._patience_s = EXIT_S
        self._watching = False
        self._former_excepthook: Any = None
        self._former_exit: Any = None
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
        # In any other thread sys.exit ends that thread, not the program.
        if self._watching and threading.current_thread() is threading.main_thread():
            self._note(_status_of_code(arguments[0] if arguments else None))
        self._former_exit(*arguments)

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

    def _note(self, status: RunStatus) -> None:
        # What a program does on its way out after SIGTERM does not change why it went.
        if not self._terminated:
            self._status = status

    def _at_exit(self) -> None:
        if os.getpid() == self._pid:
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
