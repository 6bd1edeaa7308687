"""Count and sum of amount by country and minute, as a Bytewax flow written by hand.

    python -m benchmarks.baseline_bytewax ADDRESS TOPIC EVENTS_MAX

A kafka-python consumer a partition, batches of up to 2,000 records, orjson, ``fold_window`` over tumbling minutes with
an ``EventClock`` that waits 5 s: what the documentation leads to. Events may come 3 s late at most, yet the clock
merges the partitions in the order of their arrival, and a partition that is read ahead makes the others late: those
events are lost from the windows, and counted here by what is missing (``counted`` < ``events``).
"""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import orjson
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators.windowing import EventClock, TumblingWindower
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from benchmarks.orders import START
from benchmarks.topic import Result, arguments, consumer, ends, report
from connectors.log import DEFAULT_PARTITIONS

Order = tuple[dt.datetime, float]
Totals = tuple[int, float]

WAIT = dt.timedelta(seconds=5)
MINUTE = dt.timedelta(minutes=1)


class OrdersPartition(StatefulSourcePartition[bytes, None]):
    def __init__(self, address: str, topic: str, partition: int, events_max: int) -> None:
        self._consumer = consumer(address, topic, [partition])
        self._left = min(sum(ends(self._consumer).values()), events_max)
        self.read = 0

    def next_batch(self) -> list[bytes]:
        if self.read >= self._left:
            raise StopIteration
        polled = self._consumer.poll(timeout_ms=10)
        values = [record.value for records in polled.values() for record in records]
        self.read += len(values)
        return values

    def snapshot(self) -> None:
        return None

    def close(self) -> None:
        self._consumer.close()


class Orders(FixedPartitionedSource[bytes, None]):
    def __init__(self, address: str, topic: str, events_max: int) -> None:
        self._place, self._events_max = (address, topic), events_max
        self.parts: list[OrdersPartition] = []

    def list_parts(self) -> list[str]:
        return [str(partition) for partition in range(DEFAULT_PARTITIONS)]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> OrdersPartition:
        part = OrdersPartition(*self._place, int(for_part), self._events_max // DEFAULT_PARTITIONS)
        self.parts.append(part)
        return part


class Sum(DynamicSink[Any], StatelessSinkPartition[Any]):
    """Adds up the closed windows; one worker, so the sink is its own partition."""

    def __init__(self) -> None:
        self.counted, self.amount = 0, 0.0

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Sum:
        return self

    def write_batch(self, items: list[tuple[str, tuple[int, Totals]]]) -> None:
        for _, (_, (count, amount)) in items:
            self.counted += count
            self.amount += amount


def parse(value: bytes) -> tuple[str, Order]:
    event = orjson.loads(value)
    data = event["data"]
    return data["country"], (dt.datetime.fromisoformat(event["time"]), data["amount"])


def fold(totals: Totals, order: Order) -> Totals:
    return totals[0] + 1, totals[1] + order[1]


def merge(one: Totals, other: Totals) -> Totals:
    return one[0] + other[0], one[1] + other[1]


def dataflow(source: Orders, sink: Sum) -> Dataflow:
    flow = Dataflow("orders_by_minute")
    values = op.input("orders", flow, source)
    by_country = op.map("parse", values, parse)
    windows = win.fold_window(
        "minute",
        by_country,
        EventClock(ts_getter=lambda order: order[0], wait_for_system_duration=WAIT),
        TumblingWindower(length=MINUTE, align_to=START),
        builder=lambda: (0, 0.0),
        folder=fold,
        merger=merge,
    )
    op.output("totals", windows.down, sink)
    return flow


def main() -> None:
    asked = arguments()
    started = time.perf_counter()
    source, sink = Orders(asked.address, asked.topic, asked.events_max), Sum()
    run_main(dataflow(source, sink))
    events = sum(part.read for part in source.parts)
    report(Result(events, sink.counted, sink.amount, time.perf_counter() - started))


if __name__ == "__main__":
    main()
