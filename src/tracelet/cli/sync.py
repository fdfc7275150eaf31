"""``tracelet sync``: deliver what is left, one line per run; or send a run somewhere else."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

import click

from tracelet import registry
from tracelet.cli.finding import runs_named
from tracelet.errors import BackendError, RetryableError, TraceletError, shortened
from tracelet.records import backend_of
from tracelet.run.secrets import Parted, recall
from tracelet.run.start import complete
from tracelet.settings import load
from tracelet.ship import elsewhere, rejected, state
from tracelet.ship.credentials import maker
from tracelet.ship.drain import drain
from tracelet.ship.state import BackendState
from tracelet.spool.rundir import RunDir

__all__ = ["Wanted", "deliver"]

#: How often the line on a terminal changes.
_PROGRESS_S = 0.1
#: A backend that did not answer for one run is waited for so long for each of the others.
_HASTY_S = 2.0
_AWAY_S = 30.0
#: Who ships a run just now is waited for so long, when the run is to go elsewhere.
_LOCK_S = 30.0
#: Of what a tracker says, so much fits into a line.
_SAID = 200
#: What a shell tells of a command that was interrupted.
_INTERRUPTED = 130


@dataclass(frozen=True)
class Wanted:
    """
    What to do besides delivering what is left.

    ``backend``: send the runs there; ``backend_url`` and ``project`` say where that is.
    ``new_run``: where the remote run was deleted, begin another. ``rejected``: send once more what
    was refused.
    """

    backend: Optional[str] = None
    backend_url: Optional[str] = None
    project: Optional[str] = None
    new_run: bool = False
    rejected: bool = False


@dataclass
class _Place:
    """Where the runs are to go with ``--backend``."""

    backend: str
    parted: Parted
    project: Optional[str]


@dataclass
class _Sync:
    """One command: what is known by now of the places that it delivers to."""

    wanted: Wanted
    timeout: Optional[float]
    place: Optional[_Place] = None
    #: The places that did not answer, and what was said.
    away: dict[str, str] = field(default_factory=dict)


def deliver(targets: Sequence[str], *, timeout: Optional[float], wanted: Wanted) -> int:
    """
    Deliver what is left of the runs that are meant, and print how that went.

    Args:
        targets: Folders, and ids of runs or their beginnings; everything when empty.
        timeout: The longest to try for each run, in seconds.
        wanted: What else there is to do.

    Returns:
        The exit code: 1 when anything remains, 130 after Ctrl-C.
    """
    _refuse_nonsense(targets, wanted)
    found = runs_named(targets)
    sync = _Sync(wanted, timeout, _place(wanted))
    for sentence in found.refused:
        click.echo(f"passed over: {sentence}", err=True)
    remains = bool(found.refused)
    runs = [run for run in found.runs if _to_do(run, found.named, wanted)]
    if not runs and not remains:
        nothing = "Nothing is left to deliver." if found.runs or not targets else None
        click.echo(nothing or f"No run in {', '.join(targets)}.")
    try:
        for run in runs:
            done = _one(sync, run)
            remains = remains or not done
    except KeyboardInterrupt:
        _wipe()
        click.echo("interrupted; what is left stays in the spool → tracelet sync", err=True)
        return _INTERRUPTED
    return int(remains)


def _refuse_nonsense(targets: Sequence[str], wanted: Wanted) -> None:
    if wanted.backend and not targets:
        raise click.UsageError("--backend: name the run that is to go there, or a folder of runs.")
    if wanted.backend_url and not wanted.backend:
        raise click.UsageError("--backend-url is the address of a --backend.")
    if wanted.project and not (wanted.backend or wanted.new_run):
        raise click.UsageError("--project goes with --backend or --new-run.")
    if wanted.backend and wanted.rejected:
        raise click.UsageError("--rejected is about where a run goes already, not --backend.")


def _to_do(run: RunDir, named: bool, wanted: Wanted) -> bool:
    if wanted.backend or any(each.left for each in state.read(run).values()):
        return True
    if wanted.rejected and any(rejected.left(run, name) for name in run.info.backends):
        return True
    # It is delivered; whether that is still there is asked only where the run was named.
    return wanted.new_run and named


# -- where to -----------------------------------------------------------------------------


def _place(wanted: Wanted) -> Optional[_Place]:
    """Return where runs are to go; what is wrong with it is said before anything is done."""
    name = wanted.backend
    if name is None:
        return None
    arguments = {"backend": name, "backend_url": wanted.backend_url, "project": wanted.project}
    try:
        backend, parted, _ = complete(name, load(arguments), Path.cwd())
        if backend.in_memory:
            raise click.ClickException(f"{name} keeps nothing beyond this command.")
        with contextlib.suppress(RetryableError):
            # Away just now: the run waits for it as for any other.
            backend.preflight()
    except (TraceletError, BackendError) as error:
        raise click.ClickException(str(error)) from None
    return _Place(name, parted, wanted.project)


# -- one run ------------------------------------------------------------------------------


def _one(sync: _Sync, run: RunDir) -> bool:
    """Deliver one run and say how that went; return whether nothing of it is left."""
    title = f"{run.info.run_id} {run.info.name}" if run.info.name else run.info.run_id
    try:
        # It may have been delivered and deleted, or sent elsewhere, while others had their turn.
        run = RunDir.open(run.path)
    except FileNotFoundError:
        return True
    except (OSError, ValueError) as error:
        click.echo(f"{title}: {error}")
        return False
    if run.owner_alive():
        click.echo(f"{title}: is still being recorded; it can be delivered when it has ended")
        return False
    try:
        only, added = _asked(sync, run)
        states, problems = _drained(sync, run, only, title)
        if sync.wanted.rejected:
            states = _sent_again(sync, run, only, states, problems)
        if added and not elsewhere.opened(run, added) and run.exists():
            # Nothing of it is there: a mistyped address must not stay with the run for ever.
            _hold(run)
            elsewhere.drop(run, added)
    except click.ClickException as error:
        click.echo(f"{title}: {error.message}")
        return False
    finally:
        run.shipping.release()
    told = {name: states[name] for name in only if name in states}
    parts = [f"{name} {_told(found, problems.get(name), run)}" for name, found in told.items()]
    click.echo(f"{title}: {' · '.join(parts)}")
    return not any(each.left or problems.get(name) for name, each in told.items())


def _hold(run: RunDir) -> None:
    """Become the one who delivers the run: nobody else may while its targets are changed."""
    deadline = time.monotonic() + _LOCK_S
    try:
        while not run.shipping.acquire(str(os.getpid()).encode()):
            if time.monotonic() > deadline:
                raise click.ClickException("is being delivered by another process; try again")
            time.sleep(0.1)
    except FileNotFoundError:
        raise click.ClickException("was delivered and deleted just now") from None
    if run.retargeted():
        raise click.ClickException("was sent elsewhere just now; try again")


def _asked(sync: _Sync, run: RunDir) -> tuple[list[str], Optional[str]]:
    """Return the targets that this command is about, and the one of them that is new."""
    place = sync.place
    if place is None:
        states = state.read(run)
        left = [name for name, found in states.items() if found.left]
        if sync.wanted.rejected:
            left += [each for each in states if each not in left and rejected.left(run, each)]
        return left or list(states), None
    _hold(run)
    parted = place.parted
    target = elsewhere.known(run, place.backend, parted.options, place.project)
    if target is not None:
        return [target], None
    if elsewhere.lacking(run):
        raise click.ClickException(
            "is not here any more as a whole: what was delivered has been deleted, which the "
            "setting keep_runs prevents"
        )
    target = elsewhere.add(run, place.backend, parted.options, parted.sources, place.project)
    return [target], target


def _drained(
    sync: _Sync, run: RunDir, only: Sequence[str], title: str
) -> tuple[Mapping[str, BackendState], dict[str, str]]:
    """Deliver to some targets; return where all of them stand, and what stands in the way."""
    credentials, problems = _credentials(sync, run, only)
    asked = [name for name in only if not _is_away(sync, run, name, credentials, problems)]
    if sync.wanted.new_run:
        for name in [each for each in asked if state.read(run)[each].complete]:
            _hold(run)
            elsewhere.reopen(run, name)
    progress = _Progress(title)
    states = _drain(sync, run, credentials, asked, progress)
    if sync.wanted.new_run:
        again = [
            name for name in asked if name in states and _begins_again(sync, run, name, states)
        ]
        for name in again:
            _hold(run)
            elsewhere.begin_again(run, name, sync.wanted.project)
        if again:
            states = _drain(sync, run, credentials, asked, progress)
    for name in asked:
        found = states.get(name)
        if found is not None and found.state == "waiting":
            sync.away[_address(run, name)] = found.error
    return states, problems


def _begins_again(sync: _Sync, run: RunDir, name: str, states: Mapping[str, BackendState]) -> bool:
    """Tell whether a target needs a new remote run: its own was deleted, or cannot be made."""
    found = states[name]
    elsewhere_now = sync.wanted.project is not None and found.state == "config"
    return found.gone or (elsewhere_now and not elsewhere.opened(run, name))


def _drain(
    sync: _Sync,
    run: RunDir,
    credentials: Mapping[str, Mapping[str, Any]],
    asked: Sequence[str],
    progress: _Progress,
) -> Mapping[str, BackendState]:
    if not asked:
        return state.read(run)
    hasty = any(_address(run, name) in sync.away for name in asked)
    try:
        return drain(
            run,
            credentials,
            sync.timeout,
            away_s=_HASTY_S if hasty else _AWAY_S,
            only=asked,
            progress=progress,
        )
    finally:
        progress.wipe()


def _credentials(
    sync: _Sync, run: RunDir, only: Sequence[str]
) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
    """Return the secrets that are at hand, and for each target what is missing."""
    credentials: dict[str, Mapping[str, Any]] = {}
    problems: dict[str, str] = {}
    for name in only:
        if sync.place is not None:
            credentials[name] = sync.place.parted.credentials
            continue
        try:
            recalled = recall(run.info, name, registry.backend_class(backend_of(name)))
        except TraceletError as error:
            problems[name] = str(error)
            continue
        credentials[name] = recalled.credentials
        if recalled.missing:
            variables = " and ".join(recalled.missing.values())
            problems[name] = f"set {variables}: secrets are not kept on disk"
    return credentials, problems


def _address(run: RunDir, name: str) -> str:
    """Return what two runs have in common that go to the same place; there is no secret in it."""
    return json.dumps([backend_of(name), run.info.options.get(name, {})], sort_keys=True)


def _is_away(
    sync: _Sync,
    run: RunDir,
    name: str,
    credentials: Mapping[str, Mapping[str, Any]],
    problems: dict[str, str],
) -> bool:
    """Tell whether a place that did not answer for an earlier run still does not."""
    if _address(run, name) not in sync.away:
        return False
    try:
        maker(run.info, name, credentials, os.environ)().preflight()
    except RetryableError as error:
        problems[name] = str(error)
        return True
    except (TraceletError, BackendError, OSError):
        return False  # the delivery will say what it is
    return False


def _sent_again(
    sync: _Sync,
    run: RunDir,
    only: Sequence[str],
    states: Mapping[str, BackendState],
    problems: dict[str, str],
) -> Mapping[str, BackendState]:
    """Send dead letters once more; return where all targets stand then."""
    credentials, _ = _credentials(sync, run, only)
    for name in only:
        if problems.get(name) or not states[name].complete or not rejected.left(run, name):
            continue
        _hold(run)
        done = rejected.send_again(run, name, maker(run.info, name, credentials, os.environ))
        states = state.read(run)
        if done.trouble or done.refused:
            problems[name] = done.trouble or f"refused again: {done.reason}"
        elif not any(each.left for each in states.values()):
            # Nothing keeps it any more: it is put away as if nothing had been refused.
            states = {**states, **drain(run, credentials, sync.timeout, only=[name])}
    return states


# -- what is said -------------------------------------------------------------------------


def _told(found: BackendState, problem: Optional[str], run: RunDir) -> str:
    counts = [f"{found.delivered:,} delivered"]
    for number, word in (
        (found.pending, "pending"),
        (found.rejected, "rejected"),
        (found.unsupported, "unsupported"),
    ):
        if number:
            counts.append(f"{number:,} {word}")
    text = "not there yet" if found.absent else ", ".join(counts)
    if found.gone:
        # What the backend says of it may know a way to bring it back.
        problem = f"{problem or found.error} or: tracelet sync --new-run {run.info.run_id}"
    if found.complete:
        look = found.remote.url or found.remote.look if found.remote else ""
        text += f", {found.status}" + (f" → {look}" if look else "")
        return f"{text} ({shortened(problem, _SAID)})" if problem else text
    why = problem or found.error or found.detail or found.state
    return f"{text} ({why if found.gone else shortened(why, _SAID)})"


class _Progress:
    """A line that changes in place, on a terminal only."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._shown_at = 0.0

    def __call__(self, states: Mapping[str, BackendState]) -> None:
        now = time.monotonic()
        if not _on_a_terminal() or now - self._shown_at < _PROGRESS_S:
            return
        self._shown_at = now
        text = ", ".join(
            f"{name} {each.delivered:,} delivered, {each.pending:,} to go"
            for name, each in states.items()
            if each.left
        )
        # A line that wraps could not be wiped.
        line = f"{self._title}: {text}"[: shutil.get_terminal_size().columns - 1]
        click.echo(f"\r\x1b[2K{line}", nl=False, err=True)

    def wipe(self) -> None:
        """Leave nothing of it behind."""
        _wipe()


def _on_a_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _wipe() -> None:
    if _on_a_terminal():
        click.echo("\r\x1b[2K", nl=False, err=True)
