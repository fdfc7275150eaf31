"""Clauses 19 to 21: what a backend does to the process it is in."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Callable

import pytest

from tracelet.backends.base import RunStatus
from tracelet.testing.contract import BackendContract
from tracelet.testing.delivery import Delivery
from tracelet.testing.elsewhere import AskForBackend, in_another_process
from tracelet.testing.samples import metric
from tracelet.testing.threads import soon


class Manners(BackendContract):
    """Nothing twice, nothing left behind, a clear word when a package is missing."""

    def test_19_the_vendors_own_capture_of_tensorboard_is_off(self) -> None:
        """Otherwise everything would arrive twice."""
        families = [name for name in ("torch", "tensorboardX") if find_spec(name) is not None]
        if not families:
            pytest.skip("neither torch nor tensorboardX is installed here")
        session = self.start()
        for family in families:
            home = "torch.utils.tensorboard" if family == "torch" else family
            writer = import_module(home).SummaryWriter(str(self.folder / family))
            writer.add_scalar("captured", 1.0, 1)
            writer.close()
        session.send(metric("sent", 1.0, 1))
        session.backend.close(RunStatus.FINISHED)
        assert set(self.read_back(session.remote).metrics) == {"sent"}

    def test_20_nothing_is_left_behind(self) -> None:
        """No thread, process, descriptor, variable, folder, signal handler or SDK global."""
        before, threads = self._surroundings(), set(threading.enumerate())
        self._whole_run()
        assert self._surroundings() == before
        assert self._soon(lambda: set(threading.enumerate()) <= threads), threading.enumerate()
        # What the first run opened for good (a library's own files, a pool) is no leak; more is.
        descriptors, children = _descriptors(), _children()
        self._whole_run()
        assert self._soon(lambda: not _descriptors() - descriptors), _descriptors() - descriptors
        assert self._soon(lambda: _children() <= children), _children() - children

    def test_20_attach_is_undone_by_detach(self) -> None:
        """In the training process the SDK's own calls may land in our run, until we leave."""
        session = self.start()
        before = self._surroundings()
        session.backend.attach(lambda: session.remote, captured=("tensorboard",), say=print)
        session.backend.detach()
        assert self._surroundings() == before

    def test_21_without_the_package_asking_gives_the_sentence(self) -> None:
        """Importing our module is harmless; the sentence says what to install."""
        if self.package is None:
            pytest.skip("declared: this backend needs no package")
        backend = self.backend()
        kind = type(backend)
        options = backend.options.model_dump_json()
        job = AskForBackend(kind.__module__, kind.__qualname__, kind.name, options)
        outcome = in_another_process(job, hidden=[self.package])
        assert outcome.said.get("imported"), outcome.errors
        assert "pip install" in outcome.said.get("sentence", ""), outcome.errors

    def _whole_run(self) -> None:
        backend, info = self.backend(), self.info()
        backend.preflight()
        remote = backend.open(info, None, self.workdir(info))
        delivery = Delivery(backend)
        delivery.send(*self.some_of_everything())
        backend.barrier()
        backend.close(RunStatus.FINISHED)
        assert self.read_back(remote).status == "FINISHED"

    def _soon(self, true: Callable[[], bool]) -> bool:
        return soon(true, self.leave_within_s)

    def _surroundings(self) -> dict[str, object]:
        return {
            "environment": dict(os.environ),
            "folder": Path.cwd(),
            "hooks": (sys.excepthook, sys.displayhook, threading.excepthook),
            "path": list(sys.path),
            "sdk": dict(self.sdk_globals()),
            "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        }


def _descriptors() -> Counter[str]:
    """Count what this process has open; numbers of sockets and pipes do not matter."""
    folder = Path("/proc/self/fd")
    found: Counter[str] = Counter()
    for link in folder.iterdir() if folder.is_dir() else ():
        try:
            found[str(link.readlink()).partition(":[")[0]] += 1
        except OSError:
            continue  # That one was the listing's own.
    return found


def _children() -> set[str]:
    """Return the processes that this one has started and that still live, where Linux tells."""
    found: set[str] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        found.update(task.read_text().split())
    return found
