"""
How a run comes to be: everything that can be wrong first, then the parts in order.

``prepare`` reads settings and asks the backends; nothing has been started when it raises.
``launch`` makes the folder, the shipper and the patches, and undoes what it has done when one of
them fails.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Union

from pydantic import ValidationError

from tracelet import registry
from tracelet._guard import Guard
from tracelet._ledger import Ledger
from tracelet._process import Rank, find_rank, slurm_job
from tracelet.backends.base import Backend, ProgramRun
from tracelet.capture.base import Integration
from tracelet.collect.gather import FACTS, Gathering
from tracelet.errors import SettingsError, SpoolError
from tracelet.records import RunInfo, RunStatus
from tracelet.run import Run
from tracelet.run.disabled import DisabledRun
from tracelet.run.hosts import Watch, ship
from tracelet.run.job import Job, Note, count_start
from tracelet.run.preflight import Preflight
from tracelet.run.rank import JoinedRun, SilentRun
from tracelet.run.room import Room
from tracelet.run.secrets import Parted, part
from tracelet.settings import Loaded, TraceletSettings, sentence
from tracelet.ship import state
from tracelet.ship.redaction import values_of
from tracelet.spool.reader import finished, unfinished
from tracelet.spool.rundir import (
    RunDir,
    default_root,
    find_runs,
    in_memory,
    is_main,
    makeshift_root,
    new_run_id,
    on_network,
    remember_root,
    state_home,
    writable,
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
    #: Which process of its job this is; None: it is alone.
    rank: Optional[Rank]

    @property
    def beside(self) -> bool:
        """True in a rank that is not the first one: it asks nobody, and ships nothing."""
        return self.rank is not None and self.rank.number > 0

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
    rank = find_rank() if settings.ranks != "each" else None
    beside = rank is not None and rank.number > 0
    ledger = Ledger(silent=settings.silent)
    backends: dict[str, Backend] = {}
    parts: dict[str, Parted] = {}
    for name in settings.backend:
        backends[name], parts[name], _ = complete(name, loaded, cwd)
    # Early, so that it is done when the backends have answered.
    secrets = values_of({name: parted.credentials for name, parted in parts.items()})
    silent = beside and settings.ranks == "zero"
    gathering = Gathering([] if silent else settings.collect, secrets)
    if settings.mode == "online" and not beside:
        preflight = Preflight(backends, ledger, loaded.project)
        deadline = max(began + PREFLIGHT_S, time.monotonic() + PREFLIGHT_AT_LEAST_S)
        for line in preflight.wait(deadline, strict=settings.strict):
            ledger.warn(line)
    theirs = {} if beside else _theirs(loaded, backends)
    return Plan(loaded, backends, parts, theirs, ledger, cwd, gathering, rank)


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
    start = count_start()
    if plan.beside:
        return _beside(plan, start, on_stop)
    root = _root(plan)
    if root is None:
        return _nowhere(plan, on_stop)
    run_dir, resumed, job = _folder(plan, root, start)
    credentials = {name: parted.credentials for name, parted in plan.parts.items()}
    before = state.spooled(run_dir)
    here = any(backend.in_memory for backend in plan.backends.values())
    shipper = "thread" if here else settings.shipper
    run: Optional[Run] = None
    begun = False
    try:
        power = settings.durability == "power"
        writer = SpoolWriter(run_dir, snapshot=settings.snapshot, power=power)
        writer.on_stall = partial(_tell_of_stall, ledger)
        writer.on_jump = partial(_tell_of_jump, ledger)
        host = None
        if settings.mode == "online":
            host = ship(shipper, run_dir, credentials, ledger)
            writer.watch = Watch(host, run_dir, ledger)
        elif settings.min_free_bytes:
            writer.watch = Room(writer, _or_default(settings.min_free_bytes), ledger)
        run = Run(
            run_dir,
            writer,
            host,
            ledger,
            strict=settings.strict,
            handle_sigterm=settings.handle_sigterm,
            backends=plan.backends,
            looks={name: each.look(run_dir.info) for name, each in plan.backends.items()},
            before=before,
            on_end=partial(_note_end, job, run_dir) if job is not None else None,
            on_stop=on_stop,
        )
        run._begin(_integrations(plan), settings.keep_tensorboard)  # noqa: SLF001 - two halves of one
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


def _nowhere(plan: Plan, on_stop: Callable[[Run], None]) -> Run:
    """Return the run of a program that has no place for one."""
    return DisabledRun(plan.loaded.project, plan.loaded.name, plan.settings.tags, on_stop)


def _integrations(plan: Plan) -> list[Integration]:
    return [
        registry.integration_class(name)()
        for name in registry.integrations()
        if name not in plan.settings.disable
    ]


# -- another rank than the first ------------------------------------------------------------


def _beside(plan: Plan, start: int, on_stop: Callable[[Run], None]) -> Run:
    """Start on a rank that is not the first one."""
    assert plan.rank is not None
    settings, rank = plan.settings, plan.rank
    if settings.ranks == "zero":
        about = RunInfo(
            run_id="",
            project=plan.loaded.project,
            name=plan.loaded.name,
            created=0.0,
            tags=dict(settings.tags),
            backends=list(plan.backends),
        )

        def job_there() -> Job:
            root = _usual_root(plan) or makeshift_root(os.environ) or plan.cwd / ".tracelet"
            return Job(root, rank, start)

        silent = SilentRun(about, job_there, on_stop)
        if not settings.keep_tensorboard:
            silent.silence(_integrations(plan))
        return silent
    root = _root(plan)
    if root is None:
        return _nowhere(plan, on_stop)
    job = Job(root, rank, start)
    run_dir, writer, ended = _join(plan, job, start)
    credentials = {name: parted.credentials for name, parted in plan.parts.items()}
    run = JoinedRun(
        rank.number,
        run_dir,
        writer,
        host=partial(ship, settings.shipper, run_dir, credentials, plan.ledger)
        if settings.mode == "online"
        else None,
        ended=ended,
        ledger=plan.ledger,
        strict=settings.strict,
        handle_sigterm=settings.handle_sigterm,
        looks={name: each.look(run_dir.info) for name, each in plan.backends.items()},
        on_end=partial(_note_end, job, run_dir),
        on_stop=on_stop,
    )
    try:
        run._begin(_integrations(plan), settings.keep_tensorboard)  # noqa: SLF001 - as above
    except BaseException:
        run.stop(RunStatus.FAILED, timeout=0.0)
        raise
    return run


def _join(plan: Plan, job: Job, start: int) -> tuple[RunDir, SpoolWriter, str]:
    """
    Return the run of this job and a writer, which is open: the run is not over before that ends.

    Where rank 0 has not come yet the run is made for it; where it has gone already, and the run
    with it, what is logged here goes to the same remote run.
    """
    entered: list[SpoolWriter] = []

    def enter(run_dir: RunDir) -> None:
        entered.append(
            SpoolWriter(
                run_dir,
                main=False,
                rank=job.rank.number,
                snapshot=plan.settings.snapshot,
                power=plan.settings.durability == "power",
            )
        )

    with job.alone():
        note = job.read()
        found = job.folder(note) if note is not None else job.parents()
        if found is None and note is None and _resumes(plan):
            found = _unfinished(plan, job.root, start, own=False)
        if found is not None and not (note is not None and note.status and note.remotes):
            with Guard("ranks"):
                enter(found)
                if note is None and found.info.ranks:
                    job.write(found.info.run_id)
                return found, entered[0], note.status if note is not None else ""
        info = _continuing(_info(plan, start), note)
        run_dir = RunDir.create(job.root, info, before=enter)
        if note is None:
            _tell(plan, job, run_dir)
    remember_root(job.root, os.environ)
    return run_dir, entered[0], note.status if note is not None else ""


def _continuing(info: RunInfo, note: Optional[Note]) -> RunInfo:
    """Return ``info``, for the remote run that other ranks have ended already, if they have."""
    if note is None or not note.status:
        return info
    ids = {name: note.remote(name) for name in info.backends}
    there = {name: run.id for name, run in ids.items() if run is not None}
    return replace(info, resume={**there, **info.resume})


def _tell(plan: Plan, job: Job, run_dir: RunDir) -> None:
    try:
        job.write(run_dir.info.run_id)
    except OSError as error:
        plan.ledger.warn(f"the other ranks will not find this run: {error.strerror or error}.")


def _note_end(job: Job, run_dir: RunDir, status: RunStatus) -> None:
    """Tell ranks that come later how and where it ended."""
    job.write(run_dir.info.run_id, status.value, _remotes(run_dir))


def _remotes(run_dir: RunDir) -> Mapping[str, Mapping[str, Any]]:
    states = state.read(run_dir)
    return {n: asdict(each.remote) for n, each in states.items() if each.remote is not None}


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


def _folder(plan: Plan, root: Path, start: int) -> tuple[RunDir, bool, Optional[Job]]:
    """
    Return the folder of the run, owned, whether it is that of a former run, and where the other
    ranks look for it.
    """
    job = Job(root, plan.rank, start) if plan.rank is not None else None
    with job.alone() if job is not None else nullcontext():
        note = job.read() if job is not None else None
        prepared = job.folder(note) if job is not None and note is not None else None
        if note is not None and note.rank == 0 and prepared is not None and prepared.owner_alive():
            job = None  # we are a program that rank 0 has started, and no rank
        elif note is not None and note.rank and prepared is not None and prepared.own():
            resumed = any(map(is_main, prepared.segment_numbers()))
            if not resumed:
                prepared.describe(replace(_info(plan, start), run_id=prepared.info.run_id))
            return prepared, resumed, job
        elif note is not None and note.rank and prepared is not None:
            # The last of the others is just seeing it off.
            note = replace(note, status="RUNNING", remotes=_remotes(prepared))
        former = _unfinished(plan, root, start) if _resumes(plan) and not plan.theirs else None
        if former is None:
            info = _continuing(_info(plan, start), note if note is not None and note.rank else None)
        run_dir = former or RunDir.create(root, info, owned=True)
        if job is not None:
            _tell(plan, job, run_dir)
    remember_root(root, os.environ)
    if run_dir.lockless and former is None:
        plan.ledger.warn(
            f"{root} lies on a file system without locks: whether a process of another machine "
            "lives is told ten minutes late; give a folder of a local disk with spool_dir."
        )
    return run_dir, former is not None, job


def _resumes(plan: Plan) -> bool:
    """Tell whether an unfinished run is looked for: if asked to, or in a job that was requeued."""
    if plan.settings.resume is not None:
        return plan.settings.resume == "auto"
    return bool(plan.settings.run_id is None and slurm_job()[1])


def _requeued_as(plan: Plan, start: int) -> str:
    """Return what this start has in common with that of the same job before it was requeued."""
    job = slurm_job()[0]
    if not job or plan.settings.resume is not None or plan.settings.run_id is not None:
        return ""
    rank = find_rank() if plan.settings.ranks == "each" else None
    text = "\0".join((str(plan.cwd), str(start), str(rank.number if rank else 0), *sys.argv))
    return f"{job} {hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:16]}"


def _usual_root(plan: Plan) -> Optional[Path]:
    """Return the folder for runs, the one that was named or the usual one, if that can be had."""
    if plan.settings.spool_dir is not None:
        return Path(os.path.abspath(plan.cwd / plan.settings.spool_dir))  # noqa: PTH100
    return default_root(plan.cwd, os.environ)


def _root(plan: Plan) -> Optional[Path]:
    """Return the folder for runs; None when there is no place at all."""
    root = _usual_root(plan)
    if root is not None and plan.settings.spool_dir is not None:
        error = writable(root)
        if error is not None:
            raise SpoolError(
                f"Cannot write to the spool folder {root}: {error.strerror or error}. "
                "Give a writable one with spool_dir (or TRACELET_SPOOL_DIR)."
            ) from error
    if root is not None:
        if on_network(root):
            plan.ledger.warn(
                f"{root} lies on a network mount, which may hang or go away: give a folder of a "
                "local disk with spool_dir (or TRACELET_SPOOL_DIR)."
            )
        return root
    if plan.settings.strict:
        raise SpoolError(
            f"Neither {plan.cwd / '.tracelet'} nor {state_home(os.environ)} can be written to: "
            "give a folder that can with spool_dir (or TRACELET_SPOOL_DIR)."
        )
    root = makeshift_root(os.environ)
    if root is None:
        plan.ledger.warn(
            "no folder can be written to, not even one for temporary files: nothing of this run "
            "is recorded. Give one with spool_dir (or TRACELET_SPOOL_DIR)."
        )
        return None
    where = "which is this machine's memory" if in_memory(root) else "among temporary files"
    plan.ledger.warn(
        f"no folder can be written to but {root}, {where}: what is not delivered may not outlive "
        "this machine's next start. Give another one with spool_dir (or TRACELET_SPOOL_DIR)."
    )
    return root


def _tell_of_stall(ledger: Ledger, seconds: float) -> None:
    ledger.warn(
        f"the disk held up a write for {seconds:.2f} s: a thread writes now, until the disk is "
        "quick again, and what it is behind with (32 MB at most) a killed program would lose.",
        once="stall",
    )


def _tell_of_jump(ledger: Ledger, seconds: float) -> None:
    way = "forward" if seconds > 0 else "back"
    ledger.warn(
        f"the clock of this machine was put {way} by {abs(seconds):,.0f} s while the run went on: "
        "what was logged before keeps its times, what is logged from now on has the new ones."
    )


def _info(plan: Plan, start: int) -> RunInfo:
    from tracelet import __version__

    settings = plan.settings
    requeued = _requeued_as(plan, start)
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
        resumable=settings.resume == "auto" or bool(requeued),
        ranks=plan.rank.size if plan.rank is not None and settings.ranks == "all" else 0,
        job=requeued,
        keep=settings.keep_runs,
        cwd=str(plan.cwd),
        pid=os.getpid(),
        host=platform.node(),
        version=__version__,
        context=plan.gathering.facts(),
        collectors=_collectors(plan),
        sample_interval_s=settings.system_interval_s,
        bounds=_bounds(settings),
    )


def _bounds(settings: TraceletSettings) -> Mapping[str, Optional[int]]:
    """Return what a run may take; None: as much as the file system's size says."""
    if settings.mode == "offline":
        return {}  # waiting is its purpose, and nobody is there who could give something up
    return {
        "max_run_bytes": settings.max_run_bytes,
        "max_spool_bytes": _or_default(settings.max_spool_bytes),
        "min_free_bytes": _or_default(settings.min_free_bytes),
    }


def _or_default(number: Union[str, int]) -> Optional[int]:
    return number if isinstance(number, int) else None


def _collectors(plan: Plan) -> list[str]:
    if any(backend.measures(os.environ) for backend in plan.backends.values()):
        return []
    return [name for name in plan.settings.collect if name not in FACTS]


def _unfinished(plan: Plan, root: Path, start: int, *, own: bool = True) -> Optional[RunDir]:
    """
    Return the last unfinished run of the same project and name, owned by us now if ``own``.

    Without ``resume="auto"``: of the very job that was requeued.
    """
    job = _requeued_as(plan, start)
    options = {name: dict(parted.options) for name, parted in plan.parts.items()}
    for run_dir in sorted(find_runs(root), key=lambda each: each.info.created, reverse=True):
        info = run_dir.first
        if (info.project, info.name) != (plan.loaded.project, plan.loaded.name):
            continue
        # One that was adopted belongs to the program that had opened it.
        if info.adopted or (job and info.job != job) or not unfinished(run_dir):
            continue
        if dict(info.options) != options or list(info.backends) != list(plan.backends):
            plan.ledger.warn(
                f"the unfinished run {info.run_id} went elsewhere, or with other options; "
                "a new run is started."
            )
            return None
        if not own:
            return run_dir
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
    if plan.rank is not None and not info.ranks:
        verb = f"rank 0 of {plan.rank.size} is {verb}"
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
