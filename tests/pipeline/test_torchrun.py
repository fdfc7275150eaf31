"""The real launcher of PyTorch, before real MLflow stores: one run, and one rank that ships it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from services.mlflow_reader import tracking
from services.mlflow_server import Server, fresh_database, mlflow_server

__all__ = ["fresh_database", "mlflow_server"]

pytest.importorskip("torch.distributed.run")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="platform: looks at processes through /proc"
    ),
]

#: An audit hook sees every connection that Python code makes; gloo's own are made in C++.
PROGRAM = """
import json, os, sys
asked = []
sys.addaudithook(lambda event, arguments: event == "socket.connect" and asked.append(arguments[1]))

import psutil
import torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter
import tracelet

config = json.loads(sys.argv[1])
run = tracelet.start_logging("job", "torchrun", config=config)
dist.init_process_group("gloo")
rank = dist.get_rank()
writer = SummaryWriter("runs/job")
for step in range(50):
    writer.add_scalar("loss", rank * 100.0 + step, step)
writer.close()
remote = run.remote(timeout=300)
again = tracelet.get_active_experiment()
started = [" ".join(each.cmdline()) for each in psutil.Process().children()]
dist.barrier()
report = tracelet.stop_logging()
ports = [address[1] for address in asked if isinstance(address, tuple)]
line = json.dumps({
    "rank": rank, "id": again.info.run_id, "remote": remote.id, "check": report.check(),
    "ports": ports, "started": started,
})
with open(f"said-{rank}", "w") as file:
    file.write(line)
"""


def job(folder: Path, url: str, *more: str, **config: Any) -> list[dict[str, Any]]:
    (folder / "program.py").write_text(textwrap.dedent(PROGRAM))
    config = {"mlflow": {"url": url}, "collect": False, **config}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *more]
    done = subprocess.run(
        [*launch, "program.py", json.dumps(config)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"said-{number}").read_text()) for number in range(2)]


def check(url: str, said: list[dict[str, Any]], keys: dict[str, int]) -> None:
    """One run, known on both ranks, with these curves and no others."""
    with tracking(url) as client:
        experiment = client.get_experiment_by_name("torchrun")
        assert experiment is not None
        (found,) = client.search_runs([experiment.experiment_id])
        assert {each["remote"] for each in said} == {found.info.run_id}
        assert len({each["id"] for each in said}) == 1
        assert found.info.status == "FINISHED"
        assert set(found.data.metrics) == set(keys)
        for key, rank in keys.items():
            history = client.get_metric_history(found.info.run_id, key)
            points = sorted((point.step, point.value) for point in history)
            assert points == [(step, rank * 100.0 + step) for step in range(50)]
    assert [each["check"] for each in said] == [[], []]
    assert [len(each["started"]) for each in said] == [1, 0]


def test_all_ranks_into_a_database(tmp_path: Path, fresh_database: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(fresh_database.read_bytes())
    url = f"sqlite:///{tmp_path}/mlflow.db"
    said = job(tmp_path, url, "--standalone", ranks="all")
    check(url, said, {"rank0/loss": 0, "rank1/loss": 1})


def test_rank_0_to_a_server_and_the_other_asks_nobody(
    tmp_path: Path, mlflow_server: Server
) -> None:
    said = job(tmp_path, mlflow_server.url, "--standalone")
    check(mlflow_server.url, said, {"loss": 0})
    port = int(mlflow_server.url.rpartition(":")[2])
    assert port in said[0]["ports"]  # its preflight: the hook sees what there is to be seen
    assert port not in said[1]["ports"]
