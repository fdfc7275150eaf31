"""Counts that add up, and what is said about them."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest

from tracelet._ledger import BackendCounts, Ledger, Report
from tracelet.errors import shortened
from tracelet.records import RunStatus


def report(recorded: int, lost: dict[str, int], **backends: BackendCounts) -> Report:
    return Report("id", RunStatus.FINISHED, recorded, lost, backends)


def test_the_closing_line() -> None:
    line = str(
        report(
            12_480,
            {},
            mlflow=BackendCounts(delivered=12_480, look="mlflow ui"),
            wandb=BackendCounts(delivered=12_112, pending=368),
        )
    )
    assert line == (
        "tracelet: 12,480 recorded · mlflow 12,480 delivered · "
        "wandb 12,112 delivered, 368 pending → tracelet sync"
    )


def test_the_closing_line_of_a_healthy_run_says_where_to_look() -> None:
    line = str(report(2, {}, mlflow=BackendCounts(delivered=2, look="mlflow ui")))
    assert line == "tracelet: 2 recorded · mlflow 2 delivered → mlflow ui"


def test_the_closing_line_counts_every_kind_of_end() -> None:
    counts = BackendCounts(
        delivered=1, pending=2, rejected=3, unsupported=4, state="config", detail="wrong password"
    )
    line = str(report(15, {"disk": 4, "artifact": 1}, mlflow=counts))
    assert "15 recorded, 5 lost (artifact 1, disk 4)" in line
    assert "1 delivered, 2 pending, 3 rejected, 4 unsupported (wrong password)" in line


def test_what_was_given_up_for_lack_of_room_is_said_and_adds_up() -> None:
    counts = BackendCounts(delivered=10, damaged=1, thinned={"scalar": 4, "media": 2000})
    found = report(2015, {}, mlflow=counts)
    assert "1 damaged on disk, 2,004 thinned (media 2,000, scalar 4)" in str(found)
    assert found.check() == []
    assert not found.complete


def test_nothing_recorded_is_said_as_such() -> None:
    assert str(report(0, {}, mlflow=BackendCounts())) == (
        "tracelet: 0 recorded · mlflow 0 delivered"
    )


def test_the_sum_rule() -> None:
    right = report(
        10, {"disk": 1}, a=BackendCounts(9), b=BackendCounts(5, 1, 1, 1, 1), c=BackendCounts(0, 9)
    )
    assert right.spooled == 9
    assert right.check() == []
    assert right.pending == 9
    wrong = report(10, {}, a=BackendCounts(9), b=BackendCounts(10))
    assert len(wrong.check()) == 1
    assert wrong.check()[0].startswith("a: 9 delivered")


def test_a_run_is_complete_when_everything_is_delivered() -> None:
    assert report(2, {}, a=BackendCounts(2)).complete
    assert not report(2, {}, a=BackendCounts(1, rejected=1)).complete
    assert not report(2, {}, a=BackendCounts(1, pending=1)).complete
    assert not report(3, {"disk": 1}, a=BackendCounts(2)).complete


def test_losses_are_counted_by_reason() -> None:
    ledger = Ledger()
    ledger.lose("disk")
    ledger.lose("disk", 2)
    ledger.lose("artifact")
    assert ledger.lost == {"disk": 3, "artifact": 1}


def test_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger()
    ledger.say("one")
    ledger.say("tracelet: two")
    ledger.warn("three", once="x")
    ledger.warn("four", once="x")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["tracelet: one", "tracelet: two", "tracelet: three"]


def test_a_silent_ledger_only_logs(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(silent=True)
    with caplog.at_level(logging.INFO, "tracelet"):
        ledger.say("one")
        ledger.warn("two")
    assert capsys.readouterr() == ("", "")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "one"),
        ("WARNING", "two"),
    ]


def test_a_closed_or_missing_stderr_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    Ledger().say("one")
    monkeypatch.setattr(sys, "stderr", None)
    Ledger().say("one")


def test_a_terminal_of_another_alphabet_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    strict = io.TextIOWrapper(buffer, encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stderr", strict)
    Ledger().say("1 recorded · mlflow 1 delivered → mlflow ui")
    assert buffer.getvalue() == b"tracelet: 1 recorded | mlflow 1 delivered -> mlflow ui\n"


def test_a_run_that_is_not_there_yet_is_no_success() -> None:
    """Also when nothing was recorded: its name, tags and status are still to be delivered."""
    away = BackendCounts(left=True, detail="nobody is there", look="http://127.0.0.1:9")
    report = Report("id", RunStatus.FINISHED, 0, {}, {"mlflow": away})
    assert not report.complete
    assert str(report) == (
        "tracelet: 0 recorded · mlflow not there yet (nobody is there) → tracelet sync"
    )


def test_each_of_several_backends_has_its_own_place() -> None:
    """Where the pages of one are, and the file of the other."""
    both = report(
        2,
        {},
        jsonl=BackendCounts(2, look="runs/a.jsonl"),
        memory=BackendCounts(2),
        mlflow=BackendCounts(2, look="http://tracker/1"),
    )
    assert str(both).endswith(" → jsonl: runs/a.jsonl, mlflow: http://tracker/1")
    assert str(report(2, {}, jsonl=BackendCounts(2, look="a.jsonl"))).endswith(" → a.jsonl")


def test_a_page_that_a_tracker_answers_with_is_cut_behind_a_word() -> None:
    said = "the tracker says " + "nothing of use " * 100
    line = str(report(1, {}, mlflow=BackendCounts(pending=1, detail=said, left=True)))
    assert len(line) < 300
    assert re.search(
        r"\(the tracker says (nothing of use )*nothing( of( use)?)?…\) → tracelet", line
    )


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("as it is", 8, "as it is"),
        ("one two three", 12, "one two…"),
        ("one two three", 8, "one two…"),
        ("one two, three", 10, "one two…"),
        ("a" * 50, 10, "aaaaaaaaa…"),
        ("a " + "b" * 50, 20, "a bbbbbbbbbbbbbbbbb…"),
    ],
)
def test_what_is_too_long_is_shortened(text: str, most: int, expected: str) -> None:
    assert shortened(text, most) == expected
    assert len(expected) <= most
