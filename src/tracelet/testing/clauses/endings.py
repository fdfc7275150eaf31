"""Clauses 17 and 18: how a run ends."""

from __future__ import annotations

import pytest

from tracelet.backends.base import Batch, RunStatus
from tracelet.testing.contract import BackendContract
from tracelet.testing.samples import TIME, metric


class Endings(BackendContract):
    """Statuses, and what comes too late."""

    @pytest.mark.parametrize("status", [RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED])
    def test_17_an_end_shows_as_what_it_was(self, status: RunStatus) -> None:
        """A person sees at a glance which trainings are of use."""
        self.needs(*({"failed", "killed"} & {status.value.lower()}))
        session = self.start()
        session.send(metric("loss", 1.0))
        session.backend.close(status, TIME + 60)
        seen = self.read_back(session.remote)
        assert seen.status == status.value
        assert seen.curve("loss") == [(0, 1.0)]

    def test_17_a_run_that_was_let_go_is_running(self) -> None:
        """The shipper left; the training did not."""
        session = self.start()
        session.send(metric("loss", 1.0))
        assert self.read_back(session.remote).status == "RUNNING"
        session.backend.close(RunStatus.RUNNING)
        assert self.read_back(session.remote).status == "RUNNING"

    def test_18_close_twice_is_close_once(self) -> None:
        """Also when it never was open."""
        self.backend().close(RunStatus.RUNNING)
        session = self.start()
        session.backend.close(RunStatus.FINISHED)
        session.backend.close(RunStatus.FINISHED)
        assert self.read_back(session.remote).status == "FINISHED"

    def test_18_write_after_close_raises(self) -> None:
        """What comes too late must not seem to have arrived."""
        session = self.start()
        session.backend.close(RunStatus.FINISHED)
        with pytest.raises(RuntimeError):
            session.send(metric("late", 1.0))
        assert "late" not in self.read_back(session.remote).metrics

    def test_18_write_before_open_raises(self) -> None:
        """There is no run to write into."""
        with pytest.raises(RuntimeError):
            self.backend().write(Batch((metric("early", 1.0),)))
