"""
TensorBoard's own writers: ``torch.utils.tensorboard`` and whoever uses ``EventFileWriter``.

Why: their calls are what a run is made of. What must not change: results, exceptions, event files.
Off: ``uninstall``.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Mapping

from tracelet.capture.taps import Family
from tracelet.capture.values import Values
from tracelet.capture.writers import Writers

__all__ = ["TensorBoard"]


class _NoFile:
    """Stands for the thread that writes an event file, where there is none."""

    def __init__(self, *, closed: bool) -> None:
        self._closed = closed

    def write(self, data: bytes) -> None:
        self.flush()

    def flush(self) -> None:
        if self._closed:
            raise OSError("Writer is closed")

    def close(self) -> None:
        self._closed = True


def _series(logdir: str, tag: str) -> str:
    return f"{logdir}/{tag.replace('/', '_')}_"


def _needless(_writer: Any, _value: float) -> bool:
    return True


class TensorBoard(Writers):
    """Captures what is written through TensorBoard's ``EventFileWriter``."""

    name = "tensorboard"
    module = "tensorboard.summary.writer.event_file_writer"
    writer_module = "torch.utils.tensorboard.writer"

    def family(self, module: ModuleType) -> Family:
        """Return PyTorch's classes."""
        return Family(
            name=self.name,
            summary_writer=module.SummaryWriter,
            file_writer=module.FileWriter,
            folder="log_dir",
            values=Values(bfloat16=True),
            metadata=False,
            needless=_needless,
            series=_series,
        )

    def quiet(self, closed: bool) -> Mapping[str, Any]:
        """Return what an ``EventFileWriter`` without a file has."""
        return {"_async_writer": _NoFile(closed=closed)}

    def stranded(self, writer: Any) -> bool:
        """Tell, in a forked child, whether an ``EventFileWriter``'s thread is in the parent."""
        behind = vars(writer).get("_async_writer")
        worker = getattr(behind, "_worker", None)
        # One that is closed, or whose thread has failed, says so itself.
        return (
            worker is not None
            and worker.exception is None
            and not behind._closed  # noqa: SLF001 - the library's
            and not worker.is_alive()
        )
