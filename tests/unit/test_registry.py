"""Names of backends and integrations, and what is said when there is none behind a name."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import tracelet
from tracelet import registry
from tracelet._installed import is_installed
from tracelet.backends.base import Backend

PLUGIN = """
from tracelet.backends.memory import MemoryBackend

class Plugin(MemoryBackend):
    name = "plugin"
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution with backends of its own, one of them under a taken name."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "somebodys_plugin.py").write_text(PLUGIN)
    metadata = tmp_path / "somebodys-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[tracelet.backends]\n"
        "plugin = somebodys_plugin:Plugin\n"
        "jsonl = somebodys_plugin:Plugin\n"
        "broken = somebodys_plugin_that_is_not_there:Plugin\n"
    )


@pytest.mark.parametrize("name", ["aim", "jsonl", "memory", "mlflow", "parquet", "tensorboard"])
def test_a_built_in_backend_is_found_by_its_name(name: str) -> None:
    if name in ("aim", "mlflow", "parquet"):
        pytest.importorskip({"parquet": "pyarrow"}.get(name, name))
    cls = registry.backend_class(name)
    assert issubclass(cls, Backend)
    assert cls.name == name


def test_an_unknown_backend_names_the_nearest() -> None:
    with pytest.raises(tracelet.UnknownBackendError, match=r"Did you mean 'mlflow'\?"):
        registry.backend_class("mlfow")
    with pytest.raises(tracelet.SettingsError, match=r"Known: .*jsonl, memory, mlflow"):
        registry.backend_class("zzz")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(tracelet.MissingPackageError, match=r"pip install 'tracelet\[mlflow\]'"):
        registry.backend_class("mlflow")


@pytest.mark.parametrize("imported", [False, True])
def test_a_folder_of_that_name_is_no_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, imported: bool
) -> None:
    """W&B leaves a folder `wandb` wherever it was used: Python would import it, empty."""
    (tmp_path / "a_tracker" / "run-1").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    if imported:
        module = importlib.import_module("a_tracker")
        monkeypatch.setitem(sys.modules, "a_tracker", module)
    assert not is_installed("a_tracker")
    (tmp_path / "a_package").mkdir()
    (tmp_path / "a_package" / "__init__.py").touch()
    importlib.invalidate_caches()
    assert is_installed("a_package")
    if imported:
        monkeypatch.setitem(sys.modules, "a_package", importlib.import_module("a_package"))
        assert is_installed("a_package")
    assert is_installed("sys")
    assert not is_installed("no_such_module")
    assert not is_installed("no_such_module.below")


def test_looking_a_backend_up_imports_no_package_of_its_own() -> None:
    code = (
        "import sys; from tracelet import registry; registry.backend_class('mlflow');"
        "print('mlflow' in sys.modules)"
    )
    pytest.importorskip("mlflow")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"


def test_built_in_names_are_found_without_reading_metadata() -> None:
    code = "import sys; from tracelet import registry; print('importlib.metadata' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"


def test_a_plugin_is_found_by_its_entry_point(plugin: None) -> None:
    assert registry.backend_class("plugin").name == "plugin"
    assert "plugin" in registry.backend_names()


def test_a_plugin_cannot_take_the_name_of_a_built_in(plugin: None) -> None:
    assert registry.backend_class("jsonl").__module__.startswith("tracelet.")


def test_a_broken_plugin_is_an_error_only_when_it_is_asked_for(plugin: None) -> None:
    assert "broken" in registry.backend_names()
    with pytest.raises(tracelet.MissingPackageError, match="somebodys_plugin_that_is_not_there"):
        registry.backend_class("broken")


def test_a_plugins_options_are_a_section_of_config(plugin: None) -> None:
    from tracelet.settings import load

    assert load({"backend": "plugin"}, {"plugin": {"parent": "a"}}).sections == {
        "plugin": {"parent": "a"}
    }


@pytest.mark.parametrize("name", list(registry.integrations()))
def test_a_built_in_integration_is_found_by_its_name(name: str) -> None:
    assert registry.integration_class(name).name == name
