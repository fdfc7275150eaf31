"""``tracelet sync``: deliver what is left, one line per run."""

from __future__ import annotations

import sys
import time
from typing import Any, Mapping, Optional, Sequence

import click

from tracelet import registry
from tracelet.cli.finding import runs_named
from tracelet.errors import TraceletError
from tracelet.run.secrets import recall
from tracelet.ship import state
from tracelet.ship.drain import drain
from tracelet.ship.state import BackendState
from tracelet.spool.rundir import RunDir

__all__ = ["deliver"]

#: How often the line on a terminal changes.
_PROGRESS_S = 0.1


def deliver(targets: Sequence[str], *, timeout: Optional[float]) -> int:
    """
    Deliver what is left of the runs that are meant, and print how that went.

    Args:
        targets: Folders, and ids of runs or their beginnings; everything when empty.
        timeout: The longest to try for each run, in seconds.

    Returns:
        The exit code: 1 when anything remains.
    """
    left = [run for run in runs_named(targets) if not _delivered(state.read(run))]
    if not left:
        click.echo("Nothing is left to deliver.")
        return 0
    remains = False
    for run in left:
        line, done = _one(run, timeout)
        click.echo(line)
        remains = remains or not done
    return int(remains)


def _delivered(states: Mapping[str, BackendState]) -> bool:
    return all(found.complete for found in states.values())


def _one(run: RunDir, timeout: Optional[float]) -> tuple[str, bool]:
    """Deliver one run; return what to say about it, and whether nothing of it is left."""
    info = run.info
    title = f"{info.run_id} {info.name}" if info.name else info.run_id
    if run.owner_alive():
        return f"{title}: is still being recorded; it can be delivered when it has ended", False
    credentials: dict[str, Mapping[str, Any]] = {}
    problems: dict[str, str] = {}
    for name in info.backends:
        try:
            recalled = recall(info, name, registry.backend_class(name))
        except TraceletError as error:
            problems[name] = str(error)
            continue
        credentials[name] = recalled.credentials
        if recalled.missing:
            variables = " and ".join(recalled.missing.values())
            problems[name] = f"set {variables}: secrets are not kept on disk"
    progress = _Progress(title)
    states = drain(run, credentials, timeout, progress=progress)
    progress.wipe()
    parts = [f"{name} {_told(found, problems.get(name))}" for name, found in states.items()]
    return f"{title}: {' · '.join(parts)}", _delivered(states)


def _told(found: BackendState, problem: Optional[str]) -> str:
    counts = [f"{found.delivered:,} delivered"]
    for number, word in (
        (found.pending, "pending"),
        (found.rejected, "rejected"),
        (found.unsupported, "unsupported"),
    ):
        if number:
            counts.append(f"{number:,} {word}")
    if len(counts) == 1 and not (found.delivered or found.complete):
        counts = ["not there yet"]
    text = ", ".join(counts)
    if found.complete:
        look = found.remote.url or found.remote.look if found.remote else ""
        return f"{text}, {found.status}" + (f" → {look}" if look else "")
    return f"{text} ({problem or found.error or found.detail or found.state})"


class _Progress:
    """A line that changes in place, on a terminal only."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._shown_at = 0.0
        self._on = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, states: Mapping[str, BackendState]) -> None:
        now = time.monotonic()
        if not self._on or now - self._shown_at < _PROGRESS_S:
            return
        self._shown_at = now
        text = ", ".join(
            f"{name} {each.delivered:,} delivered, {each.pending:,} to go"
            for name, each in states.items()
        )
        click.echo(f"\r\x1b[2K{self._title}: {text}", nl=False, err=True)

    def wipe(self) -> None:
        """Leave nothing of it behind."""
        if self._on:
            click.echo("\r\x1b[2K", nl=False, err=True)
