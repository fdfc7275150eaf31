"""Programs in an interpreter of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_python(script: str, *arguments: str, cwd: Path, timeout_s: float = 90) -> str:
    """Run a script with the packages of this interpreter; return what it printed."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
