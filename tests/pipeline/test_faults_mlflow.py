"""
A real training in front of a real server, with everything between that can go wrong between.

Afterwards the server is asked, through MLflow's own client, what it has: every point once. The
programs of one test run at the same time, each with a way to the server of its own.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from tests.pipeline.programs import Trainer, left_over, wait_for

from services.fault_proxy import HTML, Answer, Fault, FaultProxy
from services.mlflow_reader import tracking
from services.mlflow_server import Server, ServerProcess, mlflow_server
from tracelet.ship import state
from tracelet.ship.drain import drain
from tracelet.spool.rundir import RunDir, find_runs

__all__ = ["mlflow_server"]

pytestmark = [
    pytest.mark.figure(7),
    pytest.mark.skipif(sys.platform == "win32", reason="platform: the server is ended by a group"),
]

#: How long an outage lasts; 20 for the figure of the table.
OUTAGE_S = float(os.environ.get("TRACELET_OUTAGE_S", "3"))
PAUSE_S = 0.005
POINTS = int((OUTAGE_S + 2.0) / PAUSE_S / 2)

LOG = "runs/log-batch"
PAGE = (("Content-Type", "text/html"),)
AUTH = (("Content-Type", "text/plain"), ("WWW-Authenticate", 'Basic realm="mlflow"'))


def answers(status: int, content: bytes = HTML, headers: Any = PAGE, **more: Any) -> Fault:
    """Return the fault that answers so."""
    return Fault("answer", answer=Answer(status, content, headers), **more)


@dataclass
class Case:
    """
    One program and what it goes through.

    Args:
        name: Of the run.
        faults: What is wrong from ``begin`` on, a new one each time; none: nobody listens.
        begin: ``start``: before the program starts; ``middle``: once it has been delivered to, and
            the program goes on until that is over; ``end``: shortly before it ends, and until it
            has ended.
        lasts: Until OUTAGE_S after ``begin``; False: as long as the server is there.
        lost: Steps of ``loss`` that the server will never take.
        person: Somebody has to mend it: that happens once the program has ended.
    """

    name: str
    faults: Callable[[], list[Fault]] = field(default=list)
    begin: str = "middle"
    lasts: bool = True
    lost: tuple[int, ...] = ()
    person: bool = False
    plan: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


class Training:
    """A case on its way."""

    def __init__(self, case: Case, folder: Path, server: Server) -> None:
        self.case = case
        self.folder = folder
        self.server = server
        self.proxy = FaultProxy(server.url)
        folder.mkdir()
        if case.begin == "start":
            self._break()
        config = {"backend_url": self.proxy.url, **case.config}
        self.until = folder / "until"
        plan = {"points": POINTS, "pause_s": PAUSE_S, "end": "exit", **case.plan}
        if case.begin == "middle":
            plan.update(points=None, until=str(self.until))
        self.points = plan["points"]
        self.trainer = Trainer(folder, backend="mlflow", config=config, name=case.name, **plan)
        self.broken_at: Optional[float] = time.monotonic() if case.begin == "start" else None
        self.mended = False

    def _break(self) -> None:
        faults = self.case.faults()
        if faults:
            self.proxy.set(*faults)
        else:
            self.proxy.down()

    def _mend(self) -> None:
        self.proxy.up()
        self.proxy.set()
        self.mended = True

    def look(self) -> bool:
        """Break and mend when it is time; return True once it is over."""
        now, case = time.monotonic(), self.case
        ended = self.trainer.process.poll() is not None
        if self.broken_at is None:
            if case.begin == "end":
                due = self.trainer.acknowledged > self.points * 0.8
            else:
                due = len(self.proxy.requests(LOG + "$")) > 2
            if due or ended:
                self._break()
                self.broken_at = now
        elif not self.mended and case.lasts:
            over = now - self.broken_at > OUTAGE_S
            if case.person and (over and self.proxy.spoilt):
                self.until.touch()
            if ended if case.person or case.begin == "end" else over:
                self._mend()
                self.until.touch()
        return ended and (self.mended or not case.lasts)

    @property
    def spool(self) -> Path:
        return self.folder / ".tracelet"

    def delivered(self) -> bool:
        """Return True when nothing is left to be delivered."""
        runs = [] if not self.spool.exists() else find_runs(self.spool)
        return all(each.complete for run in runs for each in state.read(run).values())

    def check(self) -> None:
        """Compare what the server has with what was logged."""
        assert self.trainer.end() == 3, self.trainer.errors()
        count = self.trainer.acknowledged
        assert "Traceback" not in self.trainer.errors()
        keys = self.case.plan.get("keys", 0)
        with tracking(self.server.url) as client:
            experiment = client.get_experiment_by_name("kills")
            assert experiment is not None
            query = f"attributes.run_name = '{self.case.name}'"
            (found,) = client.search_runs([experiment.experiment_id], query)
            points = client.get_metric_history(found.info.run_id, "loss")
            others = [
                client.get_metric_history(found.info.run_id, f"key{key}") for key in range(keys)
            ]
        steps = [step for step in range(count) if step not in self.case.lost]
        assert sorted((each.step, each.value) for each in points) == [
            (step, step / 7) for step in steps
        ]
        for key, history in enumerate(others):
            seen = sorted((each.step, _shown(each.value)) for each in history)
            assert seen == [
                (step, "nan" if (step + key) % 10 == 0 else str(step + key / 7))
                for step in range(count)
            ]
        assert found.info.status == "FAILED"
        if self.case.lost:
            assert "refused" in found.data.tags["tracelet.rejected"]


def _shown(value: float) -> str:
    return "nan" if math.isnan(value) else str(value)


def go_through(cases: list[Case], folder: Path, server: Server, timeout: float = 150.0) -> None:
    """Run all of them at the same time, and look at what arrived."""
    with ExitStack() as stack:
        trainings = []
        for case in cases:
            trainings.append(Training(case, folder / case.name, server))
            stack.callback(trainings[-1].proxy.close)

        def over() -> bool:
            # Every one of them, so that each breaks and mends in time.
            looked = [each.look() for each in trainings]
            return all(looked)

        wait_for(over, timeout)
        for each in trainings:
            if each.case.person:
                # It kept everything and said so; nobody has to wait for its minute.
                assert "pending" in each.trainer.errors()
                for run in find_runs(each.spool):
                    assert drain(run)["mlflow"].pending == 0
        wait_for(lambda: all(each.delivered() for each in trainings), timeout)
        for each in trainings:
            try:
                each.check()
            except AssertionError as error:
                raise AssertionError(f"{each.case.name}: {error}") from error
            if each.case.lost:
                (run,) = find_runs(each.spool)
                _account(run, each.case)
            else:
                wait_for(lambda each=each: left_over(each.spool) == [], timeout)


def _account(run: RunDir, case: Case) -> None:
    """The dead letters are there, whole, with a reason; and the sum is right."""
    lines = (run.rejects / "mlflow.jsonl").read_text().splitlines()
    rejects = [json.loads(line) for line in lines]
    assert [each["record"]["step"] for each in rejects] == list(case.lost)
    assert all(each["reason"] and each["time"] for each in rejects)
    assert "abcdefgh1234567890" not in "".join(lines)
    assert state.read(run)["mlflow"].rejected == len(case.lost)


def cut_answers(name: str, **config: Any) -> Case:
    """Every second answer breaks off after the server has committed; many keys, and NaN."""
    return Case(
        name,
        lambda: [Fault("cut", LOG, every=2), Fault("lost", "runs/(create|set-tag)", times=1)],
        begin="start",
        plan={"points": 30, "keys": 150, "pause_s": 0.1},
        config=config,
    )


def test_answers_that_are_cut_after_the_commit(tmp_path: Path, mlflow_server: Server) -> None:
    """Old servers refuse a batch of more than 100 keys, or with a NaN, when it comes again."""
    go_through([cut_answers("cut"), cut_answers("cut-thread", shipper="thread")], tmp_path,
               mlflow_server)  # fmt: skip


@pytest.mark.slow
def test_outages_of_every_kind(tmp_path: Path, mlflow_server: Server) -> None:
    """Nobody listens, nobody answers, or somebody says to come later."""
    go_through(
        [
            Case("dead-at-start", begin="start"),
            Case("hangs-at-start", lambda: [Fault("hang")], begin="start"),
            Case("away-in-the-middle"),
            Case("hangs-in-the-middle", lambda: [Fault("hang")]),
            Case("dead-at-exit", begin="end"),
            Case("hangs-at-exit", lambda: [Fault("hang")], begin="end"),
            Case("storm", lambda: [answers(429, b"slow", (("Retry-After", "1"),))]),
            Case("sick", lambda: [answers(500)]),
            Case("gateway", lambda: [answers(502, every=2), answers(503)]),
        ],
        tmp_path,
        mlflow_server,
    )


@pytest.mark.slow
def test_everything_that_is_odd(tmp_path: Path, mlflow_server: Server) -> None:
    """Broken connections, broken answers, and answers that a person has to do something about."""
    in_json = (("Content-Type", "application/json"),)
    bad = b'{"error_code": "BAD_REQUEST", "message": "no"}'
    broken = b'{"error_code": "INTERNAL_ERROR", "message": "token=abcdefgh1234567890 broke"}'
    go_through(
        [
            Case("drip", lambda: [Fault("drip", LOG, pause_s=0.01)]),
            Case("reset", lambda: [Fault("reset", every=2)]),
            Case("garbage", lambda: [Fault("garbage", every=2)]),
            Case(
                "one-in-four-refused",
                lambda: [answers(400, bad, in_json, route=LOG, every=4)],
                begin="start",
                lasts=False,
            ),
            Case(
                "poison",
                lambda: [answers(500, broken, in_json, route=LOG, body=r'"step":77[,}]')],
                begin="start",
                lasts=False,
                lost=(77,),
                plan={"points": 200},
            ),
            Case("dead-thread", begin="start", config={"shipper": "thread"}),
            Case("refused", lambda: [answers(401, b"who", AUTH)], person=True),
            Case("forbidden", lambda: [answers(403, b"no")], person=True),
            Case("proxy-wants", lambda: [answers(407, b"no")], person=True),
            Case(
                "login-page",
                lambda: [
                    answers(302, b"", (("Location", "/login"),), route="POST"),
                    answers(200, HTML),
                ],
                person=True,
            ),
        ],
        tmp_path,
        mlflow_server,
    )


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again(tmp_path: Path) -> None:
    """Twice, in the middle of everything."""
    folder = tmp_path / "server"
    arguments = ["--host", "127.0.0.1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    arguments += ["--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]
    process = ServerProcess(folder, arguments)
    try:
        process.start()
        config = {"backend_url": process.url}
        trainer = Trainer(tmp_path, backend="mlflow", config=config, pause_s=0.002, points=6000)
        trainer.logging(1000)
        for _ in range(2):
            process.kill()
            process.start()
            time.sleep(1.0)
        assert trainer.end(120.0) == 0
        wait_for(lambda: left_over(tmp_path / ".tracelet") == [], 120.0)
        with tracking(process.url) as client:
            experiment = client.get_experiment_by_name("kills")
            assert experiment is not None
            (found,) = client.search_runs([experiment.experiment_id])
            points = client.get_metric_history(found.info.run_id, "loss")
        assert sorted((each.step, each.value) for each in points) == [
            (number, number / 7) for number in range(6000)
        ]
        assert found.info.status == "FINISHED"
    finally:
        process.end()
