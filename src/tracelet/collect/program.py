"""What is running: the command line, the Python below it, the notebook around it."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional, Sequence

from tracelet._redaction import redacted_command

__all__ = ["command", "places"]

#: A list of files may be long; the beginning tells what was meant.
_ARGUMENTS = 500
_CHARACTERS = 2000


def command(known: Iterable[str]) -> Mapping[str, Any]:
    """
    Return how the program was started.

    Args:
        known: Values that are secret.
    """
    facts: dict[str, Any] = {
        "kind": "script",
        "script": sys.argv[0] if sys.argv else "",
        "line": [_short(each) for each in redacted_command(_line()[:_ARGUMENTS], known)],
        "folder": os.getcwd(),  # noqa: PTH109 - its text is what is wanted
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
    }
    notebook = _notebook()
    if notebook is not None:
        facts["kind"] = "notebook"
        if notebook:
            facts["notebook"] = notebook
    elif hasattr(sys, "ps1") or not facts["script"]:
        facts["kind"] = "console"
    return facts


def places() -> Sequence[tuple[Path, Optional[Path]]]:
    """Return where the code may lie: the script's folder, then the working directory."""
    found: list[tuple[Path, Optional[Path]]] = []
    script = Path(sys.argv[0]) if sys.argv and sys.argv[0] else None
    if script is not None and script.is_file() and _notebook() is None:
        script = script.absolute()
        found.append((script.parent, script))
    here = Path.cwd()
    if not found or found[0][0] != here:
        found.append((here, None))
    return found


def _line() -> list[str]:
    """Return the command line as it was typed, without the text of a program in it."""
    line = list(getattr(sys, "orig_argv", None) or [sys.executable, *sys.argv])
    if "-c" in line and sys.argv[:1] == ["-c"]:
        code = line.index("-c") + 1
        line[code : code + 1] = ["…"] if len(line) > code else []
    return line


def _short(text: str) -> str:
    return text if len(text) <= _CHARACTERS else f"{text[: _CHARACTERS - 1]}…"


def _notebook() -> Optional[str]:
    """Return the name of the notebook that runs this, "" where it has none, None in a program."""
    interactive: Any = sys.modules.get("IPython")
    shell = interactive.get_ipython() if hasattr(interactive, "get_ipython") else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    name = getattr(shell, "user_ns", {}).get("__vsc_ipynb_file__") or next(
        filter(None, map(os.environ.get, ("__vsc_ipynb_file__", "IPYNB_FILE", "JPY_SESSION_NAME"))),
        "",
    )
    return Path(str(name)).name if name else ""
