"""The lines of a run as tables."""

from __future__ import annotations

import json
import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Final, Iterable, Mapping, Sequence

from tracelet._imports import load

#: Rows that are held in memory for one table, and the size of its row groups.
_GROUP: Final = 131_072
#: Where a row may be an image's worth of numbers.
_SMALL_GROUP: Final = 2_048

_WHOLE: Final = range(-(1 << 63), 1 << 63)

_STEP: Final = {"step": "int64", "fractional_step": "double", "time": "double", "stream": "string"}

#: Each table's columns, in their order, after ``run_id``.
COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "metrics": {"key": "string", "value": "double", **_STEP},
    "params": {
        "key": "string",
        "value": "string",
        "type": "string",
        "time": "double",
        "stream": "string",
    },
    "tags": {"key": "string", "value": "string", "time": "double"},
    "texts": {"key": "string", "text": "string", **_STEP},
    "tables": {"key": "string", "columns": "list<string>", "rows": "string", **_STEP},
    "histograms": {
        "key": "string",
        "edges": "list<double>",
        "counts": "list<double>",
        "min": "double",
        "max": "double",
        "sum": "double",
        "sum_squares": "double",
        **_STEP,
    },
    "media": {
        "kind": "string",
        "key": "string",
        "index": "int64",
        "mime": "string",
        "size": "int64",
        "sha256": "string",
        "file": "string",
        "meta": "string",
        **_STEP,
    },
    "artifacts": {
        "path": "string",
        "size": "int64",
        "sha256": "string",
        "file": "string",
        "time": "double",
    },
    "run": {
        "project": "string",
        "name": "string",
        "status": "string",
        "created": "double",
        "ended": "double",
        "parent": "string",
        "host": "string",
        "version": "string",
        "context": "string",
    },
}

#: Which table the lines of a type are in.
_TABLE: Final = {
    "metric": "metrics",
    "param": "params",
    "tag": "tags",
    "text": "texts",
    "table": "tables",
    "histogram": "histograms",
    "media": "media",
    "artifact": "artifacts",
}


def write_tables(folder: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """
    Make the tables of a run anew, each replaced as a whole.

    Args:
        folder: The run's.
        entries: What its lines say.

    Raises:
        OSError: The disk does not take it; the tables are the former ones, or some of them new.
    """
    mark = secrets.token_hex(4)
    parts = {name: folder / f".{name}.{mark}.part" for name in COLUMNS}
    described = folder / f".run.json.{mark}.part"
    try:
        with ExitStack() as open_files:
            tables = {name: _Table(name, path, open_files.callback) for name, path in parts.items()}
            run = _fill(tables, entries)
            for table in tables.values():
                table.end()
        described.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
        for name, path in parts.items():
            path.replace(folder / f"{name}.parquet")
        described.replace(folder / "run.json")
    except BaseException:
        for path in (*parts.values(), described):
            path.unlink(missing_ok=True)
        raise


def _fill(tables: Mapping[str, _Table], entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Put every line where it belongs; return who the run is and how it ended."""
    run: dict[str, Any] = {}
    run_id = ""
    for entry in entries:
        kind = entry["type"]
        if kind == "run":
            run_id = entry["run_id"]
            run = run or {name: entry.get(name) for name in ("run_id", *COLUMNS["run"])}
            run.update(status="RUNNING", ended=None)
            for key, value in entry["tags"].items():
                tables["tags"].add(run_id, {"key": key, "value": value, "time": entry["created"]})
        elif kind == "end":
            run.update(status=entry["status"], ended=entry["time"])
        elif kind in _TABLE:
            tables[_TABLE[kind]].add(run_id, entry)
    if run:
        tables["run"].add(run["run_id"], {**run, "context": json.dumps(run["context"])})
    return run


class _Table:
    """One table on its way to a file."""

    def __init__(self, name: str, path: Path, at_the_end: Callable[..., Any]) -> None:
        load("pyarrow", "pyarrow.parquet")
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {
            "string": pa.string(),
            "double": pa.float64(),
            "int64": pa.int64(),
            "list<string>": pa.list_(pa.string()),
            "list<double>": pa.list_(pa.float64()),
        }
        columns = {"run_id": "string", **COLUMNS[name]}
        self._pa = pa
        self._schema = pa.schema([(column, types[kind]) for column, kind in columns.items()])
        self._kinds: Sequence[tuple[str, str]] = list(columns.items())
        self._group = _GROUP if name in ("metrics", "params", "tags") else _SMALL_GROUP
        self._values: list[list[Any]] = [[] for _ in columns]
        self._name = name
        self._file = pq.ParquetWriter(str(path), self._schema, compression="zstd")
        at_the_end(self._file.close)

    def add(self, run_id: str, entry: Mapping[str, Any]) -> None:
        """Add a row."""
        row = {**entry, "run_id": run_id}
        if self._name == "params":
            row.update(value=str(entry["value"]), type=type(entry["value"]).__name__)
        elif self._name == "tables":
            row["rows"] = json.dumps(entry["rows"])
        elif self._name == "media":
            row["meta"] = json.dumps(entry["meta"])
        if "step" in COLUMNS[self._name]:
            row["step"], row["fractional_step"] = _step(entry["step"])
        for (column, kind), values in zip(self._kinds, self._values):
            values.append(_cell(row.get(column), kind))
        if len(self._values[0]) >= self._group:
            self._flush()

    def end(self) -> None:
        """Write what is left."""
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if not self._values[0]:
            return
        arrays = [
            self._pa.array(values, field.type) for values, field in zip(self._values, self._schema)
        ]
        self._file.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))
        self._values = [[] for _ in self._kinds]


def _step(step: Any) -> tuple[Any, Any]:
    """Return a step for the two columns that there are for it."""
    if step is None:
        return None, None
    number = float(step) if isinstance(step, str) else step
    if isinstance(number, int) or number.is_integer():
        whole = int(number)
        return (whole, None) if whole in _WHOLE else (None, float(number))
    return None, number


def _cell(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "double":
        return float(value)  # what is not finite is a word in the lines
    if kind == "list<double>":
        return [float(each) for each in value]
    if kind == "string":
        return _text(str(value))
    if kind == "list<string>":
        return [_text(str(each)) for each in value]
    return value


def _text(text: str) -> str:
    """Return a text that is UTF-8: half a surrogate pair is written out."""
    return text.encode("utf-8", "backslashreplace").decode() if not text.isascii() else text
