"""
A backend of somebody else: its own package, its own tests, and nothing of ours but the contract.

It is built and installed from ``examples/`` into a folder of its own, as ``pip install`` does it.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Mapping

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "sqlite_backend"

PROGRAM = """
import json, tracelet
with tracelet.start_logging("name", "project", config={"silent": True}) as run:
    for step in range(500):
        run.log_metric("loss", step / 7, step)
    run.log_params({"lr": 0.1})
print(json.dumps([run.info.run_id, list(run.info.backends)]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stranger")
    source = folder / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--target", str(folder / "site"), str(source)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


def environment(site: Path) -> Mapping[str, str]:
    path = [str(site), *(each for each in sys.path if each)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def test_its_own_tests_pass_from_its_own_package(installed: Path, tmp_path: Path) -> None:
    shutil.copy(EXAMPLE / "test_tracelet_sqlite.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "-rs"],
        cwd=tmp_path,
        env=environment(installed),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert not [line for line in skipped if "declared: " not in line]
    assert " passed" in done.stdout.splitlines()[-1]


def test_a_program_uses_it_by_its_name(installed: Path, tmp_path: Path) -> None:
    Path("program.py").write_text(PROGRAM)
    choice = {"TRACELET_BACKEND": "sqlite_example", "TRACELET_BACKEND_URL": "runs.db"}
    done = subprocess.run(
        [sys.executable, "program.py"],
        env={**environment(installed), **choice},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    run_id, backends = json.loads(done.stdout)
    assert backends == ["sqlite_example"]
    with closing(sqlite3.connect("runs.db")) as database:
        runs = database.execute("SELECT id, project, name, status FROM runs").fetchall()
        points = database.execute("SELECT step, value FROM metrics WHERE key = 'loss'").fetchall()
        params = dict(database.execute("SELECT key, value FROM params").fetchall())
    assert runs == [(run_id, "project", "name", "FINISHED")]
    assert points == [(step, step / 7) for step in range(500)]
    assert params["lr"] == "0.1"


def test_the_example_stays_short() -> None:
    assert len((EXAMPLE / "tracelet_sqlite.py").read_text().splitlines()) < 150
