from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Iterator

import pytest

from tracelet import _guard
from tracelet._guard import Guard, tap
from tracelet._patching import Patch, Patches


class Writer:
    """Somebody else's."""

    def write(self, tag: str, value: float = 0.0, *, step: int = 1) -> str:
        """Write it."""
        if tag == "bad":
            raise ValueError(tag)
        return f"{tag}={value}@{step}"


class Derived(Writer):
    """Has the method from its parent."""


def _patch(owner: type, seen: list[Any], name: str = "write") -> Patch:
    def build(original: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
        return tap(original, lambda args, kwargs: seen.append(args[1:]), guard)

    return Patch(owner, name, build, Guard(f"test {name}"))


def test_on_and_off() -> None:
    original = Writer.__dict__["write"]
    seen: list[Any] = []
    patch = _patch(Writer, seen)
    patch.apply()
    patch.apply()
    assert Writer().write("a", 1.0, step=2) == "a=1.0@2"
    patch.revert()
    patch.revert()
    assert Writer.__dict__["write"] is original
    Writer().write("b")
    assert seen == [("a", 1.0)]


def test_it_looks_the_same_and_shows_in_a_traceback() -> None:
    original = Writer.__dict__["write"]
    patch = _patch(Writer, [])
    patch.apply()
    try:
        now = Writer.__dict__["write"]
        assert inspect.signature(now) == inspect.signature(original)
        assert (now.__name__, now.__doc__, now.__qualname__) == (
            original.__name__,
            original.__doc__,
            original.__qualname__,
        )
        with pytest.raises(ValueError, match="bad") as caught:
            Writer().write("bad")
        names = [frame.name for frame in traceback.extract_tb(caught.tb)]
        assert names[-2:] == ["_tracelet_write", "write"]
    finally:
        patch.revert()


def test_an_inherited_method_is_inherited_again() -> None:
    seen: list[Any] = []
    patch = _patch(Derived, seen)
    patch.apply()
    Derived().write("a")
    Writer().write("b")
    patch.revert()
    assert "write" not in vars(Derived)
    assert seen == [("a",)]


def test_a_wrapper_over_ours_stays_and_ours_passes_on() -> None:
    original = Writer.__dict__["write"]
    seen: list[Any] = []
    patch = _patch(Writer, seen)
    patch.apply()
    ours = Writer.__dict__["write"]

    @functools.wraps(ours)
    def theirs(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs).upper()

    Writer.write = theirs  # type: ignore[method-assign]
    try:
        patch.revert()
        assert Writer.__dict__["write"] is theirs
        assert Writer().write("a") == "A=0.0@1"
        again = _patch(Writer, seen)
        again.apply()
        assert Writer().write("b") == "B=0.0@1"
        again.revert()
        assert Writer.__dict__["write"] is theirs
        assert seen == [("b",)]
    finally:
        Writer.write = original  # type: ignore[method-assign]


def test_a_tap_that_somebody_put_back_is_not_wrapped_again() -> None:
    original = Writer.__dict__["write"]
    seen: list[Any] = []
    first = _patch(Writer, seen)
    first.apply()
    ours = Writer.__dict__["write"]
    first.revert()
    Writer.write = ours  # type: ignore[method-assign]
    for _ in range(3):
        patch = _patch(Writer, seen)
        patch.apply()
        Writer().write("a")
        patch.revert()
        assert Writer.__dict__["write"] is original
    assert seen == [("a",)] * 3


# -- late import ------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A library that nobody has imported yet."""
    folder = tmp_path / "lib" / "latecomer"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from latecomer.writer import Writer\n")
    (folder / "writer.py").write_text(
        "class Writer:\n    def write(self, tag):\n        return tag\n"
    )
    (folder / "broken.py").write_text("raise RuntimeError('broken')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    yield "latecomer"
    for name in [name for name in sys.modules if name.partition(".")[0] == "latecomer"]:
        del sys.modules[name]


def _patches(seen: list[Any], *names: str) -> Patches:
    def found(module: ModuleType) -> Iterator[Patch]:
        yield _patch(module.Writer, seen)

    return Patches("latecomer", dict.fromkeys(names or ("latecomer.writer",), found))


def test_patched_when_it_is_imported(package: str) -> None:
    seen: list[Any] = []
    finders = list(sys.meta_path)
    patches = _patches(seen)
    patches.apply()
    patches.apply()
    assert len(sys.meta_path) == len(finders) + 1
    assert package not in sys.modules
    module = importlib.import_module(package)
    assert module.Writer().write("a") == "a"
    loader = module.writer.__loader__
    assert type(loader).__module__.startswith(("importlib", "_frozen_importlib"))
    assert "exec_module" not in vars(loader)
    assert module.writer.__spec__.loader is loader
    assert "class Writer" in inspect.getsource(module.writer)
    patches.revert()
    assert sys.meta_path == finders
    module.Writer().write("b")
    assert seen == [("a",)]


def test_looking_for_it_is_not_importing_it(package: str) -> None:
    seen: list[Any] = []
    patches = _patches(seen)
    patches.apply()
    importlib.import_module(package)
    del sys.modules["latecomer.writer"]
    spec = importlib.util.find_spec("latecomer.writer")
    assert spec is not None
    assert importlib.util.find_spec("latecomer.nothing") is None
    patches.revert()


def test_loaded_anew(package: str) -> None:
    seen: list[Any] = []
    patches = _patches(seen)
    patches.apply()
    module = importlib.import_module(f"{package}.writer")
    before = module.Writer
    importlib.reload(module)
    assert module.Writer is not before
    module.Writer().write("a")
    patches.revert()
    module.Writer().write("b")
    assert seen == [("a",)]


def test_two_who_wait_for_the_same(package: str) -> None:
    first: list[Any] = []
    second: list[Any] = []
    one, two = _patches(first), _patches(second)
    one.apply()
    two.apply()
    module = importlib.import_module(f"{package}.writer")
    module.Writer().write("a")
    assert sorted([first, second]) == [[], [("a",)]], "the tap that came last"
    two.revert()
    one.revert()
    assert not hasattr(module.Writer.write, "__wrapped__")


def test_an_import_that_fails_fails_as_ever(package: str) -> None:
    patches = _patches([], "latecomer.broken", "latecomer.absent")
    patches.apply()
    with pytest.raises(RuntimeError, match="broken"):
        importlib.import_module(f"{package}.broken")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"{package}.absent")
    patches.revert()


def test_a_library_that_is_not_as_expected_is_left_alone(package: str) -> None:
    def found(module: ModuleType) -> Iterator[Patch]:
        yield _patch(module.Writer, [])
        yield _patch(module.NoSuchClass, [])

    patches = Patches("latecomer", {"latecomer.writer": found})
    with _guard.collecting() as errors:
        patches.apply()
        module = importlib.import_module(f"{package}.writer")
    assert [type(error) for error in errors] == [AttributeError]
    assert module.Writer().write("a") == "a"
    patches.revert()
    assert not hasattr(module.Writer.write, "__wrapped__")


def test_another_finder_may_fail(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name == "latecomer.writer":
                raise OSError("network")

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with _guard.collecting():
        patches = _patches([])
        patches.apply()
        with pytest.raises(OSError, match="network"):
            importlib.import_module(f"{package}.writer")
        patches.revert()
