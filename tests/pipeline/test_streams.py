"""
Names at the far end: by the rule of streams and keys, whichever backend, host or restart.

One program logs through several writers at once; the run is delivered to three backends, and the
same run once more by a shipper that is killed again and again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from tests.pipeline.depot import Depot, options, plugged_in
from tests.pipeline.programs import wait_for

import tracelet
from tracelet.backends import memory
from tracelet.ship.drain import drain
from tracelet.spool.rundir import RunDir

SummaryWriter = pytest.importorskip("tensorboardX").SummaryWriter

PROGRAM = """
import json, sys, time
import numpy as np
from tensorboardX import SummaryWriter
import tracelet

name, config = sys.argv[1], json.loads(sys.argv[2])
run = tracelet.start_logging(name, "project", config.pop("backend"), config=config)
run.log_params({"seed": 7})
run.log_metric("loss", 0.0, 0)
first = SummaryWriter("runs/exp")
train, val = SummaryWriter("runs/exp/train"), SummaryWriter("runs/exp/val")
other, nested = SummaryWriter("runs/other"), SummaryWriter("runs/exp/deep/er")
default = SummaryWriter()
for step in range(1, 101):
    first.add_scalar("loss", step / 7, step)
    train.add_scalar("loss", step / 11, step)
    val.add_scalar("loss", step / 13, step)
    other.add_scalar("loss", step / 17, step)
    nested.add_scalar("loss", step / 19, step)
    default.add_scalar("loss", step / 23, step)
    run.log_metric("mine", step / 29)
    first.add_scalar("uncounted", step / 31)
first.add_scalars("both", {"a": 1.0, "b": 2.0}, 1)
first.add_scalar("val/loss", 4.0, 1)
first.add_scalar("train", 5.0, 1)
val.add_histogram("weights", np.arange(10.0), 1)
first.add_histogram("weights", np.arange(10.0), 1)
first.add_text("note", "hello")
first.add_text("note", "again")
val.add_text("note", "hello", 3)
first.add_hparams({"lr": 0.1}, {"accuracy": 0.9})
for writer in (first, train, val, other, nested, default):
    writer.close()
run.stop()
print(run.info.run_id)
"""


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Depot]:
    memory.clear()
    with plugged_in(tmp_path, monkeypatch) as found:
        yield found
    memory.clear()


def logged(name: str, depot: Depot, **config: Any) -> str:
    """Run the program; return the run's id."""
    config = {"silent": True, "mode": "offline", **options(depot), **config}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, json.dumps(config)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


Picture = dict[tuple[str, str], list[tuple[Any, Any]]]


def picture(records: list[dict[str, Any]]) -> Picture:
    """Return type and key → (step, value), in the order of arrival."""
    found: Picture = {}
    for each in records:
        kind = each["type"].lower()
        if kind in ("metric", "histogram", "text", "param"):
            value = each.get("value", each.get("text"))
            found.setdefault((kind, each["key"]), []).append((each.get("step"), value))
    return found


def of_jsonl(path: Path) -> Picture:
    return picture([json.loads(line) for line in path.read_text().splitlines()])


def of_memory(run: str) -> Picture:
    return picture(
        [{**vars(each), "type": type(each).__name__} for each in memory.runs()[run].records]
    )


def check_names(found: Picture) -> None:
    """Every name, by the rule that is written in the documentation."""
    steps = range(1, 101)
    metrics = {key: points for (kind, key), points in found.items() if kind == "metric"}
    hashed = sorted(key for key in metrics if "~" in key)
    assert metrics.pop("loss") == [(0, 0.0), *((step, step / 7) for step in steps)]
    assert metrics.pop("train/loss") == [(step, step / 11) for step in steps]
    assert metrics.pop("val/loss") == [(step, step / 13) for step in steps]
    assert metrics.pop("other/loss") == [(step, step / 17) for step in steps]
    assert metrics.pop("deep/er/loss") == [(step, step / 19) for step in steps]
    assert metrics.pop("writer2/loss") == [(step, step / 23) for step in steps]
    assert metrics.pop("mine") == [(step - 1, step / 29) for step in steps]
    assert metrics.pop("uncounted") == [(step - 1, step / 31) for step in steps]
    assert metrics.pop("both/a") == [(1, 1.0)]
    assert metrics.pop("both/b") == [(1, 2.0)]
    assert metrics.pop("train") == [(1, 5.0)]
    assert [value for _, value in metrics.pop("accuracy")] == [0.9]
    assert [key.partition("~")[0] for key in hashed] == ["val/loss"]
    assert metrics.pop(hashed[0]) == [(1, 4.0)]
    assert metrics == {}
    assert {key for kind, key in found if kind == "histogram"} == {"weights", "val/weights"}
    assert [step for step, _ in found["text", "note"]] == [0, 1]
    assert [step for step, _ in found["text", "val/note"]] == [3]
    assert {key for kind, key in found if kind == "param"} == {"seed", "lr"}


def test_names_are_the_same_everywhere(tmp_path: Path, depot: Depot) -> None:
    """For every backend, in one go or after any number of restarts."""
    whole = logged("whole", depot, backend=["jsonl", "memory", "depot"])
    states = drain(RunDir.open(tmp_path / ".tracelet" / whole))
    assert {each.pending for each in states.values()} == {0}
    assert len({each.delivered for each in states.values()}) == 1
    in_file = of_jsonl(tmp_path / "tracelet-jsonl" / "project" / "whole.jsonl")
    check_names(in_file)
    assert of_memory(whole) == in_file
    assert picture(depot.stored()[whole]) == in_file

    pieces = logged("pieces", depot, backend=["jsonl", "depot"])
    here = tmp_path / ".tracelet" / pieces
    depot.order(write=("sleep", "0.1"))
    for _ in range(5):
        before = len(depot.calls("write"))
        code = (
            "import sys; from pathlib import Path; from tracelet.ship.drain import drain\n"
            "from tracelet.spool.rundir import RunDir; drain(RunDir.open(Path(sys.argv[1])))"
        )
        process = subprocess.Popen([sys.executable, "-c", code, str(here)])
        wait_for(lambda before=before: len(depot.calls("write")) > before)
        process.kill()
        process.wait()
    depot.order()
    drain(RunDir.open(here))
    assert of_jsonl(tmp_path / "tracelet-jsonl" / "project" / "pieces.jsonl") == in_file
    assert picture(depot.stored()[pieces]) == in_file


@pytest.mark.parametrize("host", ["process", "thread"])
def test_names_do_not_depend_on_the_host(tmp_path: Path, depot: Depot, host: str) -> None:
    """While both backends are delivered to during the training, each at its own pace."""
    depot.order(write_light=("sleep", "0.05"))
    run = logged("live", depot, backend=["jsonl", "depot"], mode="online", shipper=host)
    wait_for(lambda: depot.status() == "FINISHED")
    in_file = of_jsonl(tmp_path / "tracelet-jsonl" / "project" / "live.jsonl")
    check_names(in_file)
    assert picture(depot.stored()[run]) == in_file


def test_a_series_and_a_tag_do_not_meet(tmp_path: Path, depot: Depot) -> None:
    """``add_scalars("a", {"b": …})`` and a tag ``a/b`` are two curves."""
    run = tracelet.start_logging("run", "project", "memory", config={"shipper": "thread"})
    with SummaryWriter("runs/exp") as writer:
        writer.add_scalars("a", {"b": 1.0}, 1)
        writer.add_scalar("a/b", 2.0, 1)
    assert run.stop().complete
    (stored,) = memory.runs().values()
    assert [len(curve) for curve in stored.metrics.values()] == [1, 1]


def test_a_child_does_not_take_the_plain_stream(tmp_path: Path, depot: Depot) -> None:
    """Whoever is faster: the owner's first stream is the plain one, a child's gets its path."""
    code = """
import json, os, sys, time
from tensorboardX import SummaryWriter
import tracelet
run = tracelet.start_logging("run", "project", "depot", config=json.loads(sys.argv[1]))
pid = os.fork()
if pid == 0:
    # As a writer's tap would: TensorBoard's own writer may not survive a fork.
    run._writer.scalar("runs/child", "loss", 1.0, 1, None)
    os._exit(0)
os.waitpid(pid, 0)
time.sleep(1.0)
writer = SummaryWriter("runs/owner")
writer.add_scalar("loss", 2.0, 1)
writer.close()
run.stop()
print(run.info.run_id)
"""
    if not hasattr(os, "fork"):
        pytest.skip("platform: no fork")
    config = {"silent": True, **options(depot)}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(config)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 30
    assert picture(depot.stored()[done.stdout.strip()]) == {
        ("metric", "loss"): [(1, 2.0)],
        ("metric", "child/loss"): [(1, 1.0)],
    }
