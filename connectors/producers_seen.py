"""How records came into a topic, as far as its batches tell: those of a producer without an id may be there twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from connectors.broker_reader import Source
from connectors.clock import monotonic
from connectors.log import CategoryInfo

FETCH_WAIT_MS = 100

Connect = Callable[[Mapping[int, int]], Source]


def records_without_producer_id(info: CategoryInfo, connect: Connect, last: int, timeout_s: float) -> dict[int, int]:
    """Of the last so many offsets of each partition: how many records are in batches without the id that idempotent producers have.

    Batches are whole, the first may begin before. Partitions without any are left out. After ``timeout_s`` what was seen by then.
    """
    start = {p: max(end - last, info.earliest[p]) for p, end in enumerate(info.ends) if end > info.earliest[p]}
    if not start:
        return {}
    found: dict[int, int] = {}
    positions, give_up = dict(start), monotonic() + timeout_s
    source = connect(start)
    try:
        while any(at < info.ends[p] for p, at in positions.items()) and monotonic() < give_up:
            for partition, batches in source.fetch(FETCH_WAIT_MS).items():
                for batch in batches:
                    positions[partition] = batch.next_offset
                    if not batch.is_skipped and (batch.packed is None or batch.packed[1].producer_id < 0):
                        found[partition] = found.get(partition, 0) + batch.record_count
            source.finish(p for p, at in positions.items() if at >= info.ends[p])
    finally:
        source.close()
    return found
