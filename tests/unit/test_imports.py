"""Two clients that share a package whose modules import each other in a circle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Each imports the other: whoever is not the first finds half of it, if both begin at once.
PACKAGE = {
    "first.py": "import time; time.sleep(0.5)\nimport second\nvalue = second.value\n",
    "second.py": "import time; time.sleep(0.2)\nimport first\nvalue = 1\n",
}

PROGRAM = """
import sys, threading, time
from importlib import import_module
from tracelet._imports import load

how = {"load": load, "import": import_module}[sys.argv[1]]
broken = []

def take(name):
    try:
        how(name)
    except Exception as error:
        broken.append(f"{name}: {error}")

threads = [threading.Thread(target=take, args=[name]) for name in ("first", "second")]
for thread in threads:
    thread.start()
    time.sleep(0.1)
for thread in threads: thread.join()
print(bool(broken))
"""


@pytest.mark.parametrize(("how", "broken"), [("load", "False"), ("import", "True")])
def test_no_client_sees_half_of_what_they_share(tmp_path: Path, how: str, broken: str) -> None:
    for name, code in PACKAGE.items():
        (tmp_path / name).write_text(code)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == broken, done.stderr
