"""
From the values of a summary to records.

A value says what it is either by its own member (scalars, histograms, images and sounds of the old
kind) or by the plugin that it belongs to, and then it is a tensor. Names are tags, as raw as they
are known: the hint's tag where the event has one name only, else the event's without the suffix
that ``add_text`` and ``add_mesh`` put behind it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable, ClassVar, Final, Optional, Sequence

from tracelet.records import Histogram, Media, Metric, Record, Text
from tracelet.tfevents.event import Event, Plugin, Value, excerpt, read_stamp, read_values
from tracelet.tfevents.hints import Hint
from tracelet.tfevents.histograms import Buckets, read_histogram, read_histogram_tensor
from tracelet.tfevents.hparams import read_hparams
from tracelet.tfevents.media import (
    Clip,
    read_audio,
    read_audio_tensor,
    read_image,
    read_image_tensor,
)
from tracelet.tfevents.plugins import read_curve, read_layout, read_mesh
from tracelet.tfevents.tensor import read_numbers, read_tensor
from tracelet.tfevents.text import read_text
from tracelet.tfevents.wire import Wire, WireError

EVENT_MIME: Final = "application/x-tfevent"

#: What ``add_text`` of torch and tensorboardX, and TensorFlow 1, put behind the user's tag.
_TEXT_SUFFIX: Final = "/text_summary"
#: Plugins of TensorFlow 2 whose tensors hold a graph or a profile of one.
_GRAPHS: Final = frozenset(
    {
        "graphs",
        "graph_keras_model",
        "graph_run_metadata",
        "graph_run_metadata_graph",
        "graph_tagged_run_metadata",
    }
)
_MAX_TAGS: Final = 100_000
_MAX_CONTENT: Final = 65_536

#: What the first value of a tag said, by stream and tag: TensorFlow says it once per file.
Plugins = dict[tuple[str, str], Plugin]


def is_light_value(wire: Wire, value: Value) -> bool:
    """Tell whether a value becomes metrics, parameters and labels. Raises WireError."""
    if value.plugin is not None and value.plugin.name == "hparams":
        return read_hparams(Wire(value.plugin.content, wire), 0.0, "", None) is not None
    if _is_scalar(value) and value.what == "tensor":
        _read_scalar(wire, value)
        return True
    return value.what == "simple_value"


class Summary:
    """
    One summary event on its way to records.

    Args:
        wire: Its bytes.
        event: Its frame.
        stream: The log directory.
        hint: What the event no longer knows.
        plugins: What is known from earlier events of the same file; None: nothing, ever.

    Raises:
        WireError: The event's values cannot be told apart.
    """

    def __init__(
        self, wire: Wire, event: Event, stream: str, hint: Hint, plugins: Optional[Plugins]
    ) -> None:
        self._wire = wire
        self._time = event.time
        self._step = hint.step_of(event.step)
        self._stream = stream
        self._hint = hint
        values = [_remembered(value, stream, plugins) for value in read_values(wire, event)]
        names = [self._name(value) for value in values]
        if hint.name is not None and len(set(names)) == 1:
            names = [hint.name] * len(names)
        self._values = list(zip(names, values))
        self._one_scalar = sum(map(_is_scalar, values)) == 1
        self._members: Counter[tuple[str, str]] = Counter()
        self._stamp: Optional[bytes] = None
        self._found: list[Record] = []

    def records(self) -> list[Record]:
        """Return the records in the order of the values; meshes and what is left come last."""
        self._found = []
        meshes: dict[str, tuple[list[Value], dict[str, Any]]] = {}
        left: list[tuple[str, Value, str]] = []
        for name, value in self._values:
            try:
                if _plugin(value) == "mesh" and value.what == "tensor":
                    self._add_mesh_part(name, value, meshes)
                else:
                    self._read(name, value)
            except WireError as error:
                left.append((name, value, str(error)))
        for name, (parts, meta) in meshes.items():
            self._keep("mesh", name, parts, meta)
        if left:
            name, first, reason = left[0]
            meta = {"reason": reason, "plugin": _plugin(first), "values": len(left)}
            self._keep("raw", name, [value for _, value, _ in left], meta)
        return self._found

    def _name(self, value: Value) -> str:
        plugin = _plugin(value)
        if plugin == "mesh" and value.plugin is not None:
            try:
                return read_mesh(self._wire, value.span, value.plugin.content)[0] or value.tag
            except WireError:
                return value.tag
        if plugin == "text" and value.tag.endswith(_TEXT_SUFFIX):
            return value.tag[: -len(_TEXT_SUFFIX)]
        return value.tag

    def _read(self, name: str, value: Value) -> None:
        """Make records of one value. Raises WireError if it is not understood."""
        plugin = _plugin(value)
        if plugin == "hparams" and value.plugin is not None:
            self._add_hparams(value.plugin)
        elif value.what == "simple_value":
            self._add_metric(name, value.number)
        elif value.what in self._OLD:
            self._OLD[value.what](self, name, value)
        elif value.what == "tensor" and plugin in self._NEW:
            self._NEW[plugin](self, name, value)
        elif value.what == "tensor":
            tensor = read_tensor(self._wire, value.span)
            raise WireError(f"a tensor of type {tensor.dtype} and shape {list(tensor.shape)[:8]}")
        else:
            raise WireError("a value of an unknown kind")

    def _add_scalar(self, name: str, value: Value) -> None:
        self._add_metric(name, _read_scalar(self._wire, value))

    def _add_metric(self, name: str, number: float) -> None:
        if self._one_scalar:
            number = self._hint.value_of(number)
        self._found.append(Metric(name, number, self._step, self._time, self._stream))

    def _add_hparams(self, plugin: Plugin) -> None:
        data = Wire(plugin.content, self._wire)
        found = read_hparams(data, self._time, self._stream, self._hint.hparams)
        if found is None:
            raise WireError("an experiment that says more than names")
        self._found += found

    def _add_histogram(self, name: str, value: Value) -> None:
        self._add_buckets(name, read_histogram(self._wire, value.span))

    def _add_histogram_tensor(self, name: str, value: Value) -> None:
        self._add_buckets(name, read_histogram_tensor(self._wire, value.span))

    def _add_buckets(self, name: str, buckets: Buckets) -> None:
        self._found.append(Histogram(name, *buckets, self._step, self._time, self._stream))

    def _add_image(self, name: str, value: Value) -> None:
        self._add_clips(name, read_image(self._wire, value.span))

    def _add_image_tensor(self, name: str, value: Value) -> None:
        self._add_clips(name, read_image_tensor(self._wire, value.span))

    def _add_audio(self, name: str, value: Value) -> None:
        self._add_clips(name, read_audio(self._wire, value.span))

    def _add_audio_tensor(self, name: str, value: Value) -> None:
        self._add_clips(name, read_audio_tensor(self._wire, value.span))

    def _add_clips(self, name: str, clips: Sequence[Clip]) -> None:
        for kind, data, mime, meta in clips:
            self._add_media(kind, name, data, mime, meta)

    def _add_text(self, name: str, value: Value) -> None:
        text = read_text(self._wire, value.span)
        self._found.append(Text(name, text, self._step, self._time, self._stream))

    def _add_curve(self, name: str, value: Value) -> None:
        self._keep("pr_curve", name, [value], read_curve(self._wire, value.span))

    def _add_layout(self, name: str, value: Value) -> None:
        layout = read_layout(self._wire, value.span)
        self._keep("custom_scalars", name, [value], {"layout": layout})

    def _add_graph(self, name: str, value: Value) -> None:
        self._keep("graph", name, [value], {"part": _plugin(value)})

    def _add_mesh_part(
        self, name: str, value: Value, meshes: dict[str, tuple[list[Value], dict[str, Any]]]
    ) -> None:
        content = value.plugin.content if value.plugin else b""
        _, meta = read_mesh(self._wire, value.span, content)
        parts, known = meshes.setdefault(name, ([], {}))
        parts.append(value)
        known.update(meta)

    def _keep(self, kind: str, name: str, values: Sequence[Value], meta: dict[str, Any]) -> None:
        """Keep values as an event: the whole one, when they are all that it holds."""
        data = self._wire.data
        if len(values) < len(self._values):
            if self._stamp is None:
                self._stamp = read_stamp(data)
            data = excerpt(data, self._stamp, values)
        self._add_media(kind, name, data, EVENT_MIME, meta)

    def _add_media(
        self, kind: str, name: str, data: bytes, mime: str, meta: dict[str, Any]
    ) -> None:
        index = self._members[kind, name]
        self._members[kind, name] += 1
        self._found.append(
            Media(kind, name, data, mime, self._step, self._time, self._stream, index, meta)
        )

    #: By the member that holds the value.
    _OLD: ClassVar[dict[str, Callable[[Summary, str, Value], None]]] = {
        "audio": _add_audio,
        "histo": _add_histogram,
        "image": _add_image,
    }
    #: Tensors, by the plugin.
    _NEW: ClassVar[dict[str, Callable[[Summary, str, Value], None]]] = {
        "audio": _add_audio_tensor,
        "custom_scalars": _add_layout,
        "histograms": _add_histogram_tensor,
        "images": _add_image_tensor,
        "pr_curves": _add_curve,
        "scalars": _add_scalar,
        "text": _add_text,
        **dict.fromkeys(_GRAPHS, _add_graph),
    }


def _remembered(value: Value, stream: str, plugins: Optional[Plugins]) -> Value:
    """Return the value with the plugin that its tag is known to belong to."""
    if plugins is None:
        return value
    if value.plugin is None:
        return value._replace(plugin=plugins.get((stream, value.tag)))
    if (
        len(plugins) < _MAX_TAGS
        and len(value.plugin.content) <= _MAX_CONTENT
        and value.plugin.name != "hparams"  # all that it says is in the metadata of that one value
    ):
        plugins.setdefault((stream, value.tag), value.plugin)
    return value


def _plugin(value: Value) -> str:
    return value.plugin.name if value.plugin else ""


def _is_scalar(value: Value) -> bool:
    if value.what == "tensor":
        return _plugin(value) == "scalars"
    return value.what == "simple_value"


def _read_scalar(wire: Wire, value: Value) -> float:
    tensor = read_tensor(wire, value.span)
    if tensor.elements != 1:
        raise WireError(f"a scalar of shape {list(tensor.shape)[:8]}")
    return read_numbers(wire, tensor)[0]
