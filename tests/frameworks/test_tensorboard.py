from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Mapping, Sequence

import pytest
from every_method import Arguments, calls, onnx

from tracelet.capture.tensorboard import TensorBoard
from tracelet.testing.integration_suite import IntegrationSuite

pytest.importorskip("torch")


class TestTensorBoard(IntegrationSuite):
    module = "torch.utils.tensorboard.writer"
    modules = (
        "torch.utils.tensorboard.writer",
        "torch.utils.tensorboard",
        "tensorboard.summary.writer.event_file_writer",
    )

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = tmp_path_factory.mktemp("given")
        monkeypatch.setitem(sys.modules, "onnx", onnx())

    def integration(self) -> TensorBoard:
        return TensorBoard()

    def owners(self) -> Sequence[type]:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
        from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

        return [SummaryWriter, FileWriter, EventFileWriter]

    def open(self, folder: Path) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder))

    def close(self, writer: Any) -> None:
        writer.close()

    def calls(self) -> Mapping[str, Arguments]:
        return calls("tensorboard", self.folder)
