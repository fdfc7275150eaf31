"""The facts that nobody logged, as W&B has them: a run's metadata, and the rest in its config."""

from __future__ import annotations

import json
from typing import Any, Mapping

from tracelet.records import RunInfo

__all__ = ["config", "files", "settings"]


def settings(run: RunInfo) -> Mapping[str, Any]:
    """Return what the vendor's own settings say of a program."""
    git, command, machine = map(run.facts, ("git", "command", "hardware"))
    found = {
        "git_commit": git.get("commit"),
        "git_remote_url": git.get("remote"),
        "host": machine.get("host") or run.host,
        "program": command.get("script"),
        "x_executable": command.get("executable"),
    }
    return {name: str(value) for name, value in found.items() if value}


def config(run: RunInfo) -> Mapping[str, Any]:
    """Return what goes into the run's configuration."""
    facts = {name: value for name, value in run.context.items() if name != "packages"}
    return {
        "_tracelet.run_id": run.run_id,
        "_tracelet.version": run.version,
        **({"_tracelet.context": facts} if facts else {}),
    }


def files(run: RunInfo) -> Mapping[str, str]:
    """Return the small files that the vendor's client writes for each run, by name."""
    if not run.context:
        return {}
    git, command, machine = map(run.facts, ("git", "command", "hardware"))
    line = command.get("line")
    line = [str(part) for part in line] if isinstance(line, list) else []
    metadata = {
        "os": machine.get("platform"),
        "python": command.get("python"),
        "host": machine.get("host"),
        "executable": command.get("executable"),
        "program": command.get("script"),
        "args": line[1:],
        "root": command.get("folder"),
        "cpu_count_logical": machine.get("cpus"),
        "git": {"remote": git.get("remote"), "commit": git.get("commit")} if git else None,
        "gpu_count": len(machine.get("gpus") or ()) or None,
    }
    found = {"wandb-metadata.json": json.dumps({k: v for k, v in metadata.items() if v})}
    packages = run.context.get("packages")
    if isinstance(packages, Mapping):
        lines = (f"{name}=={version}\n" for name, version in sorted(packages.items()))
        found["requirements.txt"] = "".join(lines)
    return found
