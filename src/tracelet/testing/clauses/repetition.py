"""Clauses 11 and 12: the same again changes nothing, and a run can be continued."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tracelet.backends.base import Batch, RemoteRun, RunStatus
from tracelet.errors import ConfigError
from tracelet.testing.contract import BackendContract
from tracelet.testing.delivery import Delivery
from tracelet.testing.samples import TIME, curve, metric, tag


class Repetition(BackendContract):
    """After a crash, a restart, a lost answer."""

    def test_11_the_same_batch_twice_gives_the_same_picture(self) -> None:
        """The answer to the first one may have been lost."""
        session = self.start()
        session.send(*self.some_of_everything())
        once = self.picture(self.read_back(session.remote), "team")
        session.delivery.again()
        session.backend.barrier()
        assert self.picture(self.read_back(session.remote), "team") == once

    def test_11_odd_values_twice_give_the_same_picture(self) -> None:
        """NaN is not equal to itself, and equal points are not the same point."""
        odd = [metric("a", 1.0, 1), metric("a", 1.0, 2), metric("b", 1.0, 1), metric("c", -0.0, 0)]
        odd += [metric("a", math.nan, 3)] if "nan" not in self.cannot else []
        odd += [metric("a", math.inf, 4)] if "infinity" not in self.cannot else []
        session = self.start()
        session.send(*odd)
        session.delivery.again()
        session.backend.barrier()
        seen = self.read_back(session.remote)
        assert sum(len(points) for points in seen.metrics.values()) == len(odd)

    def test_11_the_same_batch_from_a_new_backend_gives_the_same_picture(self) -> None:
        """The next shipper does not know what the last one got through."""
        first = self.start()
        first.send(*self.some_of_everything())
        once = self.picture(self.read_back(first.remote), "team")
        first.backend.close(RunStatus.RUNNING)
        second = self.start(first.info, resume=first.remote)
        for batch in first.delivery.last:
            second.backend.write(replace(batch, resend=True))
        second.backend.barrier()
        assert self.picture(self.read_back(second.remote), "team") == once

    def test_11_a_range_that_arrived_in_part_is_completed(self) -> None:
        """Half of the range was written when the lights went out."""
        session = self.start()
        batch = Batch(tuple(curve("loss", 40)))
        session.backend.write(replace(batch, records=batch.records[:20]))
        session.backend.barrier()
        session.backend.write(replace(batch, resend=True))
        session.backend.barrier()
        seen = self.read_back(session.remote)
        assert self.points(seen.metrics["loss"]) == self.points(curve("loss", 40))

    def test_11_a_kill_between_write_and_cursor_doubles_nothing(self) -> None:
        """The shipper dies after the store said yes and before it could write that down."""
        info, records = self.info(), self.some_of_everything()
        batches = Delivery(self.backend()).batches(*records)
        outcome = self.visit(info, batches=batches, die_after=len(batches))
        assert outcome.exit_code != 0
        session = self.start(info, resume=outcome.remote)
        for batch in batches[outcome.delivered :]:
            session.backend.write(replace(batch, resend=True))
        session.backend.barrier()
        expected = self.start()
        expected.send(*records)
        assert self.picture(self.read_back(session.remote), "team") == self.picture(
            self.read_back(expected.remote), "team"
        )

    @pytest.mark.parametrize("seconds", [0.001, 0.02, 0.1])
    def test_11_a_kill_at_any_moment_loses_and_doubles_nothing(self, seconds: float) -> None:
        """The range that was being sent goes again, the rest goes for the first time."""
        info = self.info()
        points = curve("loss", 5000)
        batches = [Batch(tuple(points[at : at + 50]), offset=at) for at in range(0, 5000, 50)]
        outcome = self.visit(info, batches=batches, die_within_s=seconds)
        session = self.start(info, resume=outcome.remote)
        for number, batch in enumerate(batches[outcome.delivered :]):
            session.backend.write(replace(batch, resend=number == 0))
        session.backend.barrier()
        seen = self.read_back(session.remote)
        assert self.points(seen.metrics["loss"]) == self.points(points)

    def test_12_open_again_continues_the_same_run(self) -> None:
        """A restarted shipper has what ``open`` returned."""
        first = self.start()
        first.send(*curve("loss", 10))
        first.backend.close(RunStatus.RUNNING)
        second = self.start(first.info, resume=first.remote)
        second.backend.write(Batch(tuple(curve("loss", 10, 10)), offset=10))
        second.backend.barrier()
        assert second.remote.id == first.remote.id
        seen = self.read_back(second.remote)
        assert self.points(seen.metrics["loss"]) == self.points(curve("loss", 20))

    def test_12_another_process_continues_the_same_run(self) -> None:
        """The sidecar is gone, ``tracelet sync`` takes over."""
        first = self.start()
        first.send(*curve("loss", 10))
        first.backend.close(RunStatus.RUNNING)
        more = Batch(tuple(curve("loss", 10, 10)), offset=10)
        outcome = self.visit(first.info, first.remote, batches=[more], status=RunStatus.FINISHED)
        assert outcome.exit_code == 0, outcome.errors
        assert outcome.remote.id == first.remote.id
        seen = self.read_back(first.remote)
        assert self.points(seen.metrics["loss"]) == self.points(curve("loss", 20))
        assert seen.status == "FINISHED"

    def test_12_a_creation_whose_answer_was_lost_is_found_again(self) -> None:
        """Nobody knows the id, but ``open`` was called for this run before."""
        first = self.start()
        first.backend.close(RunStatus.RUNNING)
        second = self.start(first.info)
        assert second.remote.id == first.remote.id

    def test_12_a_finished_run_can_be_continued_by_its_id(self) -> None:
        """``config={"run_id": …}``: another training, another spool, the same remote run."""
        first = self.start()
        first.send(*curve("loss", 10))
        first.backend.close(RunStatus.FINISHED, TIME + 100)
        info = self.info(project=first.info.project, name=first.info.name)
        second = self.start(info, resume=RemoteRun(id=first.remote.id))
        # Places start again from 0, because the spool is a new one: these are new records.
        second.send(*curve("loss", 10, 10), tag("continued", "yes"))
        assert second.remote.id == first.remote.id
        seen = self.read_back(second.remote)
        assert seen.status == "RUNNING"
        assert seen.tags["continued"] == "yes"
        assert self.points(seen.metrics["loss"]) == self.points(curve("loss", 20))

    def test_12_a_run_that_is_not_there_is_an_error(self) -> None:
        """To continue a run that does not exist must not make another one silently."""
        backend, info = self.backend(), self.info()
        missing = RemoteRun(id=self._unknown_id())
        with pytest.raises(ConfigError):
            backend.open(info, missing, self.workdir(info))

    def _unknown_id(self) -> str:
        # An id of the right form: that of another run, with its letters and digits changed.
        session = self.start()
        session.backend.close(RunStatus.FINISHED)
        return session.remote.id.translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))
