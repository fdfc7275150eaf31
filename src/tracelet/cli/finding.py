"""Which runs a command is about."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterable, Optional, Sequence

import click

from tracelet.spool.rundir import RunDir, find_runs, known_roots

__all__ = ["roots_and_runs", "runs_in", "runs_named"]


def runs_in(folder: Path) -> list[RunDir]:
    """Return the one run that a folder is, or those in it, oldest first."""
    if not (folder / "run.json").exists():
        return find_runs(folder)
    try:
        return [RunDir.open(folder)]
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def roots_and_runs(folder: Optional[Path]) -> tuple[list[Path], list[RunDir]]:
    """Return where was looked and what is there."""
    roots = [folder] if folder is not None else _everywhere()
    return roots, _once(run for root in roots for run in runs_in(root))


def runs_named(targets: Sequence[str]) -> list[RunDir]:
    """
    Return the runs that a command's arguments mean.

    Args:
        targets: Folders, and ids of runs or their beginnings.

    Raises:
        click.ClickException: One of them is neither.
    """
    folders = [Path(target) for target in targets if Path(target).is_dir()]
    names = [target for target in targets if not Path(target).is_dir()]
    found = _once(run for root in folders or _everywhere() for run in runs_in(root))
    if not names:
        return found
    chosen = []
    for name in names:
        matches = [run for run in found if run.info.run_id.startswith(name)]
        if not matches:
            raise click.ClickException(f"{name!r} is no folder and no run.")
        if len(matches) > 1:
            raise click.ClickException(f"{len(matches)} runs begin with {name!r}; say more of it.")
        chosen += matches
    return _once(chosen)


def _everywhere() -> list[Path]:
    here = Path.cwd() / ".tracelet"
    roots = known_roots()
    return roots if here in roots or not here.is_dir() else [*roots, here]


def _once(runs: Iterable[RunDir]) -> list[RunDir]:
    """Return every run once, oldest first."""
    found = {os.path.realpath(run.path): run for run in runs}.values()
    return sorted(found, key=lambda run: run.info.created)
