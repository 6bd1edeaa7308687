"""The limit of reading: whole record batches through the reader's own source, with nothing taken out of them.

    python -m benchmarks.limit_fetch ADDRESS TOPIC

Checks no checksums and decompresses nothing; ``counted`` is what the batches' headers say.
"""

from __future__ import annotations

import argparse
import time

from benchmarks.result import Result, begin, report
from connectors.redpanda import RedpandaLog

WAIT_MS = 100


def main() -> None:
    asked = _arguments()
    begin()
    started = time.perf_counter()
    with RedpandaLog(asked.address) as log:
        ends = dict(enumerate(log.describe(asked.topic).ends))
        counted = fetch(log, asked.topic, ends)
    report(Result(sum(ends.values()), counted, None, time.perf_counter() - started))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit_fetch")
    parser.add_argument("address", metavar="ADDRESS", help="host:port of the broker")
    parser.add_argument("topic", metavar="TOPIC")
    return parser.parse_args()


def fetch(log: RedpandaLog, topic: str, ends: dict[int, int]) -> int:
    """Returns the number of records in all batches up to ``ends`` (next offset per partition)."""
    left, counted = set(ends), 0
    source = log.source(topic, dict.fromkeys(ends, 0))
    while left:
        for partition, batches in source.fetch(WAIT_MS).items():
            counted += sum(batch.record_count for batch in batches)
            if batches and batches[-1].next_offset >= ends[partition]:
                left.discard(partition)
    source.close()
    return counted


if __name__ == "__main__":
    main()
