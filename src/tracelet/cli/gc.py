"""``tracelet gc``: remove what nobody needs any more."""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Iterator, Optional, Sequence

import click

from tracelet.cli.finding import roots_and_runs
from tracelet.ship import rejected, state
from tracelet.ship.put_away import resumable
from tracelet.spool.rundir import RunDir, forget_roots

__all__ = ["collect"]

#: Refused records stay for a person to look at for so long.
REJECTS_DAYS = 30
#: A folder without a run in it may be one that is being made.
_YOUNG_S = 3600.0
_DAY_S = 86400.0
#: As ``new_run_id`` makes them.
_RUN_ID = re.compile(r"\d{8}-\d{6}-\d{3}-[0-9a-f]{8}")


@dataclass(frozen=True)
class _Find:
    """Something that may go: where, why, and whether that still holds when nobody else has it."""

    path: Path
    why: str
    run: Optional[RunDir] = None
    still: Callable[[], bool] = lambda: True
    #: Only these files, not the whole folder.
    files: tuple[Path, ...] = ()

    @property
    def size(self) -> int:
        return _size(self.files or (self.path,))


def collect(
    folder: Optional[Path],
    *,
    older_than: Optional[float],
    undelivered: bool,
    dry_run: bool,
    yes: bool,
) -> int:
    """
    Remove what nobody needs, and print what that was.

    Args:
        folder: A spool folder or the folder of one run; everywhere when None.
        older_than: Only what is at least so many days old.
        undelivered: Also runs that were never delivered, which are lost then.
        dry_run: Say what would go, and leave it.
        yes: Do not ask before an undelivered run is removed.

    Returns:
        The exit code: 1 when something could not be removed.
    """
    if undelivered and older_than is None:
        raise click.UsageError("--undelivered needs --older-than DAYS: younger runs may be wanted.")
    roots, looked_at = roots_and_runs(folder)
    runs = looked_at.runs
    now = time.time()
    before = now - (older_than or 0.0) * _DAY_S
    found = [
        each
        for each in (*_finds(runs, undelivered=undelivered), *_leftovers(roots, runs, now))
        if older_than is None or _last_change(each.path) <= before
    ]
    lost = [each for each in found if each.run is not None and each.why.startswith("not delivered")]
    if lost and not (yes or dry_run):
        for each in lost:
            click.echo(f"{each.path.name}: {each.why}, {_bytes(each.size)}")
        count = "1 run was" if len(lost) == 1 else f"{len(lost):,} runs were"
        click.confirm(f"{count} never delivered. Remove for good what they hold?", abort=True)
    freed, failed = 0, False
    for each in found:
        size = each.size
        removed = dry_run or _remove(each)
        failed = failed or not removed
        freed += size if removed else 0
        told = (
            f"{each.why}, {_bytes(size)}" if removed else "in use or not to be removed, left alone"
        )
        click.echo(f"{each.path.name}: {told}")
    gone = [] if folder is not None else forget_roots(dry_run=dry_run)
    for root in gone:
        click.echo(f"{root}: is gone, forgotten")
    if not found and not gone:
        click.echo("Nothing is left over.")
    elif found:
        click.echo(f"{_bytes(freed)} {'would be freed' if dry_run else 'freed'}.")
    return int(failed)


# -- what may go --------------------------------------------------------------------------


def _finds(runs: Iterable[RunDir], *, undelivered: bool) -> Iterator[_Find]:
    kept: dict[Path, int] = {}
    for run in sorted(runs, key=lambda each: each.info.created, reverse=True):
        if run.busy():
            continue
        if not _delivered(run):
            if undelivered:
                pending = max((each.pending for each in state.read(run).values()), default=0)
                yield _Find(run.path, f"not delivered ({pending:,} records)", run)
            continue
        rejects = _rejects(run)
        old = _older(rejects, REJECTS_DAYS)
        wanted = _wanted(run, kept) or old != rejects
        if wanted and old:
            why = f"refused records older than {REJECTS_DAYS} days"
            yield _Find(run.path, why, run, files=tuple(old))
        elif not wanted:
            yield _Find(run.path, "delivered", run, _still_delivered(run, rejects))


def _wanted(run: RunDir, kept: dict[Path, int]) -> bool:
    """Tell whether a delivered run is kept on purpose; ``kept`` counts those that are by number."""
    if isinstance(run.info.keep, int) and run.info.keep > 0:
        rank = kept[run.path.parent] = kept.get(run.path.parent, 0) + 1
        return rank <= run.info.keep
    return bool(run.info.keep) or resumable(run)


def _delivered(run: RunDir) -> bool:
    return all(each.complete for each in state.read(run).values())


def _still_delivered(run: RunDir, rejects: Sequence[Path]) -> Callable[[], bool]:
    return lambda: _delivered(run) and _rejects(run) == rejects


def _rejects(run: RunDir) -> list[Path]:
    """Return where refused records are that were not sent since."""
    return sorted(path for path in run.rejects.glob("*.jsonl") if rejected.left(run, path.stem))


def _older(paths: Sequence[Path], days: float) -> list[Path]:
    before = time.time() - days * _DAY_S
    return [path for path in paths if path.stat().st_mtime < before]


def _leftovers(roots: Iterable[Path], runs: Iterable[RunDir], now: float) -> Iterator[_Find]:
    """Yield folders that were runs: taken away half, or never made to the end."""
    known = {run.path for run in runs}
    for root in roots:
        for path in sorted(root.iterdir()):
            if path in known or path.is_symlink() or not path.is_dir():
                continue
            if _RUN_ID.fullmatch(path.name) and now - _last_change(path) > _YOUNG_S:
                # Who the run was is written last and removed first.
                if not (path / "run.json").exists():
                    yield _Find(path, "what is left of a run")
                else:
                    click.echo(f"{path.name}: cannot be read by this version, left alone", err=True)


# -- how it goes --------------------------------------------------------------------------


def _remove(found: _Find) -> bool:
    """Remove it, unless somebody has it; False then."""
    run = found.run
    if run is None:
        # Nobody can have it: without run.json it is no run.
        shutil.rmtree(found.path, ignore_errors=True)
        return not found.path.exists()
    try:
        if run.shipping.acquire() and run.own(patience_s=0.0):
            if found.files:
                for path in found.files:
                    rejected.delete(run, path.stem)
                return True
            if found.still():
                run.remove()
    except FileNotFoundError:
        return True  # somebody else was faster
    except OSError as error:
        click.echo(f"{found.path}: {error.strerror or error}", err=True)
    finally:
        run.release()
        run.shipping.release()
    return not found.path.exists()


def _last_change(path: Path) -> float:
    times = [path.stat().st_mtime]
    for base, _, names in os.walk(path):
        for name in names:
            try:
                times.append((Path(base) / name).lstat().st_mtime)
            except FileNotFoundError:
                continue
    return max(times)


def _size(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        for each in path.rglob("*") if path.is_dir() else (path,):
            try:
                total += each.lstat().st_size if each.is_file() else 0
            except FileNotFoundError:
                continue
    return total


def _bytes(count: int) -> str:
    for size, word in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:,.1f} {word}"
    return f"{count:,} bytes"
