"""
A run as Parquet tables, for people who look with pandas, Polars or DuckDB.

Where things are
    ``<path>/<project>/<name>/``, named as the jsonl backend names its files. In it are
    ``metrics``, ``params``, ``tags``, ``texts``, ``tables``, ``histograms``, ``media``,
    ``artifacts`` and ``run``, each ``.parquet``, all of them always there; ``run.json``, the same
    as the last for a person; and the files that the tables name, in ``media/`` and ``artifacts/``.

What is in the tables
    One row for each record, in the order in which they were logged; ``run_id`` first, so that the
    tables of many runs can be read as one. ``step`` is an integer of 64 bits, null where there is
    no step or it is none such: then it is in ``fractional_step``. Times are seconds since the
    epoch. ``docs/backends/parquet.md`` lists the columns.

How it is written
    A Parquet file cannot grow. Records go into lines first (``.records.jsonl``, as the jsonl
    backend writes them), and ``barrier`` and ``close`` make the tables out of them, each replaced
    as a whole: a reader sees the former or the new one. The same lines give the same bytes.
"""

from __future__ import annotations

from tracelet.backends.parquet.backend import ParquetBackend
from tracelet.backends.parquet.options import ParquetOptions

__all__ = ["ParquetBackend", "ParquetOptions"]
