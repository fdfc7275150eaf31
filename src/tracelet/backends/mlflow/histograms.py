"""
Histograms: a page to play with, a heat map beside the loss curve, and the exact buckets.

``tensorboard/histograms.html`` shows every key in one self-contained page, because MLflow has no
chart for a distribution and its artifact tab runs a page's own script. What it draws is thinned as
a run grows, and the page says so. ``tensorboard/data/histograms-0001.jsonl.gz`` … have all that was
logged, one line each.
"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any, Callable, Iterator

from tracelet.backends.mlflow.artifacts import Artifacts
from tracelet.backends.mlflow.files import private, replace_file
from tracelet.backends.mlflow.heatmap import heat_map
from tracelet.backends.mlflow.images import Image, put_image
from tracelet.backends.mlflow.page import Shown, page
from tracelet.backends.mlflow.parts import Entry, Parts, digest_of
from tracelet.backends.mlflow.rows import Curve, row_of
from tracelet.backends.mlflow.values import text_of
from tracelet.records import Histogram

__all__ = ["Histograms", "page_path"]

#: How many steps the page has in all, shared by its keys, and at most for one key: some 250 bytes
#: each.
_ALL_ROWS = 24_000
_MOST_ROWS = 160
_FEWEST_ROWS = 8
#: The first keys have a place on the page, and the first of them a heat map: two small files each.
_KEYS_DRAWN = 3_000
_KEYS_MAPPED = 250
#: Drawing takes at most one part in so many of the time.
_REST = 20


class Histograms:
    """
    The histograms of one run.

    Args:
        folder: Where they are kept over a restart.
        image_key: Makes the legal key of an image from any text.
        label: Follows ``histograms`` in the names of its files.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        folder: Path,
        image_key: Callable[[str], str],
        label: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parts = Parts(
            folder,
            lambda number: f"tensorboard/data/histograms{label}-{number:04}.jsonl.gz",
            _compressed,
        )
        self._drawn = folder / "drawn"
        self._page = page_path(label)
        self._image_key = image_key
        self._clock = clock
        self._curves: dict[str, Curve] = {}
        #: The last one of each key: most are never drawn, and drawing is what takes long.
        self._last: dict[str, Histogram] = {}
        self._changed: set[str] = set()
        #: Steps of keys that have no place on the page.
        self._left_out = 0
        self._rest_until = 0.0
        self._load()

    @property
    def waiting(self) -> bool:
        """True when something is not in the tracker yet, or not drawn."""
        return self._parts.waiting or bool(self._changed)

    def add(self, histogram: Histogram, artifacts: Artifacts, *, resend: bool = False) -> None:
        """
        Take a histogram, on disk when this returns; the same one again is taken once.

        Args:
            histogram: What to keep.
            artifacts: Where to, should a file be full.
            resend: It may have been taken at any time before.
        """
        line = _line(histogram)
        digest = digest_of(line)
        if self._parts.knows(digest, resend=resend):
            return
        if self._parts.full:
            self._parts.turn(artifacts, self._state())
        self._parts.add(digest, line)
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
        self._parts.upload(artifacts)
        if not self._changed or not (last or self._clock() >= self._rest_until):
            return False
        started = self._clock()
        self._draw(artifacts)
        replace_file(self._drawn, str(self._parts.records).encode())
        ended = self._clock()
        self._rest_until = ended + _REST * (ended - started)
        return True

    def _draw(self, artifacts: Artifacts) -> None:
        self._settle()
        mapped = list(self._curves)[:_KEYS_MAPPED]
        for key in mapped:
            if key in self._changed:
                curve = self._curves[key]
                # One image with one step and one time for the whole run: it replaces itself.
                # MLflow 3.1's page breaks over a single image whose step is not 0.
                title = f"histograms/{key}"
                image = Image(self._image_key(title), title, 0, curve.first_time)
                put_image(artifacts, image, heat_map(curve.rows), shrink=False)
        shown = {
            key: Shown(self._curves[key].rows, self._curves[key].count)
            for key in sorted(self._curves)
        }
        artifacts.put(self._page, page(shown, self._left_out).encode())
        self._changed.clear()

    def _draw_into_curve(self, histogram: Histogram) -> None:
        key = text_of(histogram.key)
        curve = self._curves.get(key)
        if curve is None:
            if len(self._curves) >= _KEYS_DRAWN:
                self._left_out += 1
                return
            curve = self._curves[key] = Curve()
        before = self._last.get(key)
        if before is not None and curve.passes:
            curve.pass_over()
        elif before is not None:
            curve.add(row_of(before), self._share)
        self._last[key] = histogram
        self._changed.add(key)

    def _settle(self) -> None:
        """Bring the curves up to date."""
        for key, histogram in self._last.items():
            self._curves[key].add(row_of(histogram), self._share)
        self._last.clear()
        for curve in self._curves.values():
            curve.thin(self._share)

    @property
    def _share(self) -> int:
        """How many steps of a key are drawn."""
        return min(_MOST_ROWS, max(_FEWEST_ROWS, _ALL_ROWS // max(len(self._curves), 1)))

    def _state(self) -> dict[str, Any]:
        self._settle()
        curves = {key: curve.as_json() for key, curve in self._curves.items()}
        return {"curves": curves, "left_out": self._left_out}

    def _load(self) -> None:
        state = self._parts.state
        self._curves = {key: Curve.from_json(item) for key, item in state.get("curves", {}).items()}
        self._left_out = state.get("left_out", 0)
        for entry in self._parts.entries():
            self._draw_into_curve(_histogram(entry.line))
        drawn = int(self._drawn.read_bytes()) if self._drawn.exists() else 0
        self._changed = set(self._curves) if drawn != self._parts.records else set()


def page_path(label: str = "") -> str:
    """Return where the page is; ``label`` as ``Histograms`` has it."""
    return f"tensorboard/histograms{label}.html"


def _compressed(entries: Iterator[Entry], data: Path, target: Path) -> None:  # noqa: ARG001
    """Write the lines; the same ones make the same bytes."""
    with (
        open(target, "wb", opener=private) as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
    ):
        for entry in entries:
            packed.write(entry.line + b"\n")


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
