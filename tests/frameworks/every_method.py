"""Arguments for every ``add_*`` method that the two families of writers have."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

OPENVINO = """<net>
  <layers><layer id="0" name="input"/><layer id="1" name="dense"/></layers>
  <edges><edge from-layer="0" to-layer="1"/></edges>
</net>"""


def onnx() -> ModuleType:
    """Stand for the package that reads a model: all the writers want of it is ``load``."""
    dim = SimpleNamespace(dim_value=4)
    shape = SimpleNamespace(
        tensor_type=SimpleNamespace(elem_type=1, shape=SimpleNamespace(dim=[dim]))
    )
    graph = SimpleNamespace(
        input=[SimpleNamespace(name="x", type=shape)],
        output=[SimpleNamespace(name="y", type=shape)],
        node=[SimpleNamespace(name="n", op_type="Relu", output=["y"], input=["x"], attribute=[])],
    )
    module = ModuleType("onnx")
    module.load = lambda path: SimpleNamespace(graph=graph)  # type: ignore[attr-defined]
    return module


def calls(family: str, folder: Path) -> dict[str, Arguments]:
    """
    Return one call of each method; ``folder`` is for files that some of them read.

    Everything is small, deterministic, and has a tag that tensorboardX cleans.
    """
    rng = np.random.default_rng(0)
    picture = rng.random((3, 8, 8)).astype("float32")
    model_file = folder / "model.xml"
    model_file.write_text(OPENVINO)
    counts = [1, 2, 3]
    calls: dict[str, Arguments] = {
        "add_scalar": (("a loss", 0.1, 1), {}),
        "add_scalars": (("many", {"x y": 0.1, "z": np.float64(0.2)}, 2), {}),
        "add_histogram": (("a hist", rng.random(50), 3), {}),
        "add_histogram_raw": (
            (),
            {
                "tag": "raw hist",
                "min": 0.0,
                "max": 3.0,
                "num": 6,
                "sum": 8.0,
                "sum_squares": 14.0,
                "bucket_limits": [1.0, 2.0, 3.0],
                "bucket_counts": [1, 2, 3],
                "global_step": 3,
            },
        ),
        "add_image": (("an image", picture, 4), {}),
        "add_images": (("the images", np.stack([picture, picture]), 4), {}),
        "add_image_with_boxes": (
            ("boxes", picture, np.array([[1.0, 1.0, 5.0, 5.0]]), 4),
            {"labels": ["cat"]},
        ),
        "add_video": (("a video", (rng.random((1, 3, 3, 8, 8)) * 255).astype("uint8"), 5), {}),
        "add_text": (("a text", "*hello*", 7), {}),
        "add_onnx_graph": (("model.onnx",), {}),
        "add_embedding": ((rng.random((4, 3)),), {"metadata": ["a", "b", "c", "d"], "tag": "e/x"}),
        "add_pr_curve": (("a curve", rng.integers(0, 2, 20), rng.random(20), 8), {}),
        "add_pr_curve_raw": (
            ("a raw curve", counts, counts, counts, counts, [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], 8),
            {"num_thresholds": 3},
        ),
        "add_custom_scalars_multilinechart": ((["a", "b"],), {"category": "multi"}),
        "add_custom_scalars_marginchart": ((["a", "b", "c"],), {"category": "margin"}),
        "add_custom_scalars": (({"all": {"one": ["Multiline", ["a", "b"]]}},), {}),
        "add_hparams": (({"lr": 0.1, "layers": 3, "name": "x"}, {"accuracy": 0.75}), {}),
    }
    if family == "tensorboardx":
        calls["add_openvino_graph"] = ((str(model_file),), {})
        if find_spec("soundfile"):
            calls["add_audio"] = (("a sound", np.zeros((100, 1), "float32"), 6), {})
    else:
        calls["add_audio"] = (("a sound", np.zeros((1, 100), "float32"), 6), {})
    _add_with_packages(calls, family)
    return calls


def _add_with_packages(calls: dict[str, Arguments], family: str) -> None:
    """Add the calls that take an object of a package which need not be there."""
    rng = np.random.default_rng(1)
    if find_spec("matplotlib"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # between versions of its own dependencies
            from matplotlib.figure import Figure
        figure = Figure((1, 1), dpi=20)
        figure.subplots().plot([1, 2])
        calls["add_figure"] = (("a figure", figure, 4), {"close": False})
    vertices = rng.random((1, 4, 3)).astype("float32")
    faces = np.array([[[0, 2, 3], [0, 3, 1]]])
    calls["add_mesh"] = (("a mesh", vertices), {"faces": faces, "global_step": 10})
    if not find_spec("torch"):
        return
    import torch

    if family == "tensorboard":
        calls["add_tensor"] = (("a tensor", torch.arange(3.0), 9), {})
    torch.manual_seed(0)
    calls["add_graph"] = ((torch.nn.Linear(3, 2), torch.zeros(1, 3)), {})
