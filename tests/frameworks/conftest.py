"""Most tests here hold for both families of writers, and for runs with and without files."""

from __future__ import annotations

import sys

import pytest
from every_method import onnx
from families import Family


@pytest.fixture(params=["tensorboard", "tensorboardx"])
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Family:
    if request.param == "tensorboard":
        pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "onnx", onnx())
    return Family(request.param)


@pytest.fixture(params=[True, False], ids=["keep", "nofile"])
def keep(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)
