"""
What ``add_hparams`` says of an experiment besides values: domains, descriptions, kinds of metrics.

Parameters and metrics of a run have no place for it, so it is a JSON file of the run.
"""

from __future__ import annotations

from typing import Optional

from tracelet.backends.mlflow.render.files import File, Rendering, as_json
from tracelet.records import Media
from tracelet.tfevents.hparams import read_experiment

__all__ = ["render_experiment"]


def render_experiment(media: Media) -> Optional[Rendering]:
    """
    Return the description as JSON.

    Raises:
        ValueError: The event describes no experiment.
    """
    return Rendering([File("hparams", ".json", as_json(read_experiment(media.data)))])
