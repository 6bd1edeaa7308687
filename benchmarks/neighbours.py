"""What a rebuild does to others at the broker.

    python -m benchmarks.neighbours [--events 3000000] [--seconds 15] [--rounds 3] [--broker HOST:PORT]

End-to-end latency of a neighbour (``benchmarks.neighbour``) alone, beside a rebuild from the broker as fast as it goes, beside one that
governs itself, and beside one from an archive; in turns, the middle of the rounds. A rebuild is the command, again and again as long as
the neighbour is measured. Prints the table and writes it to build/bench/neighbours-DATE.json.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.prepare import topic_of
from benchmarks.replay import ROOT, _broker
from benchmarks.report import RESULTS
from connectors.redpanda import RedpandaLog

MODES = {
    "alone": None,
    "ungoverned": ["--ungoverned"],
    "governed": [],
    "archive": ["--archive", "{archive}"],
}
TITLES = {
    "alone": "nobody else",
    "ungoverned": "a rebuild from the broker, as fast as it goes",
    "governed": "a rebuild from the broker, governed (the default)",
    "archive": "a rebuild from an archive",
}


def main() -> None:
    asked = _arguments()
    began = dt.datetime.now(dt.UTC)
    with _broker(asked.broker) as address, tempfile.TemporaryDirectory(prefix="refold-bench-") as directory:
        place = Path(directory)
        _python("benchmarks.prepare", "orders", str(asked.events), address, directory)
        topic = topic_of("orders", asked.events)
        with RedpandaLog(address) as log:
            log.create("neighbour", 1)
        subprocess.run(
            _refold("archive", topic, address, place, ["--to", str(place / "copy"), "--quiet"]), check=True, cwd=ROOT
        )
        rounds = []
        for number in range(asked.rounds):
            rounds.append({mode: _measured(mode, topic, address, place, asked.seconds) for mode in MODES})
            print(
                f"round {number + 1}: "
                + "  ".join(f"{mode} p99 {one['p99_ms']:.1f} ms" for mode, one in rounds[-1].items()),
                flush=True,
            )
    table = _table(rounds)
    print(_render(table))
    facts = {
        "date": began.isoformat(timespec="seconds"),
        "events": asked.events,
        "seconds": asked.seconds,
        "machine": machine.facts(),
    }
    path = RESULTS / f"neighbours-{began:%Y-%m-%dT%H%M%SZ}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({**facts, "revision": machine.revision(), "rounds": rounds, "table": table}, indent=2) + "\n"
    )
    print(f"written to {path.relative_to(ROOT)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.neighbours", description="What a rebuild does to others."
    )
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each is measured (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--broker", help="host:port of one that runs, without the topics (default: start one)")
    return parser.parse_args()


def _measured(mode: str, topic: str, address: str, place: Path, seconds: float) -> dict[str, Any]:
    extra = MODES[mode]
    arguments = None if extra is None else [one.format(archive=place / "copy") for one in extra]
    with _rebuilding(topic, address, place, arguments) as read:
        found = json.loads(_python("benchmarks.neighbour", address, "neighbour", str(seconds)).splitlines()[-1])
    return {**found, "events": read[0], "events_per_s": read[0] / seconds}


@contextlib.contextmanager
def _rebuilding(topic: str, address: str, place: Path, arguments: list[str] | None) -> Iterator[list[int]]:
    """Rebuild again and again until the block ends; how many events that read, in whole rebuilds and the progress of the last."""
    read, over = [0], threading.Event()
    if arguments is None:
        yield read
        return
    children: list[subprocess.Popen[str]] = []

    def work() -> None:
        number = 0
        while not over.is_set():
            number += 1
            store = ["--store", str(place / f"store-{len(children)}-{number}-{arguments}")]
            command = _refold("rebuild", "orders_by_minute", address, place, [*store, *arguments])
            child = subprocess.Popen(
                command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=_named(topic)
            )
            children.append(child)
            assert child.stderr is not None
            last = ""
            for line in child.stderr:
                last = line
            child.wait()
            read[0] += _events(last)
            print(f"    {last.strip()}", flush=True)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield read
    finally:
        over.set()
        with contextlib.suppress(ProcessLookupError):
            children[-1].send_signal(signal.SIGTERM)
        thread.join()


def _events(line: str) -> int:
    words = line.split("  ")
    return int(words[1].split(" of ")[0].removesuffix(" events").replace(",", "")) if len(words) > 1 else 0


def _named(topic: str) -> dict[str, str]:
    return {
        **os.environ,
        "REFOLD_BENCH_TOPIC": topic,
        "REFOLD_FLOWS": "benchmarks.beside_views",
        "REFOLD_STOP_SECONDS": "5",
    }


def _refold(command: str, view: str, address: str, place: Path, more: list[str]) -> list[str]:
    return [sys.executable, "-m", "flows.cli", command, view, "--log", f"redpanda://{address}", *more]


def _python(module: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
    ).stdout


def _table(rounds: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    keys = ("p50_ms", "p99_ms", "events_per_s")
    found = {mode: {key: statistics.median(one[mode][key] for one in rounds) for key in keys} for mode in MODES}
    return {mode: {**one, "p99_times": one["p99_ms"] / found["alone"]["p99_ms"]} for mode, one in found.items()}


def _render(table: dict[str, dict[str, float]]) -> str:
    rows = ["| beside the neighbour | its p50 | its p99 | times | rebuild |", "|---|---:|---:|---:|---:|"]
    for mode, one in table.items():
        rate = f"{one['events_per_s'] / 1e6:.2f} M/s" if one["events_per_s"] else ""
        rows.append(
            f"| {TITLES[mode]} | {one['p50_ms']:.1f} ms | {one['p99_ms']:.1f} ms | {one['p99_times']:.1f} | {rate} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
