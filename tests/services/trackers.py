"""
All four trackers: where a program finds each, what each has of its run, and how to break it.

MLflow and Aim are the vendors' own; W&B and ClearML are the servers of these tests that speak their
protocols. What arrived is read by the means of each of them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Callable, Mapping, Optional
from urllib.parse import urlsplit

import pytest

from services.aim_server import AimProcess, Way, fresh_aim
from services.clearml_server import Clearml
from services.mlflow_server import fresh_database
from services.wandb_server import KEY, WandbServer
from tracelet.testing import Seen

__all__ = ["NAMES", "Trackers", "fresh_aim", "fresh_database", "fresh_folder"]

#: Those that this Python can have.
NAMES = ("mlflow", "wandb", "clearml", *(("aim",) if sys.version_info < (3, 13) else ()))
_PACKAGES = {"mlflow": "mlflow", "wandb": "wandb.sdk", "clearml": "clearml", "aim": "aim.sdk"}


@pytest.fixture(scope="session")
def fresh_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to be copied, with MLflow's tables and Aim's in it: making them takes seconds."""
    for name in NAMES:
        pytest.importorskip(_PACKAGES[name])
    folder = tmp_path_factory.mktemp("trackers")
    if "aim" in NAMES:
        shutil.copytree(request.getfixturevalue("fresh_aim"), folder, dirs_exist_ok=True)
    shutil.copy(request.getfixturevalue("fresh_database"), folder / "mlflow.db")
    return folder


class Trackers:
    """
    The far ends of one program. Everything on the way to a server goes through a ``Way``.

    Args:
        folder: The program's working directory; the database of MLflow and the repository of Aim
            are in it, unless there is a server.
        mlflow: The address of a server.
        aim: A server.
    """

    def __init__(self, folder: Path, mlflow: str = "", aim: Optional[AimProcess] = None) -> None:
        self._folder, self._aim = folder, aim
        self._wandb, self._clearml = WandbServer(), Clearml()
        ports = {"wandb": _port(self._wandb.url), "clearml": _port(self._clearml.url)}
        if mlflow:
            ports["mlflow"] = _port(mlflow)
        if aim is not None:
            ports["aim"] = aim.port
        self._mlflow = mlflow or f"sqlite:///{folder / 'mlflow.db'}"
        self.ways = {name: Way(port) for name, port in ports.items()}
        # Where files are to be uploaded is said by the server.
        self._wandb.url = self._url("wandb")
        self._before = set(self._hashes()) if aim is not None else set()

    def _url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ways[name].port}"

    def variables(self) -> dict[str, str]:
        """Return the environment in which a program finds all of them."""
        found = {"WANDB_BASE_URL": self._url("wandb"), "WANDB_API_KEY": KEY}
        found.update(self._clearml.variables())
        found.update(
            dict.fromkeys(("CLEARML_API_HOST", "CLEARML_FILES_HOST"), self._url("clearml"))
        )
        # Named, because older versions of MLflow have another store by themselves.
        found["MLFLOW_TRACKING_URI"] = (
            self._url("mlflow") if "mlflow" in self.ways else self._mlflow
        )
        if self._aim is not None:
            found["TRACELET_AIM__URL"] = f"aim://127.0.0.1:{self.ways['aim'].port}"
        return found

    def close(self) -> None:
        """End everything that was started here."""
        for way in self.ways.values():
            way.close()
        self._wandb.stop()
        self._clearml.stop()

    def seen(self, name: str, project: str = "project") -> Seen:
        """Return the only run that a tracker has of this program."""
        readers: Mapping[str, Callable[[str], Seen]] = {
            "mlflow": self._of_mlflow,
            "wandb": self._of_wandb,
            "clearml": self._of_clearml,
            "aim": self._of_aim,
        }
        return readers[name](project)

    def _of_mlflow(self, project: str) -> Seen:
        from services.mlflow_reader import seen, tracking

        with tracking(self._mlflow) as client:
            experiment = client.get_experiment_by_name(project)
            [run] = client.search_runs([experiment.experiment_id])
        return seen(self._mlflow, run.info.run_id)

    def _of_wandb(self, project: str) -> Seen:
        from tests.contract.test_wandb import seen

        [run] = self._wandb.runs.values()
        assert self._wandb.unknown == []
        return seen(self._wandb, run.id)

    def _of_clearml(self, project: str) -> Seen:
        from services.clearml_reader import seen

        [task] = self._clearml.tasks
        return seen(self._clearml, task)

    def _of_aim(self, project: str) -> Seen:
        from services.aim_reader import seen

        [new] = set(self._hashes()) - self._before
        return seen(self._repository, new)

    @property
    def _repository(self) -> Path:
        return self._folder if self._aim is None else self._aim.folder

    def _hashes(self) -> list[str]:
        from services.aim_reader import close, fresh_repository

        repo = fresh_repository(self._repository)
        try:
            return list(repo.list_all_runs())
        finally:
            close(repo)


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port
