"""When a server that fails is tried again, and by whom."""

from __future__ import annotations

import threading
from typing import Optional

import pytest

from tracelet.ship import breaker
from tracelet.ship.breaker import Breaker, breaker_of
from tracelet.ship.retry import Backoff


class World:
    """A breaker with a clock that is moved by hand and the largest waits that chance gives."""

    def __init__(self, chance: float = 1.0) -> None:
        self.now = 1000.0
        self.breaker = Breaker(lambda: self.now, lambda: chance)
        self.questions = 0

    def fail(self, times: int = 1, at_least: Optional[float] = None, took: float = 0.0) -> float:
        wait = 0.0
        for _ in range(times):
            with self.breaker.attempt() as allowed:
                assert allowed
                self.now += took
                wait = self.breaker.failed(at_least)
            if times > 1:
                self.now += wait
        return wait

    def ask(self, silent: Optional[float]) -> None:
        def question() -> Optional[float]:
            self.questions += 1
            return silent

        self.breaker.ask(question)

    def back_after(self, down_s: float, most: float) -> None:
        """Let time go by until a sign is given ``down_s`` from now; it is heard in ``most``."""
        back = self.now + down_s
        while True:
            wait = self.breaker.wait()
            if wait == 0.0 and self.now >= back:
                break
            if wait == 0.0:
                self.fail()
                continue
            self.now += wait
            self.ask(None if self.now >= back else 0.0)
        assert self.now - back <= most


def test_waits_double_up_to_a_cap_and_differ_by_chance() -> None:
    waits = [Backoff(draw=lambda: 1.0)] * 10
    found = [each.failed() for each in waits]
    assert found == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]
    some = sorted(Backoff(failures=5).failed() for _ in range(200))
    assert some[0] < 4.0 < 12.0 < some[-1] <= 16.0


def test_the_first_retry_comes_within_a_second_and_what_is_asked_for_is_kept() -> None:
    world = World()
    assert world.fail() <= 1.0
    assert world.breaker.wait() <= 1.0
    world.now += 1.0
    world.fail(at_least=45.0)
    world.now += 44.0
    world.ask(None)
    assert world.questions == 0
    assert world.breaker.wait() == pytest.approx(1.0)
    # Nobody is sent away for ever.
    world.now += 1.0
    assert world.fail(at_least=1e12) == breaker.LONGEST_WAIT_S


@pytest.mark.parametrize("down_s", [10.0, 100.0, 1000.0, 10_000.0])
def test_it_is_seen_in_a_few_seconds_that_a_server_is_back(down_s: float) -> None:
    """However long it was away."""
    world = World()
    world.fail(5)
    world.back_after(down_s, most=4.0)


def test_one_that_hangs_is_asked_and_seldom_sent_anything() -> None:
    world = World()
    assert world.fail(took=10.0) == 100.0
    asked = 0
    while world.now < 1090.0:
        wait = world.breaker.wait()
        assert 0.0 < wait <= 4.0
        world.now += wait
        before = world.questions
        world.ask(0.0)
        asked += world.questions - before
    assert asked >= 20
    world.now += 30.0
    assert world.breaker.wait() == 0.0


def test_one_that_answers_and_takes_nothing_is_left_alone_longer_and_longer() -> None:
    """A small question proves little there."""
    world = World()
    world.fail(5)
    tries, began = 0, world.now
    while world.now < began + 600.0:
        wait = world.breaker.wait()
        if wait == 0.0:
            tries += 1
            world.fail()
        world.now += max(wait, 0.01)
        world.ask(None)
    assert tries < 40


def test_one_at_a_time_tries_whether_it_is_back_and_all_go_on_gently() -> None:
    world = World()
    world.fail(5)
    world.now += 3.0
    world.ask(None)
    with world.breaker.attempt() as first, world.breaker.attempt() as second:
        assert (first, second) == (True, False)
        world.breaker.succeeded()
    assert not world.breaker.failing
    batches = 0
    until = world.now + 10.0
    while world.now < until:
        wait = world.breaker.wait()
        if wait == 0.0:
            with world.breaker.attempt() as allowed:
                assert allowed
                world.breaker.succeeded()
            batches += 1
        world.now += max(wait, 0.001)
    assert batches <= 101
    world.now += 100.0
    world.breaker.succeeded()
    assert world.breaker.wait() == 0.0


def test_a_hiccup_has_no_consequences() -> None:
    world = World()
    world.fail()
    world.breaker.succeeded()
    assert world.breaker.wait() == 0.0


def test_all_runs_of_a_process_share_the_one_of_a_server() -> None:
    assert breaker_of("http://a") is breaker_of("http://a")
    assert breaker_of("http://a") is not breaker_of("http://b")


def test_only_one_thread_asks() -> None:
    world = World()
    world.fail(5)
    world.fail()
    world.now += 3.5
    began, gate, asked = threading.Event(), threading.Event(), []

    def question() -> Optional[float]:
        asked.append(1)
        began.set()
        gate.wait(10)
        return 0.0

    first = threading.Thread(target=world.breaker.ask, args=(question,))
    first.start()
    assert began.wait(10)
    world.breaker.ask(question)
    gate.set()
    first.join(10)
    assert asked == [1]
