"""The wheel: what is in it, what it asks for, and what importing it costs."""

from __future__ import annotations

import email.parser
import json
import os
import statistics
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import tracelet

REPOSITORY = Path(__file__).parents[1]

#: What `import tracelet` may add to a bare interpreter, in ms. The aim is 30 (`benchmarks/`
#: measures it); this is the line that a busy machine does not cross either.
IMPORT_BOUND_MS = 120

NEW_MODULES = """
import json, sys
before = set(sys.modules)
import tracelet
places = {
    name: getattr(getattr(module, "__spec__", None), "origin", None)
    for name, module in sys.modules.items()
    if name not in before
}
print(json.dumps(places))
"""


def _run(code: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_importing_tracelet_imports_nothing_foreign() -> None:
    own = str(Path(tracelet.__file__).parent)
    library = str(Path(os.__file__).parent)
    foreign = {
        name: origin
        for name, origin in json.loads(_run(NEW_MODULES)).items()
        if origin not in (None, "built-in", "frozen")
        and not origin.startswith(own)
        and (not origin.startswith(library) or "site-packages" in origin)
    }
    assert foreign == {}


def test_importing_tracelet_does_not_import_its_own_machinery() -> None:
    modules = json.loads(_run(NEW_MODULES))
    assert {name for name in modules if name.startswith("tracelet.")} == set()


def test_importing_tracelet_is_quick() -> None:
    clock = "import time; begin = time.perf_counter(); {}; print(time.perf_counter() - begin)"
    bare, ours = [], []
    for _ in range(7):
        bare.append(float(_run(clock.format("pass"))))
        ours.append(float(_run(clock.format("import tracelet"))))
    added_ms = (statistics.median(ours) - statistics.median(bare)) * 1000
    assert added_ms < IMPORT_BOUND_MS


def test_public_names_are_there() -> None:
    assert sorted(tracelet.__all__) == list(tracelet.__all__)
    for name in tracelet.__all__:
        assert getattr(tracelet, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        tracelet.no_such_name  # noqa: B018


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            folder,
            REPOSITORY,
        ],
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    source = REPOSITORY / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "tracelet").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        notices = {Path(name).name for name in archive.namelist() if ".dist-info/" in name}
    assert held == expected
    assert "tracelet/py.typed" in held
    assert {"METADATA", "RECORD", "LICENSE", "entry_points.txt"} <= notices


def test_the_wheel_says_what_it_is(metadata: email.message.Message) -> None:
    assert metadata["Name"] == "tracelet"
    assert metadata["Requires-Python"] == ">=3.9"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra")) == {
        "aim",
        "all",
        "clearml",
        "mlflow",
        "mlflow-remote",
        "parquet",
        "system",
        "tensorboard",
        "torch",
        "wandb",
    }


def test_the_base_install_is_light(metadata: email.message.Message) -> None:
    needs = metadata.get_all("Requires-Dist")
    assert sorted(need for need in needs if "extra ==" not in need) == [
        "click>=8.1",
        "pydantic-settings>=2.3",
    ]
    assert "mlflow>=3.1.1; extra == 'mlflow'" in needs
    assert "mlflow-skinny>=3.1.1; extra == 'mlflow-remote'" in needs


@pytest.mark.slow
def test_the_wheel_works_where_nothing_else_is(wheel: Path, tmp_path: Path) -> None:
    """Installed without its dependencies it can be imported, and says its version."""
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True
    )
    said = subprocess.run(
        [python, "-I", "-c", "import tracelet; print(tracelet.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == wheel.name.split("-")[1]


def test_the_changelog_knows_the_version_of_the_wheel(metadata: email.message.Message) -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{metadata['Version']}]" in text or "## [Unreleased]" in text
