"""How fast a small Python fold goes: one core, JSON in memory, from slice to changed entities.

    python -m benchmarks.python_fold [EVENTS]

Two rates by the CPU time of this thread, the best of five: of the whole way (decoding, grouping, the fold), and of the fold alone.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

import pyarrow as pa

from connectors.log import RECORDS, Slice
from flows import Projection, State, python_fold
from flows.fold import PartitionFold
from flows.pipeline import PartitionPipeline
from flows.progress import Progress
from schemas import Category, Event

EVENTS, ENTITIES, SLICE = 400_000, 50_000, 100_000


class Placed(Event):
    country: str
    amount: float


class Paid(Event):
    amount: float


orders = Category("orders", [Placed, Paid])


class Order(State):
    status: str
    paid: float = 0.0
    events: int = 0


def advance(order: Order | None, event: Any) -> Order | None:
    if event.event_type == "Placed" or order is None:
        return Order("placed", 0.0, 1)
    order.paid += event.amount
    order.events += 1
    order.status = "paid"
    return order


view = Projection(name="order_states", category=orders, key={"order": "subject"}, fold=python_fold(Order, advance))


def slices(events: int) -> list[Slice]:
    lots = random.Random(1)
    values = [
        json.dumps(
            {
                "type": lots.choice(["Placed", "Paid", "Paid", "Paid"]),
                "time": 1000 + number,
                "subject": f"o{lots.randrange(ENTITIES)}",
                "data": {"country": "NO", "amount": lots.random()},
            }
        ).encode()
        for number in range(events)
    ]
    offsets, nothing = pa.array(range(events), pa.int64()), pa.nulls(events, pa.binary())
    times, kinds = pa.array([10**9] * events, pa.int64()), pa.array([0] * events, pa.int8())
    columns = [offsets, times, kinds, nothing, pa.array(values, pa.binary()), nothing]
    records = pa.record_batch(columns, schema=RECORDS)
    firsts = range(0, events, SLICE)
    return [Slice("orders", 0, at, min(at + SLICE, events), records.slice(at, SLICE)) for at in firsts]


def timed(parts: list[Slice]) -> tuple[float, float]:
    """Seconds of the whole way, and of the fold."""
    fold = PartitionFold(view, "orders", 0, Progress(0), None)
    pipeline, entities, alone = PartitionPipeline(orders, [fold]), fold._entities, 0.0
    assert entities is not None
    run = entities.run

    def watched(*given: Any) -> dict[int, str]:
        nonlocal alone
        began = time.thread_time()
        refused = run(*given)
        alone += time.thread_time() - began
        return refused

    entities.run = watched  # type: ignore[method-assign]
    began = time.thread_time()
    for part in parts:
        pipeline.fold(part)
    return time.thread_time() - began, alone


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    parts = slices(events)
    measured = [timed(parts) for _ in range(5)]
    for what, seconds in (
        ("from JSON to entities", min(m[0] for m in measured)),
        ("the fold", min(m[1] for m in measured)),
    ):
        print(f"{what:<24} {events / seconds / 1e6:.2f} M events/s  {seconds / events * 1e6:.2f} us/event")


if __name__ == "__main__":
    main()
