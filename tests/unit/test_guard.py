from __future__ import annotations

import logging
import os
import threading
import traceback
from typing import Any, Iterator

import pytest

from tracelet import _guard
from tracelet._guard import PATIENCE, SKIP, Guard, around, tap


class Oops(Exception):  # noqa: N818
    pass


@pytest.fixture(autouse=True)
def errors() -> Iterator[list[BaseException]]:
    """The errors of these tests are wanted."""
    with _guard.collecting() as found:
        yield found


def _count(site: str) -> int:
    return _guard.failures().get(site, 0)


def test_an_exception_stays_inside(errors: list[BaseException]) -> None:
    guard = Guard("test inside")
    error = Oops()
    with guard:
        raise error
    assert errors == [error]
    assert _count("test inside") == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_goes_through(error: type[BaseException]) -> None:
    with pytest.raises(error), Guard("test through"):
        raise error
    assert _count("test through") == 0


def test_a_site_is_logged_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard("test log")
    with caplog.at_level(logging.WARNING, "tracelet"):
        for _ in range(5):
            with guard:
                raise Oops("in the middle of it")
    assert len(caplog.records) == 1
    assert "test log" in caplog.text
    assert "in the middle of it" in caplog.text
    assert "Traceback" in caplog.text
    assert _count("test log") == 5


def test_twenty_failures_in_a_row_switch_it_off(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard("test off")
    with caplog.at_level(logging.WARNING, "tracelet"):
        for number in range(PATIENCE + 5):
            assert guard.enabled is (number < PATIENCE)
            guard.failed(Oops())
    assert [record.getMessage() for record in caplog.records][1:] == [
        "tracelet: test off failed 20 times in a row and is off now"
    ]


def test_a_success_in_between_starts_anew() -> None:
    guard = Guard("test anew")
    for _ in range(3):
        for _ in range(PATIENCE - 1):
            guard.failed(Oops())
        with guard:
            pass
    assert guard.enabled


def test_every_failure_is_told(errors: list[BaseException]) -> None:
    told: list[str] = []
    guard = Guard("test told", told.append)
    guard.failed(Oops())
    guard.missed()
    assert told == ["test told"] * 2
    assert _count("test told") == 2
    guard.retire()
    guard.missed()
    assert _count("test told") == 2


def test_whoever_is_told_may_fail_as_well() -> None:
    def broken(site: str) -> None:
        raise Oops

    class BrokenLog(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise Oops

    handler = BrokenLog()
    logging.getLogger("tracelet").addHandler(handler)
    try:
        Guard("test broken", broken).failed(Oops())
    finally:
        logging.getLogger("tracelet").removeHandler(handler)
    assert _count("test broken") == 1


def test_counts_of_many_threads_add_up() -> None:
    guard = Guard("test threads")

    def fail() -> None:
        for _ in range(500):
            guard.failed(Oops())

    threads = [threading.Thread(target=fail) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _count("test threads") == 2000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")
def test_a_child_does_not_inherit_a_lock() -> None:
    with _guard._lock:
        pid = os.fork()
        if pid == 0:
            Guard("test child").failed(Oops())
            os._exit(0 if _count("test child") == 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_the_innermost_collects(errors: list[BaseException]) -> None:
    with _guard.collecting() as inner:
        Guard("test inner").failed(Oops())
    Guard("test outer").failed(Oops())
    assert (len(inner), len(errors)) == (1, 1)


def test_without_collecting_nothing_is_kept(
    errors: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_guard, "_collectors", [])
    Guard("test production").failed(Oops())
    assert errors == []


# -- tap --------------------------------------------------------------------------------------


class Note:
    def __init__(self) -> None:
        self.forgotten = 0

    def forget(self) -> None:
        self.forgotten += 1


def _original(*args: Any, **kwargs: Any) -> Any:
    if args == ("fail",):
        raise LookupError("the original's own")
    return args, kwargs


def test_tap_records_then_calls() -> None:
    seen: list[Any] = []
    tapped = tap(_original, lambda args, kwargs: seen.append((args, kwargs)), Guard("test tap"))
    assert tapped(1, a=2) == ((1,), {"a": 2})
    assert seen == [((1,), {"a": 2})]


def test_tap_forgets_the_note_whatever_happens() -> None:
    note = Note()
    tapped = tap(_original, lambda args, kwargs: note, Guard("test note"))
    tapped(1)
    assert note.forgotten == 1
    with pytest.raises(LookupError):
        tapped("fail")
    assert note.forgotten == 2


def test_tap_may_leave_the_original_out() -> None:
    assert tap(_original, lambda args, kwargs: SKIP, Guard("test skip"))(1) is None


def test_tap_swallows_its_own_errors_and_no_other(errors: list[BaseException]) -> None:
    def broken(args: Any, kwargs: Any) -> None:
        raise Oops

    guard = Guard("test own")
    tapped = tap(_original, broken, guard)
    for _ in range(PATIENCE + 10):
        assert tapped(1) == ((1,), {})
    assert len(errors) == PATIENCE
    assert _count("test own") == PATIENCE + 10, "the calls that came too late are lost as well"
    with pytest.raises(LookupError) as caught:
        tapped("fail")
    assert caught.value.__context__ is None


def test_tap_of_a_broken_record_raises_the_originals_error_alone() -> None:
    def broken(args: Any, kwargs: Any) -> None:
        raise Oops

    with pytest.raises(LookupError) as caught:
        tap(_original, broken, Guard("test context"))("fail")
    assert caught.value.__context__ is None
    assert "Oops" not in "".join(traceback.format_exception(LookupError, caught.value, caught.tb))


def test_a_retired_tap_only_passes_on() -> None:
    guard = Guard("test retired")
    seen: list[Any] = []
    tapped = tap(_original, lambda args, kwargs: seen.append(args), guard)
    guard.retire()
    assert tapped(1) == ((1,), {})
    assert seen == []
    assert _count("test retired") == 0


def test_a_success_is_noticed() -> None:
    answers: list[Any] = [Oops, None, *[Oops] * (PATIENCE - 1)]

    def record(args: Any, kwargs: Any) -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    guard = Guard("test success")
    tapped = tap(_original, record, guard)
    for _ in range(PATIENCE + 1):
        tapped(1)
    assert guard.enabled


# -- around -----------------------------------------------------------------------------------


def test_around_may_change_the_arguments_and_sees_the_end() -> None:
    seen: list[str] = []

    def steps(args: Any, kwargs: Any) -> Any:
        seen.append("before")
        try:
            yield (*args, 2), kwargs
            seen.append("after")
        finally:
            seen.append("finally")

    tapped = around(_original, steps, Guard("test around"))
    assert tapped(1, a=3) == ((1, 2), {"a": 3})
    assert seen == ["before", "after", "finally"]


def test_around_a_call_that_fails() -> None:
    seen: list[str] = []

    def steps(args: Any, kwargs: Any) -> Any:
        try:
            yield args, kwargs
            seen.append("after")
        finally:
            seen.append("finally")

    with pytest.raises(LookupError) as caught:
        around(_original, steps, Guard("test around"))("fail")
    assert caught.value.__context__ is None
    assert seen == ["finally"]


def test_around_with_nothing_to_do() -> None:
    def steps(args: Any, kwargs: Any) -> Any:
        if args == ("never",):
            yield args, kwargs

    assert around(_original, steps, Guard("test around"))(1) == ((1,), {})


@pytest.mark.parametrize("when", ["before", "after", "finally"])
def test_around_swallows_its_own_errors(errors: list[BaseException], when: str) -> None:
    def steps(args: Any, kwargs: Any) -> Any:
        if when == "before":
            raise Oops
        try:
            yield args, kwargs
            if when == "after":
                raise Oops
        finally:
            if when == "finally":
                raise Oops

    tapped = around(_original, steps, Guard(f"test around {when}"))
    assert tapped(1) == ((1,), {})
    assert len(errors) == 1
    with pytest.raises(LookupError) as caught:
        tapped("fail")
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    assert len(errors) == (1 if when == "after" else 2)
