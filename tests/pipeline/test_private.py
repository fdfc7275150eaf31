"""Nobody else can read a run, whatever the umask of the program is, neither later nor meanwhile."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path
from typing import Iterator

import pytest
from tests.pipeline.programs import Trainer, wait_for

from services.mlflow_server import fresh_database

__all__ = ["fresh_database"]

pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="platform: finds the sidecar through /proc"
    ),
]


@pytest.fixture
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_open_umask")
def test_no_file_of_a_run_is_open_to_others(tmp_path: Path, fresh_database: Path) -> None:
    """Trainer, sidecar and the backend's own folder, and the list of spools of this user."""
    (tmp_path / "mlflow.db").write_bytes(fresh_database.read_bytes())
    config = {"backend_url": f"sqlite:///{tmp_path}/mlflow.db", "keep_runs": "all"}
    roots = [tmp_path / ".tracelet", Path(os.environ["XDG_STATE_HOME"]) / "tracelet"]
    seen: dict[str, int] = {}
    trainer = Trainer(
        tmp_path, backend="mlflow", config=config, heavy=True, points=150, pause_s=0.005
    )
    packed = False
    deadline = time.monotonic() + 240.0
    while not packed and time.monotonic() < deadline:
        for root in roots:
            for path in [root, *root.rglob("*")]:
                try:
                    mode = stat.S_IMODE(path.lstat().st_mode)
                except FileNotFoundError:
                    continue  # replaced, or deleted
                seen[str(path.relative_to(root.parent))] = mode
        packed = trainer.process.poll() is not None and any(name.endswith(".gz") for name in seen)
        time.sleep(0.01)
    assert trainer.end() == 0, trainer.errors()
    wait_for(lambda: any(roots[0].glob("*/ship.json")))
    assert {name: oct(mode) for name, mode in seen.items() if mode & 0o077} == {}
    for part in ("/seg/", "/cursors/", "/work/mlflow/", "run.json", "ship.log", ".gz", "roots"):
        assert any(part in name for name in seen), (part, sorted(seen))
