"""What of the environment is told: a list of names, and nothing that is not on it."""

from __future__ import annotations

from typing import Iterable, Mapping

from tracelet._redaction import redacted_text

__all__ = ["ALLOWED", "allowed"]

#: What decides where and how a training runs. No name that anybody puts a secret into.
ALLOWED = (
    # which devices
    "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    # which part of a job
    "GROUP_RANK", "GROUP_WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "RANK",
    "WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
    "PMI_RANK", "PMI_SIZE", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID",
    # which job
    "LSB_JOBID", "LSB_JOBINDEX", "PBS_ARRAY_INDEX", "PBS_JOBID", "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID", "SLURM_CLUSTER_NAME", "SLURM_CPUS_PER_TASK", "SLURM_JOB_ID",
    "SLURM_JOB_NAME", "SLURM_JOB_NODELIST", "SLURM_JOB_NUM_NODES", "SLURM_JOB_PARTITION",
    "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_RESTART_COUNT",
    # what changes results and speed
    "CUBLAS_WORKSPACE_CONFIG", "CUDA_LAUNCH_BLOCKING", "MKL_NUM_THREADS", "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED", "PYTORCH_CUDA_ALLOC_CONF", "TF_DETERMINISTIC_OPS",
    "XLA_FLAGS",
    # which Python
    "CONDA_DEFAULT_ENV", "VIRTUAL_ENV",
)  # fmt: skip


def allowed(environ: Mapping[str, str], known: Iterable[str] = ()) -> Mapping[str, str]:
    """
    Return the variables that may be told, without what looks like a secret in their values.

    Args:
        environ: The environment.
        known: Values that are secret.
    """
    known = list(known)
    return {name: redacted_text(environ[name], known) for name in ALLOWED if environ.get(name)}
