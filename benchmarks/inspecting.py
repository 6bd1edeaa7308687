"""``refold inspect --all``: from opening the log to all that is said of its records.

python -m benchmarks.inspecting LOG TOPIC
"""

from __future__ import annotations

import argparse
import time

from benchmarks.result import Result, begin, report
from connectors import open_log
from flows.inspecting import inspect


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inspecting")
    parser.add_argument("log", metavar="LOG", help="redpanda://host:port or the directory of an embedded log")
    parser.add_argument("topic", metavar="TOPIC")
    asked = parser.parse_args()
    begin()
    started = time.perf_counter()
    with open_log(asked.log) as log:
        found = inspect(log, asked.topic, records=None)
    seconds = time.perf_counter() - started
    counted = sum(shape.records for shape in found.types)
    report(Result(found.read, counted, None, seconds, details={"keys": found.distinct_keys, "types": len(found.types)}))


if __name__ == "__main__":
    main()
