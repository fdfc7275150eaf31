"""Which runs a command is about."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterable, NamedTuple, Optional, Sequence

import click

from tracelet.spool.rundir import RunDir, find_runs, known_roots

__all__ = ["Found", "roots_and_runs", "runs_named"]


class Found(NamedTuple):
    """
    Runs, oldest first; and why others that are there are not among them.

    ``named``: each of them was asked for, by its id or its folder.
    """

    runs: list[RunDir]
    refused: list[str]
    named: bool = False


def roots_and_runs(folder: Optional[Path]) -> tuple[list[Path], Found]:
    """Return where was looked and what is there."""
    roots = [folder] if folder is not None else _everywhere()
    return roots, _below(roots)


def runs_named(targets: Sequence[str]) -> Found:
    """
    Return the runs that a command's arguments mean.

    Args:
        targets: Folders, and ids of runs or their beginnings.

    Raises:
        click.ClickException: One of them is neither.
    """
    folders = [Path(target) for target in targets if Path(target).is_dir()]
    names = [target for target in targets if not Path(target).is_dir()]
    found = _below(folders or _everywhere())
    if not names:
        return found._replace(named=bool(folders) and all(map(_is_run, folders)))
    chosen = []
    for name in names:
        matches = [run for run in found.runs if run.info.run_id.startswith(name)]
        if not matches:
            raise click.ClickException(_unknown(name, found.refused))
        if len(matches) > 1:
            raise click.ClickException(f"{len(matches)} runs begin with {name!r}; say more of it.")
        chosen += matches
    return Found(_once(chosen), [], named=True)


def _unknown(name: str, refused: Sequence[str]) -> str:
    for sentence in refused:
        if name in sentence:
            return sentence
    return (
        f"{name!r} is no folder and no run that is here. (One that was delivered is deleted, "
        "unless the setting keep_runs keeps it.)"
    )


def _below(roots: Iterable[Path]) -> Found:
    runs: list[RunDir] = []
    refused: list[str] = []
    for root in roots:
        if _is_run(root):
            try:
                runs.append(RunDir.open(root))
            except (OSError, ValueError) as error:
                refused.append(str(error))
        else:
            runs += find_runs(root, refused)
    return Found(_once(runs), list(dict.fromkeys(refused)))


def _is_run(folder: Path) -> bool:
    return os.path.lexists(folder / "run.json")


def _everywhere() -> list[Path]:
    here = Path.cwd() / ".tracelet"
    roots = known_roots()
    return roots if here in roots or not here.is_dir() else [*roots, here]


def _once(runs: Iterable[RunDir]) -> list[RunDir]:
    """Return every run once, oldest first."""
    found = {os.path.realpath(run.path): run for run in runs}.values()
    return sorted(found, key=lambda run: run.info.created)
