"""
From a record to something that one can look at.

Pure functions of the record: they know no store and no run, and need neither NumPy nor Pillow.
What cannot be drawn is not drawn, and costs nothing but the drawing: the event itself is always
stored beside.
"""

from __future__ import annotations

import logging
import struct
from typing import Callable, Mapping, Optional

from tracelet.backends.mlflow.render.curve import render_curve
from tracelet.backends.mlflow.render.experiment import render_experiment
from tracelet.backends.mlflow.render.files import File, Rendering
from tracelet.backends.mlflow.render.graph import render_graph
from tracelet.backends.mlflow.render.mesh import render_mesh
from tracelet.backends.mlflow.render.tensor import render_tensor
from tracelet.records import Media

__all__ = ["FOLDERS", "File", "Rendering", "render"]

#: The folders below ``tensorboard/`` that renderings go to.
FOLDERS = ("graphs", "hparams", "meshes", "pr_curves", "tensors")

_RENDERERS: Mapping[str, Callable[[Media], Optional[Rendering]]] = {
    "graph": render_graph,
    "mesh": render_mesh,
    "pr_curve": render_curve,
}
#: Events that no kind of record fits, by the plugin that their value names.
_BY_PLUGIN: Mapping[str, Callable[[Media], Optional[Rendering]]] = {
    "hparams": render_experiment,
    "tensor": render_tensor,
}
#: What damaged and hostile bytes may lead to. WireError is a ValueError.
_WRONG = (ValueError, TypeError, LookupError, ArithmeticError, MemoryError, struct.error)

_log = logging.getLogger("tracelet")


def render(media: Media) -> Rendering:
    """Return what there is to look at; nothing for a kind or an event that is not understood."""
    renderer = _RENDERERS.get(media.kind)
    if media.kind == "raw":
        renderer = _BY_PLUGIN.get(str(media.meta.get("plugin", "")))
    try:
        found = renderer(media) if renderer else None
    except (*_WRONG, RecursionError) as error:
        _log.debug("%s %r is stored as it is: %s", media.kind, media.key, error)
        found = None
    return found or Rendering([])
