"""The quick start, in an environment that holds the built wheel and nothing of this repository."""

from __future__ import annotations

import os
import sys

import tracelet

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:  # no build of PyTorch for this Python
    from tensorboardX import SummaryWriter

os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

tracelet.start_logging(exp_name="quick", project="my_project", backend="mlflow")
writer = SummaryWriter()
for step in range(100):
    writer.add_scalar("loss", 1 / (step + 1), step)
run = tracelet.get_active_experiment()
assert run is not None
run.log_params({"optimizer": {"lr": 0.1}})
writer.close()
report = tracelet.stop_logging()
assert report is not None
assert report.complete, report

from mlflow import MlflowClient

client = MlflowClient()
experiment = client.get_experiment_by_name("my_project")
(stored,) = client.search_runs([experiment.experiment_id])
points = [
    (point.step, point.value) for point in client.get_metric_history(stored.info.run_id, "loss")
]
assert sorted(points) == [(step, 1 / (step + 1)) for step in range(100)], points
assert stored.data.params == {"optimizer.lr": "0.1"}, stored.data.params
assert stored.info.status == "FINISHED", stored.info.status
print(f"Python {sys.version.split()[0]}: the quick start arrived, {len(points)} points")
