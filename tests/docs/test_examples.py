"""The demo, as `make demo` runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def _run(name: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], cwd=folder, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_demo_shows_all_that_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    _run("mlp.py", tmp_path)
    table = _run("what_arrived.py", tmp_path)

    assert re.search(r"^mlp \(\w+\) is FINISHED in MLflow", table, re.MULTILINE)
    assert re.search(r"metric +batch/loss +320 points, steps 0 to 319", table)
    assert re.search(r"metric +epoch/loss +10 points, steps 0 to 9", table)
    assert re.search(r"parameter +optimizer\.learning_rate +0\.001", table)
    assert re.search(r"parameter +model\.hidden +128", table)
    assert re.search(r"artifact +models/model\.pth +\d", table)
    assert re.search(r"artifact +\S*histogram", table)
    assert "mlflow ui" in table


def test_nothing_to_show_is_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "what_arrived.py", "--project", "none"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "no experiment 'none'" in done.stderr
