"""The whole table: refold beside its limits and beside hand-written baselines, in one run.

    python -m benchmarks.replay [--events 2000000] [--baseline-events 200000] [--broker HOST:PORT] [ROW ...]

Without --broker it starts one of its own. Each row is a process of its own, one after the other, that measures itself;
``wall_seconds`` is from its start to its exit, seen from here. refold's kernels are compiled once per installation; a
small run of every kind beforehand sees to that, and a row says when one was compiled within it. The baselines stop
early, for they are slow; only rates compare. Beside each row a fixed piece of work is timed, and fresh memory, so that
a noisy machine shows; it starts when what was written before is on the disk. Prints the table, writes it to
build/bench/DATE.json, and fails (exit code 1) when a total is not that of the input or digests that must agree do not.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.checks import checks
from benchmarks.report import RESULTS, line, ratios, render
from benchmarks.rows import ROWS, Place, Row, picked
from tests.broker.kafka import Broker, jars

ROOT = Path(__file__).resolve().parent.parent
ROW_SECONDS_MAX = 3_600
WARM_UP_EVENTS = 300_000
"""So many that segments are sealed, groups are dealt to blocks and tables grow, as in the large run."""
WARM_UP_ROWS = (
    "shapes",
    "refold",
    "archive-cold",
    "archive-warm",
    "windows",
    "keys",
    "keys-warm",
    "inspect",
    "get",
    "start",
)
BROKER_HEAP_MIB = 512


def main() -> int:
    asked = _arguments()
    rows, began = picked(asked.rows), dt.datetime.now(dt.UTC)
    with _broker(asked.broker) as address, tempfile.TemporaryDirectory(prefix="refold-bench-") as directory:
        place = Place(address, Path(directory), asked.events, asked.baseline_events)
        _warm_up(rows, Place(address, Path(directory), WARM_UP_EVENTS, WARM_UP_EVENTS))
        amounts = _prepared(rows, place)
        measured = [_measured(row, place) for row in rows]
    table = {
        **_circumstances(asked, began),
        "rows": measured,
        "ratios": ratios(measured),
        "checks": checks(measured, asked.events, amounts),
    }
    print("\n" + render(table))
    print(f"written to {_written(table, began).relative_to(ROOT)}")
    return 0 if all(check["ok"] for check in table["checks"]) else 1


def _arguments() -> argparse.Namespace:
    names = ", ".join(row.name for row in ROWS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description="Measure rates and delays.")
    parser.add_argument(
        "--events", type=int, default=2_000_000, help="how many orders there are (default: %(default)s)"
    )
    parser.add_argument("--baseline-events", type=int, default=200_000, help="where the baselines stop")
    parser.add_argument("--broker", help="host:port of one that runs (default: start one), without the topics")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"any of {names} (default: all)")
    asked = parser.parse_args()
    if unknown := set(asked.rows) - {row.name for row in ROWS}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    return asked


@contextlib.contextmanager
def _broker(address: str | None) -> Iterator[str]:
    if address:
        yield address
        return
    own = Broker(heap_mib=BROKER_HEAP_MIB)
    try:
        yield own.start().address
    finally:
        own.discard()


def _warm_up(rows: list[Row], place: Place) -> None:
    started = time.perf_counter()
    _prepared(rows, place)
    for row in rows:
        if row.name in WARM_UP_ROWS:
            _run([row.module, *row.arguments(place)])
    took = time.perf_counter() - started
    print(f"warm-up   {place.events:,} events, kernels compiled where they were not: {took:.1f} s", flush=True)


def _prepared(rows: list[Row], place: Place) -> dict[str, float]:
    """Make the inputs of these rows. Returns the sum of all amounts of each."""
    amounts = {}
    for kind in dict.fromkeys(row.input for row in rows if row.input):
        where = [place.address, str(place.directory)]
        made = _run(["benchmarks.prepare", kind, str(place.events), *where])
        amounts[kind] = made["amount"]
        print(f"prepared  {kind}: {place.events:,} events in {made['seconds']:.1f} s", flush=True)
    return amounts


def _measured(row: Row, place: Place) -> dict[str, Any]:
    beside, known = machine.beside(), machine.compiled_kernels()
    result = _run([row.module, *row.arguments(place)])
    found = {
        "row": row.name,
        "title": row.title,
        "clock": row.clock,
        "input": row.input,
        "is_exact": row.is_exact,
        **result,
        "events_per_second": result["events"] / result["seconds"],
        "fixed_work_seconds": beside.fixed_work_seconds,
        "cores_free": beside.cores_free,
        "fresh_memory_seconds": beside.fresh_memory_seconds,
        "compiled_kernels": machine.compiled_kernels() - known,
    }
    print(line(found), flush=True)
    return found


def _run(command: list[str]) -> dict[str, Any]:
    """What the module prints at its end, and how long its process was there."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        text=True,
        timeout=ROW_SECONDS_MAX,
        check=True,
        cwd=ROOT,
    )
    wall = time.perf_counter() - started
    return {**json.loads(done.stdout.splitlines()[-1]), "wall_seconds": wall}


def _circumstances(asked: argparse.Namespace, began: dt.datetime) -> dict[str, Any]:
    return {
        "date": began.isoformat(timespec="seconds"),
        "events": asked.events,
        "baseline_events": asked.baseline_events,
        "broker": "one that ran already" if asked.broker else "started for this run on the same machine",
        "machine": machine.facts(),
        "versions": machine.versions(jars()),
        "revision": machine.revision(),
    }


def _written(table: dict[str, Any], began: dt.datetime) -> Path:
    path = RESULTS / f"{began:%Y-%m-%dT%H%M%SZ}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, indent=2) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
