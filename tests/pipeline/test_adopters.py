"""
Several shippers and one run, against a model of what has to arrive.

A sidecar, a ``tracelet sync`` and the next start may come for the same run in the same moment, and
each of them may be killed at any of its calls to the backend, or leave. The store here is a strict
one: it takes what follows what it has, or the very same batch once more, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.pipeline.stores import FaultyBackend, Store, new_run

from tracelet.backends.base import Batch
from tracelet.records import RemoteRun, RunInfo, RunStatus
from tracelet.ship import shipment as module
from tracelet.ship.shipment import Shipment
from tracelet.spool.rundir import RunDir
from tracelet.spool.writer import SpoolWriter


class Killed(BaseException):
    """The process is gone: nothing that it would do afterwards happens."""


class Wrong(BaseException):
    """What no shipper may do; an exception would be taken for the store's own trouble."""


class Strict(Store):
    """What has arrived, in order; and at which call of the next one who calls is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: dict[str, list[Any]] = {"light": [], "heavy": []}
        self.fatal: Optional[str] = None

    def at(self, call: str) -> None:
        if self.fatal == call:
            self.fatal = None
            raise Killed


class StrictBackend(FaultyBackend):
    """Takes a batch that follows, or one that it has, whole; knows the run by its id."""

    store: Strict

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        self.store.at("before open")
        remote = super().open(run, resume, workdir)
        self.store.at("after open")
        return remote

    def write(self, batch: Batch) -> None:
        self.store.at("before write")
        there, records = self.store.arrived[batch.lane], list(batch.records)
        if batch.offset == len(there):
            there += records
        elif not batch.resend or there[batch.offset : batch.offset + len(records)] != records:
            raise Wrong(f"{len(records)} records at {batch.offset} of {len(there)}")
        self.store.at("after write")

    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        self.store.at("before close")
        super().close(status, time)
        self.store.at("after close")


CALLS = [f"{when} {what}" for when in ("before", "after") for what in ("open", "write", "close")]


class Adopters(RuleBasedStateMachine):
    """The rules."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="adopters-"))
        self.run = new_run(self.folder)
        self.writer: Optional[SpoolWriter] = SpoolWriter(self.run, segment_bytes=4000)
        self.logged: list[float] = []
        self.store = Strict()
        self.adopters: list[Optional[Shipment]] = [None, None, None]
        self.patch = pytest.MonkeyPatch()
        for name in ("LIFE_S", "CHILDREN_S", "SWEEP_S", "PUBLISH_S"):
            self.patch.setattr(module, name, 0.0)
        self.patch.setattr(module, "SYNC_S", 1e9)

    def teardown(self) -> None:
        try:
            self.the_training_is_killed()
            self.store.fatal = None
            deadline = time.monotonic() + 60
            while self.run.exists():
                assert time.monotonic() < deadline, "it does not come to an end"
                for number in range(len(self.adopters)):
                    self.adopt(number)
                    self.work(number, 3)
            assert self.points() == self.logged
            assert self.store.closed[-1] is RunStatus.KILLED
        finally:
            for number in range(len(self.adopters)):
                self._die(number)
            self.patch.undo()
            shutil.rmtree(self.folder, ignore_errors=True)

    def points(self) -> list[float]:
        return [record.value for record in self.store.arrived["light"]]

    # -- the training ---------------------------------------------------------------------

    living = precondition(lambda self: self.writer is not None)

    @living
    @rule(count=st.integers(1, 120))
    def log(self, count: int) -> None:
        assert self.writer is not None
        for _ in range(count):
            number = len(self.logged)
            self.writer.scalar("/logs", f"loss{number % 3}", float(number), number, None)
            self.logged.append(float(number))

    @living
    @rule()
    def the_training_is_killed(self) -> None:
        writer, self.writer = self.writer, None
        if writer is not None:
            assert writer._segment is not None
            os.close(writer._segment.fd)
            self.run.release()

    # -- who ships ------------------------------------------------------------------------

    @rule(number=st.integers(0, 2))
    def adopt(self, number: int) -> None:
        if self.adopters[number] is not None or not self.run.exists():
            return
        run = RunDir.open(self.run.path)
        shipment = Shipment(run, {"faulty": lambda: StrictBackend(self.store)}, bounded=False)
        if shipment.begin():
            self.adopters[number] = shipment

    @rule(number=st.integers(0, 2), steps=st.integers(1, 6))
    def work(self, number: int, steps: int) -> None:
        shipment = self.adopters[number]
        if shipment is None:
            return
        try:
            for _ in range(steps):
                for delivery in shipment.all():
                    for lane in delivery.lanes.values():
                        shipment.work(delivery, lane)
                shipment.watch()
                if shipment.done and shipment.claim():
                    shipment.finish()
                    self.adopters[number] = None
                    return
        except Killed:
            self._die(number)

    @rule(number=st.integers(0, 2), call=st.sampled_from(["before write", "after write"]))
    def dies_in_the_middle(self, number: int, call: str) -> None:
        self.store.fatal = call
        self.adopt(number)
        self.work(number, 4)

    @rule(call=st.sampled_from(CALLS))
    def the_next_one_dies_at(self, call: str) -> None:
        self.store.fatal = call

    @rule(number=st.integers(0, 2))
    def is_killed(self, number: int) -> None:
        self._die(number)

    @rule(number=st.integers(0, 2))
    def leaves(self, number: int) -> None:
        shipment = self.adopters[number]
        if shipment is not None:
            with contextlib.suppress(Killed):
                shipment.leave()
            self._die(number)  # if it has left there is nothing to be taken back

    def _die(self, number: int) -> None:
        """As by SIGKILL: nothing is written any more, and the system takes the locks back."""
        shipment, self.adopters[number] = self.adopters[number], None
        if shipment is not None:
            shipment.run.shipping.release()
            shipment.run.release()

    # -- what must hold -------------------------------------------------------------------

    @invariant()
    def what_arrived_is_the_beginning_of_what_was_logged(self) -> None:
        assert self.points() == self.logged[: len(self.store.arrived["light"])]

    @invariant()
    def one_ships(self) -> None:
        assert len([each for each in self.adopters if each is not None]) <= 1


Adopters.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestAdopters = Adopters.TestCase
