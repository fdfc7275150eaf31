"""What is a scalar, and what of it arrives: for both families, with and without files."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import Family

from tracelet.naming import series_tag
from tracelet.testing.fakes import RecordingSink

BIG = 2**63


def _accepted() -> list[Any]:
    return [
        (0.1, 0.1),
        (1e300, 1e300),
        (5e-324, 5e-324),
        (-0.0, -0.0),
        (math.inf, math.inf),
        (-math.inf, -math.inf),
        (3, 3.0),
        (2**53 + 1, float(2**53 + 1)),
        (BIG - 1, float(BIG - 1)),
        (True, 1.0),
        (np.float64(0.1), 0.1),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.float16(0.1), float(np.float16(0.1))),
        (np.longdouble(0.1), 0.1),
        (np.int64(-7), -7.0),
        (np.uint64(2**64 - 1), float(2**64 - 1)),
        (np.bool_(True), 1.0),
        (np.array(0.1), 0.1),
        (np.array([[0.1]]), 0.1),
        (np.array([7]), 7.0),
    ]


@pytest.mark.parametrize("number", range(len(_accepted())))
def test_the_exact_double(family: Any, keep: bool, tmp_path: Path, number: int) -> None:
    value, wanted = _accepted()[number]
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalar("loss", value, 1)
        writer.close()
    ((_, tag, seen, step, time),) = sink.scalars
    assert (tag, step, time) == ("loss", 1, None)
    assert type(seen) is float
    assert seen == wanted
    assert math.copysign(1, seen) == math.copysign(1, wanted)
    assert not sink.events


def test_nan(family: Any, keep: bool, tmp_path: Path) -> None:
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalar("loss", math.nan, 1)
        writer.close()
    assert len(sink.scalars) == 1
    assert math.isnan(sink.scalars[0].value)


@pytest.mark.parametrize(
    ("kind", "value", "grad"),
    [
        ("float32", 0.1, True),
        ("float64", 0.1, True),
        ("float16", 0.1, False),
        ("int64", 2**53 - 1, False),
        ("uint8", 7, False),
        ("bool", True, False),
    ],
)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_tensors(
    family: Any, keep: bool, tmp_path: Path, kind: str, value: Any, grad: bool, shape: Any
) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.full(shape, value, dtype=getattr(torch, kind), requires_grad=grad)
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalar("loss", tensor, 1)
        writer.close()
    assert sink.points("loss") == [(float(tensor.detach().double()), 1)]
    assert not sink.events


def test_a_bfloat16_is_exact_where_the_family_takes_it(
    family: Any, keep: bool, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(1e30, dtype=torch.bfloat16)
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        if family.is_torch:
            writer.add_scalar("loss", tensor, 1)
            assert sink.points("loss") == [(float(tensor), 1)]
        else:
            with pytest.raises(TypeError):
                writer.add_scalar("loss", tensor, 1)
            assert len(sink) == 0
        writer.close()


def test_a_parameter_is_a_tensor(family: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with family.recording() as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalar("scale", torch.nn.Parameter(torch.tensor(0.5)), 1)
        writer.close()
    assert sink.points("scale") == [(0.5, 1)]


def test_a_tensor_on_a_device_is_read_once_and_by_tensorboard(tmp_path: Path) -> None:
    """Asking a device for a number costs a wait; so the value is the one that was written."""
    torch = pytest.importorskip("torch")
    family = Family("tensorboard")
    with family.recording() as sink:
        writer = family.open(str(tmp_path / "logs"))
        # No memory at all: PyTorch makes a number up.
        writer.add_scalar("random", torch.empty((), device="meta"), 1)
        writer.close()
    (event,) = [event for event in family.written(tmp_path) if event.HasField("summary")]
    assert sink.points("random") == [(event.summary.value[0].simple_value, 1)]


@pytest.mark.parametrize(
    ("value", "wanted"), [("0.1", 0.1), (np.str_("0.25"), 0.25), (10**30, 1e30)]
)
def test_what_pytorch_takes_besides_is_exact(tmp_path: Path, value: Any, wanted: float) -> None:
    pytest.importorskip("torch")
    family = Family("tensorboard")
    for keep in (True, False):
        with family.recording(keep=keep) as sink:
            writer = family.open(str(tmp_path / "logs"))
            writer.add_scalar("loss", value, 1)
            writer.close()
        assert sink.points("loss") == [(wanted, 1)]
        assert not sink.events


def test_what_tensorboardx_takes_besides_is_exact(keep: bool, tmp_path: Path) -> None:
    family = Family("tensorboardx")
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalar("loss", [0.1], 1)
        writer.close()
    assert sink.points("loss") == [(0.1, 1)]


def _refused() -> list[tuple[Any, ...]]:
    return [
        ("loss", object(), 1),
        ("loss", None, 1),
        ("loss", "abc", 1),
        ("loss", {"a": 1}, 1),
        ("loss", np.zeros(2), 1),
        ("loss", np.datetime64("2020-01-01"), 1),
        ("loss", 0.1, BIG),
        ("loss", 0.1, -BIG - 1),
        ("loss", 0.1, math.nan),
        ("loss", 0.1, math.inf),
        ("loss", 0.1, "x"),
        ("loss", 0.1, [1]),
        ("loss", 0.1, 1, "now"),
        (7, 0.1, 1),
        ("loss",),
        (),
        ("loss", 0.1, 1, 2.0, False, False, "too", "many"),
    ]


@pytest.mark.parametrize("number", range(len(_refused())))
def test_what_is_refused_raises_as_without_us_and_is_not_recorded(
    family: Any, keep: bool, tmp_path: Path, number: int
) -> None:
    arguments = _refused()[number]
    plain = family.open(str(tmp_path / "plain"))
    with pytest.raises(Exception) as wanted:
        plain.add_scalar(*arguments)
    plain.close()
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        with pytest.raises(type(wanted.value)) as caught:
            writer.add_scalar(*arguments)
        assert str(caught.value) == str(wanted.value)
        writer.add_scalar("after", 0.5, 2)
        writer.close()
    assert [seen.tag for seen in sink.scalars] == ["after"]
    assert not sink.events


def test_a_name_given_twice_or_unknown_is_not_recorded(
    family: Any, keep: bool, tmp_path: Path
) -> None:
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        with pytest.raises(TypeError):
            writer.add_scalar("loss", 0.1, 1, tag="loss")
        with pytest.raises(TypeError):
            writer.add_scalar("loss", 0.1, global_step=1, stepp=2)
        with pytest.raises(TypeError):
            writer.add_scalar(tag="loss", global_step=1)
        writer.close()
    assert len(sink) == 0


def test_tensors_that_are_refused(family: Any, keep: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    values = [
        torch.zeros(2),
        torch.zeros(()).to_sparse(),
        torch.complex(torch.tensor([1.0]), torch.tensor([2.0])).conj().imag,
        torch.zeros((), dtype=torch.float8_e4m3fn),
    ]
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        for value in values:
            with pytest.raises(Exception):  # noqa: B017 - TensorBoard's, whatever it is
                writer.add_scalar("loss", value, 1)
        writer.close()
    assert len(sink) == 0


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        (None, None),
        (0, 0),
        (-5, -5),
        (2**40, 2**40),
        (BIG - 1, BIG - 1),
        (-BIG, -BIG),
        (True, 1),
        (2.0, 2),
        (2.5, 2.5),
        (-2.5, -2.5),
        (np.int32(4), 4),
        (np.float32(0.5), 0.5),
        (np.array(6), 6),
        ("7", 7),
    ],
)
def test_steps(family: Any, keep: bool, tmp_path: Path, step: Any, wanted: Any) -> None:
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalar("loss", 0.1, step)
        writer.add_scalar("loss", 0.1, global_step=step)
        writer.close()
    assert sink.points("loss") == [(0.1, wanted)] * 2
    assert all(type(seen.step) is type(wanted) for seen in sink.scalars)


def test_a_tensor_as_step(family: Any, keep: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalar("loss", 0.1, torch.tensor(3))
        writer.add_scalar("loss", 0.1, torch.tensor([4]))
        writer.add_scalar("loss", 0.1, torch.tensor(4.5))
        writer.close()
    assert [step for _, step in sink.points("loss")] == [3, 4, 4.5]


@pytest.mark.parametrize("time", [12.5, 12, np.float64(12.5), np.float32(12.5), 0.0])
def test_the_given_time(family: Any, keep: bool, tmp_path: Path, time: Any) -> None:
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalar("loss", 0.1, 1, time)
        writer.add_scalar("loss", 0.1, 1, walltime=time)
        writer.close()
    assert [seen.time for seen in sink.scalars] == [float(time)] * 2


@pytest.mark.parametrize(
    "tag",
    ["", "a/b", "/a", "a b", "[x](y),@%", "größe ✓", "x" * 300, "a\nb\0c", "C:\\x", "\U0001f600"],
)
def test_the_raw_tag(family: Any, keep: bool, tmp_path: Path, tag: str) -> None:
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalar(tag, 0.1, 1)
        writer.add_scalar(tag, "0.1" if family.is_torch else [0.1], 1)
        writer.close()
    assert sink.points(tag) == [(0.1, 1)] * 2
    assert not sink.events


def test_tags_that_only_tensorboard_can_judge(family: Any, keep: bool, tmp_path: Path) -> None:
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalar(np.str_("text"), 0.1, 1)
        writer.add_scalar(None, 0.2, 1)
        if family.is_torch:
            writer.add_scalar(b"bytes", 0.3, 1)
            with pytest.raises(UnicodeEncodeError):
                writer.add_scalar("\ud800", 0.4, 1)
        else:
            writer.add_scalar("\ud800", 0.3, 1)  # it is cleaned
        writer.close()
    wanted = "bytes" if family.is_torch else "_"
    assert [(seen.tag, seen.value) for seen in sink.scalars] == [
        ("text", 0.1),
        ("", 0.2),
        (wanted, 0.3),
    ]
    assert all(type(seen.tag) is str for seen in sink.scalars)


def test_extra_arguments(family: Any, keep: bool, tmp_path: Path) -> None:
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        if family.is_torch:
            writer.add_scalar("loss", 0.1, 1, new_style=True)
            writer.add_scalar("loss", 0.1, 1, 5.0, True, True)
        else:
            writer.add_scalar("loss", 0.1, 1, display_name="Loss")
            writer.add_scalar("loss", 0.1, 1, 5.0, "Loss", "how wrong it is")
        writer.close()
    assert sink.points("loss") == [(0.1, 1)] * 2
    assert sink.scalars[1].time == 5.0
    assert not sink.events


def test_the_stream_is_the_absolute_log_directory(
    family: Any, keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same names there: TensorBoard's thread writes to its relative path when it comes to it.
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "runs" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with family.recording(keep=keep) as sink:
        for logdir in ("runs/a", Path("runs") / "b", str(tmp_path / "runs" / "c")):
            writer = family.open(logdir)
            writer.add_scalar("loss", 0.1, 1)
            writer.add_text("note", "x", 1)
            if logdir == "runs/a":
                monkeypatch.chdir(elsewhere)
                writer.add_scalar("loss", 0.1, 2)
                monkeypatch.chdir(tmp_path)
            assert family.logdir(writer) == logdir
            writer.close()
    wanted = [str(tmp_path / "runs" / name) for name in "aabc"]
    assert [seen.stream for seen in sink.scalars] == wanted
    assert [seen.stream for seen in sink.events] == wanted[1:]


def test_a_closed_writer_opens_again(family: Any, keep: bool, tmp_path: Path) -> None:
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"), purge_step=10)
        writer.add_scalar("loss", 0.1, 1)
        writer.close()
        writer.add_scalar("loss", 0.2, 2)
        writer.close()
        writer.purge_step = 5
        writer.add_scalar("loss", 0.3, 3)
        writer.close()
    assert sink.points("loss") == [(0.1, 1), (0.2, 2), (0.3, 3)]
    assert not sink.events, "what says something about the file only is no record"


def test_a_subclass(family: Any, keep: bool, tmp_path: Path) -> None:
    class Mine(family.module.SummaryWriter):  # type: ignore[misc,name-defined]
        def add_scalar(self, tag: str, value: float, step: int, extra: str = "") -> None:
            self.add_text("extra", extra or "none", step)
            super().add_scalar(tag, value, step)
            super().add_scalar(f"{tag}/twice", value * 2, step)

    with family.recording(keep=keep) as sink:
        writer = Mine(str(tmp_path / "logs"))
        writer.add_scalar("loss", 0.1, 1)
        writer.close()
    assert [(seen.tag, seen.value) for seen in sink.scalars] == [("loss", 0.1), ("loss/twice", 0.2)]
    assert len(sink.events) == 1


def test_a_file_writer_that_writes_more_than_it_was_given(family: Any, tmp_path: Path) -> None:
    """The note "the next event is recorded already" must not swallow somebody else's event."""

    class Chatty(family.module.FileWriter):  # type: ignore[misc,name-defined]
        def add_summary(self, summary: Any, *args: Any, **kwargs: Any) -> None:
            more = type(summary)()
            more.value.add(tag="other", simple_value=0.5)
            super().add_summary(more, *args, **kwargs)
            super().add_summary(summary, *args, **kwargs)

    with family.recording() as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.close()
        writer.file_writer = Chatty(str(tmp_path / "logs"))
        writer.all_writers = {"x": writer.file_writer}
        writer.add_scalar("loss", 0.1, 1)
        writer.close()
    assert sink.points("loss") == [(0.1, 1)]
    assert [family.parse(seen.data).summary.value[0].tag for seen in sink.events] == ["other"]


def test_an_interrupt_leaves_no_note_behind(
    family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with family.recording() as sink:
        writer = family.open(str(tmp_path / "logs"))
        with monkeypatch.context() as patch:
            patch.setattr(family.module.FileWriter, "add_summary", interrupt)
            with pytest.raises(KeyboardInterrupt):
                writer.add_scalar("loss", 0.1, 1)
            with pytest.raises(KeyboardInterrupt):
                writer.add_histogram("hist", np.zeros(3), 1)
        writer.add_text("note", "x")
        writer.close()
    assert sink.points("loss") == [(0.1, 1)]
    assert len(sink.events) == 1
    assert sink.events[0].hint == {"tag": "note", "no_step": True}


@pytest.mark.parametrize("where", ["recording", "writing"])
def test_a_call_in_the_middle_of_a_call(
    family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """What a signal handler or a finalizer does, at the two places where it could confuse us."""

    def handler() -> None:
        if not entered:
            entered.append(True)
            writer.add_scalar("signal", 0.5, 1)
            writer.add_text("note", "x", 1)
            writer.add_scalar("signal", "0.25" if family.is_torch else [0.25], 1)

    def interrupted(original: Any) -> Any:
        def method(*args: Any, **kwargs: Any) -> Any:
            handler()
            return original(*args, **kwargs)

        return method

    entered: list[bool] = [True]
    with family.recording() as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalar("first", 0.0, 0)
        with monkeypatch.context() as patch:
            if where == "recording":
                original = RecordingSink.scalar
                patch.setattr(RecordingSink, "scalar", interrupted(original))
                # The taps hold the bound method of before; a new start binds the new one.
                integration = family.integration()
                integration.install(sink)
            else:
                integration = None
                original = family.module.FileWriter.add_summary
                patch.setattr(family.module.FileWriter, "add_summary", interrupted(original))
            for call in (
                lambda: writer.add_scalar("loss", 0.1, 1),
                lambda: writer.add_scalar("loss", 0.1, "1"),
                lambda: writer.add_scalars("many", {"a": 0.1, "b": 0.2}, 1),
                lambda: writer.add_histogram("hist", np.zeros(3), 1),
            ):
                entered.clear()
                call()
            if integration is not None:
                integration.uninstall()
        writer.close()
    assert sink.points("loss") == [(0.1, 1)] * 2
    assert sorted(sink.points(series_tag("many", "a")) + sink.points(series_tag("many", "b"))) == [
        (0.1, 1),
        (0.2, 1),
    ]
    times = 4 if where == "writing" else 3  # recording a histogram is no scalar
    assert sink.points("signal") == [(0.5, 1), (0.25, 1)] * times
    assert len(sink.scalars) == 1 + 2 + 2 + 2 * times
    tags = [family.parse(seen.data).summary.value[0].tag for seen in sink.events]
    assert sorted(tags) == ["hist"] + ["note/text_summary"] * times


def test_threads_do_not_mix_their_notes(family: Any, tmp_path: Path) -> None:
    with family.recording() as sink:
        writer = family.open(str(tmp_path / "logs"))

        def scalars() -> None:
            for step in range(200):
                writer.add_scalar("loss", 0.1, step)

        def texts() -> None:
            for step in range(200):
                writer.add_text("a note", "x", step)

        threads = [threading.Thread(target=work) for work in (scalars, texts) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        writer.close()
    assert len(sink.scalars) == 400
    assert len(sink.events) == 400
    assert {seen.hint["tag"] for seen in sink.events if seen.hint} == {"a note"}
