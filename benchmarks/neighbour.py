"""Somebody else at the same broker: small messages through a topic of its own, and how long each takes from end to end.

    python -m benchmarks.neighbour ADDRESS TOPIC SECONDS

Plain kafka-python, nothing of refold. Prints p50, p99 and the number of messages as JSON, of everything but the first second.
"""

from __future__ import annotations

import json
import struct
import sys
import threading
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

MESSAGES_PER_S = 200
WARM_UP_S = 1.0


def main() -> None:
    address, topic, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    consumer = KafkaConsumer(
        bootstrap_servers=address, group_id=None, auto_offset_reset="latest", fetch_max_wait_ms=500
    )
    consumer.assign([TopicPartition(topic, 0)])
    consumer.seek_to_end()
    consumer.position(TopicPartition(topic, 0))
    over = threading.Event()
    sender = threading.Thread(target=_send, args=(address, topic, over), daemon=True)
    sender.start()
    began, found = time.monotonic(), list[float]()
    while time.monotonic() - began < seconds:
        for records in consumer.poll(50).values():
            now = time.monotonic()
            found += [now - struct.unpack("d", record.value)[0] for record in records if now - began > WARM_UP_S]
    over.set()
    sender.join()
    found.sort()
    p50, p99 = (found[int(len(found) * share)] * 1000 for share in (0.5, 0.99))
    print(json.dumps({"messages": len(found), "p50_ms": p50, "p99_ms": p99}))


def _send(address: str, topic: str, over: threading.Event) -> None:
    producer = KafkaProducer(bootstrap_servers=address, linger_ms=0, acks=1)
    due = time.monotonic()
    while not over.wait(max(due - time.monotonic(), 0)):
        producer.send(topic, struct.pack("d", time.monotonic()), partition=0)
        due += 1 / MESSAGES_PER_S
    producer.close()


if __name__ == "__main__":
    main()
