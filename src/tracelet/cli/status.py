"""``tracelet status``: what is on disk, in numbers."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Optional, Sequence

import click

from tracelet.cli.finding import roots_and_runs
from tracelet.errors import shortened
from tracelet.records import backend_of
from tracelet.ship import state
from tracelet.spool.rundir import RunDir, durable

__all__ = ["describe", "show"]

_COUNTS = ("delivered", "pending", "rejected", "unsupported")
#: Of what a tracker said last, so much fits into the last line; ``--json`` has all of it.
_SAID = 200
#: A name in the table is shortened to no less than this.
_NAME = 12


def show(folder: Optional[Path], *, as_json: bool) -> None:
    """
    Print the account of all runs.

    Args:
        folder: Where to look; everywhere when None.
        as_json: Print it for a program.
    """
    roots, found = roots_and_runs(folder)
    runs = [each for each in map(describe, found.runs) if each is not None]
    account = {
        "folders": [str(root) for root in roots],
        "refused": found.refused,
        "runs": runs,
        "total": _total(runs),
        "oldest": _oldest(runs),
        "last_error": _last_error(runs),
    }
    if as_json:
        click.echo(json.dumps(account, indent=2, ensure_ascii=False))
        return
    for sentence in found.refused:
        click.echo(f"passed over: {sentence}", err=True)
    if runs:
        _print(account)
    elif not found.refused:
        click.echo(f"No run in {', '.join(map(str, roots)) or 'any folder that is known'}.")


def describe(run: RunDir) -> Optional[dict[str, Any]]:
    """Return everything about one run, as JSON values; None when it has gone meanwhile."""
    info = run.info
    active = run.owner_alive()
    backends = {name: _of_backend(run, name, found) for name, found in state.read(run).items()}
    spooled, lost = state.spooled(run), dict(state.lost(run))
    if not run.exists():
        return None
    return {
        "run": info.run_id,
        "path": str(run.path),
        "project": info.project,
        "name": info.name,
        "created": info.created,
        "active": active,
        "owner": _process(run.owner()),
        "shipper": _process(run.shipping.holder()),
        "durable": durable(run.path.parent),
        "recorded": spooled + sum(lost.values()),
        "spooled": spooled,
        "lost": lost,
        # A run that goes on has nothing left but records; later its end is to be told, too.
        "left": any(each["pending"] or (each["left"] and not active) for each in backends.values()),
        "backends": {
            name: {key: value for key, value in each.items() if key != "left"}
            for name, each in backends.items()
        },
    }


def _of_backend(run: RunDir, name: str, found: state.BackendState) -> dict[str, Any]:
    return {
        "backend": backend_of(name),
        **{word: getattr(found, word) for word in _COUNTS},
        "damaged": sum(found.damaged.values()) - sum(found.thinned.values()),
        "thinned": dict(found.thinned),
        "oldest": state.waits_since(run, name) if found.pending else None,
        "state": found.state,
        "since": found.since or None,
        "status": found.status,
        "error": found.error,
        "gone": found.gone,
        "left": found.left,
        "remote": None
        if found.remote is None
        else {"id": found.remote.id, "url": found.remote.url, "look": found.remote.look},
    }


def _process(said: Any) -> Optional[dict[str, Any]]:
    return None if said is None else {"pid": said.get("pid"), "host": said.get("host")}


def _total(runs: Sequence[Any]) -> dict[str, int]:
    total = {
        "runs": len(runs),
        "recorded": sum(run["recorded"] for run in runs),
        "spooled": sum(run["spooled"] for run in runs),
        "lost": sum(sum(run["lost"].values()) for run in runs),
    }
    for word in _COUNTS:
        total[word] = sum(each[word] for run in runs for each in run["backends"].values())
    return total


def _oldest(runs: Sequence[Any]) -> Optional[float]:
    """Return when the oldest record was logged that waits, or a run began that is not there."""
    times = [
        each["oldest"]
        for run in runs
        for each in run["backends"].values()
        if each["oldest"] is not None
    ]
    times += [
        run["created"]
        for run in runs
        if run["left"] and all(each["oldest"] is None for each in run["backends"].values())
    ]
    return min(times, default=None)


def _last_error(runs: Sequence[Any]) -> str:
    errors = [
        (each["since"] or run["created"], name, each["error"])
        for run in runs
        for name, each in run["backends"].items()
        if each["error"]
    ]
    return "{1}: {2}".format(*max(errors)) if errors else ""


# -- for people ---------------------------------------------------------------------------


def _print(account: Any) -> None:
    runs = account["runs"]
    columns = _columns()
    table = _table(runs, some_lost=bool(account["total"]["lost"]), columns=columns)
    for line in table if table is not None else _blocks(runs, columns or 0):
        click.echo(line)
    for run in runs:
        if run["lost"]:
            reasons = ", ".join(f"{why} {count:,}" for why, count in sorted(run["lost"].items()))
            click.echo(f"{run['run']}: lost {reasons}")
    if not all(run["durable"] for run in runs):
        paths = dict.fromkeys(str(Path(run["path"]).parent) for run in runs if not run["durable"])
        click.echo(f"not durable: {', '.join(paths)} does not outlive this machine's next start")
    total = account["total"]
    line = f"{total['runs']:,} runs" if total["runs"] != 1 else "1 run"
    line += f" · {total['pending']:,} pending"
    if account["oldest"] is not None:
        line += f", the oldest from {_ago(account['oldest'])} → tracelet sync"
    for run in runs:
        if any(each["gone"] for each in run["backends"].values()):
            line += f" · deleted over there: {run['run']} → tracelet sync --new-run {run['run']}"
    if account["last_error"]:
        line += f" · last error: {shortened(account['last_error'], _SAID)}"
    click.echo(line)


def _columns() -> Optional[int]:
    """Return how wide the terminal is; None where this goes to a file or another program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _table(
    runs: Sequence[Any], *, some_lost: bool, columns: Optional[int]
) -> Optional[Sequence[str]]:
    """Return a line for each run and backend; None where there is no room for that."""
    words = ("recorded", *(("lost",) if some_lost else ()), *_COUNTS)
    rows = [("RUN", "NAME", "BACKEND", *(word.upper() for word in words), "STATE")]
    for run in runs:
        for name, each in run["backends"].items():
            counts = {**each, "recorded": run["recorded"], "lost": sum(run["lost"].values())}
            numbers = [f"{counts[word]:,}" for word in words]
            rows.append((run["run"], run["name"] or "-", name, *numbers, _state(run, each)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    if columns is not None:
        over = sum(widths) + 2 * (len(widths) - 1) - columns
        widths[1] -= max(0, min(over, widths[1] - _NAME))
        if sum(widths) + 2 * (len(widths) - 1) > columns:
            return None
    lines = []
    for row in rows:
        fitting = [row[0], shortened(row[1], widths[1]), *row[2:]]
        cells = [
            cell.rjust(width) if 3 <= column < len(row) - 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(fitting, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _blocks(runs: Sequence[Any], columns: int) -> Sequence[str]:
    """Return the same in short lines, for a narrow terminal."""
    lines = []
    for run in runs:
        recorded = f"{run['recorded']:,} recorded"
        name = shortened(run["name"] or "-", max(_NAME, columns - len(recorded) - 4))
        lines += [run["run"], f"  {name}: {recorded}"]
        for name, each in run["backends"].items():
            lines.append(f"  {name}: {_state(run, each)}")
            # Zeros say nothing, but for what is there.
            told = [word for word in _COUNTS if each[word] or word == "delivered"]
            lines += [f"    {each[word]:,} {word}" for word in told]
    return lines


def _state(run: Any, each: Any) -> str:
    if each["status"] and not each["pending"]:
        state = str(each["status"])
    else:
        state = f"{_who('active', run['owner']) if run['active'] else 'ended'}, " + _who(
            each["state"], run["shipper"]
        )
    gone = sum(each["thinned"].values())
    return f"{state}, {gone:,} thinned" if gone else state


def _who(doing: str, process: Any) -> str:
    return f"{doing} (pid {process['pid']})" if process and process["pid"] else doing


def _ago(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for size, word in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word} ago"
    return f"{seconds:.0f} seconds ago"
