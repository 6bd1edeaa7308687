"""How fast a topic is replayed into a count and sum by country and minute: refold beside two baselines, in one run.

    python -m benchmarks.replay [--events 2000000] [--baseline-events 200000] [--broker HOST:PORT] [SIDE ...]

Without --broker it starts one of its own. Each side is a process of its own, one after the other, and measures itself
from its first call of a client to its last result: imports are left out. refold's kernels are compiled once per
installation; a small topic folded beforehand sees to that, and its time is shown on a line of its own. The baselines
stop early, for they are slow; only rates compare. Beside each side a fixed piece of work is timed, so that a noisy
machine shows. It fails (exit code 1) when refold's total is not that of the input.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version

from benchmarks.load import Loader
from benchmarks.orders import orders_table
from benchmarks.topic import Result
from tests.broker.kafka import Broker

SIDES = {
    "loop": ("plain kafka-python loop", "benchmarks.baseline_loop"),
    "bytewax": ("hand-written Bytewax", "benchmarks.baseline_bytewax"),
    "refold": ("refold", "benchmarks.refold_orders"),
}
PACKAGES = ["bytewax", "kafka-python", "polars", "pyarrow", "numba", "orjson"]
TABLE_ROWS = 100_000
SIDE_SECONDS_MAX = 600
WARM_UP_EVENTS = 2_000
RELATIVE_ERROR_MAX = 1e-9


def main() -> int:
    asked = _arguments()
    print(f"machine   {os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}")
    print("versions ", ", ".join(f"{name} {version(name)}" for name in PACKAGES))
    with _broker(asked.broker) as address:
        topic = f"orders-{asked.events}"
        amount = _load(address, topic, asked.events)
        _compile_kernels(address)
        results = {side: _run(side, address, topic, asked) for side in asked.sides or SIDES}
    _compare(results)
    return _check(results, asked.events, amount)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description="Compare rates of replay.")
    parser.add_argument("--events", type=int, default=2_000_000, help="how many orders the topic holds")
    parser.add_argument("--baseline-events", type=int, default=200_000, help="where the baselines stop")
    parser.add_argument("--broker", help="host:port of one that runs (default: start one), without the topic")
    parser.add_argument("sides", nargs="*", metavar="SIDE", help=f"any of {', '.join(SIDES)} (default: all)")
    asked = parser.parse_args()
    if unknown := set(asked.sides) - set(SIDES):
        parser.error(f"no such side: {', '.join(sorted(unknown))}")
    return asked


@contextlib.contextmanager
def _broker(address: str | None) -> Iterator[str]:
    if address:
        yield address
        return
    own = Broker()
    try:
        yield own.start().address
    finally:
        own.discard()


def _load(address: str, topic: str, events: int) -> float:
    """Returns the sum of all amounts."""
    started, amount = time.perf_counter(), 0.0
    with Loader(address, topic) as loader:
        loader.create()
        for first in range(0, events, TABLE_ROWS):
            table, total = orders_table(first, min(first + TABLE_ROWS, events))
            loader.append(table)
            amount += total
    print(f"topic     {topic}: {events:,} events, loaded in {time.perf_counter() - started:.1f} s")
    return amount


def _compile_kernels(address: str) -> None:
    topic = f"orders-{WARM_UP_EVENTS}-warm-up"
    with Loader(address, topic) as loader:
        loader.create()
        loader.append(orders_table(0, WARM_UP_EVENTS)[0])
    started = time.perf_counter()
    command = [sys.executable, "-m", SIDES["refold"][1], address, topic, str(WARM_UP_EVENTS)]
    subprocess.run(command, stdout=subprocess.DEVNULL, timeout=SIDE_SECONDS_MAX, check=True)
    print(
        f"warm-up   {WARM_UP_EVENTS:,} events, kernels compiled where they were not: {time.perf_counter() - started:.1f} s\n"
    )


def _run(side: str, address: str, topic: str, asked: argparse.Namespace) -> Result:
    name, module = SIDES[side]
    work = _fixed_work_seconds()
    command = [sys.executable, "-m", module, address, topic, str(asked.baseline_events)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=SIDE_SECONDS_MAX, check=True)
    result = Result(**json.loads(done.stdout.splitlines()[-1]))
    lost = result.events - result.counted
    print(
        f"{name:<26}{_rate(result):>12,.0f} events/s   {result.events:>9,} events in {result.seconds:6.2f} s   "
        f"lost {lost:>7,} ({lost / result.events:.0%})   fixed work {work:.2f} s",
        flush=True,
    )
    return result


def _fixed_work_seconds() -> float:
    """The same work everywhere, half in the interpreter and half in compiled code."""
    started = time.perf_counter()
    sum(number * number for number in range(3_000_000))
    hashlib.sha256(bytes(200_000_000)).digest()
    return time.perf_counter() - started


def _rate(result: Result) -> float:
    return result.events / result.seconds


def _compare(results: dict[str, Result]) -> None:
    refold = results.get("refold")
    for side, result in results.items():
        if refold and side != "refold":
            print(f"refold is {_rate(refold) / _rate(result):.1f} times as fast as the {SIDES[side][0]}")


def _check(results: dict[str, Result], events: int, amount: float) -> int:
    refold = results.get("refold")
    if refold is None:
        return 0
    exact = refold.counted == refold.events == events and abs(refold.amount / amount - 1) < RELATIVE_ERROR_MAX
    print(f"check     {'all events are in the view' if exact else f'refold counted {refold.counted:,} of {events:,}'}")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
