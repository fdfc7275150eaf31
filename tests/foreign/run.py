"""
Other projects' tests of what they do with a SummaryWriter, with tracelet switched on and without.

    python tests/foreign/run.py FOLDER [NAME...]

makes an environment in FOLDER beside the one of this interpreter (whose PyTorch it uses), installs
the projects and takes their tests from their source distributions, each in one fixed version. The
tests are run as they are, then with one run around all of them, then with a run around each: every
test must end in the same way, something must have been recorded each time, and the counts add up.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import venv
from pathlib import Path
from typing import Any, NamedTuple, Sequence

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent.parent / "src"
MODES = ("", "session", "test")


class Suite(NamedTuple):
    """
    The tests of one project.

    ``needs`` are packages that only its tests use; ``tests`` is what is taken out of its source
    distribution, ``files`` what is run of it, ``options`` pytest's words for parts of a file;
    ``least`` says how much is recorded at least.
    """

    project: str
    tests: str
    files: Sequence[str]
    least: int
    needs: Sequence[str] = ()
    options: Sequence[str] = ()


SUITES = {
    "tensorboardX": Suite(
        "tensorboardX==2.6.5",
        "tests",
        [
            "tests/event_file_writer_test.py",
            "tests/test_embedding.py",
            "tests/test_figure.py",
            "tests/test_hparams.py",
            "tests/test_multiprocess_write.py",
            "tests/test_numpy.py",
            "tests/test_pr_curve.py",
            "tests/test_pytorch_graph.py",
            "tests/test_pytorch_np.py",
            "tests/test_record_writer.py",
            "tests/test_summary.py",
            "tests/test_summary_writer.py",
            "tests/test_writer.py",
        ],
        least=100,
        needs=["moto[s3]==4.2.14"],
        # It looks for a bucket of Google's, in the internet.
        options=[
            "--deselect=tests/test_record_writer.py::RecordWriterTest::test_record_writer_gcs"
        ],
    ),
    "stable-baselines3": Suite(
        "stable-baselines3==2.9.2",
        "tests",
        ["tests/test_logger.py", "tests/test_tensorboard.py"],
        least=50,
        # The other two learn for half a minute, and log the same.
        options=["-k", "not td3 and not sac"],
    ),
    "ignite": Suite(
        "pytorch-ignite==0.5.5",
        "tests",
        ["tests/ignite/handlers/test_tensorboard_logger.py"],
        least=5,
    ),
    "skorch": Suite(
        "skorch==1.4.0",
        "skorch/tests",
        ["skorch/tests/callbacks/test_logging.py"],
        least=5,
        # The others are about other trackers.
        options=["-k", "TensorBoard"],
    ),
}


def main() -> int:
    """Run the suites that are named, or all; return how many of them are not the same."""
    folder = Path(sys.argv[1]).resolve()
    names = sys.argv[2:] or list(SUITES)
    python = environment(folder, [SUITES[name] for name in names])
    wrong = 0
    for name in names:
        began = time.monotonic()
        problems = compare(SUITES[name], folder / name, python)
        wrong += bool(problems)
        for problem in problems:
            print(f"{name}: {problem}")
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return wrong


def environment(folder: Path, suites: Sequence[Suite]) -> Path:
    """Make the environment, if it is not there; return its interpreter."""
    place = folder / "env"
    python = place / "bin" / "python"
    wanted = [package for suite in suites for package in (suite.project, *suite.needs)]
    stamp = place / "made-of"
    if stamp.exists() and set(wanted) <= set(stamp.read_text().split()):
        return python
    venv.create(place, clear=True, with_pip=True)
    # PyTorch and NumPy are large, and are there already.
    (site,) = place.glob("lib/python*/site-packages")
    borrowed = [str(SOURCE), sysconfig.get_path("purelib")]
    # The environment may itself have borrowed what it has.
    borrowed += [path for path in sys.path if path.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(dict.fromkeys(borrowed)) + "\n")
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--progress-bar=off", *wanted], check=True)
    for suite in suites:
        name = suite.project.partition("==")[0]
        source = folder / "sources" / name
        shutil.rmtree(source, ignore_errors=True)
        command = ["download", "--progress-bar=off", "--no-deps", f"--no-binary={name}"]
        subprocess.run([*pip, *command, f"--dest={source}", suite.project], check=True)
    stamp.write_text("\n".join(wanted))
    return python


def unpacked(suite: Suite, folder: Path) -> Path:
    """Take a project's tests out of its source; return the folder that they are to be run in."""
    name = suite.project.partition("==")[0]
    (archive,) = (folder.parent.parent / "sources" / name).glob("*.tar.gz")
    with tarfile.open(archive) as file:
        top = file.getnames()[0].partition("/")[0]
        wanted = [
            member
            for member in file.getmembers()
            if member.name.startswith(f"{top}/{suite.tests}/")
        ]
        file.extractall(folder, members=wanted)
    return folder / top


def compare(suite: Suite, folder: Path, python: Path) -> list[str]:
    """Run a project's tests in each way; return what is not as it should be."""
    found: dict[str, Any] = {}
    for mode in MODES:
        place = folder / (mode or "plain")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        found[mode] = run(suite, unpacked(suite, place), python, mode, place)
    plain = found[""]["outcomes"]
    passed = sum(how == "passed" for how in plain.values())
    problems = [] if passed else ["no test passed without it"]
    for mode in MODES[1:]:
        own = found[mode]
        how = own["outcomes"]
        problems += [
            f"with a run around each {mode}: {test} {plain.get(test)} -> {how.get(test)}"
            for test in sorted({*plain, *how})
            if plain.get(test) != how.get(test)
        ]
        problems += [f"{mode}: {text}" for text in (*own["wrong"], *own["incomplete"])]
        stored = lines(folder / mode / "out")
        if min(own["recorded"], stored) < suite.least:
            problems.append(f"{mode}: {own['recorded']} recorded, {stored} stored")
        print(
            f"  {suite.project}, a run around each {mode}: "
            f"{sum(each == 'passed' for each in how.values())} of {len(plain)} tests pass, "
            f"{passed} without; {own['recorded']:,} recorded, {stored:,} lines stored"
            + (f", not recorded: {own['failures']}" if own["failures"] else ""),
            flush=True,
        )
    return problems


def lines(folder: Path) -> int:
    """Return how many records are in the files of the jsonl backend."""
    found = [
        json.loads(line)["type"]
        for path in folder.rglob("*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return sum(kind not in ("run", "end") for kind in found)


def run(suite: Suite, tests: Path, python: Path, mode: str, place: Path) -> Any:
    """Run a project's tests; return what the plug-in has seen."""
    outcomes = place / "outcomes.json"
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TRACELET_")},
        "PYTHONPATH": str(HERE),
        "SWITCHED_ON": mode,
        "OUTCOMES": str(outcomes),
        "SPOOLED": str(place),
        "XDG_STATE_HOME": str(place / "state"),
        "HOME": str(place),
        "MPLBACKEND": "Agg",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "switched_on"]
    # Else a checkout of ours around it would be part of every name.
    command.append(f"--rootdir={tests.resolve()}")
    with open(place / "log", "wb") as log:
        subprocess.run(
            [*command, *suite.options, *suite.files],
            cwd=tests,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=900,
        )
    if not outcomes.exists():
        raise SystemExit(f"{suite.project} could not be run; see {place / 'log'}")
    return json.loads(outcomes.read_text())


if __name__ == "__main__":
    sys.exit(main())
