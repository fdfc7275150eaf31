"""``keep_tensorboard=False``: no file appears, and afterwards everything is as it was."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import Family

from tracelet.testing.fakes import RecordingSink, SilentSink


def _tags(events: list[Any]) -> list[str]:
    return [value.tag for event in events for value in event.summary.value]


def _contents(family: Any, folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in family.files(folder)}


def test_no_file_and_no_directory(family: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    given = tmp_path.parent / f"{tmp_path.name}-given"
    given.mkdir()
    calls = family.calls(given)
    with family.recording(keep=False) as sink:
        writer = family.open(None)  # the default: a directory named after the time
        for name, (args, kwargs) in calls.items():
            getattr(writer, name)(*args, **kwargs)
        writer.flush()
        writer.close()
        writer.close()
    assert len(sink) >= len(calls)
    assert list(tmp_path.iterdir()) == []


def test_closing_after_the_end_makes_no_file(family: Any, tmp_path: Path) -> None:
    with family.recording(keep=False):
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalars("main", {"a": 0.5}, 1)
        closed = family.open(str(tmp_path / "closed"))
        closed.add_scalar("loss", 0.5, 1)
        closed.close()
    writer.flush()
    writer.close()
    closed.close()
    assert list(tmp_path.iterdir()) == []


def test_used_afterwards_it_is_a_plain_writer_again(family: Any, tmp_path: Path) -> None:
    with family.recording(keep=False) as sink:
        writer = family.open(str(tmp_path / "logs"), filename_suffix=".mine")
        writer.add_scalar("during", 0.5, 1)
        writer.add_scalars("main", {"a": 0.5}, 1)
    recorded = len(sink)
    assert not (tmp_path / "logs").exists()
    assert writer.file_writer.get_logdir() == str(tmp_path / "logs")
    writer.add_scalar("after", 0.25, 2)
    writer.add_scalars("main", {"a": 0.5}, 2)
    writer.add_histogram("hist", np.zeros(3), 2)
    inner = writer.file_writer.event_writer
    assert type(inner) is family.events.EventFileWriter
    assert not [name for name in vars(inner) if "tracelet" in name and "stream" not in name]
    writer.flush()
    writer.close()
    assert sorted(_tags(family.written(tmp_path))) == ["after", "hist", "main"]
    assert all(path.name.endswith(".mine") for path in (tmp_path / "logs").glob("events*"))
    assert len(sink) == recorded
    assert writer.file_writer is None


def test_a_closed_one_opens_a_file_like_a_plain_one(family: Any, tmp_path: Path) -> None:
    with family.recording(keep=False):
        writer = family.open(str(tmp_path / "logs"))
        writer.close()
    writer.add_scalar("after", 0.25, 2)
    writer.close()
    assert _tags(family.written(tmp_path)) == ["after"]


def test_a_writer_that_lived_before_keeps_its_file(family: Any, tmp_path: Path) -> None:
    writer = family.open(str(tmp_path / "logs"))
    writer.add_scalar("before", 0.5, 1)
    writer.flush()
    time.sleep(0.05)  # its thread writes on its own; a flush of tensorboardX does not wait for it
    writer.flush()
    given = tmp_path / "given"
    given.mkdir()
    calls = family.calls(given)
    before = _contents(family, tmp_path)
    with family.recording(keep=False) as sink:
        for name, (args, kwargs) in calls.items():
            getattr(writer, name)(*args, **kwargs)
        writer.flush()
        assert _contents(family, tmp_path) == before
    assert len(sink) >= len(calls)
    writer.add_scalar("after", 0.25, 2)
    writer.close()
    assert _tags(family.written(tmp_path)) == ["before", "after"]


def test_the_next_run_keeps_its_files(family: Any, tmp_path: Path) -> None:
    with family.recording(keep=False):
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalar("first", 0.5, 1)
    with family.recording(keep=True) as second:
        writer.add_scalar("second", 0.5, 2)
    with family.recording(keep=False) as third:
        writer.add_scalar("third", 0.5, 3)
    writer.add_scalar("fourth", 0.5, 4)
    writer.close()
    assert _tags(family.written(tmp_path)) == ["second", "fourth"]
    assert second.points("second") == [(0.5, 2)]
    assert third.points("third") == [(0.5, 3)]
    assert not second.events


def test_silent_again_before_it_was_used(family: Any, tmp_path: Path) -> None:
    with family.recording(keep=False):
        writer = family.open(str(tmp_path / "logs"))
    with family.recording(keep=False) as sink:
        writer.add_text("note", "x", 1)
        writer.flush()
    assert len(sink.events) == 1
    assert not (tmp_path / "logs").exists()
    writer.add_text("after", "x", 1)
    writer.close()
    assert _tags(family.written(tmp_path)) == ["after/text_summary"]


def test_woken_by_many_threads_at_once(family: Any, tmp_path: Path) -> None:
    with family.recording(keep=False):
        writer = family.open(str(tmp_path / "logs"))
    gate = threading.Barrier(6)

    def work(number: int) -> None:
        gate.wait()
        for step in range(20):
            writer.add_scalar(f"loss{number}", 0.5, step)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    writer.close()
    assert len(_tags(family.written(tmp_path))) == 120
    assert len([path for path in family.files(tmp_path) if "tfevents" in path.name]) == 1


def test_a_directory_that_cannot_be_made_is_told_when_it_is_needed(
    family: Any, tmp_path: Path
) -> None:
    (tmp_path / "logs").write_text("a file is in the way")
    with family.recording(keep=False) as sink:
        writer = family.open(str(tmp_path / "logs" / "run"))
        writer.add_scalar("loss", 0.5, 1)
    assert sink.points("loss") == [(0.5, 1)]
    for _ in range(2):
        with pytest.raises(OSError):
            writer.add_scalar("loss", 0.5, 2)
    (tmp_path / "logs").unlink()
    writer.add_scalar("loss", 0.5, 3)
    writer.close()
    assert _tags(family.written(tmp_path)) == ["loss"]


def test_a_subclass_of_the_event_file_writer(family: Any, tmp_path: Path) -> None:
    seen: list[str] = []

    class Mine(family.events.EventFileWriter):  # type: ignore[misc,name-defined]
        def __init__(self, logdir: str, extra: str) -> None:
            super().__init__(logdir)
            self.extra = extra

        def add_event(self, event: Any) -> None:
            seen.append("event")
            super().add_event(event)

        def close(self) -> None:
            seen.append("close")
            super().close()

    event = family.events.event_pb2.Event(step=1)
    event.summary.value.add(tag="loss", simple_value=0.5)
    with family.recording(keep=False) as sink:
        writer = Mine(str(tmp_path / "logs"), "more")
        writer.add_event(event)
        assert isinstance(writer, Mine)
        assert writer.extra == "more"
    assert len(sink.events) == 1
    writer.add_event(event)
    assert type(writer) is Mine
    writer.close()
    assert seen.count("close") == 1
    assert _tags(family.written(tmp_path)) == ["loss"]


def test_private_things_that_only_a_file_has(family: Any, tmp_path: Path) -> None:
    with family.recording(keep=False):
        writer = family.events.EventFileWriter(str(tmp_path / "logs"))
        name = "_file_name" if family.is_torch else "_ev_writer"
        assert not hasattr(writer, name)
        assert not hasattr(writer, "anything_else")
    assert not hasattr(writer, "anything_else")
    assert not (tmp_path / "logs").exists()
    assert hasattr(writer, name)  # used: so there is a file
    writer.close()
    assert (tmp_path / "logs").exists()


def test_a_closed_event_file_writer_stays_closed(family: Any, tmp_path: Path) -> None:
    event = family.events.event_pb2.Event(step=1)
    event.summary.value.add(tag="loss", simple_value=0.5)
    with family.recording(keep=False):
        writer = family.events.EventFileWriter(str(tmp_path / "logs"))
        writer.close()
    if family.is_torch:
        with pytest.raises(OSError, match="closed"):
            writer.add_event(event)
    else:
        writer.add_event(event)  # as ever, it goes nowhere
    assert not (tmp_path / "logs").exists()


def test_what_cannot_be_recorded_is_not_written_either(family: Any, tmp_path: Path) -> None:
    from tracelet import _guard
    from tracelet.testing.fakes import BrokenSink

    writer = family.open(str(tmp_path / "logs"))
    writer.flush()
    before = _contents(family, tmp_path)
    integration = family.integration()
    counted = dict(_guard.failures())
    with _guard.collecting() as errors:
        integration.install(BrokenSink(), keep=False)
        for step in range(60):
            writer.add_scalar("loss", 0.5, step)
            writer.add_text("note", "x", step)
        assert _contents(family, tmp_path) == before
        integration.uninstall()
    assert errors
    lost = _guard.failures()[f"{family.name} add_event"] - counted.get(
        f"{family.name} add_event", 0
    )
    assert lost == 120, "each is counted, also those after the site was switched off"
    writer.close()


def test_comet_still_gets_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family("tensorboardx")
    with family.recording(keep=False) as sink:
        writer = family.open(str(tmp_path / "logs"), comet_config={"disabled": None})
        sent: list[Any] = []
        monkeypatch.setattr(
            family.module.CometLogger, "log_metric", lambda self, *args: sent.append(args)
        )
        writer.add_scalar("loss", 0.5, 1)
        writer.close()
    assert sink.points("loss") == [(0.5, 1)]
    assert [(args[0], args[2]) for args in sent] == [("loss", 0.5)]


def test_tensorboardx_still_warns_of_nan(tmp_path: Path, caplog: Any) -> None:
    with Family("tensorboardx").recording(keep=False) as sink:
        writer = Family("tensorboardx").open(str(tmp_path / "logs"))
        writer.add_scalar("loss", float("nan"), 1)
        writer.close()
    assert "NaN" in caplog.text
    assert len(sink.scalars) == 1
    assert not sink.events


def test_it_is_much_cheaper_than_tensorboard(family: Any, tmp_path: Path) -> None:
    writer = family.open(str(tmp_path / "logs"))

    def loop() -> float:
        start = time.perf_counter()
        for step in range(500):
            writer.add_scalar("loss", 0.1, step)
        return time.perf_counter() - start

    loop()
    integration = family.integration()
    plain, silent = [], []
    for _ in range(5):
        plain.append(loop())
        integration.install(SilentSink(), keep=False)
        silent.append(loop())
        integration.uninstall()
    writer.close()
    assert min(silent) <= 0.25 * min(plain)


def test_install_with_another_choice_takes_the_first_off(family: Any, tmp_path: Path) -> None:
    first, second = RecordingSink(), RecordingSink()
    integration = family.integration()
    integration.install(first, keep=False)
    writer = family.open(str(tmp_path / "logs"))
    integration.install(second, keep=True)
    writer.add_scalar("loss", 0.5, 1)
    integration.uninstall()
    writer.close()
    assert (len(first), len(second)) == (0, 1)
    assert _tags(family.written(tmp_path)) == ["loss"]
