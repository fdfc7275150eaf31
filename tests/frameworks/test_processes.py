"""Forked children, and libraries imported after the start: in interpreters of their own."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

IMPORTS = {
    "tensorboard": (
        "from tracelet.capture.tensorboard import TensorBoard as Integration",
        "from torch.utils.tensorboard import SummaryWriter",
    ),
    "tensorboardx": (
        "from tracelet.capture.tensorboardx import TensorBoardX as Integration",
        "from tensorboardX import SummaryWriter",
    ),
}


def _run(program: str, family: Any, *arguments: str) -> str:
    ours, theirs = IMPORTS[family.name]
    code = textwrap.dedent(program).replace("IMPORT_OURS", ours).replace("IMPORT_THEIRS", theirs)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_install_imports_nothing(family: Any) -> None:
    out = _run(
        """
        import sys
        IMPORT_OURS
        from tracelet.testing.fakes import RecordingSink
        integration = Integration()
        integration.install(RecordingSink())
        heavy = {"torch", "numpy", "tensorboard", "tensorboardX", "google", "tensorflow"}
        print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
        print([finder for finder in sys.meta_path if "tracelet" in type(finder).__module__] != [])
        integration.uninstall()
        print([finder for finder in sys.meta_path if "tracelet" in type(finder).__module__])
        """,
        family,
    )
    assert out.split("\n")[:3] == ["[]", "True", "[]"]


def test_imported_after_the_start(family: Any, tmp_path: Path) -> None:
    out = _run(
        """
        import sys
        IMPORT_OURS
        from tracelet.testing.fakes import RecordingSink
        sink = RecordingSink()
        integration = Integration()
        integration.install(sink)
        IMPORT_THEIRS
        writer = SummaryWriter(sys.argv[1])
        writer.add_scalar("loss", 0.1, 1)
        writer.add_text("note", "x", 1)
        integration.uninstall()
        writer.add_scalar("loss", 0.2, 2)
        writer.close()
        print(sink.points("loss"), len(sink.events))
        """,
        family,
        str(tmp_path / "logs"),
    )
    assert out.split("\n")[0] == "[(0.1, 1)] 1"


def test_imported_by_another_thread_just_now(family: Any, tmp_path: Path) -> None:
    """The import has begun when the integration is installed, and ends afterwards."""
    out = _run(
        """
        import sys, threading, time
        IMPORT_OURS
        from tracelet.testing.fakes import RecordingSink
        sink = RecordingSink()
        integration = Integration()
        class Watch:
            def find_spec(self, name, path=None, target=None):
                if name == integration.writer_module or name == "torch._C":
                    started.set()
                return None
        started = threading.Event()
        sys.meta_path.insert(0, Watch())
        def load():
            global SummaryWriter
            IMPORT_THEIRS
        thread = threading.Thread(target=load)
        thread.start()
        started.wait(60)
        integration.install(sink)
        thread.join(60)
        writer = SummaryWriter(sys.argv[1])
        writer.add_scalar("loss", 0.1, 1)
        writer.close()
        integration.uninstall()
        print(sink.points("loss"))
        """,
        family,
        str(tmp_path / "logs"),
    )
    assert out.split("\n")[0] == "[(0.1, 1)]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")
@pytest.mark.parametrize("kept", ["keep", "nofile"])
def test_a_forked_child_records(family: Any, tmp_path: Path, kept: str) -> None:
    out = _run(
        """
        import os, sys, threading
        IMPORT_OURS
        IMPORT_THEIRS
        from tracelet.testing.fakes import RecordingSink
        sink = RecordingSink()
        integration = Integration()
        keep = sys.argv[2] == "keep"
        writer = SummaryWriter(sys.argv[1] + "/old")
        integration.install(sink, keep=keep)
        new = SummaryWriter(sys.argv[1] + "/new")
        stop = threading.Event()
        def busy():
            step = 0
            while not stop.is_set():
                new.add_scalar("busy", 0.5, step)
                step += 1
        thread = threading.Thread(target=busy)
        thread.start()
        children = []
        for number in range(8):
            pid = os.fork()
            if pid == 0:
                mine = SummaryWriter(sys.argv[1] + f"/child{number}")
                before = len(sink.points("loss"))
                mine.add_scalar("loss", 0.1, number)
                mine.add_text("note", "x", number)
                mine.close()
                ok = sink.points("loss")[before:] == [(0.1, number)]
                ok = ok and sink.events[-1].stream.endswith(f"child{number}")
                os._exit(0 if ok else 1)
            children.append(pid)
        codes = [os.waitpid(pid, 0)[1] for pid in children]
        stop.set()
        thread.join(60)
        integration.uninstall()
        print(codes)
        writer.close()
        new.close()
        """,
        family,
        str(tmp_path),
        kept,
    )
    assert out.split("\n")[0] == str([0] * 8)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")
@pytest.mark.parametrize("way", ["fork", "multiprocessing"])
def test_a_forked_child_uses_its_parents_writer(family: Any, tmp_path: Path, way: str) -> None:
    """
    By itself it hangs at the eleventh call, or at ``flush``; tensorboardX takes its parent along.

    Under ``multiprocessing`` tensorboardX works by itself, and is left alone: what the child logs
    is in the parent's file. (With us or without, ``flush`` there may write the parent's buffer a
    second time, or wait for a lock that was held at the fork; ``close`` stops the parent's writer.)
    """
    out = _run(
        """
        import glob, multiprocessing, os, sys
        IMPORT_OURS
        IMPORT_THEIRS
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tracelet.testing.fakes import RecordingSink
        sink = RecordingSink()
        integration = Integration()
        folder, way, alone = sys.argv[1], sys.argv[2], sys.argv[3] == "alone"
        integration.install(sink)
        writer = SummaryWriter(folder + "/parent")
        writer.add_scalar("parent", 0.5, 0)

        def work():
            for step in range(50):
                writer.add_scalar("child", step / 7, step)
            if alone:
                writer.flush()
                writer.close()
            mine = SummaryWriter(folder + "/child")
            mine.add_scalar("mine", 1.0, 1)
            mine.flush()
            assert sink.points("child") == [(step / 7, step) for step in range(50)]
            grandchild = os.fork()
            if grandchild == 0:
                for step in range(12):
                    mine.add_scalar("grandchild", 1.0, 1)
                mine.flush()
                assert len(sink.points("grandchild")) == 12
                os._exit(0)
            assert os.waitpid(grandchild, 0)[1] == 0
            mine.close()
            integration.uninstall()

        if way == "fork":
            pid = os.fork()
            if pid == 0:
                work()
                os._exit(0)
            code = os.waitpid(pid, 0)[1]
        else:
            process = multiprocessing.get_context("fork").Process(target=work)
            process.start()
            process.join()
            code = process.exitcode
        for step in range(1, 30):
            writer.add_scalar("parent", 0.5, step)
        writer.close()
        integration.uninstall()
        counts = {}
        for file in sorted(glob.glob(folder + "/*/*")):
            for event in EventFileLoader(file).Load():
                for value in event.summary.value:
                    counts[value.tag] = counts.get(value.tag, 0) + 1
        print(code, len(sink.points("parent")), counts)
        """,
        family,
        str(tmp_path),
        way,
        "alone" if family.name == "tensorboard" or way == "fork" else "shared",
    )
    code, logged, counts = out.strip().split(" ", 2)
    assert (code, logged) == ("0", "30")
    if family.name == "tensorboardx" and way == "multiprocessing":
        assert ast.literal_eval(counts) == {"parent": 30, "mine": 1, "child": 50}
    else:
        assert ast.literal_eval(counts) == {"parent": 30, "mine": 1}
