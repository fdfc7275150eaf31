"""Which file belongs to which run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping, Optional

from tracelet.backends.jsonl.names import file_name, short_hash
from tracelet.records import RunInfo

SUFFIX = ".jsonl"


def remote_id(path: Path) -> str:
    """Return the id of the run whose file this is: ``project/name`` as on disk."""
    return f"{path.parent.name}/{path.name[: -len(SUFFIX)]}"


def path_of(folder: Path, run_id: str) -> Optional[Path]:
    """Return the file that an id means; None when it is no id of this backend."""
    parts = run_id.split("/")
    if len(parts) != 2 or any(part[:1] in ("", ".") or set(part) & set("\\:\0") for part in parts):
        return None
    return folder / parts[0] / (parts[1] + SUFFIX)


def find(folder: Path, run: RunInfo) -> tuple[Path, bool]:
    """
    Return the file of a run, and whether it exists.

    The first run of a name has the name for itself. The file of a later one also says which run it
    belongs to, so it is found again without a look into the others.
    """
    project = folder / file_name(run.project or "default")
    name = file_name(run.name or run.run_id)
    plain = project / (name + SUFFIX)
    own = project / f"{name}~{short_hash(run.run_id)}{SUFFIX}"
    # `own` belongs to this run even when a crash came before its first line.
    if own.exists():
        return own, True
    if _owner(plain) == run.run_id:
        return plain, True
    return (own, False) if plain.exists() else (plain, False)


def said(line: bytes) -> Mapping[str, Any]:
    """Return what a line says; nothing when it is damaged."""
    try:
        values = json.loads(line)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _owner(path: Path) -> Optional[str]:
    """Return the run that began this file; None when it has no whole first line."""
    try:
        with open(path, "rb") as file:
            first = file.readline()
    except OSError:
        return None
    owner = said(first).get("run_id") if first.endswith(b"\n") else None
    return owner if isinstance(owner, str) else None
