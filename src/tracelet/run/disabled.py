"""A run that does nothing: what ``start_logging`` returns when tracelet is switched off."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Callable, Mapping, Optional

from tracelet._ledger import Report
from tracelet.records import RemoteRun, RunInfo, RunStatus
from tracelet.run import Run

__all__ = ["DisabledRun"]


class DisabledRun(Run):
    """Every call is harmless: nothing is read, written, patched, sent or raised."""

    def __init__(
        self,
        project: Optional[str] = None,
        name: Optional[str] = None,
        tags: Optional[Mapping[str, str]] = None,
        on_stop: Optional[Callable[[Run], None]] = None,
    ) -> None:
        # Not the parent's: none of the parts it is made of exist here.
        self.info = RunInfo(
            run_id="disabled",
            project=project,
            name=name,
            created=0.0,
            tags=tags or {},
            backends=(),
            pid=os.getpid(),
        )
        self._on_stop = on_stop
        self._report = None
        self._looks = {}
        self._backends = {}
        self._host = None

    def log_metric(self, key: Any, value: Any, step: Any = None) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        """Do nothing."""

    def log_params(self, params: Any) -> None:
        """Do nothing."""

    def set_tags(self, tags: Any) -> None:
        """Do nothing."""

    def log_artifact(self, local_path: Any, artifact_path: Any = None) -> None:
        """Do nothing."""

    def log_text(self, key: Any, text: Any, step: Any = None) -> None:
        """Do nothing."""

    def log_image(self, key: Any, image: Any, step: Any = None) -> None:
        """Do nothing."""

    def log_figure(self, key: Any, figure: Any, step: Any = None) -> None:
        """Do nothing."""

    def log_histogram(self, key: Any, values: Any = None, step: Any = None, **more: Any) -> None:
        """Do nothing."""

    def log_table(self, key: Any, data: Any, columns: Any = None, step: Any = None) -> None:
        """Do nothing."""

    def remote(self, backend: Optional[str] = None, timeout: float = 60.0) -> RemoteRun:
        """Return a run that is nowhere."""
        return RemoteRun(id="", name=self.info.name or "")

    def flush(self, timeout: float = 10.0) -> bool:
        """Return True: there is nothing to wait for."""
        return True

    def stop(self, status: RunStatus = RunStatus.FINISHED, timeout: float = 15.0) -> Report:
        """Return an empty account."""
        if self._report is None:
            self._report = Report(self.info.run_id, RunStatus(status), 0)
            self._forget()
        return self._report

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.stop()
