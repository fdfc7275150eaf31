"""
tensorboardX, the writers without TensorBoard.

Why: their calls are what a run is made of. What must not change: results, exceptions, event files.
Off: ``uninstall``.
"""

from __future__ import annotations

import os
from types import ModuleType, SimpleNamespace
from typing import Any, Callable, Iterator, Mapping

from tracelet._guard import tap
from tracelet._patching import Patch
from tracelet.capture.base import Sink
from tracelet.capture.silence import Silence
from tracelet.capture.taps import Family, Recorder
from tracelet.capture.values import Values
from tracelet.capture.writers import Writers

__all__ = ["TensorBoardX"]

#: How a ``DummyFileWriter`` (``write_to_disk=False``) would have been written to.
_DUMMY_METHODS = ("add_event", "add_summary", "add_graph", "add_onnx_graph", "add_openvino_graph")


def _series(logdir: str, tag: str) -> str:
    return os.path.join(logdir, tag, "")  # noqa: PTH118 - as the library puts it together


def _needless(writer: Any, value: float) -> bool:
    # It warns of NaN and infinity, and may send to Comet besides.
    config = getattr(writer, "_comet_config", None)
    return value - value == 0 and (config is None or config.get("disabled") is True)


class TensorBoardX(Writers):
    """Captures what is written through tensorboardX's ``EventFileWriter``."""

    name = "tensorboardx"
    module = "tensorboardX.event_file_writer"
    writer_module = "tensorboardX.writer"

    def family(self, module: ModuleType) -> Family:
        """Return tensorboardX's classes."""
        return Family(
            name=self.name,
            summary_writer=module.SummaryWriter,
            file_writer=module.FileWriter,
            folder="logdir",
            values=Values(bfloat16=False),
            metadata=hasattr(module.FileWriter, "use_metadata"),
            needless=_needless,
            series=_series,
        )

    def quiet(self, closed: bool) -> Mapping[str, Any]:
        """Return what an ``EventFileWriter`` without a file has."""
        return {"_closed": True}

    def stranded(self, writer: Any) -> bool:
        """
        Tell, in a forked child, whether an ``EventFileWriter``'s thread is in the parent.

        Its queue is one between processes. ``multiprocessing`` gives it a new feeder in a child,
        and then it works; under a bare ``os.fork`` it keeps the one that stayed behind.
        """
        feeder = getattr(vars(writer).get("_event_queue"), "_thread", None)
        return feeder is not None and not feeder.is_alive()

    def more(self, module: ModuleType, record: Recorder, sink: Sink) -> Iterator[Patch]:
        """Tap the writer that stands for a ``FileWriter`` where nothing is to be written at all."""
        dummy = getattr(module, "DummyFileWriter", None)
        if dummy is None:
            return
        yield self._patch(dummy, "get_logdir", Silence.elsewhere)
        for name in _DUMMY_METHODS:
            if name in vars(dummy):
                write = getattr(module.FileWriter, name)
                yield self._patch(
                    dummy,
                    name,
                    lambda original, guard, write=write: tap(  # type: ignore[misc]
                        original, _as_written(module.FileWriter, write, record), guard
                    ),
                )


def _as_written(file_writer: type, write: Callable[..., Any], record: Recorder) -> Recorder:
    """Return a recorder that lets a real ``FileWriter`` make the event that nobody will write."""

    def recorder(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        dummy, *rest = args
        made: list[Any] = []
        writer: Any = object.__new__(file_writer)
        vars(writer)["_default_metadata"] = {}
        vars(writer)["event_writer"] = SimpleNamespace(add_event=made.append)
        write(writer, *rest, **kwargs)
        for event in made:
            record((dummy, event), {})

    return recorder
