"""
The public types, as a type checker sees them. Never run: `make types` checks it.

A change that makes a type worse for a user is an error here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable, Mapping, Optional, Sequence

from typing_extensions import assert_type

import tracelet
from tracelet.backends.base import Backend, BackendOptions, Batch, Finding
from tracelet.records import Metric, Record

# Starting and stopping: everything is optional, three arguments may be given by position.
run = tracelet.start_logging()
assert_type(run, tracelet.Run)
assert_type(tracelet.start_logging("name", "project", "mlflow"), tracelet.Run)
tracelet.start_logging(backend=["mlflow", "jsonl"])
tracelet.start_logging(
    exp_name="name",
    project="project",
    backend="mlflow",
    backend_url="http://127.0.0.1:5000",
    api_key="key",
    config={"tags": {"seed": 7}, "mlflow": {"workspace": "a"}},
)
assert_type(tracelet.get_active_experiment(), Optional[tracelet.Run])
assert_type(tracelet.stop_logging(), Optional[tracelet.Report])

# As a block the run is what `as` gives, and nothing is swallowed.
with tracelet.start_logging() as inside:
    assert_type(inside, tracelet.Run)

# The handle.
assert_type(run.info, tracelet.RunInfo)
run.log_metric("loss", 0.5)
run.log_metric("loss", 0.5, step=1)
run.log_metrics({"loss": 0.5, "accuracy": 1}, step=1)
run.log_params({"optimizer": {"name": "adam"}, "layers": [1, 2]})
run.set_tags({"team": "vision", "seed": 7})
run.log_artifact("model.pth")
run.log_artifact(Path("model.pth"), "models")
run.log_artifact("checkpoints/", artifact_path=Path("training"))
run.log_text("notes", "text", 1)
run.log_image("picture", b"...", 1)
run.log_figure("figure", object(), 1)
run.log_histogram("weights", [1.0, 2.0], 1)
run.log_histogram("weights", edges=[0.0, 1.0], counts=[2])
run.log_table("table", [[1, 2]], columns=["a", "b"])
assert_type(run.remote("mlflow"), tracelet.RemoteRun)
assert_type(run.remote("mlflow").url, Optional[str])
assert_type(run.flush(), bool)
assert_type(run.flush(timeout=1.0), bool)
assert_type(run.stop(), tracelet.Report)
assert_type(run.stop(tracelet.RunStatus.FAILED, timeout=1.0), tracelet.Report)

# The account.
report = run.stop()
assert_type(report.recorded, int)
assert_type(report.lost, Mapping[str, int])
assert_type(report.backends["mlflow"].delivered, int)
assert_type(report.complete, bool)

# Errors have one parent, and the usual ones of the language beside it.
parent: type[Exception] = tracelet.TraceletError
value_error: type[ValueError] = tracelet.SettingsError
import_error: type[ImportError] = tracelet.MissingPackageError
os_error: type[OSError] = tracelet.SpoolError

# What an author of a backend writes.


class Plugin(Backend):
    """The least that a backend is."""

    name = "plugin"
    accepts = frozenset({Metric})

    def open(
        self, run: tracelet.RunInfo, resume: Optional[tracelet.RemoteRun], workdir: Path
    ) -> tracelet.RemoteRun:
        return resume or tracelet.RemoteRun(id=run.run_id)

    def write(self, batch: Batch) -> None:
        for record in batch.records:
            assert_type(record, Record)

    def close(self, status: tracelet.RunStatus, time: Optional[float] = None) -> None:
        assert_type(status, tracelet.RunStatus)


backend: Backend = Plugin(BackendOptions())
options: Mapping[str, Any] = {}
assert_type(backend.doubts("project"), Sequence[Finding])
assert_type(backend.examine("project", {}, 0.0), Iterable[Finding])
backend_options, secrets = Plugin.resolve(options, {}, Path())
assert_type(backend_options, BackendOptions)
