"""
Offline runs of W&B: the folder is read by the vendor's own reader, and sent by ``wandb sync``.

Where the installed version has no such reader (0.26), the records are parsed here, with the
vendor's own messages.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, Iterator

import pytest
from tests.contract.test_wandb import seen

from services.wandb_server import KEY, WandbServer
from tracelet.backends.base import Batch
from tracelet.backends.wandb import WandbBackend
from tracelet.records import Artifact, Histogram, Metric, Record, RemoteRun, RunInfo, RunStatus
from tracelet.testing.delivery import Delivery
from tracelet.testing.elsewhere import Visit, in_another_process
from tracelet.testing.samples import SAMPLES, TIME, curve, metric, param, png, tag

pytest.importorskip("wandb.sdk")

INFO = RunInfo("20260101-000000-000-00ff11fe", "offline", "run", TIME, {"team": "ml"}, ())
DOUBLES = (0.1, 1 / 3, 1e-300, 5e-324, 1.7976931348623157e308, float("inf"), -0.0, 2.0**53)


def backend(folder: Path) -> WandbBackend:
    options, _ = WandbBackend.resolve({"mode": "offline", "dir": str(folder)}, {}, folder)
    return WandbBackend(options)


def folders(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob(f"offline-run-*-{INFO.run_id}"))


def records(folder: Path) -> Iterator[Any]:
    """The records of an offline run, as the vendor's own messages."""
    from wandb.proto import wandb_internal_pb2

    [log] = folder.glob("*.wandb")
    for data in framed(log.read_bytes()):
        yield wandb_internal_pb2.Record.FromString(data)


def kinds(folder: Path) -> Counter[str]:
    """How many records of each kind the vendor's own reader finds; ours, where it has none."""
    own = Counter(str(record.WhichOneof("record_type")) for record in records(folder))
    reader = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(reader, capture_output=True, text=True, timeout=60)
    if "No such command" in done.stdout + done.stderr:
        return own
    assert done.returncode == 0, done.stderr
    theirs = Counter(json.loads(line)["type"] for line in done.stdout.splitlines())
    assert theirs["history"] == own["history"]
    return theirs


def framed(data: bytes) -> Iterator[bytes]:
    assert data[:7] == b":W&B\xe1\xbe\x00"
    place, parts = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        check, size, kind = struct.unpack_from("<IHB", data, place)
        piece = data[place + 7 : place + 7 + size]
        assert zlib.crc32(bytes([kind]) + piece) == check
        place += 7 + size
        parts = piece if kind in (1, 2) else parts + piece
        if kind in (1, 4):
            yield parts


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows: column → value. A column of a structure is its path, joined with a slash."""
    return [
        {
            item.key or "/".join(item.nested_key): json.loads(item.value_json, parse_int=float)
            for item in record.history.item
        }
        for record in records(folder)
        if record.WhichOneof("record_type") == "history"
    ]


@pytest.mark.figure(2)
def test_the_vendors_own_reader_finds_everything(tmp_path: Path) -> None:
    here = backend(tmp_path)
    here.preflight()
    remote = here.open(INFO, None, tmp_path / "work")
    steps = (0, 2**40, 5, 5, -3, 1, 2, 3)
    numbers = [
        Metric("exact", value, step, TIME + n / 1e6)
        for n, (value, step) in enumerate(zip(DOUBLES, steps))
    ]
    file = tmp_path / "model.pth"
    file.write_bytes(b"weights")
    sent: list[Record] = [*numbers, param("lr", 0.1), tag("stage", "end"), *SAMPLES.values()]
    Delivery(here).send(*sent, Artifact("model.pth", str(file), 7, TIME))
    here.barrier()
    # Everything is in the file before the run has ended.
    [folder] = folders(tmp_path)
    assert remote.look == f"wandb sync {folder}"
    found = [row for row in rows(folder) if "exact" in row]
    assert [repr(float(row["exact"])) for row in found] == [repr(value) for value in DOUBLES]
    assert [row["global_step"] for row in found] == list(steps)
    assert [row["_timestamp"] for row in found] == [point.time for point in numbers]
    here.close(RunStatus.FAILED)
    counted = kinds(folder)
    assert counted["exit"] == 1
    assert counted["artifact"] >= 4
    assert [each.exit.exit_code for each in records(folder) if each.HasField("exit")] == [1]
    assert (folder / "files" / "media" / "images").is_dir()
    # The folder stands alone: what the artifacts hold is in it.
    file.unlink()
    assert b"weights" in {each.read_bytes() for each in (folder / "artifacts").iterdir()}


@pytest.mark.figure(2)
def test_wandb_sync_takes_what_a_killed_shipper_and_its_successor_left(tmp_path: Path) -> None:
    light = [Batch(tuple(curve("loss", 100, at)), offset=at) for at in range(0, 400, 100)]
    heavy = Batch(tuple(SAMPLES.values()), lane="heavy")
    first = backend(tmp_path)
    job = Visit(
        *(WandbBackend, first.options, INFO, None, tmp_path / "work"),
        batches=[*light[:2], heavy, light[2]],
        die_after=4,
    )
    outcome = in_another_process(job)
    assert outcome.exit_code != 0
    second = backend(tmp_path)
    second.open(INFO, RemoteRun(**outcome.said["remote"]), tmp_path / "work")
    for batch in [*light, heavy]:
        second.write(Batch(batch.records, batch.offset, batch.lane, resend=True))
    second.barrier()
    second.close(RunStatus.FINISHED)
    assert len(folders(tmp_path)) == 2
    server = WandbServer()
    try:
        environ = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        for name in ("DATA_DIR", "CACHE_DIR", "CONFIG_DIR"):
            environ[f"WANDB_{name}"] = str(tmp_path / "vendor")
        for folder in folders(tmp_path):
            sync = [sys.executable, "-m", "wandb", "sync", str(folder)]
            done = subprocess.run(sync, env=environ, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr
        found = seen(server, INFO.run_id)
        stored = server.run(INFO.run_id).history
    finally:
        server.stop()
    assert found.curve("loss") == [(each.step, each.value) for each in curve("loss", 400)]
    assert [row["_step"] for row in stored] == list(range(len(stored)))
    assert (found.project, found.name, found.status) == ("offline", "run", "FINISHED")
    assert found.tags == {"team": "ml"}
    [picture] = found.find("image", "predictions")
    assert picture.content == png()
    [bars] = found.find("histogram", "weights/fc1")
    sample = SAMPLES["histogram"]
    assert isinstance(sample, Histogram)
    assert bars.content == (list(sample.edges), list(sample.counts))


def test_histograms_of_any_width_have_512_buckets_and_every_count(tmp_path: Path) -> None:
    import wandb

    from tracelet.backends.wandb.histograms import merged

    edges = [-1.7976931348623157e308, *(float(n) for n in range(1528)), 1.7976931348623157e308]
    counts = [0.0, *(float(n % 7) for n in range(1527)), 3.0]
    wide = Histogram("h", edges, counts, 1.0, 2000.0, 0.0, 0.0, 1, TIME)
    found_edges, found_counts = merged(wide)
    assert len(found_counts) == 512
    assert len(found_edges) == 513
    assert sum(found_counts) == sum(counts)
    assert found_edges[-1] == 2000.0
    assert found_edges == sorted(found_edges)
    made = wandb.Histogram(np_histogram=(found_counts, found_edges))
    assert made.histogram == found_counts
    here = backend(tmp_path)
    here.open(INFO, None, tmp_path / "work")
    Delivery(here).send(wide, metric("loss", 1.0))
    here.barrier()
    here.close(RunStatus.KILLED)
    [folder] = folders(tmp_path)
    assert any("h" in row or any(name.startswith("h/") for name in row) for row in rows(folder))
