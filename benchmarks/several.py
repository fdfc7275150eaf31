"""Figure 6: MLflow, W&B, ClearML and Aim at once, each alone, and with one of them dead."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

import psutil
from tests.services import clearml_server, wandb_server

from benchmarks.heavy_delivery import check_files
from benchmarks.measure import Pairs, spread
from benchmarks.report import run, table
from benchmarks.stores import black_hole, client, free_port, server, sqlite

MB = 1_000_000
KEYS = 10
FOUR = ("mlflow", "wandb", "clearml", "aim")

# Tells how long each tracker took to have everything, from the first call on; one that is dead is
# not waited for.
SCRIPT = """
import json, sys, time
import numpy as np
from torch.utils.tensorboard import SummaryWriter
import tracelet
from tracelet.ship import state
names, dead, (scalars, histograms, images) = json.loads(sys.argv[1])
begin = time.perf_counter()
run = tracelet.start_logging("several", "benchmark", names, config={"silent": True, "collect": []})
said = {"start": time.perf_counter() - begin}
alive = [name for name in names if name != dead]
said["ids"] = {name: run.remote(name).id for name in alive}
weights = [np.random.default_rng(n).normal(size=10_000) for n in range(20)]
pictures = [np.random.default_rng(n).random((3, 64, 64)) for n in range(20)]
begin = time.perf_counter()
writer = SummaryWriter("runs/several")
for index in range(scalars):
    writer.add_scalar(f"key{index % 10}", index * 0.5, index // 10)
for step in range(histograms):
    writer.add_histogram("weights", weights[step % 20], step)
for step in range(images):
    writer.add_image("picture", pictures[step % 20], step)
writer.close()
run._host.wake()
had = {}
while len(had) < len(alive):
    for name, each in state.read(run._run_dir).items():
        if name in alive and each.answered >= scalars + histograms + images:
            had.setdefault(name, time.perf_counter() - begin)
    time.sleep(0.02)
begin = time.perf_counter()
report = run.stop(timeout=120)
said.update(had=had, stop=time.perf_counter() - begin, problems=report.check())
said["left"] = [name for name, each in report.backends.items() if each.waiting]
print(json.dumps(said))
"""

# The CPU of one call in ns, by the trackers of its run, once for each round.
CALLS = """
import json, sys, time
from torch.utils.tensorboard import SummaryWriter
import tracelet
choices, rounds, calls = json.loads(sys.argv[1])
found = [[] for _ in choices]
for number in range(-1, rounds):
    for place in range(len(choices)):
        names = choices[(place + number) % len(choices)]
        run = None
        if names:
            config = {"silent": True, "collect": []}
            run = tracelet.start_logging("calls", "benchmark", names, config=config)
            for name in names:
                run.remote(name)
        writer = SummaryWriter(f"runs/{number}-{place}")
        begin = time.thread_time_ns()
        for index in range(calls):
            writer.add_scalar(f"key{index % 10}", index * 0.5, index // 10)
        took = time.thread_time_ns() - begin
        writer.close()
        if run is not None:
            assert run.stop(timeout=120).spooled == calls
        if number >= 0:
            found[(place + number) % len(choices)].append(took / calls)
print(json.dumps(found))
"""


class _Told(NamedTuple):
    """What a program told, and the largest memory and most threads of what shipped for it."""

    said: Mapping[str, Any]
    sidecar_mb: float
    threads: int


class _Places:
    """The four far ends."""

    def __init__(self, mlflow: str) -> None:
        self.mlflow = mlflow
        self.wandb = wandb_server.WandbServer()
        self.clearml = clearml_server.Clearml()
        self.aim = Path.cwd() / "aim"
        self.aim.mkdir()
        code = "import sys; from aim.sdk.repo import Repo; Repo(sys.argv[1], init=True)"
        subprocess.run([sys.executable, "-c", code, str(self.aim)], check=True)

    def variables(self, dead: str = "", address: str = "") -> Mapping[str, str]:
        """Return the environment of a program; a dead one is at ``address``."""
        found = {
            **os.environ,
            **self.clearml.variables(),
            "MLFLOW_TRACKING_URI": self.mlflow,
            "WANDB_BASE_URL": self.wandb.url,
            "WANDB_API_KEY": wandb_server.KEY,
            "TRACELET_AIM__URL": str(self.aim),
            # What is left to a dead one stays there.
            "TRACELET_SIDECAR_LIFETIME_S": "0",
        }
        variable = {
            "mlflow": "MLFLOW_TRACKING_URI",
            "wandb": "WANDB_BASE_URL",
            "clearml": "CLEARML_API_HOST",
            "aim": "TRACELET_AIM__URL",
        }
        if dead:
            found[variable[dead]] = address.replace("http:", "aim:") if dead == "aim" else address
        return found

    def check(self, name: str, there: str, counts: Sequence[int]) -> None:
        """Raise RuntimeError unless a tracker has all of a run."""
        points, histograms, images = getattr(self, f"_of_{name}")(there, counts)
        if [points, histograms, images] != list(counts):
            raise RuntimeError(f"{name} has {points}, {histograms}, {images} of {counts}")

    def _of_mlflow(self, there: str, counts: Sequence[int]) -> tuple[int, int, int]:
        peer = client(self.mlflow)
        points = sum(len(peer.get_metric_history(there, f"key{key}")) for key in range(KEYS))
        check_files(self.mlflow, there, counts[1], counts[2])
        return points, counts[1], counts[2]

    def _of_wandb(self, there: str, _: Sequence[int]) -> tuple[int, int, int]:
        rows = self.wandb.run(there).history
        values = [value for row in rows for value in row.values() if isinstance(value, dict)]
        kinds = [value.get("_type") for value in values]
        points = sum(key.startswith("key") for row in rows for key in row)
        return points, kinds.count("histogram"), kinds.count("image-file")

    def _of_clearml(self, there: str, _: Sequence[int]) -> tuple[int, int, int]:
        kinds = ("training_stats_scalar", "plot", "training_debug_image")
        points, histograms, images = (len(self.clearml.of(there, kind)) for kind in kinds)
        return points, histograms, images

    def _of_aim(self, there: str, _: Sequence[int]) -> tuple[int, int, int]:
        from aim import Run
        from aim.sdk.repo import Repo
        from aim.storage.context import Context

        found, here = Run(there, repo=Repo(str(self.aim)), read_only=True), Context({})
        curves = (found.get_metric(f"key{key}", here) for key in range(KEYS))
        points = sum(len(curve.data.numpy()[0]) for curve in curves)
        histograms = len(list(found.get_distribution_sequence("weights", here).data.items()))
        images = len(list(found.get_image_sequence("picture", here).data.items()))
        return points, histograms, images


def measure(quick: bool) -> None:
    """Deliver the same data to each alone, to all, and to all with each in turn dead."""
    counts, rounds = ((2_000, 20, 10), 1) if quick else ((20_000, 200, 100), 3)
    with server(sqlite()) as mlflow, black_hole() as silent:
        places = _Places(mlflow)
        refused = f"http://127.0.0.1:{free_port()}"
        alone: dict[str, list[_Told]] = {name: [] for name in FOUR}
        together: list[_Told] = []
        broken: dict[tuple[str, str], list[_Told]] = {}
        for number in range(rounds):
            for name in FOUR:
                alone[name].append(_told(places, [name], counts))
            together.append(_told(places, FOUR, counts))
            for name in FOUR:
                for how, address in (("refuses", refused), ("is silent", silent)):
                    told = _told(places, FOUR, counts, name, address)
                    broken.setdefault((name, how), []).append(told)
            print(f"round {number + 1} of {rounds}: all complete", flush=True)
        _show(alone, together, broken, counts)
        _calls(places, 3 if quick else 9, 10_000)


def _told(
    places: _Places, names: Sequence[str], counts: Sequence[int], dead: str = "", address: str = ""
) -> _Told:
    """Run the program, and see that everybody has everything that it logged."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps([list(names), dead, counts])],
        cwd=tempfile.mkdtemp(dir="."),
        env=dict(places.variables(dead, address)),
        stdout=subprocess.PIPE,
        text=True,
    )
    with _watched(process.pid) as largest:
        text, _ = process.communicate(timeout=900)
    if process.returncode != 0:
        raise RuntimeError(f"the program ended with {process.returncode}")
    said = json.loads(text.splitlines()[-1])
    if said["problems"] or said["left"] != ([dead] if dead else []):
        raise RuntimeError(f"the account is wrong: {said}")
    for name, there in said["ids"].items():
        places.check(name, there, counts)
    return _Told(said, largest[0] / MB, int(largest[1]))


@contextmanager
def _watched(pid: int) -> Iterator[list[float]]:
    """Give the largest memory (with W&B's core) and the most threads of a program's sidecar."""
    largest, over = [0.0, 0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            try:
                for child in psutil.Process(pid).children():
                    if "tracelet.ship.sidecar" in " ".join(child.cmdline()):
                        whole = [child, *child.children(recursive=True)]
                        size = sum(each.memory_info().rss for each in whole)
                        largest[0] = max(largest[0], size)
                        largest[1] = max(largest[1], child.num_threads())
            except psutil.Error:
                continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield largest
    finally:
        over.set()
        thread.join()


def _show(
    alone: Mapping[str, Sequence[_Told]],
    together: Sequence[_Told],
    broken: Mapping[tuple[str, str], Sequence[_Told]],
    counts: Sequence[int],
) -> None:
    one = [[each.said["had"][name] for each in alone[name]] for name in FOUR]
    rows = [["alone", *(f"{statistics.median(times):.1f}" for times in one), "", "", "", ""]]
    before = dict(zip(FOUR, one))
    rows.append(["all four", *_cells(together, before), *_costs(together)])
    before = {name: [each.said["had"][name] for each in together] for name in FOUR}
    for (name, how), told in broken.items():
        rows.append([f"{name} {how}", *_cells(told, before), *_costs(told)])
    head = [f"{name}, s" for name in FOUR]
    table(["", *head, "start, s", "stop, s", "sidecar, MB", "threads"], rows)
    print(
        f"\n{counts[0]:,} scalars, {counts[1]} histograms, {counts[2]} images; {len(together)} "
        "rounds. Seconds from the first call until the\ntracker has everything, the run being open "
        "before; in brackets times the row `alone`, and below\ntimes the row `all four` (limit: "
        "1.0). The largest start (limit: 1 s) and stop of all rounds.\nMB with W&B's core."
    )


def _cells(told: Sequence[_Told], before: Mapping[str, Sequence[float]]) -> list[str]:
    cells = []
    for name in FOUR:
        if name not in told[0].said["had"]:
            cells.append("dead")
            continue
        now = [each.said["had"][name] for each in told]
        ratio = Pairs(before[name], now).ratio
        cells.append(f"{statistics.median(now):.1f} ({ratio.median:.2f})")
    return cells


def _costs(told: Sequence[_Told]) -> list[str]:
    return [
        *(f"{max(each.said[what] for each in told):.2f}" for what in ("start", "stop")),
        f"{max(each.sidecar_mb for each in told):.0f}",
        str(max(each.threads for each in told)),
    ]


def _calls(places: _Places, rounds: int, calls: int) -> None:
    """Time ``add_scalar`` without a run, with one tracker, and with four."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps([[[], ["mlflow"], FOUR], rounds, calls])],
        cwd=tempfile.mkdtemp(dir="."),
        env=dict(places.variables()),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    plain, one, four = json.loads(done.stdout.splitlines()[-1])
    rows = [
        ["plain TensorBoard", spread(plain).scaled(1e-3).text(2), ""],
        ["mlflow", spread(one).scaled(1e-3).text(2), Pairs(plain, one).added.scaled(1e-3).text(2)],
        ["four", spread(four).scaled(1e-3).text(2), Pairs(plain, four).added.scaled(1e-3).text(2)],
    ]
    print()
    table(["add_scalar", "CPU of the calling thread, us", "added, us"], rows)
    print(f"\n{calls:,} calls, {rounds} rounds in one process. Limit: 3 us more, as in figure 3.")


if __name__ == "__main__":
    run("Figure 6: four trackers at once", measure)
