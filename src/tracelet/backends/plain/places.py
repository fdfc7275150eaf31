"""Which file or folder belongs to which run: ``<folder>/<project>/<name>``."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Optional

from tracelet.backends.plain.names import file_name, short_hash
from tracelet.records import RunInfo


class Places:
    """
    Where the runs of one folder are.

    Args:
        folder: The folder for all projects.
        suffix: What the name of a run's file ends in; empty where a run is a folder.
        owner: Returns the id of the run that began a place; None when nothing says so.
    """

    def __init__(self, folder: Path, suffix: str, owner: Callable[[Path], Optional[str]]) -> None:
        self._folder = folder
        self._suffix = suffix
        self._owner = owner

    def remote_id(self, path: Path) -> str:
        """Return the id of the run whose place this is: ``project/name`` as on disk."""
        return f"{path.parent.name}/{path.name[: len(path.name) - len(self._suffix)]}"

    def path_of(self, run_id: str) -> Optional[Path]:
        """Return the place that an id means; None when it is no id of ours."""
        parts = run_id.split("/")
        if len(parts) != 2 or any(
            part[:1] in ("", ".") or set(part) & set("\\:\0") for part in parts
        ):
            return None
        return self._folder / parts[0] / (parts[1] + self._suffix)

    def find(self, run: RunInfo) -> tuple[Path, bool]:
        """
        Return the place of a run, and whether it exists.

        The first run of a name has the name for itself. The place of a later one also says which
        run it belongs to, so it is found again without a look into the others. A file without any
        word in it is for whoever comes and has its lock first.
        """
        project = self._folder / file_name(run.project or "default")
        name = file_name(run.name or run.run_id)
        plain = project / (name + self._suffix)
        own = project / f"{name}~{short_hash(run.run_id)}{self._suffix}"
        # `own` belongs to this run even when a crash came before its first word.
        if own.exists():
            return own, True
        if self._owner(plain) == run.run_id or _vacant(plain):
            return plain, True
        return (own, False) if plain.exists() else (plain, False)


def _vacant(path: Path) -> bool:
    """Tell whether a file was made, and whoever made it died before its first word."""
    try:
        return path.is_file() and not path.stat().st_size
    except OSError:
        return False
