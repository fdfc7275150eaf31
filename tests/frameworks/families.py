"""Both families of writers behind one face, so that one test holds for either."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from every_method import Arguments, calls

from tracelet.testing.fakes import RecordingSink


class Family:
    """One library: its integration, its writer, and its own way to read an event."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_torch = name == "tensorboard"

    def integration(self) -> Any:
        if self.is_torch:
            from tracelet.capture.tensorboard import TensorBoard

            return TensorBoard()
        from tracelet.capture.tensorboardx import TensorBoardX

        return TensorBoardX()

    @property
    def module(self) -> Any:
        if self.is_torch:
            import torch.utils.tensorboard.writer as module
        else:
            import tensorboardX.writer as module
        return module

    @property
    def events(self) -> Any:
        if self.is_torch:
            from tensorboard.summary.writer import event_file_writer
        else:
            from tensorboardX import event_file_writer
        return event_file_writer

    def open(self, folder: Any, **kwargs: Any) -> Any:
        return self.module.SummaryWriter(folder, **kwargs)

    def logdir(self, writer: Any) -> Any:
        return writer.log_dir if self.is_torch else writer.logdir

    def parse(self, data: bytes) -> Any:
        return self.events.event_pb2.Event.FromString(data)

    def calls(self, folder: Path) -> dict[str, Arguments]:
        return calls(self.name, folder)

    def files(self, folder: Path) -> list[Path]:
        return [path for path in folder.rglob("*") if path.is_file()]

    def written(self, folder: Path) -> list[Any]:
        """Read every event of every file below a folder back, with the library's own parts."""
        found = []
        for path in sorted(self.files(folder)):
            data = path.read_bytes() if "tfevents" in path.name else b""
            while data:
                (size,) = struct.unpack("<Q", data[:8])
                found.append(self.parse(data[12 : 12 + size]))
                data = data[16 + size :]
        return found

    @contextmanager
    def recording(self, *, keep: bool = True) -> Iterator[RecordingSink]:
        sink = RecordingSink()
        integration = self.integration()
        integration.install(sink, keep=keep)
        try:
            yield sink
        finally:
            integration.uninstall()
