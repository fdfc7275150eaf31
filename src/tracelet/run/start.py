"""
How a run comes to be: everything that can be wrong first, then the parts in order.

``prepare`` reads settings and asks the backends; nothing has been started when it raises.
``launch`` makes the folder, the shipper and the patches, and undoes what it has done when one of
them fails.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping, Optional

from pydantic import ValidationError

from tracelet import registry
from tracelet._guard import Guard
from tracelet._ledger import Ledger
from tracelet.backends.base import Backend, ProgramRun
from tracelet.collect.gather import FACTS, Gathering
from tracelet.errors import SettingsError, SpoolError
from tracelet.records import RunInfo, RunStatus
from tracelet.run import Run
from tracelet.run.hosts import Watch, ship
from tracelet.run.preflight import Preflight
from tracelet.run.secrets import Parted, part
from tracelet.settings import Loaded, TraceletSettings, sentence
from tracelet.ship import state
from tracelet.ship.redaction import values_of
from tracelet.spool.reader import finished, unfinished
from tracelet.spool.rundir import (
    RunDir,
    default_root,
    find_runs,
    new_run_id,
    remember_root,
    state_home,
)
from tracelet.spool.writer import SpoolWriter

__all__ = ["Plan", "complete", "launch", "prepare"]

#: All backends together have so long to answer before training starts, counted from the call of
#: ``start_logging``: a second, less what the rest of the start may need …
PREFLIGHT_S = 0.75
#: … but no less than this, however long this machine took to get so far.
PREFLIGHT_AT_LEAST_S = 0.35


@dataclass(frozen=True)
class Plan:
    """Everything about a run that has been found to be right."""

    loaded: Loaded
    backends: Mapping[str, Backend]
    parts: Mapping[str, Parted]
    #: For each backend the run that the program itself has open there, or was told to continue.
    theirs: Mapping[str, ProgramRun]
    ledger: Ledger
    cwd: Path
    gathering: Gathering

    @property
    def settings(self) -> TraceletSettings:
        """What the user chose."""
        return self.loaded.settings


def prepare(loaded: Loaded, began: float) -> Plan:
    """
    Find the backends, complete their options, and ask whether they would take the run.

    Args:
        loaded: The settings.
        began: When ``start_logging`` was called, on the monotonic clock.

    Raises:
        TraceletError: What is wrong, in one sentence.
    """
    cwd = Path.cwd()
    settings = loaded.settings
    ledger = Ledger(silent=settings.silent)
    backends: dict[str, Backend] = {}
    parts: dict[str, Parted] = {}
    for name in settings.backend:
        backends[name], parts[name], _ = complete(name, loaded, cwd)
    # Early, so that it is done when the backends have answered.
    secrets = values_of({name: parted.credentials for name, parted in parts.items()})
    gathering = Gathering(settings.collect, secrets)
    if settings.mode == "online":
        preflight = Preflight(backends, ledger, loaded.project)
        deadline = max(began + PREFLIGHT_S, time.monotonic() + PREFLIGHT_AT_LEAST_S)
        for line in preflight.wait(deadline, strict=settings.strict):
            ledger.warn(line)
    return Plan(loaded, backends, parts, _theirs(loaded, backends), ledger, cwd, gathering)


def launch(plan: Plan, on_stop: Callable[[Run], None]) -> Run:
    """
    Start the run.

    Args:
        plan: What ``prepare`` returned.
        on_stop: Called once, when the run has ended.

    Raises:
        SpoolError: The folder that the user named cannot be used.
    """
    settings, ledger = plan.settings, plan.ledger
    run_dir, resumed = _folder(plan)
    credentials = {name: parted.credentials for name, parted in plan.parts.items()}
    before = state.spooled(run_dir)
    here = any(backend.in_memory for backend in plan.backends.values())
    shipper = "thread" if here else settings.shipper
    run: Optional[Run] = None
    begun = False
    try:
        writer = SpoolWriter(run_dir, snapshot=settings.snapshot)
        host = None
        if settings.mode == "online":
            host = ship(shipper, run_dir, credentials, ledger)
            writer.watch = Watch(host, run_dir, ledger)
        run = Run(
            run_dir,
            writer,
            host,
            ledger,
            strict=settings.strict,
            drains_here=shipper == "thread",
            handle_sigterm=settings.handle_sigterm,
            backends=plan.backends,
            looks={name: each.look(run_dir.info) for name, each in plan.backends.items()},
            before=before,
            on_stop=on_stop,
        )
        integrations = [
            registry.integration_class(name)()
            for name in registry.integrations()
            if name not in settings.disable
        ]
        run._begin(integrations, settings.keep_tensorboard)  # noqa: SLF001 - two halves of one
        if resumed and settings.tags:
            run.set_tags(settings.tags)
        ledger.say(_start_line(plan, run_dir, run, resumed=resumed))
        begun = True
    finally:
        # Also after a Ctrl-C: nothing of a start that did not come to its end stays behind.
        if not begun and run is not None:
            run.stop(RunStatus.FAILED, timeout=0.0)
        elif not begun:
            run_dir.release()
            if not resumed:
                run_dir.remove()
    return run


# -- before anything starts -----------------------------------------------------------------


def complete(name: str, loaded: Loaded, cwd: Path) -> tuple[Backend, Parted, Mapping[str, str]]:
    """Make the backend with its complete options; part them from their secrets; say whence."""
    cls = registry.backend_class(name)
    _takes(cls, name, loaded)
    problem: str
    try:
        options, secrets = cls.resolve(loaded.sections[name], os.environ, cwd)
    except ValidationError as error:
        problem = sentence(error, cls.Options, where=name)
    else:
        sources = {**secrets, **loaded.sources[name]}
        return cls(options), part(options, sources), sources
    # Out here, so that pydantic's text, which shows the value, does not hang on as the context.
    raise SettingsError(problem)


def _takes(cls: type[Backend], name: str, loaded: Loaded) -> None:
    settings = loaded.settings
    for setting, option in (("backend_url", "url"), ("api_key", "api_key")):
        if getattr(settings, setting) is not None and option not in cls.Options.model_fields:
            raise SettingsError(f"The backend {name!r} takes no {setting}.")


def _theirs(loaded: Loaded, backends: Mapping[str, Backend]) -> Mapping[str, ProgramRun]:
    """Return the runs that the program points at, where the user has not said which to continue."""
    found = {}
    for name, backend in backends.items():
        if name in loaded.resume:
            continue
        with Guard(f"{name} program_run"):
            run = backend.program_run()
            if run is not None:
                found[name] = run
    return found


# -- the folder -----------------------------------------------------------------------------


def _folder(plan: Plan) -> tuple[RunDir, bool]:
    """Return the folder of the run, owned, and whether it is that of a former run."""
    root = _root(plan)
    if plan.settings.resume == "auto" and not plan.theirs:
        former = _unfinished(plan, root)
        if former is not None:
            return former, True
    run_dir = RunDir.create(root, _info(plan), owned=True)
    remember_root(root, os.environ)
    return run_dir, False


def _root(plan: Plan) -> Path:
    if plan.settings.spool_dir is not None:
        return Path(os.path.abspath(plan.cwd / plan.settings.spool_dir))  # noqa: PTH100
    root = default_root(plan.cwd, os.environ)
    if root is not None:
        return root
    if plan.settings.strict:
        raise SpoolError(
            f"Neither {plan.cwd / '.tracelet'} nor {state_home(os.environ)} can be written to: "
            "give a folder that can with spool_dir (or TRACELET_SPOOL_DIR)."
        )
    root = Path(tempfile.mkdtemp(prefix="tracelet-"))
    plan.ledger.warn(
        f"no folder can be written to but {root}, which may not outlive this machine's next "
        "start: give another one with spool_dir."
    )
    return root


def _info(plan: Plan) -> RunInfo:
    from tracelet import __version__

    settings = plan.settings
    # A name of one's own makes it a run of its own, below the one that is open.
    new = plan.loaded.name is not None
    continued = {name: run.id for name, run in plan.theirs.items() if not (new and run.held)}
    return RunInfo(
        run_id=new_run_id(),
        project=plan.loaded.project,
        name=plan.loaded.name,
        created=time.time(),
        tags=dict(settings.tags),
        backends=list(plan.backends),
        options={name: dict(parted.options) for name, parted in plan.parts.items()},
        secrets={name: dict(parted.sources) for name, parted in plan.parts.items()},
        resume={**continued, **plan.loaded.resume},
        adopted=[name for name in continued if plan.theirs[name].held],
        parents={name: run.id for name, run in plan.theirs.items() if name not in continued},
        resumable=settings.resume == "auto",
        keep=settings.keep_runs,
        cwd=str(plan.cwd),
        pid=os.getpid(),
        host=platform.node(),
        version=__version__,
        context=plan.gathering.facts(),
        collectors=_collectors(plan),
        sample_interval_s=settings.system_interval_s,
    )


def _collectors(plan: Plan) -> list[str]:
    if any(backend.measures(os.environ) for backend in plan.backends.values()):
        return []
    return [name for name in plan.settings.collect if name not in FACTS]


def _unfinished(plan: Plan, root: Path) -> Optional[RunDir]:
    """Return the last unfinished run of the same project and name, owned by us now."""
    options = {name: dict(parted.options) for name, parted in plan.parts.items()}
    for run_dir in sorted(find_runs(root), key=lambda each: each.info.created, reverse=True):
        info = run_dir.first
        if (info.project, info.name) != (plan.loaded.project, plan.loaded.name):
            continue
        # One that was adopted belongs to the program that had opened it.
        if info.adopted or not unfinished(run_dir):
            continue
        if dict(info.options) != options or list(info.backends) != list(plan.backends):
            plan.ledger.warn(
                f"the unfinished run {info.run_id} went elsewhere, or with other options; "
                "a new run is started."
            )
            return None
        if run_dir.own():
            if not finished(run_dir):
                return run_dir
            run_dir.release()  # another process was faster, took it to its end and let go of it
    return None


def _start_line(plan: Plan, run_dir: RunDir, run: Run, *, resumed: bool) -> str:
    info = run_dir.info
    name = repr(info.name) if info.name else info.run_id
    verb = "continuing" if resumed else "recording"
    if plan.settings.mode == "offline":
        return f"{verb} {name} in {run_dir.path} → tracelet sync delivers it"
    looks = [f"{backend}: {look}" if look else backend for backend, look in run.looks.items()]
    return f"{verb} {name}{_relation(plan, info)} → {', '.join(looks)}"


def _relation(plan: Plan, info: RunInfo) -> str:
    """Say what the run has to do with one that the program itself has open."""
    said = []
    for backend, run in plan.theirs.items():
        which = repr(run.name) if run.name else run.id
        if backend in info.adopted:
            ignored = f"; its experiment stays, not {info.project!r}" if info.project else ""
            said.append(f"into the {backend} run {which}, which is open here{ignored}")
        elif backend in info.parents:
            said.append(f"below the {backend} run {which}, which is open here")
        else:
            said.append(f"continuing the {backend} run {which}")
    return f" ({', '.join(said)})" if said else ""
