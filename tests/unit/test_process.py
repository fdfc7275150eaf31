"""Which rank a process is, from what its launcher says; and what is no rank."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Mapping, Optional

import pytest

from tracelet._process import find_rank, slurm_job

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29400",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
}
SRUN = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "2",
    "SLURM_NTASKS": "3",
    "SLURM_STEP_NUM_TASKS": "3",
}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_NAMESPACE": "prte-1@1"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (TORCHRUN, ("torchrun", 1, 4)),
        (SRUN, ("Slurm", 2, 3)),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": ""}, ("Slurm", 2, 3)),
        (MPIRUN, ("Open MPI", 3, 4)),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, ("MPI", 0, 2)),
        ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2"}, ("MVAPICH", 1, 2)),
        ({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2"}, ("Horovod", 1, 2)),
        ({"FLUX_TASK_RANK": "1", "FLUX_JOB_SIZE": "2"}, ("Flux", 1, 2)),
        # The one that knows better wins.
        ({**SRUN, **TORCHRUN}, ("torchrun", 1, 4)),
        ({**SRUN, **MPIRUN}, ("Open MPI", 3, 4)),
        ({**SRUN, "PMIX_RANK": "2"}, ("Slurm", 2, 3)),
        # Lightning tells its further processes their local rank only.
        (
            {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"},
            ("Lightning", 1, 2),
        ),
    ],
)
def test_a_rank_is_known_by_its_launcher(
    environ: Mapping[str, str], expected: tuple[str, int, int]
) -> None:
    rank = find_rank(environ)
    assert rank is not None
    assert (rank.launcher, rank.number, rank.size) == expected


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RANK": "3"},  # left over in a shell
        {"RANK": "4", "WORLD_SIZE": "4"},
        {"RANK": "-1", "WORLD_SIZE": "4"},
        {"RANK": "one", "WORLD_SIZE": "two"},
        {"RANK": "", "WORLD_SIZE": ""},
        {"LOCAL_RANK": "0", "WORLD_SIZE": "4"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        # sbatch: the script is no step, and what it starts is one process.
        {"SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
        # salloc and srun --pty: a shell.
        {**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        {**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290"},
        # A torchrun of one process in each of several tasks: runs of their own.
        {**SRUN, "RANK": "0", "WORLD_SIZE": "1"},
        {"PMIX_RANK": "1"},
    ],
)
def test_what_is_no_rank(environ: Mapping[str, str]) -> None:
    assert find_rank(environ) is None


def job(environ: Mapping[str, str]) -> str:
    rank = find_rank(environ)
    assert rank is not None
    return rank.job


@pytest.mark.parametrize(
    ("environ", "number"),
    [(TORCHRUN, "RANK"), (SRUN, "SLURM_PROCID"), (MPIRUN, "OMPI_COMM_WORLD_RANK")],
)
def test_all_ranks_of_a_start_name_their_job_alike(environ: Mapping[str, str], number: str) -> None:
    assert job(environ) == job({**environ, number: "0", "LOCAL_RANK": "0"})


@pytest.mark.parametrize(
    ("environ", "other"),
    [
        (TORCHRUN, {"TORCHELASTIC_RESTART_COUNT": "1"}),
        (TORCHRUN, {"MASTER_PORT": "29401"}),
        (TORCHRUN, {"SLURM_RESTART_COUNT": "1"}),
        (SRUN, {"SLURM_JOB_ID": "78"}),
        (SRUN, {"SLURM_STEP_ID": "1"}),
        (SRUN, {"SLURM_RESTART_COUNT": "1"}),
        (MPIRUN, {"PMIX_NAMESPACE": "prte-2@1"}),
    ],
)
def test_another_start_is_another_job(environ: Mapping[str, str], other: Mapping[str, str]) -> None:
    assert job(environ) != job({**environ, **other})


def test_a_group_that_the_program_has_formed_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """``mp.spawn`` and ``init_process_group(rank=…)`` leave nothing in the variables."""
    module = ModuleType("torch.distributed")
    monkeypatch.setitem(sys.modules, "torch.distributed", module)
    assert find_rank({}) is None  # half imported
    state: dict[str, Optional[int]] = {"rank": None}
    vars(module).update(
        is_initialized=lambda: state["rank"] is not None,
        get_rank=lambda: state["rank"],
        get_world_size=lambda: 2,
    )
    assert find_rank({}) is None
    state["rank"] = 1
    rank = find_rank({"MASTER_ADDR": "localhost", "MASTER_PORT": "12355"})
    assert rank is not None
    assert (rank.number, rank.size) == (1, 2)


def test_a_requeued_job_is_known_again() -> None:
    assert slurm_job({}) == ("", 0)
    assert slurm_job({"SLURM_JOB_ID": "77"}) == ("slurm 77", 0)
    assert slurm_job({**SRUN, "SLURM_RESTART_COUNT": "2"}) == ("slurm 77.0", 2)
