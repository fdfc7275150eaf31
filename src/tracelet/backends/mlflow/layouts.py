"""
The layouts of ``add_custom_scalars``: which metrics somebody wants to see in one chart.

MLflow has no call for a chart of several metrics; its page lets a person add one by hand. So the
layout becomes ``tensorboard/custom_scalars.json``: categories, their charts, and for each chart the
tags as they were given and the metrics of this run that they mean.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Mapping, Optional

from tracelet.backends.mlflow.artifacts import Artifacts
from tracelet.backends.mlflow.files import replace_file
from tracelet.backends.mlflow.render.files import as_json
from tracelet.records import Media

__all__ = ["Layouts"]

#: What the writers call the value; a stream stands before it.
_TAG = "custom_scalars__config__"
#: A pattern beyond these could take for ever, and is not tried.
_MOST_CHARACTERS = 200
_MOST_REPEATS = 3
#: The metrics that one chart names.
_MOST_METRICS = 200


class Layouts:
    """
    The layouts of one run, one category after the other; a later one of a name takes its place.

    Args:
        path: Where they are kept over a restart.
        label: Is in the page's name, for a run that others wrote to before.
    """

    def __init__(self, path: Path, label: str = "") -> None:
        self._path = path
        self._page = f"tensorboard/custom_scalars{label}.json"
        self._categories: dict[str, dict[str, Any]] = {}
        self._sent = b""
        #: How many metrics were known when the page was made.
        self._known = -1
        if path.exists():
            self._categories = json.loads(path.read_bytes())

    @property
    def present(self) -> bool:
        """True when there is a layout."""
        return bool(self._categories)

    def add(self, media: Media) -> None:
        """Take a layout, on disk when this returns."""
        layout = media.meta.get("layout")
        if not isinstance(layout, dict):
            return
        prefix = media.key[: -len(_TAG)] if media.key.endswith(_TAG) else ""
        for title, charts in layout.items():
            self._categories[prefix + title] = {
                "title": prefix + title,
                "prefix": prefix,
                "charts": [
                    {"title": name, "kind": str(kind).lower(), "tags": list(tags)}
                    for name, (kind, tags) in charts.items()
                ],
            }
        self._known = -1
        replace_file(self._path, json.dumps(self._categories).encode())

    def upload(self, artifacts: Artifacts, metrics: Mapping[str, str]) -> None:
        """
        Bring the page into the tracker, when it says something new.

        Args:
            artifacts: Where to.
            metrics: The run's metrics: the key as it was logged → as the run has it.
        """
        if len(metrics) == self._known:
            return
        found = []
        for category in self._categories.values():
            charts = [
                {**chart, "metrics": _meant(chart, category["prefix"], metrics)}
                for chart in category["charts"]
            ]
            found.append({"title": category["title"], "charts": charts})
        page = as_json({"categories": found})
        if page != self._sent:
            artifacts.put(self._page, page)
            self._sent = page
        self._known = len(metrics)


def _meant(chart: Mapping[str, Any], prefix: str, metrics: Mapping[str, str]) -> list[Any]:
    """
    Return the metrics that the tags of a chart mean.

    The tags of lines are patterns for the beginning of a tag, as TensorBoard's page has it
    (``custom_scalars_plugin.py``); those of a margin chart are names, three to a line, and one that
    was not logged yet is null.
    """
    tags = chart["tags"]
    if chart["kind"] == "margin":
        return [metrics.get(prefix + tag) for tag in tags]
    found: dict[str, None] = {}
    for tag in tags:
        if prefix + tag in metrics:
            found[metrics[prefix + tag]] = None
        pattern = _pattern(tag)
        if pattern is None:
            continue
        for raw, name in metrics.items():
            if raw.startswith(prefix) and pattern.match(raw, len(prefix)):
                found[name] = None
    return list(found)[:_MOST_METRICS]


def _pattern(tag: str) -> Optional[re.Pattern[str]]:
    """Return a tag as a pattern, unless it is none, or one that may take for ever."""
    repeats = len(re.findall(r"[*+}]", tag))
    repeated_group = re.search(r"\)[*+?{]", tag)
    if len(tag) > _MOST_CHARACTERS or repeats > _MOST_REPEATS or repeated_group:
        return None
    try:
        return re.compile(tag)
    except (re.error, OverflowError, RecursionError):
        return None
