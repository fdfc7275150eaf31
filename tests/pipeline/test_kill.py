"""
SIGKILL at any moment: no acknowledged point is lost, none arrives twice, the run ends as KILLED.

``TRACELET_KILLS`` sets how often each case is tried; CI is content with a few, ``make soak`` not.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
from tests.pipeline.programs import Trainer, gone, jsonl, left_over, wait_for

from tracelet.ship.drain import drain
from tracelet.spool.rundir import find_runs

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="finds the sidecar through /proc"
)

KILLS = int(os.environ.get("TRACELET_KILLS", "3"))


def _check(stored: list[tuple[int, float]], status: object, acknowledged: int) -> None:
    assert stored == [(number, number / 7) for number in range(len(stored))]
    assert len(stored) >= acknowledged
    assert status == "KILLED"


@pytest.mark.parametrize("attempt", range(KILLS))
def test_the_trainer_alone(tmp_path: Path, attempt: int) -> None:
    """Its sidecar delivers the rest, says KILLED, and goes."""
    trainer = Trainer(tmp_path, config={"jsonl": {"path": "out"}})
    trainer.logging()
    sidecar = trainer.sidecar()
    assert sidecar is not None
    random.seed(attempt)
    wait_for(lambda: trainer.acknowledged > random.randrange(3000))
    trainer.kill()
    acknowledged = trainer.acknowledged

    wait_for(lambda: not left_over(tmp_path / ".tracelet"))

    _check(*jsonl(tmp_path / "out" / "kills" / "victim.jsonl"), acknowledged)
    wait_for(lambda: gone(sidecar))


@pytest.mark.parametrize("attempt", range(KILLS))
def test_the_trainer_and_its_sidecar(tmp_path: Path, attempt: int) -> None:
    """What is left is in the spool; ``tracelet sync`` delivers it."""
    trainer = Trainer(tmp_path, config={"jsonl": {"path": "out"}})
    trainer.logging()
    random.seed(attempt)
    wait_for(lambda: trainer.acknowledged > random.randrange(3000))
    trainer.kill(sidecar=trainer.sidecar())
    acknowledged = trainer.acknowledged

    (run,) = find_runs(tmp_path / ".tracelet")
    states = drain(run)

    assert states["jsonl"].pending == 0
    _check(*jsonl(tmp_path / "out" / "kills" / "victim.jsonl"), acknowledged)
    assert left_over(tmp_path / ".tracelet") == []


def test_the_sidecar_alone(tmp_path: Path) -> None:
    """The trainer starts another one, and does not notice."""
    trainer = Trainer(tmp_path, config={"jsonl": {"path": "out"}}, pause_s=0.001, points=3000)
    trainer.logging(500)
    sidecar = trainer.sidecar()
    assert sidecar is not None
    os.kill(sidecar, 9)

    assert trainer.end() == 0, trainer.errors()

    points, status = jsonl(tmp_path / "out" / "kills" / "victim.jsonl")
    assert points == [(number, number / 7) for number in range(3000)]
    assert status == "FINISHED"


@pytest.mark.parametrize("host", ["process", "thread"])
def test_the_next_start_takes_up_what_was_left(tmp_path: Path, host: str) -> None:
    """A new run in the same spool delivers the old one beside its own."""
    config = {"jsonl": {"path": "out"}, "shipper": host}
    victim = Trainer(tmp_path, config=config)
    victim.logging(200)
    victim.kill(sidecar=victim.sidecar())
    acknowledged = victim.acknowledged

    following = Trainer(tmp_path, config=config, name="next", points=3000, pause_s=0.001)
    assert following.end() == 0, following.errors()

    wait_for(lambda: not left_over(tmp_path / ".tracelet"))
    _check(*jsonl(tmp_path / "out" / "kills" / "victim.jsonl"), acknowledged)
    points, status = jsonl(tmp_path / "out" / "kills" / "next.jsonl")
    assert (len(points), status) == (3000, "FINISHED")


@pytest.mark.parametrize(
    ("end", "code", "status"),
    [
        ("stop", 0, "FINISHED"),
        ("return", 0, "FINISHED"),
        ("raise", 1, "FAILED"),
        ("exit", 3, "FAILED"),
        ("SIGINT", -2, "KILLED"),
        ("SIGTERM", -15, "KILLED"),
        ("SIGHUP", -1, "KILLED"),
        ("SIGKILL", -9, "KILLED"),
        ("_exit", 4, "KILLED"),
    ],
)
@pytest.mark.parametrize("host", ["process", "thread"])
def test_the_true_status(tmp_path: Path, end: str, code: int, status: str, host: str) -> None:
    """However the program ends: its exit code is its own, and the run says what happened."""
    trainer = Trainer(
        tmp_path, config={"jsonl": {"path": "out"}, "shipper": host}, points=300, end=end
    )

    assert trainer.end() == code

    if host == "thread":
        for run in find_runs(tmp_path / ".tracelet"):
            drain(run)
    wait_for(lambda: not left_over(tmp_path / ".tracelet"), timeout=10.0)
    points, found = jsonl(tmp_path / "out" / "kills" / "victim.jsonl")
    assert len(points) == 300
    assert found == status
