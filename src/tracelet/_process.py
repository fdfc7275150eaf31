"""
Which one of a job's processes this is, as far as its launcher says so.

Launchers (torchrun, ``srun``, ``mpirun``, …) start one program many times and tell each process
its number in variables. Only a number together with the number of all is believed: a ``RANK`` that
is left over in a shell is no job. The first launcher of the table that gives both decides, also
when it says that there is only one process: ``torchrun`` under ``srun`` knows better than ``srun``.

A process that a rank starts inherits its variables, and is taken for that rank.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from dataclasses import dataclass
from typing import Mapping, NamedTuple, Optional

__all__ = ["Rank", "find_rank", "slurm_job"]


@dataclass(frozen=True)
class Rank:
    """
    One process of a job of several.

    ``number`` is from 0 to ``size`` - 1. ``launcher`` is the word for a person. ``job`` is the same
    text in all processes of one start of the job, and another one in every other job or restart,
    as far as the launcher gives what is needed for that.
    """

    number: int
    size: int
    launcher: str
    job: str


class _Launcher(NamedTuple):
    name: str
    number: str
    size: str
    #: What tells one start of a job from others; any of them may be missing.
    job: tuple[str, ...] = ()


_TORCH = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
_SLURM = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT")

#: https://docs.pytorch.org/docs/stable/elastic/run.html (also accelerate, DeepSpeed, Ray Train),
#: horovod.readthedocs.io, docs.open-mpi.org (mca: environment variables), MPICH's and Intel's PMI,
#: mvapich.cse.ohio-state.edu, flux-framework.readthedocs.io, slurm.schedmd.com/srun.html.
_LAUNCHERS = (
    _Launcher("torchrun", "RANK", "WORLD_SIZE", _TORCH),
    _Launcher("Horovod", "HOROVOD_RANK", "HOROVOD_SIZE", ("HOROVOD_GLOO_RENDEZVOUS_PORT",)),
    _Launcher("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ("PMIX_NAMESPACE",)),
    _Launcher("MVAPICH", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    _Launcher("MPI", "PMI_RANK", "PMI_SIZE", ("PMI_PORT", "PMI_JOBID", "PBS_JOBID", "LSB_JOBID")),
    _Launcher("jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", ("LSB_JOBID",)),
    _Launcher("Flux", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", ("FLUX_JOB_ID",)),
)

#: Steps of Slurm that are no ``srun`` of the user's have numbers from here on: the batch script, an
#: interactive shell (slurm/slurm.h, SLURM_PENDING_STEP and its like).
_SLURM_SPECIAL_STEPS = 0xFFFFFFF0


def find_rank(environ: Mapping[str, str] = os.environ) -> Optional[Rank]:
    """
    Return which rank this process is; None when it is alone, or no launcher says anything.

    Args:
        environ: The environment.
    """
    for launcher in _LAUNCHERS:
        number, size = _count(environ, launcher.number), _count(environ, launcher.size)
        if number is not None and size is not None and number < size:
            return _rank(number, size, launcher.name, launcher.job, environ)
    return _lightning(environ) or _slurm(environ) or _torch_distributed(environ)


def slurm_job(environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """
    Return what a Slurm job keeps when it is requeued, and how often it was; empty where none is.

    A step has its number in the job, which is the same after a restart: both belong together.
    """
    job = environ.get("SLURM_JOB_ID", "")
    if not job:
        return "", 0
    step = environ.get("SLURM_STEP_ID", "")
    return f"slurm {job}.{step}".rstrip("."), _count(environ, "SLURM_RESTART_COUNT") or 0


def _lightning(environ: Mapping[str, str]) -> Optional[Rank]:
    """Lightning starts its further processes with a local rank only; the first one is its own."""
    size, local = _count(environ, "WORLD_SIZE"), _count(environ, "LOCAL_RANK")
    if size is None or local is None or local >= size or "MASTER_PORT" not in environ:
        return None
    # How many there are on a node it does not say; on a further one at least nobody is the first.
    number = max(1, local) if _count(environ, "NODE_RANK") else local
    return _rank(number, size, "Lightning", _TORCH, environ)


def _slurm(environ: Mapping[str, str]) -> Optional[Rank]:
    """
    A task of a step. A batch script has a ``SLURM_PROCID`` as well, and the job's ``SLURM_NTASKS``;
    it is no step, and what it starts is alone.
    """
    number, step = _count(environ, "SLURM_PROCID"), _count(environ, "SLURM_STEP_ID")
    size = _count(environ, "SLURM_STEP_NUM_TASKS")
    if size is None:
        size = _count(environ, "SLURM_NTASKS")
    if number is None or step is None or size is None or number >= size:
        return None
    if step >= _SLURM_SPECIAL_STEPS:
        return None
    return _rank(number, size, "Slurm", ("SLURM_STEP_ID",), environ)


def _torch_distributed(environ: Mapping[str, str]) -> Optional[Rank]:
    """Processes that the program starts itself have no variables; a group they may have formed."""
    distributed = sys.modules.get("torch.distributed")
    try:
        if distributed is None or not distributed.is_initialized():
            return None
        number, size = int(distributed.get_rank()), int(distributed.get_world_size())
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return None  # half imported, or built without
    return _rank(number, size, "torch.distributed", _TORCH, environ) if number >= 0 else None


def _rank(
    number: int, size: int, launcher: str, names: tuple[str, ...], environ: Mapping[str, str]
) -> Optional[Rank]:
    if size < 2:
        return None
    said = [f"{name}={environ[name]}" for name in (*names, *_SLURM) if environ.get(name)]
    if not said:
        # Nothing but the one who started us all tells this job from another one of this machine.
        said = [platform.node(), str(os.getppid())]
    elif environ.get("MASTER_ADDR", "").startswith(("127.", "localhost", "::1")):
        # It says the same on every machine.
        said.append(platform.node())
    text = "\0".join((launcher, str(size), *said))
    return Rank(number, size, launcher, hashlib.sha256(text.encode()).hexdigest()[:24])


def _count(environ: Mapping[str, str], name: str) -> Optional[int]:
    """Return a variable's number from 0 up; None when it is not there or none."""
    text = environ.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None
