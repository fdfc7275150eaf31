from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Mapping, Sequence

import pytest
from every_method import Arguments, calls, onnx

from tracelet.capture.tensorboardx import TensorBoardX
from tracelet.testing.integration_suite import IntegrationSuite


class TestTensorBoardX(IntegrationSuite):
    module = "tensorboardX.writer"
    modules = ("tensorboardX.writer", "tensorboardX", "tensorboardX.event_file_writer")

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = tmp_path_factory.mktemp("given")
        monkeypatch.setitem(sys.modules, "onnx", onnx())

    def integration(self) -> TensorBoardX:
        return TensorBoardX()

    def owners(self) -> Sequence[type]:
        from tensorboardX.event_file_writer import EventFileWriter
        from tensorboardX.writer import DummyFileWriter, FileWriter, SummaryWriter

        return [SummaryWriter, FileWriter, DummyFileWriter, EventFileWriter]

    def open(self, folder: Path) -> Any:
        from tensorboardX import SummaryWriter

        return SummaryWriter(str(folder))

    def close(self, writer: Any) -> None:
        writer.close()

    def calls(self) -> Mapping[str, Arguments]:
        return calls("tensorboardx", self.folder)
