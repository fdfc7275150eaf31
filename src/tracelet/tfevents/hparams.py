"""
What the ``hparams`` plugin says: hyperparameters as parameters of the run.

The plugin writes three events (``plugin_data.proto`` and ``api.proto`` of TensorBoard's plugin).
The start of a session holds the values, which become ``Param``. Its group, model and monitor, and
an end that was no success, become labels. The description of the experiment repeats names that
the values and metrics have anyway; only where it says more (a domain, a description) is it worth
keeping, and then it is kept as a raw event.
"""

from __future__ import annotations

import json
from typing import Any, Final, Mapping, Optional, Union

from tracelet.naming import flatten
from tracelet.records import Param, Scalar, Tag
from tracelet.tfevents.event import read_event, read_values
from tracelet.tfevents.wire import FIXED64, LENGTH, VARINT, Wire, WireError, head

_MAX_DEPTH: Final = 16
_LABELS: Final = {2: "hparams.model_uri", 3: "hparams.monitor_url", 4: "hparams.group"}
_STATUS: Final = {2: "FAILURE", 3: "RUNNING"}


def read_hparams(
    wire: Wire, time: float, stream: str, exact: Optional[Mapping[str, Any]]
) -> Optional[list[Union[Param, Tag]]]:
    """
    Return what the data of the plugin comes down to, or None if it has to be kept as it is.

    Args:
        wire: The serialized ``HParamsPluginData``.
        time: Seconds since the epoch, for the records.
        stream: The log directory.
        exact: The dictionary that the user gave. Its values win over those of the event, where
            all numbers are doubles.

    Raises:
        WireError: The bytes are no such data.
    """
    found: list[Union[Param, Tag]] = []
    for mark, start, end in wire.fields():
        if mark == head(2, LENGTH):
            if not _is_bare(wire, start, end):
                return None
        elif mark == head(3, LENGTH):
            found += _session_start(wire, start, end, time, stream, exact)
        elif mark == head(4, LENGTH):
            found += _session_end(wire, start, end, time)
    return found


def _session_start(
    wire: Wire,
    start: int,
    end: int,
    time: float,
    stream: str,
    exact: Optional[Mapping[str, Any]],
) -> list[Union[Param, Tag]]:
    values: dict[str, Scalar] = flatten(exact) if exact else {}
    labels: list[Union[Param, Tag]] = []
    for mark, low, high in wire.fields(start, end):
        if mark == head(1, LENGTH):
            name, value = _entry(wire, low, high)
            if not exact or name not in exact:
                values[name] = value
        elif mark >> 3 in _LABELS and mark & 7 == LENGTH and high > low:
            labels.append(Tag(_LABELS[mark >> 3], wire.text(low, high), time))
    return [Param(name, value, time, stream) for name, value in values.items()] + labels


def _session_end(wire: Wire, start: int, end: int, time: float) -> list[Union[Param, Tag]]:
    status = 0
    for mark, value, _ in wire.fields(start, end):
        if mark == head(1, VARINT):
            status = value
    return [Tag("hparams.status", _STATUS[status], time)] if status in _STATUS else []


def _entry(wire: Wire, start: int, end: int) -> tuple[str, Scalar]:
    """Return one entry of the map from names to values."""
    name = ""
    value: Any = None
    for mark, low, high in wire.fields(start, end):
        if mark == head(1, LENGTH):
            name = wire.text(low, high)
        elif mark == head(2, LENGTH):
            value = _value(wire, low, high, 0)
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    return name, value


def _value(wire: Wire, start: int, end: int, depth: int) -> Any:
    """Return a ``google.protobuf.Value``: what JSON can hold."""
    if depth > _MAX_DEPTH:
        raise WireError("a value that is nested too deeply")
    value: Any = None
    for mark, low, high in wire.fields(start, end):
        if mark == head(2, FIXED64):
            value = wire.double(low)
        elif mark == head(3, LENGTH):
            value = wire.text(low, high)
        elif mark == head(4, VARINT):
            value = bool(low)
        elif mark == head(5, LENGTH):
            value = {}
            for inner, first, last in wire.fields(low, high):
                if inner == head(1, LENGTH):
                    key, item = _field(wire, first, last, depth)
                    value[key] = item
        elif mark == head(6, LENGTH):
            value = [
                _value(wire, first, last, depth + 1)
                for inner, first, last in wire.fields(low, high)
                if inner == head(1, LENGTH)
            ]
    return value


def _field(wire: Wire, start: int, end: int, depth: int) -> tuple[str, Any]:
    key, item = "", None
    for mark, low, high in wire.fields(start, end):
        if mark == head(1, LENGTH):
            key = wire.text(low, high)
        elif mark == head(2, LENGTH):
            item = _value(wire, low, high, depth + 1)
    return key, item


def read_experiment(data: bytes) -> dict[str, Any]:
    """
    Return what a serialized event says of an experiment: hyperparameters, domains, metrics.

    Only what is said is in it, under the names of ``api.proto``.

    Raises:
        WireError: The event says no such thing.
    """
    wire = Wire(data)
    event = read_event(wire)
    for value in read_values(wire, event) if event.what == "summary" else ():
        if value.plugin is None or value.plugin.name != "hparams":
            continue
        content = Wire(value.plugin.content, wire)
        for mark, start, end in content.fields():
            if mark == head(2, LENGTH):
                return _experiment(content, start, end)
    raise WireError("an event without an experiment")


def _experiment(wire: Wire, start: int, end: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    names = {1: "description", 2: "user", 6: "name"}
    for mark, low, high in wire.fields(start, end):
        number = mark >> 3
        if number in names and mark & 7 == LENGTH:
            found[names[number]] = wire.text(low, high)
        elif mark == head(3, FIXED64):
            found["time_created_secs"] = wire.double(low)
        elif mark == head(4, LENGTH):
            found.setdefault("hparams", []).append(_hparam_info(wire, low, high))
        elif mark == head(5, LENGTH):
            found.setdefault("metrics", []).append(_metric_info(wire, low, high))
    return found


_TYPES: Final = {1: "string", 2: "bool", 3: "float64"}
_DATASETS: Final = {1: "training", 2: "validation"}


def _hparam_info(wire: Wire, start: int, end: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    names = {1: "name", 2: "display_name", 3: "description"}
    for mark, low, high in wire.fields(start, end):
        number = mark >> 3
        if number in names and mark & 7 == LENGTH:
            found[names[number]] = wire.text(low, high)
        elif mark == head(4, VARINT) and low in _TYPES:
            found["type"] = _TYPES[low]
        elif mark == head(5, LENGTH):
            found["domain_discrete"] = [
                _value(wire, first, last, 0)
                for inner, first, last in wire.fields(low, high)
                if inner == head(1, LENGTH)
            ]
        elif mark == head(6, LENGTH):
            ends = {1: "min_value", 2: "max_value"}
            found["domain_interval"] = {
                ends[inner >> 3]: wire.double(first)
                for inner, first, _ in wire.fields(low, high)
                if inner >> 3 in ends and inner & 7 == FIXED64
            }
    return found


def _metric_info(wire: Wire, start: int, end: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    names = {3: "display_name", 4: "description"}
    parts = {1: "group", 2: "tag"}
    for mark, low, high in wire.fields(start, end):
        number = mark >> 3
        if number in names and mark & 7 == LENGTH:
            found[names[number]] = wire.text(low, high)
        elif mark == head(1, LENGTH):
            for inner, first, last in wire.fields(low, high):
                if inner >> 3 in parts and inner & 7 == LENGTH:
                    found[parts[inner >> 3]] = wire.text(first, last)
        elif mark == head(5, VARINT) and low in _DATASETS:
            found["dataset_type"] = _DATASETS[low]
    return found


def _is_bare(wire: Wire, start: int, end: int) -> bool:
    """Tell whether an experiment names hyperparameters and metrics and says no more of them."""
    for mark, low, high in wire.fields(start, end):
        number = mark >> 3
        if number == 4:  # a hyperparameter: its name and its type
            if any(inner >> 3 not in {1, 4} for inner, _, _ in wire.fields(low, high)):
                return False
        elif number == 5:  # a metric: its name
            if any(inner >> 3 != 1 for inner, _, _ in wire.fields(low, high)):
                return False
        elif number in {1, 2, 6} and high > low:
            return False
    return True
