"""
A training program for the tests to kill: it logs numbers and writes down what was acknowledged.

Run with a JSON object as its only argument: ``config`` for ``start_logging``, ``backend``,
``points`` (None for ever), ``until``: a file that ends it when it is there, ``first``: the first
step, ``shift``: what is added to every value, ``pause_s`` between points, ``heavy``: histograms
and pictures too, ``keys``: so many more curves, a tenth of them NaN,
``ack``: a file that always holds how many calls have returned, ``end``: how to end.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import time
from typing import Any, Mapping


def train(plan: Mapping[str, Any]) -> None:
    """Log as planned."""
    from tensorboardX import SummaryWriter

    import tracelet

    if plan.get("heavy"):
        import numpy as np
    tracelet.start_logging(
        exp_name=plan.get("name", "victim"),
        project="kills",
        backend=plan.get("backend", "jsonl"),
        config=plan["config"],
    )
    writer = SummaryWriter(logdir=plan.get("logdir", "runs/victim"))
    ack = os.open(plan["ack"], os.O_WRONLY | os.O_CREAT)
    first = plan.get("first", 0)
    number = first
    until = plan.get("until", "")
    while plan.get("points") is None or number < first + plan["points"]:
        if until and os.path.exists(until):
            break
        writer.add_scalar("loss", number / 7 + plan.get("shift", 0.0), number)
        for key in range(plan.get("keys", 0)):
            value = float("nan") if (number + key) % 10 == 0 else number + key / 7
            writer.add_scalar(f"key{key}", value, number)
        if plan.get("heavy"):
            writer.add_histogram("weights", [0.0, 1.0, float(number)], number)
            grey = [[[number % 256, number // 256 % 256]]]
            writer.add_image("picture", np.array(grey, dtype=np.uint8), number)
        number += 1
        os.pwrite(ack, struct.pack("<Q", number), 0)
        if plan.get("pause_s"):
            time.sleep(plan["pause_s"])
    end = plan.get("end", "stop")
    if end == "stop":
        tracelet.stop_logging()
    elif end == "return":
        return
    elif end == "raise":
        raise RuntimeError("as planned")
    elif end == "exit":
        sys.exit(3)
    elif end in ("SIGINT", "SIGTERM", "SIGKILL", "SIGHUP"):
        os.kill(os.getpid(), getattr(signal, end))
        time.sleep(30)
    elif end == "_exit":
        os._exit(4)
    elif end == "wait":
        time.sleep(60)


if __name__ == "__main__":
    train(json.loads(sys.argv[1]))
