"""A small store that fails on demand, and runs to deliver into it."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, ClassVar, Optional

from tracelet.backends.base import Backend, BackendOptions, Batch, BatchLimits
from tracelet.records import RECORD_TYPES, Histogram, Metric, RemoteRun, RunInfo, RunStatus
from tracelet.ship.catalog import Catalog
from tracelet.ship.shipper import Delivery
from tracelet.spool.rundir import RunDir, new_run_id
from tracelet.spool.writer import SpoolWriter


@dataclass
class Store:
    """What arrived, in order, and what is to go wrong next."""

    metrics: list[tuple[str, float, Any, float]] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    opened: int = 0
    closed: list[RunStatus] = field(default_factory=list)
    barriers: int = 0
    #: Called with each batch before it is taken; may raise.
    before: Optional[Callable[[Batch], None]] = None
    #: Called after it was taken; may raise, as a cut answer does.
    after: Optional[Callable[[Batch], None]] = None
    opening: Optional[Callable[[], None]] = None
    closing: Optional[Callable[[], None]] = None
    at_barrier: Optional[Callable[[], None]] = None
    remarking: Optional[Callable[[], None]] = None
    #: What the run says about itself, by lane.
    remarks: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def points(self, key: str) -> list[float]:
        """Return the values of a key in the order in which they arrived."""
        return [value for name, value, _, _ in self.metrics if name == key]


class FaultyBackend(Backend):
    """A store that recognises a point by (key, step, time, value), as MLflow's does."""

    name = "faulty"
    accepts: ClassVar[frozenset[type]] = frozenset(RECORD_TYPES)
    limits = BatchLimits(max_records=100, max_keys=10)
    deferred = frozenset({Histogram})

    def __init__(self, store: Store) -> None:
        super().__init__(BackendOptions())
        self.store = store

    def open(self, run: RunInfo, resume: Optional[RemoteRun], workdir: Path) -> RemoteRun:
        if self.store.opening:
            self.store.opening()
        self.store.opened += 1
        return RemoteRun("remote-1", name=run.name or "")

    def write(self, batch: Batch) -> None:
        if self.store.before:
            self.store.before(batch)
        with self.store.lock:
            self.store.batches.append(batch)
            for record in batch.records:
                if isinstance(record, Metric):
                    point = (record.key, record.value, record.step, record.time)
                    if point not in self.store.metrics[-500:]:
                        self.store.metrics.append(point)
                elif record not in self.store.others:
                    self.store.others.append(record)
        if self.store.after:
            self.store.after(batch)

    def barrier(self) -> None:
        if self.store.at_barrier:
            self.store.at_barrier()
        self.store.barriers += 1

    def remark(self, text: str, lane: str) -> None:
        if self.store.remarking:
            self.store.remarking()
        self.store.remarks.append((lane, text))

    def close(self, status: RunStatus, time: Optional[float] = None) -> None:
        if self.store.closing:
            self.store.closing()
        self.store.closed.append(status)


def new_run(root: Path, **more: Any) -> RunDir:
    """Return a new run of this process."""
    info = RunInfo(
        run_id=new_run_id(),
        project="project",
        name="name",
        created=time.time(),
        tags={},
        backends=["faulty"],
        pid=os.getpid(),
        **more,
    )
    run = RunDir.create(root, info)
    assert run.own()
    return run


class Line:
    """A run and its delivery into a store, driven by hand; ``clock`` is moved by the test."""

    def __init__(self, run: RunDir, store: Store, *, dead: bool = False) -> None:
        self.run = run
        self.store = store
        self.dead = dead
        self.now = 1000.0
        self.delivery = Delivery(
            run,
            "faulty",
            lambda: FaultyBackend(store),
            Catalog(run),
            lambda writer: self.dead,
            clock=lambda: self.now,
        )

    def step(self, lane: str = "light", *, hurry: bool = False) -> str:
        """Do one step; return what it did."""
        return self.delivery.lanes[lane].step(hurry=hurry).kind

    def settle(self, *, hurry: bool = True, most: int = 200) -> None:
        """Step both lanes, over all waits, until neither has anything to do."""
        for _ in range(most):
            kinds = [
                self.delivery.lanes[lane].step(hurry=hurry).kind for lane in ("light", "heavy")
            ]
            if kinds == ["idle", "idle"]:
                return
            self.now += 31.0 if "wait" in kinds else 0.0
        raise AssertionError("the line did not come to rest")

    def counts(self) -> tuple[int, int, int]:
        """Return delivered, rejected and unsupported frames."""
        lanes = self.delivery.cursor.lanes.values()
        return (
            sum(lane.delivered for lane in lanes),
            sum(lane.rejected for lane in lanes),
            sum(lane.unsupported for lane in lanes),
        )


def log_points(writer: SpoolWriter, count: int, keys: int = 1, start: int = 0) -> None:
    """Log points whose value is their number, keys in turn."""
    for number in range(start, start + count):
        writer.scalar("/logs", f"loss{number % keys}", float(number), number // keys, None)
