"""Handing records to a backend in the way the shipper does, one call at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence

from tracelet.backends.base import Backend, Batch
from tracelet.errors import RejectedError
from tracelet.records import Media, Metric, Param, Record, Tag, Text

_LIGHT = (Metric, Param, Tag)


class Delivery:
    """
    Brings records to one open backend: by lane, in batches within its limits, in order.

    Every record gets its place in its lane once; sent again it keeps it.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._offsets = {"light": 0, "heavy": 0}
        #: The batches of the last ``send``, in order.
        self.last: Sequence[Batch] = ()

    def send(self, *records: Record) -> None:
        """Write ``records``; raises what the backend raises."""
        self.last = self.batches(*records)
        for batch in self.last:
            self._backend.write(batch)

    def again(self) -> None:
        """Write the records of the last ``send`` once more, as somebody who is not sure of them."""
        for batch in self.last:
            self._backend.write(replace(batch, resend=True))

    def settle(self, *records: Record) -> list[Record]:
        """
        Write what the backend takes; return what it rejected.

        Named records are left out and the rest is sent again; when none is named the batch is
        halved until the bad record is alone.
        """
        rejected: list[Record] = []
        waiting = list(self.batches(*records))
        while waiting:
            batch = waiting.pop(0)
            try:
                self._backend.write(batch)
            except RejectedError as error:
                bad = set(error.indexes) or ({0} if len(batch.records) == 1 else set())
                rejected += [batch.records[index] for index in sorted(bad)]
                waiting = [*(_without(batch, bad) if bad else _halves(batch)), *waiting]
        return rejected

    def batches(self, *records: Record) -> Sequence[Batch]:
        """Give ``records`` their places, and cut them into batches, the light ones first."""
        light = [record for record in records if isinstance(record, _LIGHT)]
        heavy = [record for record in records if not isinstance(record, _LIGHT)]
        return [*self._cut("light", light), *self._cut("heavy", heavy)]

    def _cut(self, lane: str, records: Sequence[Record]) -> list[Batch]:
        limits = self._backend.limits
        most = limits.max_records if lane == "light" else min(limits.max_records, limits.max_heavy)
        groups: list[list[Record]] = []
        room_bytes, keys = 0, set[str]()
        for record in records:
            size, key = _size(record), getattr(record, "key", "")
            if (
                not groups
                or len(groups[-1]) >= most
                or len(keys | {key}) > limits.max_keys
                or size > room_bytes
            ):
                groups.append([])
                room_bytes, keys = limits.max_bytes, set()
            groups[-1].append(record)
            room_bytes -= size
            keys.add(key)
        batches = []
        for group in groups:
            batches.append(Batch(tuple(group), offset=self._offsets[lane], lane=lane))
            self._offsets[lane] += len(group)
        return batches


def _without(batch: Batch, bad: set[int]) -> list[Batch]:
    rest = tuple(record for index, record in enumerate(batch.records) if index not in bad)
    return [replace(batch, records=rest)] if rest else []


def _halves(batch: Batch) -> list[Batch]:
    middle = len(batch.records) // 2
    return [
        replace(batch, records=batch.records[:middle]),
        replace(batch, records=batch.records[middle:], offset=batch.offset + middle),
    ]


def _size(record: Record) -> int:
    if isinstance(record, Media):
        return len(record.data)
    if isinstance(record, Text):
        return len(record.text.encode())
    if isinstance(record, (Param, Tag)):
        return 100 + len(str(record.value))
    return 100
