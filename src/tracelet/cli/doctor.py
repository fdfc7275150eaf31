"""``tracelet doctor``: what a run would meet, before there is one."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
import time
from pathlib import Path
from typing import Mapping, Optional, Sequence

import click

from tracelet.cli import installed, spool_folder
from tracelet.errors import SettingsError
from tracelet.findings import Finding, of_error
from tracelet.run.examination import Part, gathered, of_backend
from tracelet.settings import Loaded, load

__all__ = ["examine"]

#: What printing and leaving take.
_REST_S = 0.4
#: Less than this is no time to ask anything in, however slow this machine is.
_AT_LEAST_S = 0.6

_INDENT = 24


def examine(
    *,
    backend: Sequence[str],
    backend_url: Optional[str],
    project: Optional[str],
    timeout: float,
    as_json: bool,
) -> int:
    """
    Look at everything that ``start_logging`` would use, and print what was found.

    Args:
        backend: Names of backends; those of the settings when empty.
        backend_url: As the argument of ``start_logging``.
        project: The same.
        timeout: How long the whole command may take, in seconds.
        as_json: Print it for a program.

    Returns:
        The exit code: 1 when there is a problem.
    """
    began = time.monotonic()
    deadline = began + max(_AT_LEAST_S, timeout - _REST_S - _spent_s(timeout))
    loaded, wrong = _settings(backend, backend_url, project)
    parts: dict[str, Part] = {
        "installed": installed.findings,
        "spool": lambda: spool_folder.findings(
            None if loaded is None else loaded.settings.spool_dir, Path.cwd(), os.environ
        ),
    }
    if loaded is not None:
        parts.update((name, of_backend(name, loaded, deadline)) for name in loaded.settings.backend)
    found = {"settings": wrong, **gathered(parts, deadline)}
    ill = any(each.level == "problem" for findings in found.values() for each in findings)
    if as_json:
        _print_json(found, ill=ill, seconds=time.monotonic() - began)
    else:
        _print(found)
    return int(ill)


def _spent_s(timeout: float) -> float:
    """
    Return how much of the time went into getting here, in seconds.

    From the start of the process, where that is known; on a busy machine it is half of the time.
    """
    spent = time.process_time()
    try:
        # Field 22 of proc_pid_stat(5), counted behind the name, which may hold anything.
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        spent = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks
    except (OSError, ValueError, IndexError, AttributeError):
        pass
    # A process that is older than that had other things to do first.
    return spent if 0 <= spent <= timeout else 0.0


def _settings(
    backend: Sequence[str], backend_url: Optional[str], project: Optional[str]
) -> tuple[Optional[Loaded], list[Finding]]:
    """Return the settings as ``start_logging`` would have them, and what is wrong with them."""
    arguments = {
        "backend": list(backend) or None,
        "backend_url": backend_url,
        "project": project,
    }
    try:
        loaded = load(arguments)
    except SettingsError as error:
        return None, [of_error(error, "settings")]
    switched_off = os.environ.get("TRACELET_DISABLED", "").strip().lower()
    if switched_off not in ("", "0", "false", "no", "off"):
        text = "tracelet is switched off by TRACELET_DISABLED"
        return loaded, [Finding("note", "mode", text, "unset it to record runs")]
    if loaded.settings.mode != "online":
        text = f"TRACELET_MODE is {loaded.settings.mode!r}: a run delivers nothing by itself"
        return loaded, [Finding("note", "mode", text, "unset it, or run 'tracelet sync' later")]
    return loaded, []


def _print_json(found: Mapping[str, Sequence[Finding]], *, ill: bool, seconds: float) -> None:
    content = {
        "ok": not ill,
        "seconds": round(seconds, 3),
        "versions": installed.versions(),
        "findings": [
            {
                "area": area,
                "subject": each.subject,
                "level": each.level,
                "text": each.text,
                "remedy": each.remedy,
            }
            for area, findings in found.items()
            for each in findings
        ],
    }
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _print(found: Mapping[str, Sequence[Finding]]) -> None:
    width = min(100, max(60, shutil.get_terminal_size().columns))
    for area, findings in found.items():
        if not findings:
            continue
        click.echo(area)
        for each in findings:
            _lines(f"  {each.level:<9}{each.subject:<13}", each.text, width)
            if each.remedy:
                _lines("", f"→ {each.remedy}", width)
    problems = sum(each.level == "problem" for findings in found.values() for each in findings)
    counted = "1 problem" if problems == 1 else f"{problems or 'no'} problems"
    click.echo(f"{counted}.")


def _lines(head: str, text: str, width: int) -> None:
    wrapped = textwrap.wrap(text, width - _INDENT, break_long_words=False, break_on_hyphens=False)
    for line in wrapped or [""]:
        click.echo(f"{head:<{_INDENT}}{line}")
        head = ""
