"""Clauses 2 to 5: values, steps, times, and many of them."""

from __future__ import annotations

import math
import sys
from typing import Union

import pytest

from tracelet.backends.base import Batch
from tracelet.records import Metric, Record, Step, Text
from tracelet.testing.contract import BackendContract
from tracelet.testing.samples import TIME, curve, image, metric
from tracelet.testing.threads import in_threads

#: The exact, the tiny, the huge, and what single precision or a decimal detour would spoil.
DOUBLES = (
    *(0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, math.pi, 1e-300, 5e-324, -2.2250738585072014e-308),
    *(sys.float_info.max, -sys.float_info.max, 16_777_217.0, float(2**53), 2**53 + 2.0, 1e22),
)


class Numbers(BackendContract):
    """Every point of every curve."""

    def test_02_a_metric_keeps_its_double(self) -> None:
        """Or the precision that the backend declares."""
        sent = [metric("loss", value, step) for step, value in enumerate(DOUBLES)]
        seen = self.deliver(*sent)
        assert sorted(self.points(seen.metrics["loss"])) == self.points(sent)

    def test_02_a_metric_keeps_its_time(self) -> None:
        """Wall time is the writer's, not that of the delivery."""
        times = [1.5, 1_000_000_000.0, TIME + 0.001, TIME + 0.0625, TIME + 86_400]
        sent = [metric("loss", 1.0, step, time) for step, time in enumerate(times)]
        found = self.deliver(*sent).metrics["loss"]
        seen = {point.step: point.time for point in found}
        assert set(seen) == set(range(len(times)))
        for step, time in enumerate(times):
            assert abs(seen[step] - time) <= self.time_resolution_s

    @pytest.mark.parametrize("step", [0, 1, 2**31, 2**40])
    def test_03_a_step_is_kept(self, step: int) -> None:
        """A step is an axis of its own, of 64 bits."""
        assert self.deliver(metric("loss", 0.5, step)).curve("loss") == [(step, 0.5)]

    def test_03_falling_and_irregular_steps_are_kept(self) -> None:
        """Steps are never rewritten to make them rise."""
        steps = [10, 5, 0, 7, 2**40, 1]
        sent = [metric("loss", float(n), step, TIME + n) for n, step in enumerate(steps)]
        seen = self.deliver(*sent)
        assert sorted(seen.curve("loss")) == sorted(self.points(sent))

    def test_03_a_repeated_step_keeps_both_points(self) -> None:
        """Or, where that was declared, the last one."""
        sent = [metric("loss", 1.0, 5, TIME), metric("loss", 2.0, 5, TIME + 1)]
        found = sorted(self.deliver(*sent).curve("loss"))
        assert found == ([(5, 2.0)] if "repeated_step" in self.cannot else [(5, 1.0), (5, 2.0)])

    @pytest.mark.parametrize(("ability", "step"), [("negative_step", -3), ("fractional_step", 0.5)])
    def test_03_an_odd_step_arrives_or_is_rejected_by_name(self, ability: str, step: Step) -> None:
        """It is never moved to another place, and the rest arrives."""
        self._arrives_or_is_rejected(ability, metric("loss", 0.25, step))

    def test_03_no_step_is_no_obstacle(self) -> None:
        """Metrics are counted before they get here; a text or a picture may have no step."""
        sent: list[Record] = [Text("notes", "no step", None, TIME), image("picture", None)]
        accepted = [record for record in sent if type(record) in self.backend().accepts]
        seen = self.deliver(metric("loss", 1.0), *accepted)
        assert seen.curve("loss") == [(0, 1.0)]
        assert len(seen.items) >= len(accepted)

    @pytest.mark.parametrize(
        ("ability", "value"), [("nan", math.nan), ("infinity", math.inf), ("infinity", -math.inf)]
    )
    def test_04_a_value_that_is_not_finite_arrives_or_is_rejected_by_name(
        self, ability: str, value: float
    ) -> None:
        """It is never turned into 0.0, and the rest of the batch arrives."""
        self._arrives_or_is_rejected(ability, metric("loss", value, 1))

    def test_05_ten_thousand_metrics_arrive_complete_and_in_order(self) -> None:
        """None is lost, none is doubled, none is moved."""
        sent = curve("loss", 10_000)
        seen = self.deliver(*sent)
        assert self.points(seen.metrics["loss"]) == self.points(sent)

    def test_05_interleaved_keys_arrive_complete(self) -> None:
        """Fifty curves in one stream of records."""
        curves = {f"layer{number}/norm": curve(f"layer{number}/norm", 20) for number in range(50)}
        seen = self.deliver(*(point for points in zip(*curves.values()) for point in points))
        assert {key: self.points(points) for key, points in seen.metrics.items()} == {
            key: self.points(points) for key, points in curves.items()
        }

    def test_05_the_largest_batch_is_taken(self) -> None:
        """What ``limits`` promises holds in one call."""
        session = self.start()
        sent = curve("loss", session.backend.limits.max_records)
        session.backend.write(Batch(tuple(sent)))
        session.backend.barrier()
        assert len(self.read_back(session.remote).metrics["loss"]) == len(sent)

    def test_05_two_lanes_write_at_the_same_time(self) -> None:
        """A checkpoint in one thread, the loss curve in another."""
        session = self.start()
        light = [session.delivery.batches(*curve("loss", 20, first)) for first in range(0, 400, 20)]
        heavy = [
            session.delivery.batches(self.artifact(f"part{number}.bin", bytes([number]) * 10_000))
            for number in range(10)
        ]
        in_threads(
            lambda: [session.backend.write(batch) for batches in light for batch in batches],
            lambda: [session.backend.write(batch) for batches in heavy for batch in batches],
        )
        session.backend.barrier()
        seen = self.read_back(session.remote)
        assert self.points(seen.metrics["loss"]) == self.points(curve("loss", 400))
        for number in range(10):
            assert seen.artifacts[f"part{number}.bin"] == bytes([number]) * 10_000

    def _arrives_or_is_rejected(self, ability: str, odd: Metric) -> None:
        session = self.start()
        around = [metric("loss", 0.5, 10), metric("accuracy", 0.75, 10)]
        rejected = session.delivery.settle(around[0], odd, around[1])
        session.backend.barrier()
        seen = self.read_back(session.remote)
        expected: set[tuple[Step, Union[float, str]]] = {(10, self.held(0.5))}
        if ability in self.cannot:
            assert rejected == [odd]
        else:
            assert rejected == []
            step = self.fractional_step_as if odd.step == 0.5 else odd.step
            expected.add((step or 0, self.held(odd.value)))
        assert set(self.points(seen.metrics["loss"])) == expected
        assert seen.curve("accuracy") == [(10, 0.75)]
