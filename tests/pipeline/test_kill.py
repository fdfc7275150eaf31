"""
SIGKILL at any moment: no acknowledged point is lost, none arrives twice, the run ends as KILLED.

``TRACELET_KILLS`` sets how many there are of each case; CI is content with a few, ``make soak``
not.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path
from typing import Iterator, Optional

import pytest
from tests.pipeline.lives import Life, Mother, Tally, kill, pause
from tests.pipeline.programs import Trainer, gone, jsonl, left_over, wait_for

from tracelet.ship.drain import drain
from tracelet.spool.rundir import find_runs

KILLS = int(os.environ.get("TRACELET_KILLS", "3"))

pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="platform: finds the sidecar through /proc"
    ),
    pytest.mark.timeout(600 + 60 * KILLS),
]

CONFIG = {"jsonl": {"path": "out"}}


@pytest.fixture(scope="module")
def mother(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mother]:
    """What forks the trainings of this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        with Mother() as mother:
            yield mother


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Moments of this test's own."""
    return random.Random(f"{request.node.name} {KILLS}")


@pytest.fixture
def tally(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Iterator[Tally]:
    """What this test's kills have shown; told where there were many."""
    tally = Tally(request.node.name)
    yield tally
    if KILLS >= 10:
        with capsys.disabled():
            print(f"\n{tally}")


def _stored(folder: Path, name: str) -> tuple[list[tuple[int, float]], Optional[str]]:
    # Who died between making the file and its first line has left an empty one; the run then has
    # the longer name.
    place = folder / "out" / "kills"
    paths = [*place.glob(f"{name}.jsonl"), *place.glob(f"{name}~*.jsonl")]
    found = [path for path in paths if path.stat().st_size]
    assert len(found) == 1, paths
    return jsonl(found[0])


def _check(life: Life, tally: Tally, status: str = "KILLED") -> None:
    """All that was acknowledged is there, in order and once; and it ended as it did."""
    stored, found = _stored(life.folder, life.name)
    tally.count([step for step, _ in stored], life.acknowledged)
    assert (tally.lost, tally.doubled) == (0, 0), f"{life.name}: {tally}"
    assert stored == [(number, number / 7) for number in range(len(stored))]
    assert found == status


def _log_a_while(life: Life, chance: random.Random) -> None:
    points = chance.randint(1, chance.choice([1, 20, 300, 3000]))
    wait_for(lambda: life.acknowledged >= points or life.over, timeout=240.0)
    assert not life.over, life.errors()


def test_the_trainer_alone(
    tmp_path: Path, mother: Mother, chance: random.Random, tally: Tally
) -> None:
    """Its sidecar delivers the rest, says KILLED, and goes."""
    for attempt in range(KILLS):
        trainer = mother.trainer(
            tmp_path, f"victim-{attempt}", config=CONFIG, pause_s=pause(chance)
        )
        _log_a_while(trainer, chance)
        sidecar = trainer.sidecar()
        assert sidecar is not None
        tally.kills += kill(trainer.pid)
        wait_for(lambda: not left_over(tmp_path / ".tracelet"), timeout=120.0)
        _check(trainer, tally)
        wait_for(lambda: gone(sidecar), timeout=120.0)  # noqa: B023 - called here and now


def test_the_trainer_and_its_sidecar(
    tmp_path: Path, mother: Mother, chance: random.Random, tally: Tally
) -> None:
    """What is left is in the spool; ``tracelet sync`` delivers it."""
    for attempt in range(KILLS):
        trainer = mother.trainer(
            tmp_path, f"victim-{attempt}", config=CONFIG, pause_s=pause(chance)
        )
        _log_a_while(trainer, chance)
        sidecar = trainer.sidecar()
        assert kill(sidecar)
        tally.kills += 1 + kill(trainer.pid)
        # It may have started another one in between.
        for run in find_runs(tmp_path / ".tracelet"):
            drain(run)
        wait_for(lambda: not left_over(tmp_path / ".tracelet"), timeout=120.0)
        _check(trainer, tally)


def test_the_sidecar_alone(
    tmp_path: Path, mother: Mother, chance: random.Random, tally: Tally
) -> None:
    """The trainer starts another one, three times; what is left then waits for the next start."""
    attempt = 0
    while tally.kills < KILLS:
        attempt += 1
        trainer = mother.trainer(
            tmp_path, f"victim-{attempt}", config=CONFIG, pause_s=0.001, points=5000
        )
        _log_a_while(trainer, chance)
        while not trainer.over:
            time.sleep(chance.uniform(0.0, 0.5))
            tally.kills += kill(trainer.sidecar())
        for run in find_runs(tmp_path / ".tracelet"):
            drain(run)
        wait_for(lambda: not left_over(tmp_path / ".tracelet"), timeout=120.0)
        assert trainer.acknowledged == 5000, trainer.errors()
        _check(trainer, tally, "FINISHED")


def test_recovery_itself(
    tmp_path: Path, mother: Mother, chance: random.Random, tally: Tally
) -> None:
    """Whoever delivers what a killed training left is killed as well, again and again."""
    attempt = 0
    while tally.kills < KILLS:
        attempt += 1
        trainer = mother.trainer(tmp_path, f"victim-{attempt}", config=CONFIG)
        assert kill(trainer.sidecar()) or not trainer.acknowledged
        left = chance.choice([1, 1000, 5000])
        wait_for(lambda: trainer.acknowledged >= left, timeout=240.0)  # noqa: B023
        kill(trainer.sidecar())
        kill(trainer.pid)
        while left_over(tmp_path / ".tracelet"):
            deliverer = mother.deliverer(tmp_path)
            # As long as the whole of it would take, and now and then in the first moments of it.
            time.sleep(chance.choice([0.02, 0.2, 1.0]) * chance.random())
            tally.kills += kill(deliverer.pid)
            if chance.random() < 0.02:
                for run in find_runs(tmp_path / ".tracelet"):
                    drain(run)
        _check(trainer, tally)


def test_a_machine_on_which_anything_dies_at_any_moment(
    tmp_path: Path, mother: Mother, chance: random.Random, tally: Tally
) -> None:
    """
    Trainings follow each other in one spool. They die, their sidecars die, with them or while they
    deliver what was left before; so does somebody's ``tracelet sync``.
    """
    lives: list[Life] = []
    while tally.kills < KILLS:
        life = mother.trainer(tmp_path, f"victim-{len(lives)}", config=CONFIG, pause_s=0.0003)
        lives.append(life)
        wait_for(lambda: life.acknowledged > 0 or life.over, timeout=120.0)  # noqa: B023
        assert not life.over, life.errors()
        # What others left is taken up after two seconds.
        time.sleep(chance.choice([0.05, 0.5, 3.5]) * chance.random())
        sidecar = life.sidecar()
        for victim in chance.choice([(life.pid,), (sidecar, life.pid), (life.pid, sidecar)]):
            tally.kills += kill(victim)
        if chance.random() < 0.3:
            deliverer = mother.deliverer(tmp_path)
            time.sleep(chance.random())
            tally.kills += kill(deliverer.pid)
    for run in find_runs(tmp_path / ".tracelet"):
        drain(run)
    wait_for(lambda: not left_over(tmp_path / ".tracelet"), timeout=120.0)
    for life in lives:
        _check(life, tally)


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
    stored, status = jsonl(tmp_path / "out" / "kills" / "victim.jsonl")
    assert stored == [(number, number / 7) for number in range(len(stored))]
    assert len(stored) >= acknowledged
    assert status == "KILLED"
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
    wait_for(lambda: not left_over(tmp_path / ".tracelet"), timeout=60.0)
    points, found = jsonl(tmp_path / "out" / "kills" / "victim.jsonl")
    assert len(points) == 300
    assert found == status
