"""Forked children, and libraries imported after the start: in interpreters of their own."""

from __future__ import annotations

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
    """
    A few calls only: TensorBoard's own queue has no thread in a child, and blocks when it is full.
    """
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
