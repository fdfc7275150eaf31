"""
Aim itself: one open run, through the functions that its own ``Run.track`` is made of.

Why not ``Run.track``
    It stamps "now". One level below (``RunTracker``) takes the time, and lets the points of a
    batch share what ``track`` writes anew for each: first, last, least and greatest value of the
    sequence. These functions are private; ``known`` says when they are no longer what they were.

Why not ``with Run(...)``, nor its end by garbage collection
    Aim closes what is forgotten, then and there, and waits for ever when its server is gone. Here a
    run is closed by ``close``, or let go of by ``abandon``; Aim's own finalizers are taken off.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional

from tracelet._imports import load
from tracelet.backends.aim.address import Address
from tracelet.errors import ConfigError, RetryableError, RunGoneError

__all__ = ["Session", "known"]

_QUIET: Mapping[str, Any] = {
    "system_tracking_interval": None,
    "capture_terminal_logs": False,
    "log_system_params": False,
}
_TRACKER = {
    "_track": "self, value, track_time, name, step, epoch, context",
    "_init_sequence_info": "self, ctx_id, name, val",
    "_update_sequence_info": "self, ctx_id, name, val, step",
    "_update_context_data": "self, ctx",
    "_add_value": "self, seq_info, val, step, epoch, track_time",
}
_LOOK_S = 0.02
_LIST_S = 0.7
_LOCK_S = 1
_REPORTER_S = 2.0


def known() -> None:
    """
    See that Aim's inner parts are those that this was written for.

    Raises:
        ConfigError: They are not.
    """
    load("aim", "aim.sdk.repo", "aim.sdk.tracker")
    from aim.sdk import base_run, tracker

    for name, expected in _TRACKER.items():
        function = getattr(tracker.RunTracker, name, None)
        found = ", ".join(inspect.signature(function).parameters) if callable(function) else ""
        if found != expected:
            raise ConfigError(
                f"This version of Aim is another inside ({name}({found}))",
                "pip install 'aim>=3.29.1,<4'",
            )
    if not hasattr(base_run, "generate_run_hash"):
        raise ConfigError(
            "This version of Aim names its runs in another way", "pip install 'aim>=3.29.1,<4'"
        )


class Session:
    """
    A run that is open for writing. ``message`` is how many values one message should have.

    Everything is called in one thread.

    Args:
        address: The repository.
        hash_: Aim's name of the run.
        heard: Called when a server has answered.
    """

    message = 25

    def __init__(self, address: Address, hash_: str, heard: Callable[[], None]) -> None:
        self.hash = hash_
        self.repo: Any = None
        self.run: Any = None
        #: The run was not there before.
        self.created = False
        self._address = address
        self._remote = address.remote
        self._given_up = False
        self._tracker: Any = None
        self._heard = heard

    def open(self, create: Optional[float]) -> None:
        """
        Open the run. Whatever is raised: ``abandon`` is to be called then.

        Args:
            create: Make it when it is not there, as of this time in seconds since the epoch.

        Raises:
            RunGoneError: It is not there, and was not to be made.
            RetryableError: Somebody else has it open.
            ConfigError: Aim is another one than we know.
        """
        known()
        self.repo = _repository(self._address)
        # From here on nothing is closed because it was forgotten.
        self.repo._resources.finalizer.detach()
        self.created = not self.exists()
        if self.created and create is None and self._remote:
            time.sleep(_LIST_S)
            self.created = not self.exists()
        if self.created and create is None:
            raise RunGoneError(
                f"There is no run {self.hash} in the Aim repository {self._address.url}."
            )
        if create is not None and self.created:
            # Aim would say "now", and training may have begun long before.
            began = datetime.fromtimestamp(create, timezone.utc)
            self.repo.request_props(self.hash, read_only=False, created_at=began)
        self.run = self._opened()
        self.run._resources.finalizer.detach()
        self._tracker = self.run._tracker
        if self._given_up:
            self.abandon()  # nobody waits for it any more

    def exists(self) -> bool:
        """Tell whether the run is in the repository; a server's answer may be half a second old."""
        if self._remote:
            return self.hash in self.repo._remote_repo_proxy.list_all_runs()
        return Path(self.repo.path, "meta", "chunks", self.hash).is_dir()

    def _opened(self) -> Any:
        from aim import Run
        from aim.sdk import base_run
        from aim.sdk.errors import RunLockingError
        from filelock import Timeout

        def make(*, force: bool) -> Any:
            # Without a hash Aim asks its generator for one; with one it looks into a list that
            # may be half a second old.
            original = base_run.generate_run_hash
            base_run.generate_run_hash = lambda *_: self.hash
            try:
                return Run(repo=self.repo, force_resume=force, **_QUIET)
            finally:
                base_run.generate_run_hash = original

        self._hurry_lock()
        try:
            return make(force=False)
        except (RunLockingError, Timeout):
            # Left behind by a process that was killed, and whose number another one has now. A
            # writer that lives still has the store's own lock, and that cannot be taken by force.
            return make(force=True)

    def _hurry_lock(self) -> None:
        """Wait a second and not ten for a lock that is there already."""
        if not self._remote:
            manager = self.repo._lock_manager
            original = manager.get_run_lock
            manager.get_run_lock = lambda hash_, timeout=0: original(hash_, timeout=_LOCK_S)  # noqa: ARG005

    # ---- points and objects ------------------------------------------------------------------

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """
        Send what is written inside in one message; on a disk there is nothing to gather.

        Aim's server takes a message apart in quadratic time: see ``message``.
        """
        if not self._remote:
            yield
            return
        client = self.repo._client
        client.start_instructions_batch(self.hash)
        try:
            yield
        except BaseException:
            # Aim would put everything that follows into a list that nobody sends.
            client._thread_local.atomic_instructions.pop(self.hash, None)
            raise
        client.flush_instructions_batch(self.hash)

    def sequence(self, context: Any, name: str) -> Any:
        """Return what Aim knows of a sequence (``SequenceInfo``); ``context`` is Aim's own."""
        found = self._tracker.sequence_infos[context.idx, name]
        self._heard()
        return found

    def stored(self, info: Any, step: int) -> Optional[tuple[Any, float]]:
        """Return value and time at a step of a sequence; None when there is nothing."""
        if info.time_view is None:
            return None
        at = info.step_hash_fn(step)
        self._heard()
        try:
            return info.val_view[at], float(info.time_view[at])
        except (KeyError, TypeError, ValueError):
            # Aim writes the time last: without it the value is what a crash left.
            return None

    def points(self, context: Any, name: str, points: list[tuple[float, float, float]]) -> None:
        """
        Write points of one sequence.

        Args:
            context: Aim's own ``Context``.
            name: The sequence.
            points: Step, value and time of each.
        """
        tracker, first = self._tracker, points[0]
        info = self.sequence(context, name)
        with self.together():
            if not info.initialized:
                tracker._init_sequence_info(context.idx, name, first[1])
            tracker._update_context_data(context)
            if info.count == 0:
                tracker._update_sequence_info(context.idx, name, first[1], first[0])
        if self._remote:
            for start in range(0, len(points), self.message):
                with self.together():
                    for step, value, at in points[start : start + self.message]:
                        tracker._add_value(info, value, step, None, at)
        else:
            self._add_at_once(info, points)
        # What Aim keeps of a sequence as a whole; a crash before here leaves points that it knows
        # nothing of, and these come again.
        numbers = [point for point in points if not math.isnan(point[1])]
        marked = [max(points, key=_step)]
        if numbers:
            marked += [min(numbers, key=_value), max(numbers, key=_value)]
        with self.together():
            for step, value, _ in sorted(set(marked), key=_step):
                tracker._update_sequence_info(context.idx, name, value, step)

    def _add_at_once(self, info: Any, points: list[tuple[float, float, float]]) -> None:
        """
        Do what ``_add_value`` does for each of the points, in one write of the store.

        Aim makes four writes for each point, and each of them first deletes what may lie below a
        number.
        """
        from aim.storage import encoding

        values, epochs = info.val_view.tree.container, info.epoch_view.tree.container
        times, steps = info.time_view.tree.container, info.step_view.tree.container
        nothing = encoding.encode(None)
        batch = values.batch()
        for step, value, at in points:
            place = encoding.encode_path((info.step_hash_fn(step),))
            values.set(place, encoding.encode(value), store_batch=batch)
            epochs.set(place, nothing, store_batch=batch)
            times.set(place, encoding.encode(at), store_batch=batch)
            steps.set(place, encoding.encode(step), store_batch=batch)
        values.commit(batch)

    def object(self, context: Any, name: str, step: int, time: float, value: Any) -> None:
        """Write an object of Aim, or a list of them, at a step of a sequence."""
        self._tracker._track(value, time, name, step, None, context=context.to_dict())

    def set(self, path: tuple[str, ...], value: Any) -> None:
        """Set a field of the run's parameters."""
        self.run.set(path, value, strict=False)

    def get(self, path: tuple[str, ...]) -> Any:
        """Return a field of the run's parameters; None when there is none."""
        return self.run.get(path)

    def settle(self) -> None:
        """
        Return when the server has everything.

        Raises:
            RetryableError: It will not have it through this session.
        """
        if not self._remote:
            return
        queue = self.repo._client.get_queue()
        waiting = queue._queue
        left = waiting.unfinished_tasks
        with waiting.all_tasks_done:
            while waiting.unfinished_tasks:
                if waiting.unfinished_tasks < left:
                    left = waiting.unfinished_tasks
                    self._heard()
                if self._given_up or queue._needs_reconnect or not queue._thread.is_alive():
                    raise RetryableError("the Aim server does not take it now")
                waiting.all_tasks_done.wait(_LOOK_S)

    # ---- ends ----------------------------------------------------------------------------------

    def close(self, ended: Optional[float], *, success: bool) -> None:
        """
        Close the run, and make it visible to whoever opens the repository anew.

        Args:
            ended: When it ended, in seconds since the epoch; None if it goes on.
            success: Tell Aim that it ended well.
        """
        run, resources = self.run, self.run._resources
        if success:
            run.report_successful_finish(block=True)
        # Aim would say "now", also for a run that goes on.
        resources.set_run_end_time = _nothing
        if ended is not None:
            run.meta_run_tree["end_time"] = ended
        self.settle()
        # The finalizer was taken off: this is what it would have called.
        resources._close()
        self.settle()
        run._tracker.sequence_infos.clear()
        if not self._remote:
            self._index()
        run._cleanup_trees()
        self._let_go_of_repository(wait=True)

    def _index(self) -> None:
        """
        Put the run into the repository's index, as ``RepoIndexManager.index`` does.

        A fresh ``aim.Repo`` finds runs there only. Where ``aim up`` runs it holds the index, and
        does this by itself.
        """
        from aimrocks.errors import Corruption, RocksIOError

        with contextlib.suppress(RocksIOError, Corruption, OSError, TimeoutError):
            index = self.repo._get_index_tree("meta", 0).view(())
            tree = self.repo.request_tree(
                "meta", self.hash, read_only=True, skip_read_optimization=True
            )
            tree.subtree("meta").subtree("chunks").subtree(self.hash).finalize(index=index)

    def abandon(self) -> None:
        """Let go of a run whose store does not answer or fails; waits for nothing."""
        self._given_up = True
        run = self.run
        if run is not None:
            # The one that beats needs the other one for its last beat.
            for reporter in (run._heartbeat, run._checkins):
                if hasattr(reporter, "stop_signal"):
                    reporter.stop_signal.set()
                    if not self._remote:
                        _wake(reporter)
                        reporter.thread.join(_REPORTER_S)
            type(run._checkins).instances.discard(run._checkins)
            if not self._remote:
                with contextlib.suppress(OSError):
                    run._lock.release(force=True)
        if self.repo is not None:
            self._let_go_of_repository(wait=False)

    def _let_go_of_repository(self, *, wait: bool) -> None:
        if self._remote:
            self._let_go_of_client(wait=wait)
            return
        for container in list(self.repo.container_pool.values()):
            if wait:
                container.close()
            else:
                # Not `close`: after an error RocksDB waits for a flush that never ends. Everything
                # that it took is in its log.
                container._resources.finalizer.detach()
                container._db = None
        database = self.repo.structured_db
        database.session_cls.remove()
        database.engine.dispose()

    def _let_go_of_client(self, *, wait: bool) -> None:
        import requests

        client = self.repo._client
        resources = dict(client._resource_pool)
        for resource in resources.values():
            resource._resources.finalizer.detach()
        client._heartbeat_sender._shutdown = True
        client._heartbeat_sender._started = False  # nobody waits a second for its thread
        queue = client.get_queue()
        queue._shutdown = True
        # Its thread looks at `_shutdown` after each task only.
        queue._queue.put((_nothing, ((),)))
        if client._ws is not None and not wait:
            with contextlib.suppress(OSError):
                client._ws.socket.close()
        if wait:
            with contextlib.suppress(requests.RequestException, RuntimeError, OSError):
                for handler in resources:
                    client.release_resource(-1, handler)
                client.disconnect()


def _repository(address: Address) -> Any:
    from aim.sdk.repo import Repo, RepoStatus

    if address.remote:
        return Repo(address.url)
    fresh = not (address.folder / "VERSION").exists()
    if not fresh and Repo.check_repo_status(address.url) is RepoStatus.UPDATE_REQUIRED:
        raise ConfigError(
            f"The Aim repository {address.url} is of an older Aim",
            f"aim storage --repo {address.url} upgrade",
        )
    return Repo(address.url, init=fresh)


def _wake(reporter: Any) -> None:
    condition = getattr(reporter, "refresh_condition", None)
    if condition is not None:
        with condition:
            condition.notify()


def _step(point: tuple[float, float, float]) -> float:
    return point[0]


def _value(point: tuple[float, float, float]) -> float:
    return point[1]


def _nothing(*_: Any) -> None:
    return None
