"""
Where else a run goes: what was decided after ``run.json`` was written.

``targets.json`` lies beside it and is replaced as a whole, by the holder of ``ship.lock``. A
target has a name like a backend's, and with it a cursor, rejects and a working folder of its own:
``jsonl``, or ``mlflow@2`` where the run goes to that backend already. No secret is in it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional

from tracelet.records import RunInfo

__all__ = ["Target", "merged", "read_targets", "seen_from", "text_of_targets"]

FORMAT = 1


@dataclass(frozen=True)
class Target:
    """
    One more place for a run, or a new beginning at a place that it has.

    ``options`` and ``secrets`` are as in ``RunInfo``; both are None where the place is the one that
    ``run.json`` names, and only the remote run is to be another. ``project`` is what the run
    belongs to there, where that is not what ``run.json`` says.
    """

    options: Optional[Mapping[str, Any]] = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    project: Optional[str] = None


def read_targets(path: Path) -> Mapping[str, Target]:
    """
    Read the file of a run; it is empty where there is none.

    Raises:
        ValueError: It is not one, or of a newer format.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        raise ValueError(f"{path} cannot be read") from None
    if not isinstance(content, dict) or not isinstance(content.get("targets"), dict):
        raise ValueError(f"{path} does not say where a run goes")
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} was written by a newer tracelet; update tracelet to deliver it")
    targets = {}
    for name, found in content["targets"].items():
        options = found.get("options") if isinstance(found, dict) else ""
        secrets = found.get("secrets", {}) if isinstance(found, dict) else ""
        if Path(name).name != name or not isinstance(secrets, dict):
            raise ValueError(f"{path} does not say where a run goes")
        if not (options is None or isinstance(options, dict)):
            raise ValueError(f"{path} does not say where a run goes")
        targets[name] = Target(options, secrets, found.get("project"))
    return targets


def text_of_targets(targets: Mapping[str, Target]) -> bytes:
    """Return the content of the file."""
    content = {
        "format": FORMAT,
        "targets": {name: dataclasses.asdict(each) for name, each in targets.items()},
    }
    return json.dumps(content, indent=1, default=str).encode("utf-8", "surrogatepass")


def merged(info: RunInfo, targets: Mapping[str, Target]) -> RunInfo:
    """Return who a run is, with all the places that it goes to."""
    added = {name: each for name, each in targets.items() if each.options is not None}
    if not added:
        return info
    return dataclasses.replace(
        info,
        backends=[*info.backends, *(name for name in added if name not in info.backends)],
        options={**info.options, **{name: each.options or {} for name, each in added.items()}},
        secrets={**info.secrets, **{name: dict(each.secrets) for name, each in added.items()}},
    )


def seen_from(info: RunInfo, name: str, targets: Mapping[str, Target]) -> RunInfo:
    """
    Return who a run is for one of its targets.

    What a training had open or was told to continue, it had at the place that ``run.json`` names.
    """
    target = targets.get(name)
    if target is None:
        return info
    project = info.project if target.project is None else target.project
    parents = {} if target.options is not None or target.project is not None else info.parents
    return dataclasses.replace(info, project=project, resume={}, adopted=[], parents=parents)
