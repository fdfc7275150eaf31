"""Clauses 13 to 15: the store says no, or says nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import Callable, Mapping

import pytest

from tracelet.backends.base import Batch, RunStatus
from tracelet.errors import ConfigError, RejectedError, RetryableError
from tracelet.records import Metric, Param, Record, Tag
from tracelet.testing.contract import PASSING_FAULTS, BackendContract
from tracelet.testing.samples import curve, metric, param
from tracelet.testing.threads import in_threads


class Failures(BackendContract):
    """Three answers, and a second try."""

    @pytest.mark.parametrize("fault", PASSING_FAULTS)
    def test_13_a_failure_that_passes_is_retryable(self, fault: str) -> None:
        """Also one that the backend has no better word for."""
        self.needs(fault)
        session = self.start()
        with self.break_with(fault), pytest.raises(RetryableError):
            session.send(*curve("loss", 10))

    @pytest.mark.parametrize("fault", ["down", "unavailable"])
    def test_13_open_on_a_store_that_is_away_is_retryable(self, fault: str) -> None:
        """Training goes on; the run is opened later."""
        self.needs(fault)
        backend, info = self.backend(), self.info()
        with self.break_with(fault), pytest.raises(RetryableError):
            backend.open(info, None, self.workdir(info))
        self.start(info, backend=backend).send(metric("loss", 1.0))

    def test_13_busy_says_how_long_to_wait(self) -> None:
        """What the store asked for is handed on to the shipper."""
        self.needs("busy")
        session = self.start()
        with self.break_with("busy"), pytest.raises(RetryableError) as caught:
            session.send(*curve("loss", 10))
        assert caught.value.retry_after is not None
        assert caught.value.retry_after > 0

    def test_13_a_bad_record_is_rejected_by_name_and_the_rest_arrives(self) -> None:
        """One poisoned record must not cost a thousand good ones."""
        self.needs("bad_record")
        session = self.start()
        with self.break_with("bad_record") as bad:
            assert bad is not None
            lane = "light" if isinstance(bad, (Metric, Param, Tag)) else "heavy"
            good: list[Record] = [metric("loss", 1.0, 1), metric("loss", 2.0, 2)]
            if lane == "heavy":
                good = [self.artifact("a.txt", b"a"), self.artifact("b.txt", b"b")]
            records = [good[0], bad, good[1]]
            if "named_rejects" not in self.cannot:
                with pytest.raises(RejectedError) as caught:
                    session.backend.write(Batch(tuple(records), lane=lane))
                assert caught.value.indexes == (1,)
                assert caught.value.reason
            assert session.delivery.settle(*records) == [bad]
            session.backend.barrier()
        seen = self.read_back(session.remote)
        if lane == "light":
            assert sorted(seen.curve("loss")) == [(1, 1.0), (2, 2.0)]
        else:
            assert (seen.artifacts["a.txt"], seen.artifacts["b.txt"]) == (b"a", b"b")

    def test_13_refused_is_a_matter_for_a_person(self) -> None:
        """Trying again would not help; training hears of it before it starts."""
        self.needs("refused")
        with self.break_with("refused"):
            backend, info = self.backend(), self.info()
            with pytest.raises(ConfigError) as caught:
                backend.preflight()
            assert str(caught.value)
            with pytest.raises(ConfigError):
                backend.open(info, None, self.workdir(info))

    @pytest.mark.parametrize("fault", PASSING_FAULTS)
    def test_13_preflight_of_a_store_that_is_away_is_quick(self, fault: str) -> None:
        """Start waits for a second; whatever is unclear by then is not an error."""
        self.needs(fault)
        backend = self.backend()
        with self.break_with(fault), suppress(RetryableError, ConfigError):
            in_threads(backend.preflight, timeout_s=2)

    @pytest.mark.parametrize("fault", PASSING_FAULTS)
    def test_14_a_second_try_delivers_everything_once(self, fault: str) -> None:
        """Whatever part of it the store had taken the first time."""
        self.needs(fault)
        session = self.start()
        session.send(*curve("loss", 5))
        with self.break_with(fault), pytest.raises(RetryableError):
            session.send(*curve("loss", 200, 5), param("lr", 0.1))
        session.delivery.again()
        session.backend.barrier()
        seen = self.read_back(session.remote)
        assert self.points(seen.metrics["loss"]) == self.points(curve("loss", 205))
        assert seen.params["lr"] == "0.1"

    @pytest.mark.parametrize("call", ["write", "open", "close"])
    def test_15_a_call_that_hangs_is_cut(self, call: str) -> None:
        """Within ``hang_limit_s``; the shipper has other runs to look after."""
        self.needs("hang")
        session = self.start()
        backend, info = self.backend(), self.info()
        calls: Mapping[str, Callable[[], object]] = {
            "write": lambda: session.send(*curve("loss", 10)),
            "open": lambda: backend.open(info, None, self.workdir(info)),
            "close": lambda: session.backend.close(RunStatus.FINISHED),
        }
        with self.break_with("hang"), pytest.raises(RetryableError):
            in_threads(calls[call], timeout_s=self.hang_limit_s)
