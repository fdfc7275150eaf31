"""
The user's handle on a run: what to log besides TensorBoard's calls, and how to end it.

How a run is put together is in ``start``; how the end of a program is noticed, in ``ending``.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional, Sequence, Union

from tracelet import naming
from tracelet._guard import Guard, failures
from tracelet._ledger import BackendCounts, Ledger, Report, log
from tracelet.errors import ConfigError, TraceletError
from tracelet.records import (
    Media,
    Param,
    Record,
    RemoteRun,
    RunEnd,
    RunInfo,
    RunStatus,
    Scalar,
    Table,
    Tag,
    Text,
)
from tracelet.run import histograms, pictures
from tracelet.run.ending import EXIT_S, Ending, status_of
from tracelet.run.values import as_name, as_number, as_path, as_scalar, as_step, as_table
from tracelet.ship import state
from tracelet.spool.rundir import durable

if TYPE_CHECKING:
    from tracelet.backends.base import Backend
    from tracelet.capture.base import Integration
    from tracelet.ship.host import Host
    from tracelet.spool.rundir import RunDir
    from tracelet.spool.writer import SpoolWriter

__all__ = ["Run"]

#: How often a waiting call looks again.
_LOOK_S = 0.02
#: A call to a tracker's own SDK waits so long for a tracker that does not answer, so long for one
#: where the run is being opened, and so long without a word.
_PATIENCE_S = 15.0
_OPENING_S = 120.0
_SPEAK_S = 1.0
#: What is flushed on the way out does not wait longer for who is away.
_FLUSH_AWAY_S = 1.0


class Run:
    """
    One training, from ``start_logging`` to ``stop``. A context manager.

    Every ``log_`` call returns as soon as the record is on disk. A value of the wrong type raises
    ``TypeError``. What the world does (a file that is not there, a full disk) is a warning and a
    count, so that training goes on; with ``strict=True`` it raises ``TraceletError``.
    """

    #: Who the run is.
    info: RunInfo

    def __init__(
        self,
        run_dir: RunDir,
        writer: SpoolWriter,
        host: Optional[Host],
        ledger: Ledger,
        *,
        strict: bool = False,
        handle_sigterm: bool = False,
        backends: Optional[Mapping[str, Backend]] = None,
        looks: Optional[Mapping[str, str]] = None,
        before: int = 0,
        on_end: Optional[Callable[[RunStatus], None]] = None,
        on_stop: Optional[Callable[[Run], None]] = None,
    ) -> None:
        self.info = run_dir.info
        self._run_dir = run_dir
        self._writer = writer
        self._host = host
        self._ledger = ledger
        self._strict = strict
        self._backends = backends or {}
        self._looks = looks or {}
        self._before = before
        self._on_end = on_end
        self._on_stop = on_stop
        self._pid = os.getpid()
        self._integrations: list[Integration] = []
        self._guard = Guard("run", lambda _: ledger.lose("error"))
        self._failed_before = failures()
        self._stop_lock = threading.RLock()
        self._stopping = False
        self._end: Optional[RunEnd] = None
        self._ended = False
        self._report: Optional[Report] = None
        self._patient = True
        self._ending = Ending(
            self._stop_at_exit,
            ended=lambda: self._ended,
            drain=self._drain if host is not None else None,
            sigterm=handle_sigterm,
        )

    def __repr__(self) -> str:
        name = self.info.name or self.info.run_id
        return f"<tracelet run {name!r} to {', '.join(self.info.backends) or 'nowhere'}>"

    # -- logging ----------------------------------------------------------------------------

    def log_metric(self, key: str, value: Any, step: Any = None) -> None:
        """
        Log one point of a curve.

        Args:
            key: The curve's name.
            value: A number, or what holds exactly one: a tensor, a numpy scalar.
            step: A whole number, a fraction, or None for the key's next one.

        Raises:
            TypeError: One of them is of the wrong type.
        """
        self.log_metrics({key: value}, step)

    def log_metrics(self, metrics: Mapping[str, Any], step: Any = None) -> None:
        """Log several points at one step; see ``log_metric``. All of them are read, then logged."""
        step = as_step(step)
        points = [
            (as_name(key), as_number(value, key))
            for key, value in _mapping(metrics, "metrics").items()
        ]
        for key, number in points:
            self._spool(self._writer.scalar, "", key, number, step, None)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """
        Log parameters of the run.

        Args:
            params: Names and values; dictionaries in it are flattened, their names joined with
                ``.``. Lists are logged as JSON, other values that are no scalar as their text.

        Raises:
            TypeError: ``params`` is no mapping, or a name no text.
        """
        flat = naming.flatten(_mapping(params, "params"))
        now = self._writer.now()
        for record in [
            Param(as_name(key, "The name of a parameter"), value, now)
            for key, value in flat.items()
        ]:
            self._record(record)
        self._confirm()

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """
        Put labels on the run; a label that is there already gets the new value.

        Args:
            tags: Names and values; any scalar is written as its text.

        Raises:
            TypeError: ``tags`` is no mapping, a name no text, or a value no scalar.
        """
        now = self._writer.now()
        for record in [
            Tag(as_name(key, "The name of a tag"), _label(key, value), now)
            for key, value in _mapping(tags, "tags").items()
        ]:
            self._record(record)
        self._confirm()

    def log_artifact(
        self,
        local_path: Union[str, os.PathLike[str]],
        artifact_path: Union[str, os.PathLike[str], None] = None,
    ) -> None:
        """
        Keep a file or folder with the run, its bytes as they are now.

        Args:
            local_path: What to keep. A folder keeps its own name.
            artifact_path: The folder in the run to put it in: ``log_artifact("checkpoints/",
                "training")`` makes ``training/checkpoints/…``.

        Raises:
            TypeError: One of them is no path.
        """
        source = as_path(local_path, "local_path")
        target = as_path(artifact_path, "artifact_path") if artifact_path is not None else ""
        if not self._recording():
            return
        try:
            count = self._writer.artifact(source, target)
        except OSError as error:
            reason = error.strerror or str(error)
            self._not_recorded("artifact", f"The artifact {source!r} is not kept: {reason}.", error)
        except ValueError as error:
            self._not_recorded("artifact", f"The artifact {source!r} is not kept: {error}.", error)
        else:
            self._confirm()
            if not count:
                self._ledger.warn(f"The folder {source!r} holds no file to keep.", once=source)

    def log_text(self, key: str, text: str, step: Any = None) -> None:
        """
        Log a text, Markdown as TensorBoard reads it.

        Raises:
            TypeError: ``text`` is none, or key or step are of the wrong type.
        """
        if not isinstance(text, str):
            raise TypeError(f"The text {key!r} is a str, not {type(text).__name__}.")
        self._record(Text(as_name(key), text, as_step(step), self._writer.now()))

    def log_image(self, key: str, image: Any, step: Any = None) -> None:
        """
        Log an image.

        Args:
            key: Its name.
            image: Encoded bytes (PNG, JPEG, GIF, WebP) or the path of such a file; a Pillow image;
                or an array or tensor ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)`` of 1 to 4 channels,
                whole numbers from 0 to 255 or fractions from 0 to 1.
            step: As in ``log_metric``.

        Raises:
            TypeError: It is nothing of that.
        """
        self._picture(key, lambda: pictures.of_image(image), step)

    def log_figure(self, key: str, figure: Any, step: Any = None) -> None:
        """
        Log a matplotlib figure as an image. The figure stays open.

        Raises:
            TypeError: It is no figure.
        """
        self._picture(key, lambda: pictures.of_figure(figure), step)

    def log_histogram(
        self,
        key: str,
        values: Any = None,
        step: Any = None,
        *,
        bins: int = 64,
        edges: Optional[Sequence[Any]] = None,
        counts: Optional[Sequence[Any]] = None,
    ) -> None:
        """
        Log a distribution, from its values or from buckets.

        Args:
            key: Its name.
            values: Numbers in any nesting, an array, a tensor, or tensors (``model.parameters()``).
                Values that are not finite are left out.
            step: As in ``log_metric``.
            bins: How many buckets to sort the values into.
            edges: Instead of values: the borders of the buckets, rising.
            counts: Instead of values: how many values lie in each bucket, one less than edges.

        Raises:
            TypeError: There are no numbers, or neither values nor edges and counts, or both.
        """
        key, step, now = as_name(key), as_step(step), self._writer.now()
        if (values is None) == (edges is None or counts is None) or (edges is None) != (
            counts is None
        ):
            raise TypeError("A histogram is made of values, or of edges and counts.")
        if edges is not None and counts is not None:
            self._record(histograms.counted(key, edges, counts, step, now))
            return
        record = histograms.of_values(key, values, bins, step, now)
        if record is None:
            self._not_recorded("histogram", f"The histogram {key!r} has no finite value.", None)
        else:
            self._record(record)

    def log_table(
        self,
        key: str,
        data: Any,
        columns: Optional[Sequence[str]] = None,
        step: Any = None,
    ) -> None:
        """
        Log a table.

        Args:
            key: Its name.
            data: A data frame, a mapping from column to values, or a sequence of rows, each a
                mapping or a sequence.
            columns: The columns to keep, in order; needed when the rows are plain sequences.
            step: As in ``log_metric``.

        Raises:
            TypeError: ``data`` is nothing of that.
        """
        key, step = as_name(key), as_step(step)
        try:
            names, rows = as_table(data, columns)
        except ValueError as error:
            self._not_recorded("table", f"The table {key!r} is not kept: {error}", error)
            return
        self._record(Table(key, names, rows, step, self._writer.now()))

    # -- the run elsewhere ------------------------------------------------------------------

    def remote(self, backend: Optional[str] = None, timeout: float = 60.0) -> RemoteRun:
        """
        Return the run as a backend knows it: its id and where to see it there.

        Waits until the backend has opened the run.

        Args:
            backend: Its name; may be left out when there is only one.
            timeout: How long to wait, in seconds.

        Raises:
            TraceletError: The run does not go there, or has not been opened in time.
            ConfigError: The backend refuses; a person has to change something.
        """
        names = self.info.backends
        backend = names[0] if backend is None and len(names) == 1 else backend or ""
        if backend not in names:
            raise TraceletError(f"Say which one of this run's backends: {', '.join(names)}.")
        deadline = time.monotonic() + timeout
        while True:
            found = self._there(backend)
            if found.remote is not None:
                return found.remote
            if self._host is None:
                raise TraceletError(
                    "The run is only on disk (mode='offline'); 'tracelet sync' delivers it."
                )
            if time.monotonic() > deadline:
                raise _late(backend, found)
            time.sleep(_LOOK_S)

    def _there(self, backend: str) -> state.BackendState:
        """Return where a backend stands. Raises ConfigError when it refuses the run."""
        found = state.read(self._run_dir)[backend]
        if found.remote is None and found.state == "config":
            raise ConfigError(f"{backend} refuses: {found.detail}")
        return found

    @property
    def looks(self) -> Mapping[str, str]:
        """For each backend, where a person will see the run: a command or an address."""
        return dict(self._looks)

    def flush(self, timeout: float = 10.0) -> bool:
        """
        Wait until every backend has everything that was logged so far, also by children and ranks.

        Args:
            timeout: How long to wait, in seconds.

        Returns:
            False when the time was up, or when nothing is shipped (``mode="offline"``).
        """
        return self._flush(timeout)

    def _flush(self, timeout: float, away_s: Optional[float] = None) -> bool:
        """Flush; but give up once all that is missing is missing from who is away so long."""
        if self._report is not None:
            return self._report.pending == 0
        if self._host is None:
            return False
        # What children and other ranks have logged is answered for in the same count: an answer to
        # theirs is none to ours.
        everybody = state.spooled(self._run_dir) + self._writer.waiting
        target = max(self._before + self._writer.spooled, everybody)
        began = here_at = time.monotonic()
        self._host.wake()
        while True:
            now = time.monotonic()
            self._host.publish(self._run_dir)
            # Not `pending`: what was published last may know less than has been logged.
            left = [each for each in state.read(self._run_dir).values() if each.answered < target]
            if not left:
                return True
            if any(each.state not in ("waiting", "config") for each in left):
                here_at = now
            if now - began >= timeout or (away_s is not None and now - here_at >= away_s):
                return False
            time.sleep(_LOOK_S)

    # -- the end ----------------------------------------------------------------------------

    def stop(self, status: RunStatus = RunStatus.FINISHED, timeout: float = EXIT_S) -> Report:
        """
        End the run: nothing is captured any more, what is left is delivered, one line tells.

        Args:
            status: How it ended.
            timeout: How long to wait for the backends, in seconds. What they do not have by then
                is delivered by the process beside, or by the next start or ``tracelet sync``.

        Returns:
            The account. The second call returns the same one and does nothing.
        """
        with self._stop_lock:
            if self._report is None:
                self._report = self._stop(RunStatus(status), timeout)
            return self._report

    def __enter__(self) -> Run:  # noqa: PYI034 - `Self` is 3.11's
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        status = status_of(error)
        if status is RunStatus.KILLED:
            self._stop_at_exit(status)
        else:
            self.stop(status)

    def _drain(self, patience_s: float) -> None:
        """Deliver what is there, without an end: more may follow from threads that still run."""
        # Asked in this order: it is the last moment when a thread could take over.
        if self._host is None or not self._host.alive() or not self._host.inside:
            return
        if not self._flush(min(1.0, patience_s), _FLUSH_AWAY_S) and patience_s > 1.0:
            self._waiting("what is left to be delivered")
            self._flush(patience_s - 1.0, _FLUSH_AWAY_S)

    def _stop_at_exit(self, status: RunStatus, timeout: float = EXIT_S) -> None:
        """Stop where the program is ending already: one more Ctrl-C only ends our waiting."""
        try:
            self.stop(status, timeout)
        except KeyboardInterrupt:
            log.info("the wait for delivery was interrupted")

    def _begin(self, integrations: Sequence[Integration], keep_tensorboard: bool) -> None:
        """Put the patches on and watch for the end: the last part of a start."""
        for integration in integrations:
            integration.install(self._writer, keep=keep_tensorboard)
            self._integrations.append(integration)
        self._attach()
        self._ending.watch()

    def _attach(self) -> None:
        """Make calls to the trackers' own SDKs land in this run, where they can; twice is once."""
        if self._host is None:
            return
        captured = [integration.name for integration in self._integrations]
        for name, backend in self._backends.items():
            with Guard(f"{name} attach"):
                backend.attach(partial(self._opened, name), captured=captured, say=self._ledger.say)

    def _detach(self) -> None:
        """Have the trackers' own SDKs as they were."""
        for name, backend in self._backends.items():
            with Guard(f"{name} detach"):
                backend.detach()

    def _opened(self, backend: str) -> RemoteRun:
        """
        Return the run as a backend knows it, for a call to its own SDK that needs one.

        A fresh database takes its time, and more of it on a busy machine; a server that does not
        answer is not waited for as long, and only once.
        """
        patience = _PATIENCE_S if self._patient else 0.0
        began, spoken = time.monotonic(), False
        while True:
            waited = time.monotonic() - began
            found = self._there(backend)
            if found.remote is not None:
                return found.remote
            moving = self._patient and found.state in ("starting", "opening")
            if self._ended:
                raise _late(backend, found)
            if waited > (_OPENING_S if moving else patience):
                self._patient = False
                raise _late(backend, found)
            if not spoken and waited > _SPEAK_S:
                spoken = True
                self._ledger.say(f"waiting for {backend} to open the run, which this call is for")
            time.sleep(_LOOK_S)

    def _stop(self, status: RunStatus, timeout: float) -> Report:
        if self._stopping and self._end is not None:
            # A signal handler, in the middle of this very stop.
            return self._account(self._end.status)
        outer, self._stopping = self._stopping, True
        try:
            return self._finish(status, timeout)
        finally:
            self._stopping = outer

    def _finish(self, status: RunStatus, timeout: float) -> Report:
        """Bring the run to its end, or go on where a Ctrl-C interrupted an earlier try."""
        for integration in reversed(self._integrations):
            with Guard(f"{integration.name} uninstall"):
                integration.uninstall()
        self._ending.unwatch()
        if os.getpid() != self._pid:
            # A forked child: its records are delivered, but the run is its parent's to end.
            self._detach()
            self._writer.close()
            self._forget()
            return self._account(RunStatus.RUNNING)
        if self._end is None:
            self._end = RunEnd(status, self._writer.now(), self._lost())
        if not self._ended:
            # (Written twice, it says the same.)
            self._spool(self._writer.record, self._end)
            self._writer.close(patience_s=min(timeout, 5.0))
            self._ended = True
        interrupted: Optional[KeyboardInterrupt] = None
        try:
            if self._host is not None:
                self._host.wait(self._run_dir, timeout, self._waiting)
        except KeyboardInterrupt as error:
            interrupted = error
        self._detach()
        report = self._account(self._end.status)
        if self._on_end is not None:
            with Guard("end"):
                self._on_end(self._end.status)
        self._run_dir.release()
        if self._host is not None:
            self._host.let_go(self._run_dir)
        self._forget()
        self._ledger.say(str(report))
        for problem in report.check():
            log.warning("run %s: %s", self.info.run_id, problem)
        self._report = report
        if interrupted is not None:
            raise interrupted
        return report

    def _waiting(self, what: str) -> None:
        self._ledger.say(f"waiting for {what}; Ctrl-C ends the wait and loses nothing")

    def _forget(self) -> None:
        if self._on_stop is not None:
            self._on_stop(self)

    def _lost(self) -> Mapping[str, int]:
        lost = dict(self._writer.lost)
        for reason, count in self._ledger.lost.items():
            lost[reason] = lost.get(reason, 0) + count
        for site, count in failures().items():
            new = count - self._failed_before.get(site, 0)
            if new and site != self._guard.site:
                lost[site] = new
        return lost

    def _account(self, status: RunStatus) -> Report:
        # Children and, in a run that was continued, former processes have logged to it, too.
        own = self._before + self._writer.spooled
        spooled = max(own, state.spooled(self._run_dir))
        backends = {}
        for name, said in state.read(self._run_dir).items():
            # What the shipper published last may be older than what was logged last.
            found = replace(said, pending=max(said.pending, spooled - said.answered))
            backends[name] = BackendCounts(
                delivered=found.delivered,
                pending=found.pending,
                rejected=found.rejected,
                unsupported=found.unsupported,
                damaged=sum(found.damaged.values()) - sum(found.thinned.values()),
                thinned=found.thinned,
                warnings=found.warnings,
                state=found.state,
                detail=found.detail or "",
                look=_look(found.remote) or self._looks.get(name, ""),
                # In a forked child the run goes on, and its end is its owner's.
                left=found.left and status is not RunStatus.RUNNING,
            )
        lost = self._lost()
        recorded = spooled + sum(lost.values())
        return Report(self.info.run_id, status, recorded, lost, backends, self._notes(backends))

    def _notes(self, backends: Mapping[str, BackendCounts]) -> list[str]:
        notes = []
        stalls = self._writer.stalls
        if stalls:
            notes.append(f"the disk stalled {'once' if stalls == 1 else f'{stalls:,} times'}")
        jumps = self._writer.jumps
        if jumps:
            notes.append(f"the clock was set {'once' if jumps == 1 else f'{jumps:,} times'}")
        root = self._run_dir.path.parent
        if any(each.waiting for each in backends.values()) and not durable(root):
            notes.append(f"not durable, in {root}")
        return notes

    # -- the way into the spool -------------------------------------------------------------

    def _record(self, record: Record) -> None:
        self._spool(self._writer.record, record)

    def _spool(self, write: Callable[..., object], *arguments: object) -> None:
        if not self._recording():
            return
        with self._guard:
            write(*arguments)

    def _confirm(self) -> None:
        """Wait for the disk, where the user wants that: what comes now cannot be logged again."""
        with self._guard:
            self._writer.confirm()

    def _recording(self) -> bool:
        if self._report is None:
            return True
        self._not_recorded("stopped", "The run has ended; nothing more is recorded in it.", None)
        return False

    def _not_recorded(self, reason: str, sentence: str, error: Optional[Exception]) -> None:
        self._ledger.lose(reason)
        if self._strict:
            raise TraceletError(sentence) from error
        self._ledger.warn(sentence, once=sentence)

    def _picture(self, key: str, encode: Callable[[], pictures.Picture], step: Any) -> None:
        key, step = as_name(key), as_step(step)
        try:
            picture = encode()
        except (OSError, ValueError) as error:
            self._not_recorded("image", f"The image {key!r} is not kept: {error}.", error)
            return
        now = self._writer.now()
        self._record(Media("image", key, picture.data, picture.mime, step, now))


def _late(backend: str, found: state.BackendState) -> TraceletError:
    detail = found.detail or found.state
    return TraceletError(f"{backend} has not opened the run in time ({detail}).")


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is a dictionary, not {type(value).__name__}.")
    return value


def _label(key: str, value: object) -> str:
    plain: Scalar = as_scalar(value)
    if isinstance(value, (Mapping, list, tuple, set, bytes)):
        raise TypeError(f"The tag {key!r} is a text, a number or a yes/no, not {value!r:.40}.")
    return str(plain)


def _look(remote: Optional[RemoteRun]) -> str:
    return "" if remote is None else remote.url or remote.look
