"""What the other ``add_*`` methods bring: for both families, with and without files."""

from __future__ import annotations

import enum
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import Family

from tracelet.naming import series_tag

#: What each method's event holds: the kind of the event, or of its first value, or its plugin.
KINDS = {
    "add_histogram": "histo",
    "add_histogram_raw": "histo",
    "add_image": "image",
    "add_images": "image",
    "add_image_with_boxes": "image",
    "add_figure": "image",
    "add_video": "image",
    "add_audio": "audio",
    "add_text": "text",
    "add_tensor": "tensor",
    "add_pr_curve": "pr_curves",
    "add_pr_curve_raw": "pr_curves",
    "add_mesh": "mesh",
    "add_custom_scalars": "custom_scalars",
    "add_custom_scalars_multilinechart": "custom_scalars",
    "add_custom_scalars_marginchart": "custom_scalars",
    "add_graph": "graph_def",
    "add_onnx_graph": "graph_def",
    "add_openvino_graph": "graph_def",
    "add_hparams": "hparams",
}
#: These bring no event.
WITHOUT = {"add_scalar", "add_scalars", "add_embedding"}
#: moviepy 2 is more than the writers understand: they write a value without an image.
EMPTY = {"add_video"}


def _kind(event: Any) -> str:
    kind = event.WhichOneof("what")
    if kind != "summary":
        return str(kind)
    value = event.summary.value[0]
    return value.metadata.plugin_data.plugin_name or str(value.WhichOneof("value"))


def _without_packages() -> set[str]:
    """The methods whose package is not installed here (it is where everything is)."""
    missing = {"add_graph": "torch", "add_audio": "soundfile", "add_figure": "matplotlib"}
    return {name for name, package in missing.items() if not find_spec(package)}


def test_every_method_is_here(family: Any, tmp_path: Path) -> None:
    names = {name for name in vars(family.module.SummaryWriter) if name.startswith("add_")}
    assert len(names) == 22
    assert names - set(family.calls(tmp_path)) == _without_packages()
    assert names <= set(KINDS) | WITHOUT


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_method_lands_in_the_event_tap(
    family: Any, keep: bool, tmp_path: Path, name: str
) -> None:
    calls = family.calls(tmp_path)
    if name not in calls:
        sisters = {"add_tensor", "add_openvino_graph"}
        assert name in sisters | _without_packages()
        return
    args, kwargs = calls[name]
    logs = tmp_path / "logs"
    with family.recording(keep=keep) as sink:
        writer = family.open(str(logs))
        getattr(writer, name)(*args, **kwargs)
        writer.close()
    assert sink.events
    assert {seen.stream for seen in sink.events} == {str(logs)}
    events = [family.parse(seen.data) for seen in sink.events]
    if name not in EMPTY:
        assert _kind(events[0]) == KINDS[name]
    if keep:
        kinds = {_kind(event) for event in events}
        written = [event for event in family.written(logs) if _kind(event) in kinds]
        wanted = [event.SerializeToString() for event in written]
        assert [seen.data for seen in sink.events] == wanted[: len(sink.events)]
    else:
        assert not logs.exists()
    tag = kwargs.get("tag") or (args[0] if args and isinstance(args[0], str) else None)
    if tag is not None and events[0].HasField("summary"):
        raw = (sink.events[0].hint or {}).get("tag", events[0].summary.value[0].tag)
        assert raw == tag


def test_all_methods_one_after_the_other(family: Any, keep: bool, tmp_path: Path) -> None:
    """One writer, everything: nothing of one call is left for the next."""
    logs = tmp_path / "logs"
    with family.recording(keep=keep) as sink:
        writer = family.open(str(logs))
        for args_of in (family.calls(tmp_path), family.calls(tmp_path)):
            for name, (args, kwargs) in args_of.items():
                getattr(writer, name)(*args, **kwargs)
                writer.add_scalar(f"after/{name}", 0.5, 1)
        writer.flush()
        writer.close()
        assert str(family.logdir(writer)) == str(logs)
    names = list(family.calls(tmp_path))
    assert [seen.tag for seen in sink.scalars if seen.tag.startswith("after/")] == [
        f"after/{name}" for name in names * 2
    ]
    assert {seen.stream for seen in sink.scalars} == {str(logs)}
    assert {seen.stream for seen in sink.events} == {str(logs)}
    assert logs.exists() is keep
    if not keep:
        assert family.files(tmp_path) == [tmp_path / "model.xml"]


def test_steps_times_and_tags_are_handed_down(family: Any, keep: bool, tmp_path: Path) -> None:
    values = np.arange(3.0)
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_histogram("plain", values, 1)
        writer.add_histogram("plain", values)
        writer.add_histogram("plain", values, 2.5, walltime=12.5)
        writer.add_histogram(tag="a b", values=values, global_step=np.float32(0.5))
        writer.add_histogram("plain", values, np.int64(3))
        writer.add_text("a b", "x", 1)
        writer.close()
    cleaned = None if family.is_torch else "a b"
    assert [seen.hint for seen in sink.events] == [
        None,
        {"no_step": True},
        {"step": 2.5},
        {"step": 0.5, **({"tag": cleaned} if cleaned else {})},
        None,
        {"tag": "a b"},
    ]
    times = [family.parse(seen.data).wall_time for seen in sink.events]
    assert times[2] == 12.5
    assert all(times)


def test_a_call_that_is_refused_brings_nothing(family: Any, keep: bool, tmp_path: Path) -> None:
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        for name, args in (
            ("add_histogram", ("hist", object())),
            ("add_histogram", ("hist",)),
            ("add_histogram", ("hist", iter([1.0, 2.0]))),
            ("add_image", ("image", np.zeros((7, 4, 4)))),
            ("add_text", ("text", 7)),
            ("add_text", ("text", "x", 2**63)),
            ("add_embedding", (np.zeros(3),)),
            ("add_embedding", ()),
            ("add_scalars", ("main", {"a": object()})),
            ("add_scalars", ("main",)),
            ("add_scalars", (7, {"a": 0.1})),
            ("add_scalars", ("main", {"a": 0.1}, 2**63)),
            ("add_hparams", ([("lr", 1)], {})),
        ):
            with pytest.raises(Exception):  # noqa: B017 - TensorBoard's, whatever it is
                getattr(writer, name)(*args)
        writer.add_text("note", "x")
        writer.close()
    assert [seen.hint for seen in sink.events] == [{"tag": "note", "no_step": True}]
    assert not sink.scalars
    assert not sink.files


# -- add_scalars ------------------------------------------------------------------------------


@pytest.mark.parametrize("main", ["losses", "a/b c"])
def test_add_scalars(family: Any, keep: bool, tmp_path: Path, main: str) -> None:
    logs = tmp_path / "logs"
    with family.recording(keep=keep) as sink:
        writer = family.open(str(logs))
        for step in range(3):
            writer.add_scalars(main, {"x y": 0.1, "z": np.float64(step)}, step)
        writer.add_scalars(main, {"z": 7})
        writer.add_scalars(main, {"z": 8}, 2.5, 12.5)
        writer.close()
    assert sink.points(series_tag(main, "x y")) == [(0.1, step) for step in range(3)]
    assert sink.points(series_tag(main, "z")) == [
        (0.0, 0),
        (1.0, 1),
        (2.0, 2),
        (7.0, None),
        (8.0, 2.5),
    ]
    assert sink.scalars[-1].time == 12.5
    assert {seen.stream for seen in sink.scalars} == {str(logs)}
    assert not sink.events


def test_add_scalars_with_a_value_that_tensorboard_has_to_judge(
    family: Any, keep: bool, tmp_path: Path
) -> None:
    odd: Any = "0.1" if family.is_torch else [0.1]
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalars("a/b", {"good": 0.3, "odd": odd, "x/y": 0.2}, "1")
        with pytest.raises(NotImplementedError):
            writer.add_scalars("a/b", {"first": 0.3, "bad": object(), "never": 1.0}, 1)
        writer.close()
    assert [(seen.tag, seen.value, seen.step) for seen in sink.scalars] == [
        (series_tag("a/b", "good"), 0.3, 1),
        (series_tag("a/b", "odd"), 0.1, 1),
        (series_tag("a/b", "x/y"), 0.2, 1),
        (
            series_tag("a/b", "first"),
            0.3,
            1,
        ),  # it was written before TensorBoard came to the bad one
    ]
    assert {seen.stream for seen in sink.scalars} == {str(tmp_path / "logs")}
    assert not sink.events


def test_add_scalars_of_something_like_a_dictionary(family: Any, tmp_path: Path) -> None:
    class Pairs:
        def items(self) -> Any:
            return iter([("a", 0.5), ("b", 0.25)])

        def keys(self) -> Any:
            return ["a", "b"]

    with family.recording() as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalars("main", Pairs(), 1)
        writer.close()
    assert [(seen.tag, seen.value) for seen in sink.scalars] == [
        (series_tag("main", "a"), 0.5),
        (series_tag("main", "b"), 0.25),
    ]


def test_add_scalars_when_recording_fails_half_way(family: Any, tmp_path: Path) -> None:
    from tracelet import _guard
    from tracelet.testing.fakes import RecordingSink

    class Stumbling(RecordingSink):
        left = 1

        def scalar(self, *args: Any) -> None:
            self.left -= 1
            if self.left == 0:
                raise OSError("once")
            super().scalar(*args)

    sink = Stumbling()
    integration = family.integration()
    integration.install(sink)
    with _guard.collecting() as errors:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_scalars("main", {"a": 0.1, "b": 0.2}, 1)
        writer.close()
    integration.uninstall()
    assert errors == []  # it came with its event: nothing was lost
    assert sorted((seen.tag, seen.value) for seen in sink.scalars) == [
        (series_tag("main", "a"), 0.1),
        (series_tag("main", "b"), 0.2),
    ]
    assert not sink.events


def test_tensorboardx_can_still_export_its_scalars(keep: bool, tmp_path: Path) -> None:
    with Family("tensorboardx").recording(keep=keep):
        writer = Family("tensorboardx").open(str(tmp_path / "logs"))
        writer.add_scalars("main", {"a": 0.5}, 3)
        writer.export_scalars_to_json(str(tmp_path / "all.json"))
        writer.close()
    assert "0.5" in (tmp_path / "all.json").read_text()


# -- add_hparams ------------------------------------------------------------------------------


class Color(str, enum.Enum):
    RED = "red"


def test_add_hparams(family: Any, keep: bool, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    given: dict[str, Any] = {
        "lr": 0.1,
        "big": 2**53 + 1,
        "on": True,
        "name": "x",
        "none": None,
        "color": Color.RED,
        "numpy": np.float64(0.3),
    }
    if not family.is_torch:
        given.update(optimizer=dict, layers=[1, 2])
    with family.recording(keep=keep) as sink:
        writer = family.open(str(logs))
        writer.add_scalar("loss", 0.5, 1)
        writer.add_hparams(given, {"accuracy": 0.1, "loss/final": np.float32(0.5)})
        writer.add_scalar("loss", 0.25, 2)
        writer.close()
    assert {seen.stream for seen in [*sink.scalars, *sink.events]} == {str(logs)}
    assert sink.points("accuracy") == [(0.1, None)]
    assert sink.points("loss/final") == [(0.5, None)]
    hints = [seen.hint for seen in sink.events]
    assert len(hints) == 3
    assert hints[0] is None
    assert hints[2] is None
    assert hints[1] is not None
    hparams = hints[1]["hparams"]
    assert family.parse(sink.events[1].data).summary.value[0].tag == (
        "_hparams_/session_start_info"
    )
    wanted = {
        "lr": 0.1,
        "big": 2**53 + 1,
        "on": True,
        "name": "x",
        "none": None,
        "color": "red",
        "numpy": 0.3,
    }
    if not family.is_torch:
        wanted.update(optimizer="dict", layers="[1, 2]")
    assert hparams == wanted
    assert {name: type(value) for name, value in hparams.items()} == {
        name: type(value) for name, value in wanted.items()
    }
    assert logs.exists() is keep


def test_add_hparams_with_a_step_and_a_name(family: Any, keep: bool, tmp_path: Path) -> None:
    name = {"run_name" if family.is_torch else "name": "trial"}
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_hparams({"lr": 1}, {"accuracy": 1}, global_step=3, **name)
        writer.close()
    assert sink.points("accuracy") == [(1.0, 3)]
    assert {seen.stream for seen in sink.events} == {str(tmp_path / "logs")}


def test_hparams_that_are_tensors(keep: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with Family("tensorboard").recording(keep=keep) as sink:
        writer = Family("tensorboard").open(str(tmp_path / "logs"))
        writer.add_hparams({"lr": torch.tensor([0.5])}, {"accuracy": 1})
        writer.close()
    assert sink.events[1].hint == {"hparams": {"lr": 0.5}}


# -- add_histogram ----------------------------------------------------------------------------


def _model() -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))


@pytest.mark.parametrize(
    "given",
    [
        lambda model: model.parameters(),
        lambda model: list(model.parameters()),
        lambda model: tuple(model.parameters()),
        lambda model: model.named_parameters(),
        lambda model: model.state_dict(),
        lambda model: model.state_dict().values(),
        lambda model: dict(model.named_parameters()).items(),
        lambda model: (p.detach() for p in model.parameters()),
        lambda model: (p.detach().numpy() for p in model.parameters()),
        lambda model: [None, *model.parameters()],
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_an_iterable_of_tensors_is_one_histogram(
    family: Any, keep: bool, tmp_path: Path, given: Any, named: bool
) -> None:
    model = _model()
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        if named:
            writer.add_histogram(tag="weights", values=given(model), global_step=3)
        else:
            writer.add_histogram("weights", given(model), 3)
        writer.close()
    (seen,) = sink.events
    event = family.parse(seen.data)
    histogram = event.summary.value[0].histo
    everything = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
    assert event.step == 3
    assert histogram.num == everything.size
    assert math.isclose(histogram.sum, everything.astype(float).sum(), rel_tol=1e-9)
    assert histogram.max == everything.max()


def test_a_bfloat16_model(family: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with family.recording() as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_histogram("weights", [torch.ones(3, dtype=torch.bfloat16), torch.zeros(2)], 1)
        writer.close()
    assert family.parse(sink.events[0].data).summary.value[0].histo.num == 5


def test_what_is_no_iterable_of_tensors_goes_through_untouched(
    family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model()
    seen: list[Any] = []
    monkeypatch.setattr(
        family.module.SummaryWriter, "add_histogram", lambda self, tag, values: seen.append(values)
    )
    values = [
        *model.parameters(),
        np.zeros(3),
        [1.0, 2.0],
        (),
        [],
        iter([]),
        "text",
        None,
        {"a": 1.0},
        [np.zeros(3), "x"],
        object(),
        1.5,
    ]
    with family.recording():
        writer = family.open(str(tmp_path / "logs"))
        for value in values:
            writer.add_histogram("weights", value)
        writer.close()
    assert len(seen) == len(values)
    assert all(mine is theirs for mine, theirs in zip(seen, values))


def test_outside_a_run_a_generator_is_refused_as_ever(family: Any, tmp_path: Path) -> None:
    model = _model()
    with family.recording():
        pass
    writer = family.open(str(tmp_path / "logs"))
    with pytest.raises(NotImplementedError):
        writer.add_histogram("weights", model.parameters(), 1)
    writer.close()


# -- add_embedding ----------------------------------------------------------------------------


def _projector_config(sink: Any) -> Any:
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    configs = [
        seen.content
        for seen in sink.files
        if seen.path == "tensorboard/embeddings/projector_config.pbtxt"
    ]
    return text_format.Parse(configs[-1].decode(), ProjectorConfig())


@pytest.mark.parametrize("tag", ["default", "a/b", "größe~%", 'quo"te\\', "..", "", "ü" * 40])
def test_an_embedding_can_be_opened_in_the_projector(
    family: Any, keep: bool, tmp_path: Path, tag: str
) -> None:
    logs = tmp_path / "logs"
    matrix = np.arange(12.0).reshape(4, 3)
    with family.recording(keep=keep) as sink:
        writer = family.open(str(logs))
        writer.add_embedding(matrix, global_step=3, tag=tag)
        writer.add_embedding(matrix * 2, ["a", "b", "c", "d"], tag=tag)
        assert str(family.logdir(writer)) == str(logs)
        writer.add_scalar("loss", 0.1, 1)
        writer.close()
    assert logs.exists() is keep
    assert {seen.stream for seen in [*sink.files, *sink.scalars]} == {str(logs)}
    latest = {seen.path: seen.content for seen in sink.files}
    config = _projector_config(sink)
    assert len(config.embeddings) == 2
    first, second = config.embeddings
    assert first.tensor_name == f"{tag}:00003"
    assert second.tensor_name == f"{tag}:00000"
    rows = latest[f"tensorboard/embeddings/{first.tensor_path}"].decode().splitlines()
    assert [[float(cell) for cell in row.split("\t")] for row in rows] == matrix.tolist()
    assert not first.metadata_path
    assert latest[f"tensorboard/embeddings/{second.metadata_path}"] == b"a\nb\nc\nd\n"
    for path in latest:
        assert ".." not in path.split("/")
        assert path.isascii()
        assert max(map(len, path.split("/"))) <= 160  # nobody has to cut what the file names


def test_an_embedding_with_pictures(family: Any, keep: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.add_embedding(torch.randn(4, 3), label_img=torch.rand(4, 3, 8, 8))
        writer.close()
    latest = {seen.path: seen.content for seen in sink.files}
    sprite = _projector_config(sink).embeddings[0].sprite
    assert list(sprite.single_image_dim) == [8, 8]
    assert latest[f"tensorboard/embeddings/{sprite.image_path}"].startswith(b"\x89PNG")


def test_an_embedding_of_a_closed_writer(family: Any, keep: bool, tmp_path: Path) -> None:
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        writer.close()
        writer.add_embedding(np.zeros((2, 2)))
        writer.add_scalars("main", {"a": 0.5}, 1)
        writer.close()
    assert len(sink.files) == 2
    assert sink.points(series_tag("main", "a")) == [(0.5, 1)]
    assert (tmp_path / "logs").exists() is keep


def test_nothing_is_left_in_the_folder_for_temporary_files(
    family: Any, keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with family.recording(keep=keep):
        writer = family.open(str(tmp_path / "logs"))
        writer.add_embedding(np.zeros((2, 2)))
        with pytest.raises(Exception):  # noqa: B017 - TensorBoard's, whatever it is
            writer.add_embedding(np.zeros(3), tag="bad")
        writer.close()
    assert list(temporary.iterdir()) == []


# -- other writers ----------------------------------------------------------------------------


def test_whoever_uses_the_event_file_writer(family: Any, keep: bool, tmp_path: Path) -> None:
    event_pb2 = family.events.event_pb2
    event = event_pb2.Event(step=3, wall_time=12.5)
    event.summary.value.add(tag="loss", simple_value=0.5)
    logs = tmp_path / "logs"
    with family.recording(keep=keep) as sink:
        writer = family.events.EventFileWriter(str(logs))
        writer.add_event(event)
        writer.add_event(event=event)
        writer.flush()
        assert writer.get_logdir() == str(logs)
        assert isinstance(writer, family.events.EventFileWriter)
        assert type(writer).__name__ == "EventFileWriter"
        if family.is_torch:
            with pytest.raises(TypeError):
                writer.add_event("no event")
        with pytest.raises(TypeError):
            writer.add_event()
        with pytest.raises(TypeError):
            family.events.EventFileWriter()
        writer.close()
    assert [(seen.stream, seen.hint) for seen in sink.events] == [(str(logs), None)] * 2
    assert family.parse(sink.events[0].data) == event
    assert logs.exists() is keep


def test_a_file_writer(family: Any, keep: bool, tmp_path: Path) -> None:
    with family.recording(keep=keep) as sink:
        writer = family.module.FileWriter(str(tmp_path / "logs"))
        summary = family.events.event_pb2.Event().summary
        summary.value.add(tag="loss", simple_value=0.5)
        writer.add_summary(summary, 3)
        writer.close()
    assert family.parse(sink.events[0].data).step == 3


def test_a_writer_of_tensorboard_itself(keep: bool, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tensorboard.summary import Writer

    with Family("tensorboard").recording(keep=keep) as sink:
        writer = Writer(str(tmp_path / "logs"))
        writer.add_scalar("loss", 0.5, 3)
        writer.close()
    event = Family("tensorboard").parse(sink.events[0].data)
    assert (event.step, event.summary.value[0].tag) == (3, "loss")


def test_the_global_writer_of_tensorboardx(keep: bool, tmp_path: Path) -> None:
    from tensorboardX import GlobalSummaryWriter

    with Family("tensorboardx").recording(keep=keep) as sink:
        writer = GlobalSummaryWriter(str(tmp_path / "logs"))
        writer.add_scalar("loss", 0.1)
        writer.add_scalar("loss", 0.2)
        writer.add_text("note", "x")
        writer.close()
    assert sink.points("loss") == [(0.1, 0), (0.2, 1)]
    assert sink.events[0].hint == {"tag": "note"}


def test_torchvis(keep: bool, tmp_path: Path) -> None:
    from tensorboardX import TorchVis

    with Family("tensorboardx").recording(keep=keep) as sink:
        writer = TorchVis(tensorboard={"logdir": str(tmp_path / "logs")})
        writer.add_scalar("loss", 0.1, 3)
        writer.unregister("tensorboard")
    assert sink.points("loss") == [(0.1, 3)]


def test_a_writer_that_was_told_to_write_nothing(keep: bool, tmp_path: Path) -> None:
    family = Family("tensorboardx")
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"), write_to_disk=False)
        writer.add_scalar("loss", 0.1, 3)
        writer.add_scalar("a b", [0.1], 4)
        writer.add_scalars("main", {"a": 0.1, "b": [0.2]}, 5)
        writer.add_scalars("main", {"a": 0.1}, 6)
        writer.add_histogram("a hist", np.zeros(3), 2.5, walltime=12.5)
        writer.close()
    assert [(seen.tag, seen.value, seen.step) for seen in sink.scalars] == [
        ("loss", 0.1, 3),
        ("a b", 0.1, 4),
        (series_tag("main", "a"), 0.1, 5),
        (series_tag("main", "b"), 0.2, 5),
        (series_tag("main", "a"), 0.1, 6),
    ]
    assert {seen.stream for seen in sink.scalars} == {str(tmp_path / "logs")}
    assert sink.events[0].hint == {"tag": "a hist", "step": 2.5}
    event = family.parse(sink.events[0].data)
    assert (event.step, event.wall_time) == (2, 12.5)
    assert not (tmp_path / "logs").exists()


def test_default_step_and_time_of_tensorboardx(keep: bool, tmp_path: Path) -> None:
    family = Family("tensorboardx")
    with family.recording(keep=keep) as sink:
        writer = family.open(str(tmp_path / "logs"))
        with writer.use_metadata(global_step=10):
            writer.add_scalar("a b", 0.1)
            writer.add_scalar("a b", 0.2, 3)
            writer.add_histogram("hist", np.zeros(3))
        with writer.use_metadata(global_step=2.5, walltime=12.5):
            writer.add_scalar("a b", 0.3)
            writer.add_histogram("hist", np.zeros(3))
        with writer.use_metadata(walltime=12.5):
            writer.add_scalar("a b", 0.4)
            writer.add_histogram("hist", np.zeros(3))
        writer.add_scalar("a b", 0.5)
        writer.close()
    points = [(0.1, 10), (0.2, 3), (0.3, 2.5), (0.4, None), (0.5, None)]
    assert sink.points("a b") == points
    assert [seen.time for seen in sink.scalars] == [None, None, 12.5, 12.5, None]
    assert [seen.hint for seen in sink.events] == [None, {"step": 2.5}, {"no_step": True}]
    # Without a time of its own the library writes 1970 into the event; the record has a real one.
    times = [family.parse(seen.data).wall_time for seen in sink.events]
    assert times[0] > 1e9
    assert times[1:] == [12.5, 12.5]
