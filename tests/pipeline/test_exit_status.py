"""
However a program ends, its run ends with the true status, and the program as it would have.

Each program runs twice: with a run that nobody stops, and without tracelet. The status is read from
the file that the jsonl backend wrote.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, Optional

import pytest

START = """
import os, signal, sys, threading, time
if len(sys.argv) > 1:
    import tracelet
    tracelet.start_logging("run", "project", "jsonl", config={config!r})
    tracelet.get_active_experiment().log_metric("loss", 0.5, 1)
"""


class End(NamedTuple):
    """A way to end a program, and the status that it means."""

    code: str
    status: str
    #: Sent from outside once the program has said that it is ready.
    signal: Optional[int] = None
    #: False: nothing of Python runs at this end.
    word: bool = True


WAIT = "print('ready', flush=True)\nwhile True: time.sleep(0.01)\n"

ENDS = {
    "return": End("", "FINISHED"),
    "exception": End("raise ValueError('mine')", "FAILED"),
    "exit 3": End("sys.exit(3)", "FAILED"),
    "exit text": End("sys.exit('mine')", "FAILED"),
    "exit 0": End("sys.exit(0)", "FINISHED"),
    "exit nothing": End("sys.exit()", "FINISHED"),
    "exit of the prompt": End("exit(3)", "FAILED"),
    "exit raised": End("raise SystemExit", "FINISHED"),
    "exit caught": End("try:\n    sys.exit(3)\nexcept SystemExit:\n    pass", "FINISHED"),
    "exit caught and kept": End(
        "def leave():\n    try:\n        sys.exit(3)\n    except SystemExit as error:\n"
        "        kept = error\n        raise\nleave()",
        "FAILED",
    ),
    "stopped, then an exception": End(
        "if len(sys.argv) > 1: tracelet.stop_logging()\nraise ValueError('mine')", "FINISHED"
    ),
    "exit imported": End("from sys import exit\nexit(3)", "FAILED"),
    "interrupt raised": End("raise KeyboardInterrupt", "KILLED"),
    "Ctrl-C": End(WAIT, "KILLED", signal.SIGINT),
    "SIGTERM": End(WAIT, "KILLED", signal.SIGTERM, word=False),
    "SIGKILL": End(WAIT, "KILLED", getattr(signal, "SIGKILL", None), word=False),
    "os._exit": End("os._exit(5)", "KILLED", word=False),
    "abort": End("os.abort()", "KILLED", word=False),
    "exception in a thread": End(
        "t = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()", "FINISHED"
    ),
    "exit in a thread": End(
        "t = threading.Thread(target=sys.exit, args=(3,))\nt.start()\nt.join()", "FINISHED"
    ),
    "a thread outlives main": End("threading.Timer(0.3, print).start()", "FINISHED"),
    "a handler of the program's own": End(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n" + WAIT, "FAILED", signal.SIGTERM
    ),
    "a hook of the program's own": End(
        "sys.excepthook = lambda *error: (print('mine', file=sys.stderr), former(*error))\n"
        "raise ValueError('mine')",
        "FAILED",
    ),
}


def program(folder: Path, end: End, *, config: Optional[dict[str, object]]) -> tuple[int, str]:
    """Run it to its end; return the exit code and what it wrote to stderr."""
    script = folder / "program.py"
    # The hook that the program chains to is the one it found, as programs do.
    script.write_text(START.format(config=config) + "former = sys.excepthook\n" + end.code)
    child = subprocess.Popen(
        [sys.executable, str(script), *(["tracelet"] if config is not None else [])],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if end.signal is not None:
            assert child.stdout is not None
            assert child.stdout.readline().strip() == "ready"
            child.send_signal(end.signal)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    return child.returncode, errors


def lines_of(folder: Path) -> list[dict[str, object]]:
    found = list((folder / "tracelet-jsonl").rglob("*.jsonl"))
    return [json.loads(line) for path in found for line in path.read_text().splitlines()]


def status_of(folder: Path, patience_s: float = 20.0) -> Optional[str]:
    """Return the status that was written last, once there is one."""
    deadline = time.monotonic() + patience_s
    while True:
        ends = [line for line in lines_of(folder) if line["type"] == "end"]
        if ends or time.monotonic() > deadline:
            return str(ends[-1]["status"]) if ends else None
        time.sleep(0.02)


def sync(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracelet", "sync", str(folder / ".tracelet")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("shipper", ["process", "thread"])
@pytest.mark.parametrize("name", list(ENDS))
@pytest.mark.figure(11)
def test_the_status_is_true_and_the_program_ends_as_without_us(
    name: str, shipper: str, tmp_path: Path
) -> None:
    end = ENDS[name]
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.mkdir()
    ours.mkdir()
    code, errors = program(plain, end, config=None)
    config = {"shipper": shipper, "silent": True}
    code_with_us, errors_with_us = program(ours, end, config=config)

    assert code_with_us == code
    if name == "Ctrl-C":  # which lands where it lands
        errors, errors_with_us = errors.splitlines()[-1], errors_with_us.splitlines()[-1]
    assert errors_with_us.replace(str(ours), "") == errors.replace(str(plain), "")
    if shipper == "thread" and not end.word:
        done = sync(ours)
        assert (done.returncode, done.stderr) == (0, "")
    assert status_of(ours) == end.status
    points = [line for line in lines_of(ours) if line["type"] == "metric"]
    assert [point["value"] for point in points] == [0.5]


@pytest.mark.skipif(sys.platform == "win32", reason="platform: no signals")
@pytest.mark.parametrize("shipper", ["process", "thread"])
def test_the_handler_that_one_may_ask_for(shipper: str, tmp_path: Path) -> None:
    config = {"shipper": shipper, "handle_sigterm": True}
    end = End(WAIT, "KILLED", signal.SIGTERM)
    code, errors = program(tmp_path, end, config=config)
    assert code == -signal.SIGTERM
    assert "1 recorded · jsonl 1 delivered" in errors
    assert status_of(tmp_path, patience_s=0.0) == "KILLED"


@pytest.mark.skipif(sys.platform == "win32", reason="platform: no signals")
def test_the_handler_passes_on_to_the_programs_own(tmp_path: Path) -> None:
    own = (
        # (No ``print``: the signal may come while the one of "ready" is not through yet.)
        "def own(number, frame):\n    os.write(1, b'own')\n    sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, own)\n"
    )
    script = tmp_path / "program.py"
    start = START.format(config={"handle_sigterm": True, "silent": True})
    script.write_text("import os, signal, sys\n" + own + start + WAIT)
    child = subprocess.Popen(
        [sys.executable, str(script), "tracelet"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "ready"
    child.send_signal(signal.SIGTERM)
    assert child.communicate(timeout=60)[0].strip() == "own"
    assert child.returncode == 7
    assert status_of(tmp_path) == "KILLED"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")
@pytest.mark.parametrize("leave", ["sys.exit(3)", "raise ValueError", "os._exit(3)", ""])
def test_the_end_of_a_forked_child_is_not_the_end_of_the_run(leave: str, tmp_path: Path) -> None:
    code = (
        "run = tracelet.get_active_experiment()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    run.log_metric('child', 1.0, 1)\n"
        f"    {leave or 'pass'}\n"
        "else:\n"
        "    os.waitpid(pid, 0)\n"
        "    assert tracelet.get_active_experiment() is run\n"
        "    run.log_metric('loss', 0.25, 2)\n"
    )
    exit_code, _ = program(tmp_path, End(code, ""), config={"silent": True})
    assert exit_code == 0
    assert status_of(tmp_path) == "FINISHED"
    lines = lines_of(tmp_path)
    assert [line["type"] for line in lines].count("end") == 1
    values = {line["value"] for line in lines if line["type"] == "metric"}
    assert values == {0.5, 0.25, 1.0}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")
def test_a_stop_in_a_forked_child_is_not_the_end_of_the_run(tmp_path: Path) -> None:
    code = (
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    report = tracelet.stop_logging()\n"
        "    assert report.status == 'RUNNING', report\n"
        "    assert tracelet.get_active_experiment() is None\n"
        "    os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "tracelet.get_active_experiment().log_metric('loss', 0.25, 2)\n"
    )
    exit_code, errors = program(tmp_path, End(code, ""), config={"silent": True})
    assert (exit_code, errors) == (0, "")
    assert status_of(tmp_path) == "FINISHED"


def test_an_interactive_session_does_not_end_with_an_error(tmp_path: Path) -> None:
    typed = (
        START.format(config={"silent": True}).replace("if len(sys.argv) > 1:\n", "if True:\n")
        + "\n1 / 0\n"
        + "tracelet.get_active_experiment().log_metric('loss', 0.25, 2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=typed,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "ZeroDivisionError" in done.stderr
    assert status_of(tmp_path) == "FINISHED"
    assert sum(line["type"] == "metric" for line in lines_of(tmp_path)) == 2


def test_hooks_are_the_very_same_objects_afterwards() -> None:
    import tracelet

    quitter = type(exit)
    before = (sys.excepthook, sys.exit, signal.getsignal(signal.SIGTERM))
    leave = quitter.__call__
    config = {"silent": True, "shipper": "thread", "handle_sigterm": True}
    with tracelet.start_logging(backend="memory", config=config):
        assert sys.excepthook is not before[0]
        assert sys.exit is not before[1]
        assert signal.getsignal(signal.SIGTERM) is not before[2]
        assert quitter.__call__ is not leave
    assert quitter.__call__ is leave
    assert (sys.excepthook, sys.exit, signal.getsignal(signal.SIGTERM)) == before


def test_a_hook_that_somebody_put_over_ours_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    import tracelet

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back at the end of the test
    seen: list[object] = []
    with tracelet.start_logging(backend="memory", config={"silent": True, "shipper": "thread"}):
        ours = sys.excepthook

        def theirs(*error: object) -> None:
            seen.append(error)
            ours(*error)  # type: ignore[arg-type]

        sys.excepthook = theirs
    assert sys.excepthook is theirs
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    sys.excepthook(ValueError, ValueError("x"), None)
    assert len(seen) == 1


def test_no_signal_handler_unless_one_is_asked_for() -> None:
    import tracelet

    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with tracelet.start_logging(backend="memory", config={"silent": True, "shipper": "thread"}):
        assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
