"""Clause 1: who the run is; and clause 0: that the declarations mean something."""

from __future__ import annotations

import time as clock

from tracelet.records import RECORD_TYPES
from tracelet.testing.contract import ABILITIES, FAULTS, FORMS, BackendContract
from tracelet.testing.samples import SAMPLES, metric, tag


class Identity(BackendContract):
    """A run is found where the program said it would be."""

    def test_00_declarations_mean_something(self) -> None:
        """A misspelt declaration would quietly switch a clause off."""
        assert set(self.cannot) <= {*ABILITIES, *FAULTS}
        assert all(reason.strip() for reason in self.cannot.values())
        assert set(self.forms) <= set(SAMPLES)
        assert set(self.forms.values()) <= set(FORMS)
        assert self.precision in ("double", "single")
        assert self.changed_param in ("first", "last")

    def test_00_class_says_what_it_takes(self) -> None:
        """The shipper reads these before it has an instance."""
        kind = type(self.backend())
        assert isinstance(kind.name, str)
        assert kind.accepts <= set(RECORD_TYPES)
        assert kind.deferred <= kind.accepts
        assert min(kind.limits.max_records, kind.limits.max_keys, kind.limits.max_bytes) > 0
        assert kind.Options.model_config.get("extra") == "forbid"

    def test_00_preflight_of_a_working_store_is_quick_and_says_nothing(self) -> None:
        """Start waits a second for all backends together."""
        started = clock.monotonic()
        self.backend().preflight()
        assert clock.monotonic() - started < 2

    def test_01_run_appears_under_its_project_and_name(self) -> None:
        """A person finds the run where the program said it would be."""
        session = self.start(self.info(project="vision", name="baseline"))
        seen = self.read_back(session.remote)
        assert (seen.id, seen.project, seen.name) == (session.remote.id, "vision", "baseline")

    def test_01_run_without_project_and_name_gets_some(self) -> None:
        """Both arguments of ``start_logging`` may be left out."""
        session = self.start(self.info(project=None, name=None))
        seen = self.read_back(session.remote)
        assert seen.project
        assert seen.name

    def test_01_awkward_names_are_kept(self) -> None:
        """Projects and runs are called whatever people like."""
        self.needs("awkward_names")
        info = self.info(project="team/vision: #1 (größer)", name='50% of "all" \\ 2. ')
        seen = self.read_back(self.start(info).remote)
        assert (seen.project, seen.name) == (info.project, info.name)

    def test_01_two_runs_of_one_name_stay_two(self) -> None:
        """A sweep may start the same name again and again."""
        first = self.start(self.info(project="sweep", name="trial"))
        first.send(metric("loss", 1.0))
        second = self.start(self.info(project="sweep", name="trial"))
        second.send(metric("loss", 2.0))
        assert first.remote.id != second.remote.id
        assert self.read_back(first.remote).curve("loss") == [(0, 1.0)]
        assert self.read_back(second.remote).curve("loss") == [(0, 2.0)]

    def test_01_tags_of_the_start_arrive(self) -> None:
        """``config={"tags": …}``."""
        tags = {"team": "ml", "version": "v1.0", "empty": "", "unicode": "größer 🔥"}
        seen = self.read_back(self.start(self.info(tags=tags)).remote)
        assert {key: seen.tags.get(key) for key in tags} == tags

    def test_01_a_tag_set_later_arrives_and_replaces(self) -> None:
        """The last value of a label is the label."""
        session = self.start(self.info(tags={"stage": "start"}))
        session.send(tag("stage", "middle"), tag("other", "x"))
        session.send(tag("stage", "end"))
        tags = self.read_back(session.remote).tags
        assert (tags["stage"], tags["other"]) == ("end", "x")

    def test_01_a_parent_is_a_parent(self) -> None:
        """Nested runs show as nested."""
        self.needs("parent")
        parent = self.start()
        backend, info = self.child_of(parent.remote, self.info())
        child = self.start(info, backend=backend)
        assert self.read_back(child.remote).parent == parent.remote.id
        assert self.read_back(parent.remote).parent is None

    def test_01_the_remote_run_says_where_to_look(self) -> None:
        """The line that is printed at the start comes from here."""
        session = self.start()
        assert session.remote.id
        assert session.remote.url or session.remote.look
