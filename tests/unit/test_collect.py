"""The facts that are taken at a start: from real repositories, real packages, this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Optional

import pytest

from tracelet.collect import environment, git, packages, program
from tracelet.collect.gather import FACTS, Gathering
from tracelet.collect.gpu import Gpus
from tracelet.collect.system import SystemMetrics


def run_git(folder: Path, *arguments: str) -> str:
    command = [
        "git",
        "-c",
        "user.name=x",
        "-c",
        "user.email=x@y",
        "-c",
        "protocol.file.allow=always",
    ]
    done = subprocess.run(
        [*command, "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    run_git(folder, "init", "-q", "-b", "trunk")
    (folder / "train.py").write_text("pass\n")
    (folder / ".gitignore").write_text("ignored.py\n")
    run_git(folder, "add", ".")
    run_git(folder, "commit", "-q", "-m", "first")
    return folder


def facts(*places: Path, budget_s: float = 30.0) -> Optional[dict[str, Any]]:
    each = [(place.parent, place) if place.is_file() else (place, None) for place in places]
    found = git.facts_of(each, time.monotonic() + budget_s)
    return None if found is None else dict(found)


def test_commit_branch_and_change(repository: Path) -> None:
    commit = run_git(repository, "rev-parse", "HEAD")
    assert facts(repository / "train.py") == {"commit": commit, "branch": "trunk", "dirty": False}
    (repository / "new.py").write_text("not known to git\n")
    assert facts(repository) == {"commit": commit, "branch": "trunk", "dirty": False}
    (repository / "train.py").write_text("changed\n")
    assert facts(repository) == {"commit": commit, "branch": "trunk", "dirty": True}
    run_git(repository, "add", "train.py")
    assert facts(repository)["dirty"] is True


@pytest.mark.parametrize(
    ("remote", "told"),
    [
        ("https://me:hunter2@example.org/a/b.git", "https://example.org/a/b.git"),
        ("https://ghp_0123456789abcdefghijAB@example.org/a.git", "https://example.org/a.git"),
        ("git@example.org:a/b.git", "git@example.org:a/b.git"),
    ],
)
def test_a_remote_without_its_credentials(repository: Path, remote: str, told: str) -> None:
    run_git(repository, "remote", "add", "upstream", remote)
    run_git(repository, "remote", "add", "second", "https://example.org/other.git")
    assert facts(repository)["remote"] == told


def test_a_detached_head_has_no_branch(repository: Path) -> None:
    run_git(repository, "checkout", "-q", "--detach")
    found = facts(repository)
    assert "branch" not in found
    assert found["commit"]


def test_a_worktree_and_a_submodule(repository: Path, tmp_path: Path) -> None:
    run_git(repository, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    assert facts(tmp_path / "side")["branch"] == "side"
    outer = tmp_path / "outer"
    outer.mkdir()
    run_git(outer, "init", "-q", "-b", "main")
    run_git(outer, "submodule", "add", "-q", str(repository), "inner")
    run_git(outer, "commit", "-q", "-m", "outer")
    assert facts(outer / "inner" / "train.py")["commit"] == run_git(repository, "rev-parse", "HEAD")
    assert facts(outer)["branch"] == "main"
    (outer / "inner" / "train.py").write_text("changed\n")
    assert facts(outer)["dirty"] is True


def test_a_bare_repository_says_what_it_can(repository: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.git"
    run_git(tmp_path, "clone", "-q", "--bare", str(repository), str(bare))
    found = facts(bare)
    assert found["commit"] == run_git(repository, "rev-parse", "HEAD")
    assert "dirty" not in found


def test_nothing_to_find_is_no_error(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert facts(empty) is None
    run_git(empty, "init", "-q")
    assert facts(empty) is None, "a repository without a commit"
    (repository / "ignored.py").write_text("pass\n")
    assert facts(repository / "ignored.py") is None
    (empty / ".git" / "HEAD").write_bytes(b"\0garbage")
    assert facts(empty) is None
    assert facts(tmp_path / "nowhere") is None
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert facts(repository) is None, "no git"


def test_the_script_s_repository_comes_before_that_of_the_folder(
    repository: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    run_git(other, "init", "-q", "-b", "elsewhere")
    run_git(other, "commit", "-q", "--allow-empty", "-m", "x")
    assert facts(repository / "train.py", other)["branch"] == "trunk"
    assert facts(tmp_path, other)["branch"] == "elsewhere"


def test_variables_of_a_hook_do_not_lead_astray(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_WORK_TREE", "/")
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    assert facts(repository)["branch"] == "trunk"
    assert not (tmp_path / "trace").exists()


def test_looking_changes_nothing(repository: Path) -> None:
    index = repository / ".git" / "index"
    os.utime(repository / "train.py")  # so that git would like to refresh its index
    before = index.read_bytes()
    (repository / ".git" / "index.lock").write_text("somebody commits")
    assert facts(repository)["dirty"] is False
    assert index.read_bytes() == before


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="platform: no SIGCHLD")
def test_a_program_that_lets_its_children_vanish(repository: Path) -> None:
    (repository / "train.py").write_text("changed\n")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        found = facts(repository / "train.py")
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert found["branch"] == "trunk"
    assert "dirty" not in found


@pytest.fixture
def slow_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git that needs a minute to compare files, as in a repository of a million."""
    real = subprocess.run(["which", "git"], capture_output=True, text=True).stdout.strip()
    folder = tmp_path / "slow"
    folder.mkdir()
    script = folder / "git"
    script.write_text(f'#!/bin/sh\ncase "$*" in *diff*) exec sleep 60;; esac\nexec {real} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_a_huge_repository_costs_its_share_of_the_start_and_no_more(
    repository: Path, slow_git: Path
) -> None:
    began = time.monotonic()
    found = facts(repository, budget_s=2.0)
    assert time.monotonic() - began < 5.0
    assert found["branch"] == "trunk"
    assert "dirty" not in found
    began = time.monotonic()
    Gathering(["git"], budget_s=0.2).facts()
    assert time.monotonic() - began < 2.0


def test_all_facts_at_once_within_the_budget(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", ["train.py", "--api-key", "hunter2", "--lr", "0.1"])
    monkeypatch.setattr(sys, "orig_argv", ["python", *sys.argv], raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    found = Gathering(FACTS, budget_s=20.0).facts()
    assert list(found) == list(FACTS)
    assert json.loads(json.dumps(found)) == found
    assert found["git"]["branch"] == "trunk"
    assert found["command"]["line"][-4:] == ["--api-key", "[secret]", "--lr", "0.1"]
    assert found["command"]["kind"] == "script"
    assert found["environment"]["SLURM_JOB_ID"] == "42"
    assert found["hardware"]["cpus"] == os.cpu_count()
    assert found["hardware"]["memory_bytes"] > 10**8
    monkeypatch.setattr(sys, "orig_argv", ["python", "x\udce9.py"], raising=False)
    command = Gathering(["command"], budget_s=20.0).facts()["command"]
    assert command["line"] == ["python", "x\\udce9.py"]
    assert Gathering(["packages"], budget_s=20.0).facts().keys() == {"packages"}
    assert Gathering([]).facts() == {}


def test_the_text_of_a_program_is_no_part_of_its_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["-c", "x"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "password = 'a'", "x"], raising=False)
    assert program.command(())["line"][-2:] == ["…", "x"]


def test_only_what_is_on_the_list_is_told() -> None:
    environ = {"RANK": "0", "MY_RANK": "1", "API_KEY": "x", "PATH": "/bin", "XLA_FLAGS": ""}
    assert environment.allowed(environ) == {"RANK": "0"}
    assert environment.allowed({"SLURM_JOB_NAME": "a token=hunter2"}) == {
        "SLURM_JOB_NAME": "a token=[secret]"
    }


def test_packages_are_those_that_python_itself_finds() -> None:
    from importlib.metadata import distributions

    found = packages.installed()
    wanted = {
        each.metadata["Name"].replace("_", "-").replace(".", "-").lower(): each.version
        for each in distributions()
    }
    assert {name: found.get(name) for name in wanted if name != "tracelet"} == {
        name: version for name, version in wanted.items() if name != "tracelet"
    }


def test_names_of_folders_that_are_no_packages(tmp_path: Path) -> None:
    for name in (
        "Some_Thing-1.2.3.dist-info", "old-0.1-py3.9.egg-info", "tree.egg-info", "x-info",
        "a.b-2!1.0rc1+cpu.dist-info",
    ):  # fmt: skip
        (tmp_path / name).mkdir()
    (tmp_path / "later" / "some_thing-9.dist-info").mkdir(parents=True)
    found = packages.installed([str(tmp_path), str(tmp_path / "later"), str(tmp_path / "no")])
    assert found == {"a-b": "2!1.0rc1+cpu", "old": "0.1", "some-thing": "1.2.3"}


# -- what is measured -------------------------------------------------------------------------


def test_the_names_and_units_are_mlflow_s() -> None:
    pytest.importorskip("mlflow")
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    ours = SystemMetrics()
    theirs = {}
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        theirs.update(monitor.aggregate_metrics())
    found = {name.partition("/")[2]: value for name, value in ours.sample().items()}
    ours.close()
    assert {name for name in found if not name.startswith("gpu_")} == set(theirs)
    for name in ("system_memory_usage_megabytes", "disk_usage_megabytes", "disk_usage_percentage"):
        assert found[name] == pytest.approx(theirs[name], rel=0.2)
    assert 0 <= found["network_receive_megabytes"] < 1000


def test_without_psutil_nothing_is_measured() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "psutil", None)
        with pytest.raises(OSError, match=r"tracelet\[system\]"):
            SystemMetrics()


NVML = '''
"""Two devices, as NVIDIA's library shows them."""
class NVMLError(Exception): pass
class _Memory: used, total = 20_000_000_000, 80_000_000_000
class _Rates: gpu = 37
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 3
def nvmlDeviceGetHandleByIndex(number): return number
def nvmlDeviceGetUUID(number): return f"GPU-{number}{number}-abc"
def nvmlDeviceGetName(number): return b"NVIDIA H100"
def nvmlSystemGetDriverVersion(): return "550.1"
def nvmlDeviceGetMemoryInfo(number): return _Memory
def nvmlDeviceGetUtilizationRates(number): return _Rates
def nvmlDeviceGetPowerUsage(number):
    if number == 2: raise NVMLError("not supported")
    return 350_000
def nvmlDeviceGetEnforcedPowerLimit(number): return 700_000
'''


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "pynvml.py").write_text(NVML)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    yield
    sys.modules.pop("pynvml", None)


@pytest.mark.parametrize(
    ("visible", "numbers"),
    [
        (None, [0, 1, 2]), ("1", [1]), ("2,0", [0, 2]), ("", []), ("-1", []), ("0,-1,1", [0]),
        ("GPU-11", [1]), ("7", []), ("nonsense", []),
    ],
)  # fmt: skip
def test_only_visible_gpus_are_measured(
    nvml: None, visible: Optional[str], numbers: list[int]
) -> None:
    gpus = Gpus({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert [each["number"] for each in gpus.describe()] == numbers
    measured = gpus.sample()
    assert {int(name.split("_")[1]) for name in measured} == set(numbers)
    gpus.close()


def test_a_gpu_under_mlflow_s_names(nvml: None) -> None:
    gpus = Gpus({"CUDA_VISIBLE_DEVICES": "1,2"})
    assert gpus.sample() == {
        "gpu_1_memory_usage_percentage": 25.0,
        "gpu_1_memory_usage_megabytes": 20_000.0,
        "gpu_1_utilization_percentage": 37.0,
        "gpu_1_power_usage_watts": 350.0,
        "gpu_1_power_usage_percentage": 50.0,
        "gpu_2_memory_usage_percentage": 25.0,
        "gpu_2_memory_usage_megabytes": 20_000.0,
        "gpu_2_utilization_percentage": 37.0,
    }
    assert gpus.describe()[0] == {
        "number": 1, "name": "NVIDIA H100", "memory_bytes": 80_000_000_000,
    }  # fmt: skip
    gpus.close()
