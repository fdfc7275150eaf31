"""The parquet backend keeps the contract; its tables are read with pyarrow and pandas."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, Mapping

import pytest

from contract.folders import FolderSuite
from tracelet.backends.base import Batch, RemoteRun, RunInfo
from tracelet.backends.parquet import ParquetBackend, ParquetOptions, tables
from tracelet.backends.parquet.tables import COLUMNS
from tracelet.errors import ConfigError
from tracelet.records import Metric, Param, RunStatus, Text
from tracelet.testing import Item, Seen
from tracelet.testing.samples import SAMPLES, TIME, curve

pq = pytest.importorskip("pyarrow.parquet")


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    return list(pq.read_table(folder / f"{table}.parquet").to_pylist())


class TestParquet(FolderSuite):
    package = "pyarrow"
    kind = ParquetBackend
    grows = "*/*/.records.jsonl"

    def read_back(self, remote: RemoteRun) -> Seen:
        folder = self.store / remote.id
        [run] = rows(folder, "run")
        metrics: dict[str, list[Metric]] = defaultdict(list)
        for row in rows(folder, "metrics"):
            metrics[row["key"]].append(Metric(row["key"], row["value"], _step(row), row["time"]))
        items = [
            *(Item("text", r["key"], _step(r), 0, r["text"]) for r in rows(folder, "texts")),
            *(
                Item("table", r["key"], _step(r), 0, (r["columns"], json.loads(r["rows"])))
                for r in rows(folder, "tables")
            ),
            *(
                Item("histogram", r["key"], _step(r), 0, (r["edges"], r["counts"]))
                for r in rows(folder, "histograms")
            ),
            *(
                Item(r["kind"], r["key"], _step(r), r["index"], _bytes(folder, r))
                for r in rows(folder, "media")
            ),
        ]
        return Seen(
            id=remote.id,
            project=run["project"] or folder.parent.name,
            name=run["name"] or folder.name,
            status=run["status"],
            tags={row["key"]: row["value"] for row in rows(folder, "tags")},
            params={row["key"]: row["value"] for row in rows(folder, "params")},
            metrics=metrics,
            items=items,
            artifacts={row["path"]: _bytes(folder, row) for row in rows(folder, "artifacts")},
            parent=run["parent"],
        )


def _step(row: Mapping[str, Any]) -> Any:
    return row["fractional_step"] if row["step"] is None else row["step"]


def _bytes(folder: Path, row: Mapping[str, Any]) -> bytes:
    return (folder.parent / row["file"]).read_bytes()


# -- the tables ---------------------------------------------------------------------------


def info(run_id: str = "20260101-000000-aa", **changes: Any) -> RunInfo:
    who = {"project": "vision", "name": "baseline", "created": 1.0, "tags": {"a": "b"}, **changes}
    return RunInfo(run_id=run_id, backends=["parquet"], **who)


def opened(folder: Path, run: RunInfo, **options: Any) -> tuple[ParquetBackend, Path]:
    backend = ParquetBackend(ParquetOptions(path=str(folder), **options))
    return backend, Path(backend.open(run, None, folder).look)


def test_every_table_is_there_from_the_beginning_and_has_its_columns(tmp_path: Path) -> None:
    backend, folder = opened(tmp_path, info())
    for name, columns in COLUMNS.items():
        assert pq.read_schema(folder / f"{name}.parquet").names == ["run_id", *columns]
    backend.close(RunStatus.FINISHED)


def test_the_same_records_give_the_same_bytes_and_pandas_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    monkeypatch.setattr(tables, "_GROUP", 1000)
    metrics = [
        *curve("loss", 5_000),
        Metric("odd", math.nan, 0.5, TIME),
        Metric("odd", -math.inf, None, TIME),
        Metric("odd", 5e-324, 2**70, TIME),
        Metric("odd", 0.1, 3.0, TIME),
    ]
    found = []
    # In batches of another size, and with tables made on the way: the files do not show it.
    for store, size in (("one", 3_000), ("two", 1_701)):
        backend, folder = opened(tmp_path / store, info(), keep_lines=False)
        for at in range(0, len(metrics), size):
            backend.write(Batch(metrics[at : at + size], offset=at))
            backend.barrier()
        backend.write(Batch(list(SAMPLES.values()), lane="heavy"))
        backend.close(RunStatus.FINISHED, 3.0)
        files = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert not [path for path in files if ".part" in path.name or path.name == ".records.jsonl"]
        found.append(files)
    assert found[0] == found[1]
    frame = pandas.read_parquet(folder / "metrics.parquet")
    loss = frame[frame["key"] == "loss"]
    assert loss["value"].tolist() == [(step + 1) / 3 for step in range(5_000)]
    odd = rows(folder, "metrics")[-4:]
    assert [(row["step"], row["fractional_step"]) for row in odd] == [
        (None, 0.5),
        (None, None),
        (None, 2.0**70),
        (3, None),
    ]
    assert [row["value"] for row in odd[1:]] == [-math.inf, 5e-324, 0.1]


def test_a_parameter_keeps_its_type_and_a_text_what_utf8_cannot(tmp_path: Path) -> None:
    backend, folder = opened(tmp_path, info())
    sent = [Param("a", True, 1.0), Param("b", 1, 1.0), Param("c", 1.0, 1.0), Param("d", None, 1.0)]
    backend.write(Batch(sent))
    backend.write(Batch([Text("t", "half \ud800", 0, 1.0)], lane="heavy"))
    backend.close(RunStatus.FINISHED)
    assert [(row["value"], row["type"]) for row in rows(folder, "params")] == [
        ("True", "bool"),
        ("1", "int"),
        ("1.0", "float"),
        ("None", "NoneType"),
    ]
    assert rows(folder, "texts")[0]["text"] == "half \\ud800"


def test_without_its_lines_a_run_is_begun_anew_but_not_continued(tmp_path: Path) -> None:
    backend, folder = opened(tmp_path, info(), keep_lines=False)
    backend.write(Batch(curve("loss", 10)))
    backend.close(RunStatus.RUNNING)
    with pytest.raises(ConfigError, match="no lines"):
        backend.open(info("another"), RemoteRun(id="vision/baseline"), tmp_path)
    backend, again = opened(tmp_path, info(), keep_lines=False)
    backend.write(Batch(curve("loss", 12)))
    backend.close(RunStatus.FINISHED)
    assert again == folder
    assert len(rows(folder, "metrics")) == 12
