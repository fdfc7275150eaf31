"""
Histograms: a page to play with, a heat map beside the loss curve, and the exact buckets.

``tensorboard/histograms.html`` shows every key and step in one self-contained page, because
MLflow has no chart for a distribution and its artifact tab runs a page's own script.
``tensorboard/histograms/buckets-0001.jsonl`` … has what was logged, one line each.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Callable

from tracelet.backends.mlflow.artifacts import Artifacts
from tracelet.backends.mlflow.files import replace_file
from tracelet.backends.mlflow.heatmap import heat_map
from tracelet.backends.mlflow.images import Image, put_image
from tracelet.backends.mlflow.journal import Journal
from tracelet.backends.mlflow.page import page
from tracelet.backends.mlflow.rows import Curve, row_of
from tracelet.backends.mlflow.values import text_of
from tracelet.records import Histogram

__all__ = ["PAGE", "Histograms"]

PAGE = "tensorboard/histograms.html"

_CHUNK_BYTES = 2_000_000
#: How many steps the page has in all, shared by its keys, and at most for one key.
_ALL_ROWS = 24_000
_MOST_ROWS = 160
_FEWEST_ROWS = 16
#: Drawing takes at most one part in so many of the time.
_REST = 20


class Histograms:
    """
    The histograms of one run.

    Args:
        folder: Where they are kept over a restart.
        image_key: Makes the legal key of an image from any text.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        folder: Path,
        image_key: Callable[[str], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = Journal(folder, _CHUNK_BYTES)
        self._drawn = folder / "drawn.json"
        self._image_key = image_key
        self._clock = clock
        self._curves: dict[str, Curve] = {}
        self._changed: set[str] = set()
        self._line = 0
        self._rest_until = 0.0
        self._load()

    @property
    def waiting(self) -> bool:
        """True when something is not in the tracker yet, or not drawn."""
        return self._journal.dirty or bool(self._changed)

    def add(self, histogram: Histogram) -> None:
        """Take a histogram, on disk when this returns; the same one again is taken once."""
        line = _line(histogram)
        if self._journal.append(line):
            self._line += 1
            self._draw_into_curve(histogram)

    def upload(self, artifacts: Artifacts, *, last: bool) -> bool:
        """
        Bring the buckets, and now and then the drawings, into the tracker.

        Args:
            artifacts: Where to.
            last: Draw in any case: nothing comes afterwards.

        Returns:
            Whether there is now an image that there was not before this call.
        """
        if self._journal.dirty:
            self._journal.sync()
            name = f"tensorboard/histograms/buckets-{self._journal.number:04}.jsonl"
            artifacts.put(name, self._journal.current)
        drew = False
        if self._changed and (last or self._clock() >= self._rest_until):
            started = self._clock()
            self._draw(artifacts)
            drew = True
            ended = self._clock()
            self._rest_until = ended + _REST * (ended - started)
        number = self._journal.number
        if self._journal.dirty:
            # What follows may begin a new chunk and drop an old one, whose lines must be in here.
            self._save(number, self._line)
            self._journal.uploaded()
            if self._journal.number != number:
                self._line = 0
                self._save(self._journal.number, 0)
        elif drew:
            self._save(number, self._line)
        return drew

    def _draw(self, artifacts: Artifacts) -> None:
        for key in sorted(self._changed):
            curve = self._curves[key]
            # One image with one step and one time for the whole run: it replaces itself. MLflow
            # 3.1's page breaks over a single image whose step is not 0.
            title = f"histograms/{key}"
            image = Image(self._image_key(title), title, 0, curve.first_time)
            put_image(artifacts, image, heat_map(curve.rows), shrink=False)
        curves = {key: self._curves[key].rows for key in sorted(self._curves)}
        artifacts.put(PAGE, page(curves).encode())
        self._changed.clear()

    def _draw_into_curve(self, histogram: Histogram) -> None:
        key = text_of(histogram.key)
        curve = self._curves.setdefault(key, Curve())
        share = _ALL_ROWS // len(self._curves)
        curve.add(row_of(histogram), min(_MOST_ROWS, max(_FEWEST_ROWS, share)))
        self._changed.add(key)

    def _save(self, number: int, line: int) -> None:
        state = {
            "chunk": number,
            "line": line,
            "changed": sorted(self._changed),
            "curves": {key: curve.as_json() for key, curve in self._curves.items()},
        }
        replace_file(self._drawn, json.dumps(state).encode())

    def _load(self) -> None:
        chunk, line = 0, 0
        if self._drawn.exists():
            state = json.loads(self._drawn.read_bytes())
            chunk, line = state["chunk"], state["line"]
            self._changed = set(state["changed"])
            self._curves = {key: Curve.from_json(item) for key, item in state["curves"].items()}
        for number in (self._journal.number - 1, self._journal.number):
            for index, found in enumerate(self._journal.lines(number)):
                if (number, index) >= (chunk, line):
                    self._draw_into_curve(_histogram(found))
                if number == self._journal.number:
                    self._line = index + 1


def _line(histogram: Histogram) -> bytes:
    found = {
        "key": text_of(histogram.key),
        "step": histogram.step,
        "time": histogram.time,
        "edges": list(histogram.edges),
        "counts": list(histogram.counts),
        "min": histogram.min,
        "max": histogram.max,
        "sum": histogram.sum,
        "sum_squares": histogram.sum_squares,
    }
    return json.dumps(found, separators=(",", ":")).encode()


def _histogram(line: bytes) -> Histogram:
    return Histogram(**json.loads(line))
