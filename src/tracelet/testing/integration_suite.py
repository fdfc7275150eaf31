"""
What every patch of somebody else's class has to keep, as tests.

Subclass ``IntegrationSuite`` in a test module, fill in the hooks, run pytest::

    class TestMyLogger(IntegrationSuite):
        module = "mylogger.writer"

        def integration(self):
            return MyIntegration()

        def owners(self):
            return [mylogger.writer.Writer]

        def open(self, folder):
            return mylogger.writer.Writer(folder)

        def close(self, writer):
            writer.close()

The clauses are about the patch: what the library's user sees must be the same with it as without.
What is recorded of each kind of call is the integration's own tests' business.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any, Callable, Iterator, Mapping, Sequence

import pytest

from tracelet import _guard
from tracelet.capture.base import Integration, Sink
from tracelet.testing.fakes import BrokenSink, RecordingSink, SilentSink

__all__ = ["Arguments", "IntegrationSuite"]

#: Positional and named arguments of one call.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]

#: A time in 2023; what the clock says while files are compared.
_FROZEN = 1_700_000_000.25


class Boom(Exception):  # noqa: N818 - never an error of ours
    """What an original raises in these tests."""


def _noting(original: Callable[..., Any], seen: list[Arguments]) -> Callable[..., Any]:
    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return original(*args, **kwargs)

    return spy


class IntegrationSuite:
    """The contract of an ``Integration``; see the module."""

    #: The module whose import is waited for.
    module: str
    #: What to forget of the library before it is imported late; ``module`` by default.
    modules: Sequence[str] = ()
    #: Added CPU time of the calling thread for one logged number, in seconds, with a sink that does
    #: nothing. Far above what it should be, so that a busy machine does not make it fail.
    cost_s: float = 25e-6

    # -- what a library says --------------------------------------------------------------

    def integration(self) -> Integration:
        """Return the integration, not installed."""
        raise NotImplementedError

    def owners(self) -> Sequence[type]:
        """Return every class that is patched, as it is now; the one ``open`` makes first."""
        raise NotImplementedError

    def open(self, folder: Path) -> Any:
        """Return an object of the library that logs to ``folder``."""
        raise NotImplementedError

    def close(self, writer: Any) -> None:
        """End what ``open`` returned, so that its files are complete."""
        raise NotImplementedError

    #: The method that logs one number, as ``method(tag, value, step)``.
    method: str = "add_scalar"

    def calls(self) -> Mapping[str, Arguments]:
        """Return arguments for every patched method of an object that ``open`` returned."""
        return {self.method: (("loss", 0.1, 1), {})}

    def written(self, folder: Path) -> Mapping[str, Any]:
        """
        Return what the library has written below a folder, in a form that can be compared.

        Here: the bytes of each file by its name, without what differs between two files of one
        second (the last numbers in the name).
        """
        files: dict[str, Any] = {}
        for path in sorted(folder.rglob("*")):
            name = re.sub(r"(\.\d+){2,}$", "", path.relative_to(folder).as_posix())
            files.setdefault(name, []).append(path.read_bytes() if path.is_file() else None)
        return files

    # -- tools ----------------------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _guarded(self) -> Iterator[None]:
        """What the guard swallowed fails the test, unless it was wanted."""
        with _guard.collecting() as errors:
            yield
        if errors:
            raise errors[0]

    @contextmanager
    def installed(self, sink: Sink, *, keep: bool = True) -> Iterator[Integration]:
        """Have the integration on for the length of a ``with`` block."""
        integration = self.integration()
        integration.install(sink, keep=keep)
        try:
            yield integration
        finally:
            integration.uninstall()

    def log(self, writer: Any, tag: str, value: Any, step: int) -> Any:
        """Log one number."""
        return getattr(writer, self.method)(tag, value, step)

    def _spied(self, patch: pytest.MonkeyPatch, name: str, spy: Callable[..., Any]) -> None:
        """Put ``spy`` in the place of an original, before the integration sees it."""
        owner = self.owners()[0]
        patch.setattr(owner, name, functools.wraps(owner.__dict__[name])(spy))

    # -- the clauses ----------------------------------------------------------------------

    def test_the_original_is_called_once_with_the_same_arguments(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Arguments are the very same objects, given in the same way."""
        for name, (args, kwargs) in self.calls().items():
            seen: list[Arguments] = []
            original = self.owners()[0].__dict__[name]
            with monkeypatch.context() as patch:
                self._spied(patch, name, _noting(original, seen))
                with self.installed(RecordingSink()):
                    writer = self.open(tmp_path / name)
                    getattr(writer, name)(*args, **kwargs)
                    self.close(writer)
            assert len(seen) == 1, name
            given, named = seen[0]
            assert given[0] is writer
            assert len(given) == 1 + len(args)
            assert all(mine is theirs for mine, theirs in zip(args, given[1:])), name
            assert named.keys() == kwargs.keys(), name
            assert all(named[key] is kwargs[key] for key in kwargs), name

    def test_the_result_comes_through(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the original returns is what the caller gets."""
        result = object()
        with monkeypatch.context() as patch:
            self._spied(patch, self.method, lambda *_, **__: result)
            with self.installed(RecordingSink()):
                writer = self.open(tmp_path)
                assert self.log(writer, "loss", 0.1, 1) is result
                self.close(writer)

    def test_the_exception_comes_through(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The original's exception is the caller's; ours is not in between."""
        error = Boom("disk full, say")

        def fail(*_: Any, **__: Any) -> None:
            raise error

        for name, (args, kwargs) in self.calls().items():
            with monkeypatch.context() as patch:
                self._spied(patch, name, fail)
                with self.installed(RecordingSink()):
                    writer = self.open(tmp_path / name)
                    with pytest.raises(Boom) as caught:
                        getattr(writer, name)(*args, **kwargs)
                    self.close(writer)
            assert caught.value is error
            assert error.__context__ is None, "it must not look as if we had raised first"
            shown = "".join(traceback.format_tb(caught.tb))
            assert f"_tracelet_{name}" in shown, "who was in between is to be seen"
            error.__traceback__ = None

    def test_nobody_can_tell_the_difference_by_looking(self) -> None:
        """Signature, name, documentation and order of the class are as they were."""
        before = [dict(vars(owner)) for owner in self.owners()]
        with self.installed(RecordingSink()):
            for owner, names in zip(self.owners(), before):
                assert list(vars(owner)) == list(names)
                for name, original in names.items():
                    now = owner.__dict__[name]
                    if not isinstance(original, FunctionType):
                        assert now is original, name
                        continue
                    assert isinstance(now, FunctionType)
                    assert inspect.signature(now) == inspect.signature(original)
                    assert now.__name__ == original.__name__
                    assert now.__qualname__ == original.__qualname__
                    assert now.__doc__ == original.__doc__
                    assert now.__module__ == original.__module__
                    assert now.__annotations__ == original.__annotations__
            assert any(
                owner.__dict__[name] is not original
                for owner, names in zip(self.owners(), before)
                for name, original in names.items()
            )

    @pytest.mark.parametrize("keep", [True, False])
    def test_uninstall_puts_the_very_same_objects_back(self, keep: bool, tmp_path: Path) -> None:
        """Classes and import system are as before, however often it is done."""
        before = [dict(vars(owner)) for owner in self.owners()]
        finders = list(sys.meta_path)
        integration = self.integration()
        for _ in range(3):
            integration.install(RecordingSink(), keep=keep)
            writer = self.open(tmp_path)
            self.log(writer, "loss", 0.1, 1)
            self.close(writer)
            integration.uninstall()
            integration.uninstall()
            for owner, names in zip(self.owners(), before):
                assert list(vars(owner)) == list(names)
                assert all(vars(owner)[name] is names[name] for name in names)
            assert all(mine is theirs for mine, theirs in zip(sys.meta_path, finders))
            assert len(sys.meta_path) == len(finders)

    def test_nothing_is_recorded_outside(self, tmp_path: Path) -> None:
        """Before and after there is nothing of ours."""
        sink = RecordingSink()
        writer = self.open(tmp_path)
        self.log(writer, "loss", 0.1, 1)
        with self.installed(sink):
            pass
        self.log(writer, "loss", 0.2, 2)
        self.close(writer)
        assert len(sink) == 0

    def test_installed_twice_is_installed_once(self, tmp_path: Path) -> None:
        """One call is one record."""
        sink = RecordingSink()
        with self.installed(sink) as integration:
            integration.install(sink)
            writer = self.open(tmp_path)
            self.log(writer, "loss", 0.1, 1)
            self.close(writer)
        assert sink.points("loss") == [(0.1, 1)]

    def test_a_second_integration_takes_over(self, tmp_path: Path) -> None:
        """Two integrations of one library do not record twice."""
        first, second = RecordingSink(), RecordingSink()
        with self.installed(first), self.installed(second):
            writer = self.open(tmp_path)
            self.log(writer, "loss", 0.1, 1)
            self.close(writer)
        assert (first.points("loss"), second.points("loss")) == ([], [(0.1, 1)])

    def test_a_sink_that_raises_is_invisible(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Errors of ours never reach the caller, and a hopeless site is switched off."""
        sink = BrokenSink()
        result = object()
        with _guard.collecting() as errors, self.installed(sink):
            writer = self.open(tmp_path)
            for step in range(100):
                self.log(writer, "loss", 0.1, step)
            for name, (args, kwargs) in self.calls().items():
                getattr(writer, name)(*args, **kwargs)
            self.close(writer)
        assert errors
        assert sink.calls < 100, "a site that always fails is switched off"
        with monkeypatch.context() as patch:
            self._spied(patch, self.method, lambda *_, **__: result)
            with _guard.collecting(), self.installed(BrokenSink()):
                writer = self.open(tmp_path)
                assert self.log(writer, "loss", 0.1, 1) is result
                self.close(writer)

    def test_what_was_made_before_is_covered(self, tmp_path: Path) -> None:
        """An object from before the start is captured like any other."""
        writer = self.open(tmp_path)
        self.log(writer, "loss", 0.1, 1)
        method = getattr(type(writer), self.method)
        with self.installed(RecordingSink()) as integration:
            integration.uninstall()
        assert getattr(type(writer), self.method) is method
        sink = RecordingSink()
        with self.installed(sink):
            self.log(writer, "loss", 0.2, 2)
        self.log(writer, "loss", 0.3, 3)
        self.close(writer)
        assert sink.points("loss") == [(0.2, 2)]

    def test_a_late_import_is_caught(self, tmp_path: Path) -> None:
        """Installing imports nothing; importing patches, and shows nothing."""
        sink = RecordingSink()
        with self._forgotten(), self.installed(sink):
            assert self.module not in sys.modules, "installing must not import it"
            late = importlib.import_module(self.module)
            assert late.__spec__ is not None
            assert late.__spec__.loader is late.__loader__
            assert "exec_module" not in vars(late.__loader__), "the loader is as it was"
            writer = self.open(tmp_path)
            self.log(writer, "loss", 0.1, 1)
            self.close(writer)
        assert sink.points("loss") == [(0.1, 1)]

    @contextmanager
    def _forgotten(self) -> Iterator[None]:
        """Make the library's modules look as if they had never been imported."""
        names = self.modules or (self.module,)
        kept = {name: sys.modules.pop(name) for name in names if name in sys.modules}
        parents = [(sys.modules.get(name.rpartition(".")[0]), name) for name in kept]
        try:
            yield
        finally:
            sys.modules.update(kept)
            for parent, name in parents:
                if parent is not None:
                    setattr(parent, name.rpartition(".")[2], kept[name])

    def test_a_patch_over_ours_is_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever patched after us keeps their patch, in whatever order we part."""
        owner = self.owners()[0]
        original = owner.__dict__[self.method]
        theirs: list[str] = []
        sink = RecordingSink()
        with monkeypatch.context() as patch:
            with self.installed(sink):
                ours = owner.__dict__[self.method]

                @functools.wraps(ours)
                def wrapper(*args: Any, **kwargs: Any) -> Any:
                    theirs.append(args[1])
                    return ours(*args, **kwargs)

                patch.setattr(owner, self.method, wrapper)
                writer = self.open(tmp_path)
                self.log(writer, "loss", 0.1, 1)
            assert owner.__dict__[self.method] is wrapper
            self.log(writer, "loss", 0.2, 2)
            with self.installed(sink):
                self.log(writer, "loss", 0.3, 3)
            assert owner.__dict__[self.method] is wrapper
            self.close(writer)
            assert theirs == ["loss"] * 3
            assert sink.points("loss") == [(0.1, 1), (0.3, 3)]
            # They take theirs off after us, and so put our tap back, which is over.
            setattr(owner, self.method, ours)
            with self.installed(sink):
                writer = self.open(tmp_path)
                self.log(writer, "loss", 0.4, 4)
                self.close(writer)
            assert sink.points("loss")[2:] == [(0.4, 4)]
            assert owner.__dict__[self.method] is original
            patch.undo()
        setattr(owner, self.method, original)

    def test_threads(self, tmp_path: Path) -> None:
        """Points of several threads arrive once each, in the order of their thread."""
        sink = RecordingSink()
        errors: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for step in range(50):
                    self.log(writer, f"loss{number}", number + step / 100, step)
            except BaseException as error:
                errors.append(error)
                raise

        with self.installed(sink):
            writer = self.open(tmp_path)
            threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            self.close(writer)
        assert not errors
        for number in range(6):
            wanted = [(number + step / 100, step) for step in range(50)]
            assert sink.points(f"loss{number}") == wanted
        assert len(sink.scalars) == 300

    def test_the_files_are_byte_for_byte_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the clock held still, the library writes what it writes without us."""
        monkeypatch.setattr(time, "time", lambda: _FROZEN)

        def program(folder: Path) -> Mapping[str, Any]:
            folder.mkdir()
            with monkeypatch.context() as patch:
                patch.chdir(folder)
                writer = self.open(Path("logs"))
                for name, (args, kwargs) in self.calls().items():
                    getattr(writer, name)(*args, **kwargs)
                self.close(writer)
            return self.written(folder)

        plain = program(tmp_path / "without")
        with self.installed(RecordingSink()):
            with_us = program(tmp_path / "with")
        assert plain
        assert list(with_us) == list(plain)
        for name in plain:
            assert with_us[name] == plain[name], name

    def test_the_cost_is_bounded(self, tmp_path: Path) -> None:
        """The calling thread pays little, by the quickest of several rounds."""
        writer = self.open(tmp_path)
        sink = SilentSink()

        def loop() -> float:
            start = time.thread_time()
            for step in range(200):
                self.log(writer, "loss", 0.1, step)
            return (time.thread_time() - start) / 200

        loop()
        plain, tapped = [], []
        for _ in range(15):
            # The quickest of each is what the code costs; everything above is the machine's.
            plain.append(loop())
            with self.installed(sink):
                tapped.append(loop())
            if min(tapped) - min(plain) <= self.cost_s and len(plain) >= 5:
                break
        self.close(writer)
        assert min(tapped) - min(plain) <= self.cost_s
