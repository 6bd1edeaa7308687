"""Count and sum of amount by country and minute, in a plain loop over kafka-python: json and a dict.

    python -m benchmarks.baseline_loop ADDRESS TOPIC EVENTS_MAX

It knows no lateness and is never final: less than a view, but the least that anybody can write.
"""

from __future__ import annotations

import time

import orjson

from benchmarks.topic import Result, arguments, consumer, ends, report
from connectors.log import DEFAULT_PARTITIONS

Groups = dict[tuple[str, str], list[float]]


def main() -> None:
    asked = arguments()
    started = time.perf_counter()
    groups: Groups = {}
    events = read(asked.address, asked.topic, asked.events_max, groups)
    counted, amount = sum(count for count, _ in groups.values()), sum(total for _, total in groups.values())
    report(Result(events, int(counted), amount, time.perf_counter() - started))


def read(address: str, topic: str, events_max: int, groups: Groups) -> int:
    """Fold until the end that the topic had at the start, or ``events_max``. Returns the number of events read."""
    source = consumer(address, topic, range(DEFAULT_PARTITIONS))
    left = min(sum(ends(source).values()), events_max)
    events = 0
    while events < left:
        for records in source.poll(timeout_ms=1_000).values():
            events += len(records)
            for record in records:
                fold(groups, orjson.loads(record.value))
    source.close()
    return events


def fold(groups: Groups, event: dict) -> None:  # type: ignore[type-arg]
    data = event["data"]
    totals = groups.setdefault((event["time"][:16], data["country"]), [0, 0.0])
    totals[0] += 1
    totals[1] += data["amount"]


if __name__ == "__main__":
    main()
