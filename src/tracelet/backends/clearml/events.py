"""
Records as ClearML's events: one line of JSON each, as ``events.add_batch`` takes them.

An event has a title (``metric``), a series (``variant``), an iteration and a time in milliseconds.
The server writes it under a name made of these, so the same one again changes nothing
(``apiserver/bll/event/event_bll.py``).
"""

from __future__ import annotations

import json
import math
from typing import Optional, Sequence, Union

from tracelet.backends.clearml.names import FRACTION, Names, Place
from tracelet.records import Metric, Step

__all__ = ["MOST_BYTES", "Events", "UnfitError", "requests_of"]

#: The largest request, in bytes: the vendor's client stops at 15 MB, servers at 20.
MOST_BYTES = 8_000_000

_INT64 = 2**63


class UnfitError(Exception):
    """ClearML has no place for this record; the text says why."""


class Events:
    """
    Makes the events of one task.

    Args:
        task: Its id.
        names: Its titles and series.
    """

    def __init__(self, task: str, names: Names) -> None:
        self._task = task
        self._names = names
        self._heads: dict[tuple[str, bool], str] = {}

    def scalars(self, metrics: Sequence[Metric]) -> tuple[list[str], dict[int, str]]:
        """Return the lines of all points, and the reason for each that has none, by its place."""
        lines: list[str] = []
        unfit: dict[int, str] = {}
        finite, heads = math.isfinite, self._heads
        for index, metric in enumerate(metrics):
            value, step = metric.value, metric.step
            if not finite(value):
                unfit[index] = f"{metric.key}: ClearML has no number for {value}"
                continue
            if type(step) is int and -_INT64 <= step < _INT64:
                head = heads.get((metric.key, False)) or self._head(metric.key, fraction=False)
            else:
                try:
                    step, fraction = iteration(step)
                except UnfitError as error:
                    unfit[index] = f"{metric.key}: {error}"
                    continue
                head = heads.get((metric.key, fraction)) or self._head(
                    metric.key, fraction=fraction
                )
            lines.append(f'{head}{round(metric.time * 1000)},"iter":{step},"value":{value!r}}}')
        return lines, unfit

    def plot(self, key: str, step: Step, time: float, figure: object) -> str:
        """
        Return the line of a chart.

        Args:
            key: The key of the record.
            step: Its step.
            time: Its time, in seconds.
            figure: The chart as Plotly has it: ``data`` and ``layout``.

        Raises:
            UnfitError: The step is none that ClearML can hold.
        """
        place, number = self.place(key, step)
        return self._line(
            place, number, time, type="plot", plot_str=json.dumps(figure, ensure_ascii=False)
        )

    def sample(
        self, place: Place, number: int, time: float, *, url: str, path: str, index: int = 0
    ) -> str:
        """
        Return the line of a debug sample: a file that is shown at a title, a series and a step.

        Args:
            place: Where it is shown.
            number: Its iteration.
            time: Its time, in seconds.
            url: Where the file is.
            path: The same, relative to the server.
            index: Which one of a batch it is.
        """
        if index:
            place = place._replace(series=f"{place.series}/{index}")
        return self._line(place, number, time, type="training_debug_image", key=path, url=url)

    def place(self, key: str, step: Step) -> tuple[Place, int]:
        """
        Return where a key's record of a step goes, and its iteration there.

        Raises:
            UnfitError: The step is none that ClearML can hold.
        """
        number, fraction = iteration(step)
        return self._names.place(key, fraction=fraction), number

    def _head(self, key: str, *, fraction: bool) -> str:
        place = self._names.place(key, fraction=fraction)
        head = self._heads[key, fraction] = (
            f'{{"type":"training_stats_scalar","task":{_text(self._task)},'
            f'"metric":{_text(place.title)},"variant":{_text(place.series)},"timestamp":'
        )
        return head

    def _line(self, place: Place, number: int, time: float, **more: object) -> str:
        return json.dumps(
            {
                "task": self._task,
                "metric": place.title,
                "variant": place.series,
                "timestamp": round(time * 1000),
                "iter": number,
                **more,
            },
            ensure_ascii=False,
        )


def iteration(step: Step) -> tuple[int, bool]:
    """
    Return a step as a whole number, and whether it had a fraction.

    Raises:
        UnfitError: It does not fit.
    """
    number: Optional[Union[int, float]] = 0 if step is None else step
    fraction = False
    if isinstance(number, float):
        if not math.isfinite(number):
            raise UnfitError(f"ClearML has no iteration for the step {number}")
        fraction = number != int(number)
        number = round(number * FRACTION) if fraction else int(number)
    if number is None or not -_INT64 <= number < _INT64:
        raise UnfitError(f"the step {step} is outside the 64 bits that ClearML has for it")
    return int(number), fraction


def requests_of(lines: Sequence[str]) -> list[bytes]:
    """Return the bodies of as few requests as the server's limit allows."""
    bodies: list[bytes] = []
    whole = "\n".join(lines).encode("utf-8", "replace")
    if len(whole) <= MOST_BYTES:
        return [whole] if whole else []
    part: list[bytes] = []
    size = 0
    for line in lines:
        data = line.encode("utf-8", "replace")
        if part and size + len(data) > MOST_BYTES:
            bodies.append(b"\n".join(part))
            part, size = [], 0
        part.append(data)
        size += len(data) + 1
    return [*bodies, b"\n".join(part)]


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
