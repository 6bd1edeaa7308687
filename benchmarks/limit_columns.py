"""The limit of folding: typed columns that are in memory already, grouped and summed by Polars.

    python -m benchmarks.limit_columns PARQUET

The clock runs while it groups, and the best of three is what counts: the first starts threads. Reading the file (columns
``time`` in microseconds, ``country``, ``amount``) is in the details.
"""

from __future__ import annotations

import argparse
import time

import polars as pl
import pyarrow.parquet as pq

from benchmarks.result import Result, begin, report

MINUTE_US = 60_000_000
TIMES = 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit_columns")
    parser.add_argument("parquet", metavar="PARQUET")
    asked = parser.parse_args()
    began = time.perf_counter()
    columns = pl.from_arrow(pq.read_table(asked.parquet), rechunk=False)
    assert isinstance(columns, pl.DataFrame)
    reading_seconds = time.perf_counter() - began
    begin()
    seconds, totals = min((timed(columns) for _ in range(TIMES)), key=lambda one: one[0])
    counted, amount = int(totals["orders"].sum()), float(totals["amount"].sum())
    report(Result(len(columns), counted, amount, seconds, details={"reading_seconds": reading_seconds}))


def timed(columns: pl.DataFrame) -> tuple[float, pl.DataFrame]:
    started = time.perf_counter()
    totals = grouped(columns)
    return time.perf_counter() - started, totals


def grouped(columns: pl.DataFrame) -> pl.DataFrame:
    window = pl.col("time").floordiv(MINUTE_US)
    return columns.group_by(window, "country").agg(pl.len().alias("orders"), pl.col("amount").sum())


if __name__ == "__main__":
    main()
