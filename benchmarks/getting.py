"""One row by its key, of a view with a row a customer: each look opens the newest snapshot, as a service would that answers requests.

    python -m benchmarks.getting LOG TOPIC CUSTOMERS

The view is folded beforehand. The first looks are not counted: they load libraries and bring directories into memory.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from benchmarks.refold_orders import fold
from benchmarks.result import Result, begin, report
from benchmarks.views import by_customer
from connectors import open_view

LOOKS, FIRST_LOOKS = 500, 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.getting")
    parser.add_argument("log", metavar="LOG", help="the directory of an embedded log")
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument("customers", type=int, metavar="CUSTOMERS")
    asked = parser.parse_args()
    projection, lots = by_customer(asked.topic), random.Random(1)
    with tempfile.TemporaryDirectory() as store:
        fold(projection, asked.log, Path(store), 2)
        customers = [f"customer-{lots.randrange(asked.customers)}" for _ in range(LOOKS + FIRST_LOOKS)]
        for customer in customers[LOOKS:]:
            open_view(store, projection.name).get(customer)
        begin()
        took, found = [], 0
        for customer in customers[:LOOKS]:
            started = time.perf_counter()
            row = open_view(store, projection.name).get(customer)
            took.append((time.perf_counter() - started) * 1000)
            found += row is not None
    took.sort()
    assert found == LOOKS
    details = {"rows": asked.customers, "get_p50_ms": took[LOOKS // 2], "get_p99_ms": took[LOOKS * 99 // 100]}
    report(Result(LOOKS, found, None, sum(took) / 1000, details=details))


if __name__ == "__main__":
    main()
