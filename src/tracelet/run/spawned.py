"""
Children that ``multiprocessing`` starts anew (spawn, forkserver): they join their parent's run.

A forked child has the run in its memory; one that is started anew has nothing of it. What it gets
from its parent is the process object, pickled, and with that the settings that ``multiprocessing``
hands on to children (``_config``). An invitation lies among them for as long as the run lasts;
unpickling it joins. Neither ``Process`` nor the import statement is patched.

Before that, the child imports the main module once more. A ``start_logging`` outside of ``if
__name__ == "__main__"`` is then the very line that the parent has run already, and joins as well;
it finds the run by ``TRACELET_RUN_DIR``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional

from tracelet import registry
from tracelet._guard import Guard
from tracelet._ledger import Ledger
from tracelet._process import find_rank
from tracelet.run import Run
from tracelet.run.elsewhere import Elsewhere
from tracelet.spool.rundir import RunDir
from tracelet.spool.writer import SpoolWriter

if TYPE_CHECKING:
    from tracelet.settings import TraceletSettings

__all__ = ["Invitation", "invite", "invited", "join", "terms_here", "uninvite"]

#: Where the run is that this process records into.
VARIABLE = "TRACELET_RUN_DIR"
_KEY = "tracelet"


class Invitation:
    """
    Joins the run where it is unpickled.

    Args:
        accept: Called there with ``terms``; returns the invitation for that process's children.
        terms: The folder of the run, and the settings that matter in a child.
    """

    def __init__(
        self, accept: Callable[[Mapping[str, Any]], Any], terms: Mapping[str, Any]
    ) -> None:
        self.accept = accept
        self.terms = terms

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.accept, (self.terms,)


def invite(
    run: Run, settings: TraceletSettings, accept: Callable[[Mapping[str, Any]], Any]
) -> None:
    """Let children that will be started from now on join the run."""
    terms = _terms(str(run._run_dir.path), settings, run._writer.rank)  # noqa: SLF001
    with Guard("invitation of children"):
        os.environ[VARIABLE] = terms["folder"]
        _handed_on()[_KEY] = Invitation(accept, terms)


def uninvite() -> None:
    """Take the invitation back."""
    os.environ.pop(VARIABLE, None)
    with Guard("invitation of children"):
        _handed_on().pop(_KEY, None)


def invited() -> Optional[str]:
    """Return the folder of the parent's run while a child imports its main module once more."""
    from multiprocessing import process

    # Set by ``multiprocessing.spawn._main``, also in a child of a fork server.
    if getattr(process.current_process(), "_inheriting", False):
        return os.environ.get(VARIABLE)
    return None


def terms_here(folder: str, settings: TraceletSettings) -> Mapping[str, Any]:
    """Return what the parent's invitation will say, for a child that cannot wait for it."""
    rank = find_rank() if settings.ranks == "all" else None
    return _terms(folder, settings, rank.number if rank is not None and rank.number else None)


def _terms(folder: str, settings: TraceletSettings, rank: Optional[int]) -> dict[str, Any]:
    return {
        "folder": folder,
        "disable": list(settings.disable),
        "keep": settings.keep_tensorboard,
        "snapshot": settings.snapshot,
        "power": settings.durability == "power",
        "rank": rank,
    }


def join(terms: Mapping[str, Any], on_stop: Callable[[Run], None]) -> Optional[Run]:
    """
    Record into a run of another process of this machine. Never raises: a child has to begin.

    Args:
        terms: The folder of the run, and the settings that matter in a child.
        on_stop: Called once, when this process has left the run.

    Returns:
        The run; None when it has ended, or cannot be joined.
    """
    with Guard("joining the run"):
        run_dir = RunDir.open(Path(terms["folder"]))
        if run_dir.owner_alive():
            writer = SpoolWriter(
                run_dir,
                main=False,
                snapshot=terms.get("snapshot", True),
                power=terms.get("power", False),
                rank=terms.get("rank"),
                child=True,
            )
            run = SpawnedRun(run_dir, writer, on_stop)
            for name in registry.integrations():
                if name not in terms.get("disable", ()):
                    integration = registry.integration_class(name)()
                    integration.install(writer, keep=terms.get("keep", True))
                    run._integrations.append(integration)  # noqa: SLF001
            return run
    return None


class SpawnedRun(Run):
    """The run in a child that was started anew: as in a forked one, it is the parent's to end."""

    def __init__(
        self, run_dir: RunDir, writer: SpoolWriter, on_stop: Callable[[Run], None]
    ) -> None:
        super().__init__(run_dir, writer, Elsewhere(), Ledger(silent=True), on_stop=on_stop)
        self._pid = 0  # nobody's number


def _handed_on() -> dict[str, Any]:
    from multiprocessing import process

    return process.current_process()._config  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001
