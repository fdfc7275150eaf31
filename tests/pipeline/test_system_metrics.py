"""What the machine does, measured beside a real training, whatever dies in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Optional

import psutil
import pytest
from tests.pipeline.programs import SOURCE, Trainer, gone, sidecars, wait_for

import tracelet

CPU = "system/cpu_utilization_percentage"


def lines(folder: Path) -> list[dict[str, Any]]:
    """Everything that the jsonl backend has of the one run."""
    found = list((folder / "tracelet-jsonl").rglob("*.jsonl"))
    if not found:
        return []
    whole = found[0].read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def steps(folder: Path, key: str = CPU) -> list[Optional[int]]:
    return [line["step"] for line in lines(folder) if line.get("key") == key]


def status(folder: Path) -> Optional[str]:
    ended = [line["status"] for line in lines(folder) if line["type"] == "end"]
    return ended[-1] if ended else None


def record(shipper: str = "process", **config: Any) -> tracelet.Run:
    return tracelet.start_logging(
        backend="jsonl",
        config={"silent": True, "shipper": shipper, "system_interval_s": 0.1, **config},
    )


@pytest.mark.parametrize("shipper", ["process", "thread"])
def test_samples_arrive_and_are_in_no_count(shipper: str, tmp_path: Path) -> None:
    threads = {thread.name for thread in __import__("threading").enumerate()}
    with record(shipper) as run:
        run.log_metric("loss", 0.5, 7)
        if shipper == "process":
            now = {thread.name for thread in __import__("threading").enumerate()}
            assert now <= threads | {"tracelet-preflight-jsonl", "tracelet-context"}
        wait_for(lambda: len(steps(tmp_path)) >= 3)
        # It is over when what was logged is there, not when nothing is measured any more.
        assert run.flush(timeout=20.0)
        began = time.monotonic()
        report = run.stop()
        assert time.monotonic() - began < 10.0
    assert (report.recorded, report.complete, report.check()) == (1, True, [])
    assert report.backends["jsonl"].delivered == 1
    found = steps(tmp_path)
    assert found == list(range(len(found)))
    names = {line["key"] for line in lines(tmp_path) if line["type"] == "metric"}
    assert names >= {
        "loss", CPU, "system/system_memory_usage_megabytes", "system/disk_available_megabytes",
        "system/network_receive_megabytes",
    }  # fmt: skip
    assert lines(tmp_path)[-1]["type"] == "end", "nothing is measured behind the end"
    wait_for(lambda: not list((tmp_path / ".tracelet").glob("*/run.json")))


def test_a_run_of_less_than_an_interval_has_none(tmp_path: Path) -> None:
    with record(system_interval_s=10.0) as run:
        run.log_metric("loss", 0.5, 7)
    assert {line["key"] for line in lines(tmp_path) if line["type"] == "metric"} == {"loss"}


def test_the_keys_do_not_depend_on_log_directories(tmp_path: Path) -> None:
    writers = pytest.importorskip("tensorboardX")
    with record() as run:
        for split in ("train", "val"):
            writer = writers.SummaryWriter(str(tmp_path / "runs" / split))
            writer.add_scalar("loss", 0.5, 1)
            writer.close()
        wait_for(lambda: len(steps(tmp_path)) >= 2)
        assert run.flush(timeout=20.0)
    keys = {line["key"] for line in lines(tmp_path) if line["type"] == "metric"}
    assert {key for key in keys if not key.startswith("system/")} == {"train/loss", "val/loss"}
    assert CPU in keys


def victim(folder: Path, **plan: Any) -> Trainer:
    config = {"system_interval_s": 0.1, "silent": True}
    return Trainer(folder, config=config, pause_s=0.01, **plan)


def test_a_killed_training_is_measured_no_more_and_ends_as_killed(tmp_path: Path) -> None:
    trainer = victim(tmp_path)
    wait_for(lambda: len(steps(tmp_path)) >= 3)
    sidecar = trainer.sidecar()
    assert sidecar is not None
    trainer.kill()
    wait_for(lambda: status(tmp_path) == "KILLED")
    found = steps(tmp_path)
    assert found == list(range(len(found)))
    wait_for(lambda: gone(sidecar))
    assert steps(tmp_path) == found


def test_a_killed_sidecar_s_successor_goes_on_with_the_next_step(tmp_path: Path) -> None:
    trainer = victim(tmp_path)
    wait_for(lambda: len(steps(tmp_path)) >= 3)
    first = trainer.sidecar()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: gone(first))
    before = len(steps(tmp_path))
    wait_for(lambda: len(steps(tmp_path)) >= before + 3)
    trainer.process.send_signal(signal.SIGTERM)
    trainer.end()
    wait_for(lambda: status(tmp_path) == "KILLED")
    found = steps(tmp_path)
    assert found == list(range(len(found)))


def test_nobody_measures_for_a_run_that_is_over(tmp_path: Path) -> None:
    """``tracelet sync`` delivers what was measured, and adds nothing of its own."""
    trainer = victim(tmp_path)
    wait_for(lambda: len(steps(tmp_path)) >= 2)
    trainer.kill(sidecar=trainer.sidecar())
    environ = {**os.environ, "PYTHONPATH": str(SOURCE)}
    died = time.time()
    time.sleep(0.3)
    command = [sys.executable, "-m", "tracelet", "sync", ".tracelet"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert status(tmp_path) == "KILLED"
    found = steps(tmp_path)
    assert found == list(range(len(found)))
    measured = [line["time"] for line in lines(tmp_path) if line.get("key") == CPU]
    assert max(measured) <= died + 0.05


def test_a_full_account_with_a_killed_sidecar(tmp_path: Path) -> None:
    """A sample that its writer was killed over is nobody's loss."""
    with record() as run:
        run.log_metric("loss", 0.5, 1)
        wait_for(lambda: len(steps(tmp_path)) >= 2)
        (sidecar,) = sidecars()
        segment = next((tmp_path / ".tracelet").glob("*/seg/s*"))
        os.kill(sidecar, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(sidecar)] if psutil.pid_exists(sidecar) else [], 5)
        with open(segment, "ab") as file:
            file.write(b"\xf7\x1aTL torn in the middle of a frame")
        run.log_metric("loss", 0.25, 2)
        assert run.flush(timeout=20.0)
        report = run.stop()
    assert (report.recorded, report.complete, report.check()) == (2, True, [])
    assert report.backends["jsonl"].damaged == 0


PLUG_IN = """
class Fan:
    def __init__(self): self.turns = 0
    def sample(self):
        self.turns += 1
        if self.turns > 3: raise RuntimeError("it fell off")
        return {"fan/speed": 900.0 + self.turns}
    def close(self): pass

class Absent:
    def __init__(self): raise OSError("no fan here")
"""


def test_a_plug_in_measures_when_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "fans-1.0.dist-info").mkdir(parents=True)
    (site / "fans.py").write_text(PLUG_IN)
    (site / "fans-1.0.dist-info" / "METADATA").write_text("Name: fans\nVersion: 1.0\n")
    (site / "fans-1.0.dist-info" / "entry_points.txt").write_text(
        "[tracelet.collectors]\nfan = fans:Fan\nabsent = fans:Absent\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    with record(collect=["fan", "absent"]) as run:
        wait_for(lambda: len(steps(tmp_path, "fan/speed")) >= 3)
        report = run.stop()
    assert report.complete
    points = [line["value"] for line in lines(tmp_path) if line.get("key") == "fan/speed"]
    assert points == [901.0, 902.0, 903.0]
    assert steps(tmp_path) == []
    with pytest.raises(tracelet.SettingsError, match="Did you mean 'fan'"):
        record(collect=["fann"])
