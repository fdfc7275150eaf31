"""
What MLflow holds of its newest run, asked of MLflow itself.

Nothing here is tracelet's: the rows are read through MLflow's own client from the store that MLflow
takes by default in this folder (or that `MLFLOW_TRACKING_URI` names).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from pathlib import Path
from typing import Any, Iterator

# A local store from before MLflow 3.13 is refused by newer versions unless this is set.
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

from mlflow import MlflowClient

# MLflow's image grid reads everything it needs from the names of files.
GRID = re.compile(
    r"images/(?P<key>.+)\+step\+-?\d+\+timestamp\+\d+\+[\w\-]+(?P<small>\+compressed)?\."
)


def newest_run(client: Any, project: str) -> Any:
    """Return the run of ``project`` that was started last."""
    experiment = client.get_experiment_by_name(project)
    if experiment is None:
        raise SystemExit(f"MLflow has no experiment {project!r} here; run the training first")
    runs = client.search_runs(
        [experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=1
    )
    if not runs:
        raise SystemExit(f"MLflow has no run in {project!r} yet")
    return runs[0]


def artifacts(client: Any, run_id: str, path: str = "") -> Iterator[tuple[str, int]]:
    """Yield every file of the run with its size in bytes."""
    for entry in client.list_artifacts(run_id, path or None):
        if entry.is_dir:
            yield from artifacts(client, run_id, entry.path)
        else:
            yield entry.path, entry.file_size or 0


def rows(client: Any, run: Any) -> Iterator[tuple[str, str, str]]:
    """Yield kind, name and a word on the content of everything the run holds."""
    for key in sorted(run.data.metrics):
        history = client.get_metric_history(run.info.run_id, key)
        first, last = history[0], history[-1]
        steps = f"steps {first.step} to {last.step}"
        yield "metric", key, f"{len(history):>5} points, {steps}, last value {last.value:.4f}"
    for key, value in sorted(run.data.params.items()):
        yield "parameter", key, value
    pictures: dict[str, int] = {}
    for path, size in artifacts(client, run.info.run_id):
        in_grid = GRID.match(path)
        if in_grid is None:
            yield "artifact", path, f"{size:,} bytes"
        elif not in_grid["small"]:
            key = in_grid["key"].replace("~", "/")
            pictures[key] = pictures.get(key, 0) + 1
    for key, count in sorted(pictures.items()):
        yield "image", key, f"{count} in the image grid"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--project", default="tracelet_demo", help="the MLflow experiment")
    parser.add_argument("--mlflow", default="mlflow", help="the command to name at the end")
    given = parser.parse_args()

    client = MlflowClient()
    run = newest_run(client, given.project)
    table = list(rows(client, run))

    print(f"\n{run.info.run_name} ({run.info.run_id}) is {run.info.status} in MLflow and holds\n")
    wide = max((len(name) for _, name, _ in table), default=0)
    for kind, name, content in table:
        print(f"  {kind:<10} {name:<{wide}}  {content}")

    here = shlex.quote(str(Path.cwd()))
    page = f"http://127.0.0.1:5000/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    print(f"\nTo look at it:\n\n  cd {here} && {shlex.quote(given.mlflow)} ui\n")
    print(f"and open {page}?workflowType=machine_learning\n")


if __name__ == "__main__":
    main()
