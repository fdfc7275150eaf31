"""
MLflow's own API in the training process, while a run of ours is active.

Why: people log with TensorBoard and with ``mlflow.log_metric`` in one program, and expect one run.
What must not change: a program that never imports MLflow never does because of us; a run that the
program starts itself is its own; no call of ours to the store. Off: ``leave``, which puts back the
very objects that were there; or ``config={"mlflow": {"attach": False}}``.
"""

from __future__ import annotations

from typing import Callable, Collection

from tracelet._patching import Modules, Patches
from tracelet.backends.mlflow.fluent import hook, models, turns
from tracelet.backends.mlflow.fluent.current import Current
from tracelet.backends.mlflow.fluent.surroundings import Surroundings
from tracelet.backends.mlflow.options import MlflowOptions
from tracelet.records import RemoteRun

__all__ = ["Attachment"]


class Attachment:
    """
    What is changed about MLflow in this process.

    Args:
        options: The run's, complete.
        opened: Returns the run once the shipper has opened it, and raises if that takes too long.
        captured: The integrations whose writers are captured, by name.
        say: Tells the person at the terminal something, once.
        continued: The id of the run that ``MLFLOW_RUN_ID`` named, if it is this one.
    """

    def __init__(
        self,
        options: MlflowOptions,
        opened: Callable[[], RemoteRun],
        captured: Collection[str],
        say: Callable[[str], None],
        continued: str = "",
    ) -> None:
        self._continued = continued
        self._surroundings = Surroundings(options)
        current = Current(opened, self._surroundings.here)
        modules: Modules = {
            # The package itself, not its parts: it is complete when it has been imported.
            "mlflow": current.patches,
            **turns.modules(options.url or ""),
            **models.modules(say),
        }
        if "tensorboard" in captured:
            modules = {**modules, **hook.MODULES}
        self._patches = Patches("mlflow", modules)

    def enter(self) -> None:
        """Make MLflow's calls land in our run, from now on and whenever MLflow is imported."""
        self._surroundings.enter(self._continued)
        self._patches.apply()

    def leave(self) -> None:
        """Put everything back."""
        self._patches.revert()
        self._surroundings.leave()
