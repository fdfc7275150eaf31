"""What the program runs on: system, processor, memory, GPUs."""

from __future__ import annotations

import os
import platform
from typing import Any, Mapping

from tracelet.collect.gpu import Gpus

__all__ = ["machine"]


def machine(environ: Mapping[str, str]) -> Mapping[str, Any]:
    """
    Return the facts about this machine; sizes in bytes.

    Args:
        environ: The environment, which says what GPUs are visible.
    """
    facts: dict[str, Any] = {
        "host": platform.node(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
    if hasattr(os, "sched_getaffinity"):
        facts["cpus_usable"] = len(os.sched_getaffinity(0))
    model = _processor()
    if model:
        facts["cpu"] = model
    memory = _memory()
    if memory:
        facts["memory_bytes"] = memory
    gpus = Gpus(environ)
    found = gpus.describe()
    if found:
        facts["gpus"] = found
        facts["gpu_driver"] = gpus.driver()
    gpus.close()
    return facts


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    return value.strip()
    except OSError:
        pass
    return platform.processor()


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0
