"""``tracelet export``: runs that are in the spool as files for pandas, DuckDB or a text editor."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

import click

from tracelet import registry
from tracelet.backends.base import Backend
from tracelet.cli.finding import runs_named
from tracelet.errors import BackendError, TraceletError, shortened
from tracelet.ship.drain import drain
from tracelet.ship.snapshot import RunLackingError, snapshot
from tracelet.ship.state import BackendState
from tracelet.spool.rundir import RunDir

__all__ = ["FORMATS", "export"]

#: What an export may be, and what is special about the backend that writes it.
FORMATS: Mapping[str, Mapping[str, Any]] = {"parquet": {"keep_lines": False}, "jsonl": {}}

#: Of what went wrong, so much fits into a line.
_SAID = 200


def export(
    targets: Sequence[str], *, kind: str, folder: Path, timeout: Optional[float] = None
) -> int:
    """
    Write runs as files, and print where each of them is.

    Nothing is changed in the spool: a run may still be recorded or be delivered meanwhile. An
    export that is there already is replaced.

    Args:
        targets: Folders, and ids of runs or their beginnings.
        kind: One of ``FORMATS``.
        folder: The folder for all projects.
        timeout: The longest to try for each run, in seconds.

    Returns:
        The exit code: 1 when something of a run is not in its export.
    """
    folder = folder.absolute()
    try:
        cls = registry.backend_class(kind)
        options = {"path": str(folder), **FORMATS[kind]}
        backend = cls(cls.Options(**options))
        backend.preflight()
    except (TraceletError, BackendError) as error:
        raise click.ClickException(str(error)) from None
    found = runs_named(targets)
    for sentence in found.refused:
        click.echo(f"passed over: {sentence}", err=True)
    if not found.runs and not found.refused:
        click.echo(f"No run in {', '.join(targets)}.")
    whole = not found.refused
    for run in found.runs:
        done = _one(run, backend, options, folder, timeout)
        whole = whole and done
    return int(not whole)


def _one(
    run: RunDir,
    backend: Backend,
    options: Mapping[str, Any],
    folder: Path,
    timeout: Optional[float],
) -> bool:
    """Export one run and say how that went; return whether it is there as a whole."""
    title = f"{run.info.run_id} {run.info.name}" if run.info.name else run.info.run_id
    root = Path(tempfile.mkdtemp(prefix=".tracelet-export-", dir=folder))
    try:
        copy = snapshot(run, root, backend.name, options)
        try:
            former = Path(backend.look(run.info))
            if former.is_file():
                former.unlink()  # it would only grow
            states = drain(copy, timeout=timeout)
        finally:
            copy.release()
    except RunLackingError:
        click.echo(
            f"{title}: is not here any more as a whole: what was delivered has been deleted, which "
            "the setting keep_runs prevents"
        )
        return False
    except OSError as error:
        click.echo(f"{title}: {error}")
        return False
    finally:
        shutil.rmtree(root, ignore_errors=True)
    told, whole = _told(states[backend.name])
    click.echo(f"{title}: {told}")
    return whole


def _told(found: BackendState) -> tuple[str, bool]:
    thinned = sum(found.thinned.values())
    damaged = sum(found.damaged.values()) - thinned
    counts = [f"{found.delivered:,} exported"]
    for number, word in (
        (found.pending, "not yet"),
        (found.rejected, "refused"),
        (damaged, "damaged"),
        (thinned, "thinned"),
    ):
        if number:
            counts.append(f"{number:,} {word}")
    text = ", ".join(counts)
    if found.remote:
        text += f" → {found.remote.look}"
    if found.error:
        text += f" ({shortened(found.error, _SAID)})"
    lacks = found.pending or found.rejected or damaged or thinned
    return text, not (lacks or found.remote is None)
