"""The longest single `add_scalar` while the disk of the spool is ill."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Iterator

from benchmarks.report import run, table

# A program that logs without a pause, while its spool's disk is well, ill, and well again. What
# TensorBoard itself writes is on a disk that is well.
SCRIPT = """
import errno, json, os, sys, time
from torch.utils.tensorboard import SummaryWriter
fault, spool, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
ill, stalls = False, 0

if fault:
    import tracelet
    from tracelet.spool import files, writer as module

    class Faulty(files.Files):
        def _ask(self):
            global stalls
            if not ill:
                return
            if fault == "stall":
                stalls += 1
                time.sleep(1.0 if stalls == 1 else 0.3)
            elif hasattr(errno, fault):
                number = getattr(errno, fault)
                raise OSError(number, os.strerror(number))

        def write(self, fd, data):
            self._ask()
            return os.write(fd, data)

        def create(self, path):
            self._ask()
            return files.Files.create(path)

    module.Files = Faulty
    run = tracelet.start_logging(
        project="faults", backend="jsonl", config={"silent": True, "spool_dir": spool or None}
    )
    run.remote("jsonl")

filler = os.path.join(spool, "filler")

def fill():
    "To the last byte."
    for size in (65536, 1):
        with open(filler, "ab", buffering=0) as file:
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass

writer = SummaryWriter("runs/faults")
calls = {}
step = 0
for phase in ("before", "ill", "after"):
    ill = phase == "ill"
    if fault == "full" and ill:
        fill()
    elif fault == "full" and phase == "after":
        os.unlink(filler)
    until = time.perf_counter() + seconds
    each = calls[phase] = []
    while time.perf_counter() < until:
        begin = time.perf_counter()
        writer.add_scalar("loss", step * 0.5, step)
        each.append(time.perf_counter() - begin)
        step += 1
writer.close()
report = {}
if fault:
    said = tracelet.stop_logging()
    delivered = said.backends["jsonl"].delivered
    report = {"recorded": said.recorded, "delivered": delivered, "lost": sum(said.lost.values())}
print(json.dumps({"longest": {k: sorted(v)[-2:] for k, v in calls.items()}, **report}))
"""

FAULTS = {
    "": "none, plain TensorBoard",
    "well": "none",
    "full": "full (a real file system)",
    "ENOSPC": "full, every write refused",
    "EROFS": "read-only",
    "EIO": "input/output error",
    "EDQUOT": "quota exceeded",
    "ESTALE": "stale handle",
    "stall": "stalls: 1 s, then 0.3 s for each write",
}


def measure(quick: bool) -> None:
    """Let the disk fail in every way, each in a process of its own."""
    seconds = 1.5 if quick else 4.0
    rows = []
    for fault, name in FAULTS.items():
        with _spool(fault) as folder:
            if folder is None:
                rows.append([name, "not measured: nothing may be mounted here", *[""] * 4])
                continue
            found = _logged(fault, folder, seconds)
        longest = found["longest"]
        ill = longest["ill"]
        rows.append(
            [
                name,
                f"{longest['before'][-1] * 1000:.1f}",
                f"{ill[-1] * 1000:.1f}",
                f"{ill[0] * 1000:.1f}",
                f"{longest['after'][-1] * 1000:.1f}",
                " / ".join(
                    f"{found[word]:,}" for word in ("recorded", "delivered", "lost") if fault
                ),
            ]
        )
    head = ["the disk", "well, ms", "ill, ms", "ill, second longest, ms", "well again, ms"]
    table([*head, "recorded / delivered at stop / lost"], rows)
    print(
        f"\nThe longest of all calls of {seconds:g} s each. Limit: 100 ms; a disk that stalls may "
        "hold one call for its stall. The first row is what this machine does to any program."
    )


def _logged(fault: str, folder: str, seconds: float) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, fault, folder, str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@contextlib.contextmanager
def _spool(fault: str) -> Iterator[str | None]:
    """Yield a folder for the spool; a small file system where the fault is a real one."""
    folder = tempfile.mkdtemp(dir=Path.cwd())
    if fault != "full":
        yield folder
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "none", folder]
    try:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            yield None
            return
    except FileNotFoundError:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)


if __name__ == "__main__":
    run("A disk that fails", measure)
