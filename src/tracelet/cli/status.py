"""``tracelet status``: what is on disk, in numbers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Optional, Sequence

import click

from tracelet.cli.finding import roots_and_runs
from tracelet.ship import state
from tracelet.spool.rundir import RunDir

__all__ = ["describe", "show"]

_COUNTS = ("delivered", "pending", "rejected", "unsupported")
_HEAD = ("RUN", "NAME", "BACKEND", "RECORDED", *(word.upper() for word in _COUNTS), "STATE")


def show(folder: Optional[Path], *, as_json: bool) -> None:
    """
    Print the account of all runs.

    Args:
        folder: Where to look; everywhere when None.
        as_json: Print it for a program.
    """
    roots, found = roots_and_runs(folder)
    runs = [describe(run) for run in found]
    account = {
        "folders": [str(root) for root in roots],
        "runs": runs,
        "total": _total(runs),
        "oldest": _oldest(runs),
        "last_error": _last_error(runs),
    }
    if as_json:
        click.echo(json.dumps(account, indent=2, ensure_ascii=False))
    elif not runs:
        click.echo(f"No run in {', '.join(map(str, roots)) or 'any folder that is known'}.")
    else:
        _print(account)


def describe(run: RunDir) -> dict[str, Any]:
    """Return everything about one run, as JSON values."""
    info = run.info
    backends: dict[str, Any] = {}
    for name, found in state.read(run).items():
        backends[name] = {
            **{word: getattr(found, word) for word in _COUNTS},
            "damaged": sum(found.damaged.values()),
            "state": found.state,
            "status": found.status,
            "error": found.error,
            "remote": None
            if found.remote is None
            else {"id": found.remote.id, "url": found.remote.url, "look": found.remote.look},
        }
    return {
        "run": info.run_id,
        "path": str(run.path),
        "project": info.project,
        "name": info.name,
        "created": info.created,
        "active": run.owner_alive(),
        "recorded": state.spooled(run),
        "backends": backends,
    }


def _total(runs: Sequence[Any]) -> dict[str, int]:
    total = {"runs": len(runs), "recorded": sum(run["recorded"] for run in runs)}
    for word in _COUNTS:
        total[word] = sum(each[word] for run in runs for each in run["backends"].values())
    return total


def _left(run: Any) -> bool:
    # Also a run without records is there only once it was opened and ended.
    return any(
        each["pending"] or not (run["active"] or each["state"] == "closed")
        for each in run["backends"].values()
    )


def _oldest(runs: Sequence[Any]) -> Optional[float]:
    return min((run["created"] for run in runs if _left(run)), default=None)


def _last_error(runs: Sequence[Any]) -> str:
    errors = [
        (run["created"], name, each["error"])
        for run in runs
        for name, each in run["backends"].items()
        if each["error"]
    ]
    return "{1}: {2}".format(*max(errors)) if errors else ""


def _print(account: Any) -> None:
    rows = [_HEAD]
    for run in account["runs"]:
        for name, each in run["backends"].items():
            rows.append(
                (
                    run["run"],
                    run["name"] or "-",
                    name,
                    f"{run['recorded']:,}",
                    *(f"{each[word]:,}" for word in _COUNTS),
                    _state(run, each),
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        cells = [
            cell.rjust(width) if 3 <= column < len(row) - 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        click.echo("  ".join(cells).rstrip())
    total = account["total"]
    line = f"{total['runs']:,} runs" if total["runs"] != 1 else "1 run"
    line += f" · {total['pending']:,} pending"
    if account["oldest"] is not None:
        line += f", the oldest from {_ago(account['oldest'])} → tracelet sync"
    if account["last_error"]:
        line += f" · last error: {account['last_error']}"
    click.echo(line)


def _state(run: Any, each: Any) -> str:
    if each["status"] and not each["pending"]:
        return str(each["status"])
    return f"{'active' if run['active'] else 'ended'}, {each['state']}"


def _ago(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for size, word in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word} ago"
    return f"{seconds:.0f} seconds ago"
