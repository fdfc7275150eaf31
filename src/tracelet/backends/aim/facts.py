"""What Aim shows of a run beside its sequences: name, labels, parameters, where it comes from."""

from __future__ import annotations

from typing import Any, Mapping, Optional

from tracelet.backends.aim.sdk import Session
from tracelet.records import RunInfo, RunStatus, Scalar

__all__ = ["Facts"]

INT64 = range(-(2**63), 2**63)
#: Longest label that becomes one of Aim's tags; all are in ``run["labels"]``.
_MOST_TAG = 120
#: Facts that Aim's page has a place of its own for, and would make hundreds of parameters of.
_LISTS = ("packages", "environment")
_STATUS_TAGS = {RunStatus.FAILED: "failed", RunStatus.KILLED: "killed"}
_SPOKEN = {
    RunStatus.FAILED: "The training failed.",
    RunStatus.KILLED: "The training was killed.",
}


class Facts:
    """
    The facts of one run.

    Args:
        session: The open run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def begin(self, run: RunInfo, parent: Optional[str], *, new: bool) -> None:
        """
        Say who the run is.

        Args:
            run: Who it is.
            parent: Hash of the run that it belongs to.
            new: It is ours from its beginning; else it keeps the name that it has.
        """
        session, aim = self._session, self._session.run
        if new:
            if run.project:
                aim.experiment = run.project
            aim.name = run.name or run.run_id
        with session.together():
            facts = {"run_id": run.run_id, "version": run.version, "host": run.host}
            for name, value in facts.items():
                session.set(("tracelet", name), value)
            session.set(("tracelet", "status"), RunStatus.RUNNING.value)
            if parent:
                session.set(("parent",), parent)
            if run.context and new:
                shown = {key: each for key, each in run.context.items() if key not in _LISTS}
                session.set(("context",), _storable(shown))
                session.set(("__system_params",), _system(run))
        for key, value in run.tags.items():
            self.label(key, value)
        if parent:
            aim.add_tag(f"child of {parent}")
        for tag in _STATUS_TAGS.values():
            if tag in aim.tags:
                aim.remove_tag(tag)
        if aim.description in _SPOKEN.values():
            aim.description = ""

    def label(self, key: str, value: str) -> None:
        """Set a label; it replaces the one of the same key."""
        aim = self._session.run
        former = self._session.get(("labels", key))
        if former == value:
            return
        self._session.set(("labels", key), value)
        if former is not None and _tag(key, former):
            aim.remove_tag(_tag(key, former))
        if _tag(key, value):
            aim.add_tag(_tag(key, value))

    def params(self, params: Mapping[str, Scalar]) -> None:
        """Set parameters; the last value is the one that is shown."""
        waiting = list(params.items())
        for start in range(0, len(waiting), self._session.message):
            with self._session.together():
                for key, value in waiting[start : start + self._session.message]:
                    self._session.set(("hparams", key), _number(value))

    def layout(self, key: str, layout: Any) -> None:
        """Keep a layout of ``add_custom_scalars`` where a program can read it."""
        self._session.set(("custom_scalars", key), _storable(layout))

    def artifacts_uri(self, uri: str) -> None:
        """Say where artifacts are, unless the run knows already."""
        if not self._session.run.artifacts_uri:
            self._session.run.set_artifacts_uri(uri)

    def artifact(self, path: str, source: str) -> Any:
        """Return Aim's entry of an artifact; ``enter`` puts it into the run."""
        from aim.sdk.objects.artifact import Artifact

        return Artifact(source, uri=self._session.run.artifacts_uri, name=path)

    def enter(self, entry: Any) -> None:
        """Show an artifact in the run."""
        self._session.run.meta_run_tree.subtree("artifacts")[entry.name] = entry

    def end(self, status: RunStatus) -> None:
        """Say how the run ended, in the words that Aim has, and in ours."""
        aim = self._session.run
        self._session.set(("tracelet", "status"), status.value)
        if status in _STATUS_TAGS:
            # Aim has no failed runs: one that never said that it ended well counts as failed.
            aim.add_tag(_STATUS_TAGS[status])
            if not aim.description:
                aim.description = _SPOKEN[status]


def _tag(key: str, value: str) -> str:
    text = f"{key}: {value}" if value else key
    # A tag is one word or a few in a list; what is longer is in `run["labels"]` alone.
    return text if len(text) <= _MOST_TAG and text.isprintable() and text.strip() else ""


def _number(value: Any) -> Any:
    # A whole number of Aim has 64 bits.
    return str(value) if isinstance(value, int) and value not in INT64 else value


def _storable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _storable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(each) for each in value]
    return _number(value)


def _system(run: RunInfo) -> Mapping[str, Any]:
    """Return what Aim's own page of a run shows as its environment (``Run.__init__``)."""
    found: dict[str, Any] = {}
    command, git, context = run.facts("command"), run.facts("git"), run.context
    if command:
        found["executable"] = str(command.get("executable", ""))
        found["arguments"] = [str(each) for each in command.get("line", ())]
    if context.get("packages"):
        found["packages"] = _storable(context["packages"])
    if context.get("environment"):
        found["env_variables"] = _storable(context["environment"])
    if git:
        found["git_info"] = {
            "branch": str(git.get("branch", "")),
            "remote_origin_url": str(git.get("remote", "")),
            "commit": {"hash": str(git.get("commit", "")), "timestamp": "", "author": ""},
        }
    return found
