"""What the two hand-written baselines share: a kafka-python consumer over some partitions, and what they report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from kafka import KafkaConsumer, TopicPartition

from benchmarks.result import Result, begin, report

__all__ = ["Result", "arguments", "consumer", "ends", "report"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("address", help="host:port of the broker")
    parser.add_argument("topic")
    parser.add_argument("events_max", type=int, help="stop when about so many events were read")
    asked = parser.parse_args()
    begin()
    return asked


def consumer(address: str, topic: str, partitions: Sequence[int]) -> KafkaConsumer:
    """From the beginning of the partitions, in no group."""
    opened = KafkaConsumer(bootstrap_servers=address, group_id=None, enable_auto_commit=False, max_poll_records=2_000)
    assigned = [TopicPartition(topic, partition) for partition in partitions]
    opened.assign(assigned)
    opened.seek_to_beginning(*assigned)
    return opened


def ends(opened: KafkaConsumer) -> dict[TopicPartition, int]:
    """Next offset after the last record, per assigned partition."""
    return dict(opened.end_offsets(list(opened.assignment())))
