"""Category streams in Redpanda, or in any broker that speaks Kafka's protocol. The only module that calls kafka-python.

Reading takes whole record batches out of the library's fetcher: sessions, leader changes, reconnecting and lists of aborted
transactions stay the library's; bytes become Arrow in connectors/record_batch.py and slices in connectors/broker_reader.py. Appending
hands over whole batches too (connectors/producing.py), ten times as fast as the library's own producer.

Promises: no consumer group, and no offset is ever stored in the broker; positions are never reset; only committed records are read, and
ends are last stable offsets; a broker that does not answer is ``LogUnreachable`` within ``REFOLD_BROKER_TIMEOUT``; no setting's value is in
an error. Must not know: what is in a record.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition, errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel, OffsetSpec
from kafka.protocol.metadata import MetadataRequest
from kafka.protocol.producer import InitProducerIdRequest, ProduceRequest
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch

from connectors import broker_config, clock
from connectors.broker_log import BrokerLog, pause
from connectors.broker_reader import LATENCIES_KEPT
from connectors.continuity import Fetched, in_order
from connectors.kafka_errors import SILENCE, translated, translation
from connectors.kafka_net import Client
from connectors.log import DEFAULT_PARTITIONS, CategoryInfo
from connectors.producing import SequenceLost, TryAgain, by_leader
from connectors.record_batch import Header, from_rows, magic_of, read_header, split
from connectors.topic_settings import FOR_EVER, NAMES, TopicSettings
from schemas.errors import LogError, LogUnreachable, UsageError

FETCH_BYTES_MAX = 4 << 20
FETCH_PARTITION_BYTES_MAX = 2 << 20

# The library logs each failed attempt, some with a traceback; whoever calls us gets one error that says it all.
if logging.getLogger("kafka").level == logging.NOTSET:
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


class RedpandaLog(BrokerLog):
    """The log at ``servers`` (``host:port,...``); implements ``connectors.log.Log``. Connects when it is first used."""

    def __init__(self, servers: str) -> None:
        super().__init__(servers)
        self._security = broker_config.security()
        self._lock = threading.RLock()
        self._client: Any = None

    def categories(self) -> list[str]:
        """Names of all topics but the broker's own, sorted."""
        with self._asking() as admin:
            topics = admin.describe_topics(None)
        return sorted(t["name"] for t in topics if not t["is_internal"] and not t["name"].startswith("__"))

    def create(self, category: str, partitions: int = DEFAULT_PARTITIONS) -> CategoryInfo:
        """See ``Log.create``. The topic keeps its records for ever."""
        try:
            with self._asking() as admin:
                wanted = {"num_partitions": partitions, "configs": FOR_EVER}
                admin.create_topics({category: wanted}, wait_for_metadata=True)
        except errors.TopicAlreadyExistsError as error:
            raise LogError(f"the category {category} exists already", where=self.url) from error
        except errors.InvalidTopicError as error:
            raise UsageError(f"no name for a category: {category!r}", do="use letters, digits, . _ and -") from error
        return self.describe(category)

    def close(self) -> None:
        with self._lock:
            self._drop_client()

    def describe_once(self, category: str) -> CategoryInfo:
        topic = self._topic(category)
        partitions = [TopicPartition(category, index) for index in range(len(topic["partitions"]))]
        with self._asking() as admin:
            earliest = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
            stable = dict.fromkeys(partitions, OffsetSpec.LATEST)
            ends = admin.list_partition_offsets(stable, IsolationLevel.READ_COMMITTED)
        return CategoryInfo(
            name=category,
            identity=str(topic.get("topic_id") or ""),
            earliest=tuple(earliest[partition].offset for partition in partitions),
            ends=tuple(ends[partition].offset for partition in partitions),
            compacted=self.settings_once(category).is_compacted,
        )

    def source(self, category: str, start: Mapping[int, int]) -> _Source:
        with translated(self.url):
            return _Source(self._settings(), self.url, category, start, self._request)

    def new_producer(self) -> tuple[int, int]:
        request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=60_000, max_version=4)
        answer = self.patiently(lambda: self._request(request))
        return answer.producer_id, answer.producer_epoch

    def produce(self, category: str, batches: Mapping[int, bytes]) -> dict[int, int | Exception]:
        answers: dict[int, int | Exception] = {}
        try:
            for leader, partitions in self._leaders(category, batches).items():
                request = _produce_request(category, {p: batches[p] for p in partitions}, self.timeout_ms)
                for part in self._request(request, leader).responses[0].partition_responses:
                    answers[part.index] = _outcome(part, self.url)
        except LogUnreachable as error:
            answers |= {partition: TryAgain(error) for partition in batches.keys() - answers.keys()}
        if any(isinstance(answer, TryAgain) for answer in answers.values()):
            pause()
        return answers

    def _leaders(self, category: str, partitions: Iterable[int]) -> dict[int, list[int]]:
        parts = self._topic(category)["partitions"]
        return by_leader(
            {part["partition_index"]: part["leader_id"] for part in parts}, partitions, f"{category} at {self.url}"
        )

    def _settings(self) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.addresses,
            "kafka_client": Client,
            "request_timeout_ms": self.timeout_ms,
            "bootstrap_timeout_ms": self.timeout_ms,
            "connections_max_idle_ms": self.timeout_ms + 540_000,
            "reconnect_backoff_max_ms": 1000,
            "retry_backoff_ms": 20,
            **self._security,
        }

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        """The admin client, made on first use; dropped when it fails, so that the next call connects anew."""
        with self._lock, translated(self.url):
            try:
                if self._client is None:
                    self._client = KafkaAdminClient(**self._settings())
                yield self._client
            except SILENCE:
                self._drop_client()
                raise

    def _request(self, request: Any, node: int | None = None) -> Any:
        """The answer to ``request``, from any node unless one is named."""
        with self._asking() as admin:
            answer = admin._manager.run(_sending, admin._manager, request, node)
            if code := getattr(answer, "error_code", 0):
                raise errors.for_code(code)()
        return answer

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(errors.KafkaError):
                client.close()

    def _topic(self, category: str) -> dict[str, Any]:
        with self._asking() as admin:
            (topic,) = admin.describe_topics([category])
            error = errors.for_code(topic["error_code"])
            if error in (errors.UnknownTopicOrPartitionError, errors.InvalidTopicError):
                raise self.unknown(category)
            if topic["error_code"]:
                raise error()
        return dict(topic)

    def settings_once(self, category: str) -> TopicSettings:
        replicas = min(len(part["replica_nodes"]) for part in self._topic(category)["partitions"])
        resource = ConfigResource(ConfigResourceType.TOPIC, category, dict.fromkeys(NAMES))
        with self._asking() as admin:
            found = admin.describe_configs([resource], config_filter="all")["topic"].get(category, {})
        return TopicSettings.of(replicas, {name: found.get(name, {}).get("value") for name in NAMES})


class _Source:
    """Implements ``connectors.broker_reader.Source`` with a consumer of its own."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        url: str,
        topic: str,
        start: Mapping[int, int],
        ask: Callable[[Any], Any],
    ) -> None:
        """``ask``: sends a request over a connection that has no fetch under way, behind which a broker would let it wait."""
        self._url, self._topic, self._ask = url, topic, ask
        self._consumer = _BatchConsumer(
            **settings,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            fetch_max_bytes=FETCH_BYTES_MAX,
            max_partition_fetch_bytes=FETCH_PARTITION_BYTES_MAX,
            metrics_enabled=False,
        )
        self._consumer.assign([TopicPartition(topic, partition) for partition in start])
        for partition, offset in start.items():
            self._consumer.seek(TopicPartition(topic, partition), offset)
        self._manager = manager = self._consumer._manager
        self.latencies: deque[float] = self._consumer._fetcher.latencies
        with suppress(errors.KafkaError):  # asked for now, because the first poll would wait 0.2 s for it
            manager.run(manager.cluster.refresh_metadata, manager.least_loaded_node())

    @property
    def answers(self) -> int:
        return int(self._consumer._fetcher.answers)

    def fetch_on_demand(self) -> None:
        self._consumer._fetcher.is_ahead = False

    def look(self) -> tuple[str, int] | None:
        topics = [MetadataRequest.MetadataRequestTopic(name=self._topic)]
        request = MetadataRequest(topics=topics, allow_auto_topic_creation=False)
        try:
            (found,) = self._ask(request).topics
        except LogUnreachable:
            return None
        return (str(found.topic_id or ""), len(found.partitions)) if not found.error_code else ("", 0)

    def fetch(self, timeout_ms: int) -> dict[int, list[Fetched]]:
        found: dict[TopicPartition, list[Fetched]] = {}
        with suppress(LogUnreachable), translated(self._url):  # the library goes on trying; the reader counts how long
            found = self._consumer.poll(timeout_ms)
        return {partition.partition: batches for partition, batches in found.items()}

    def finish(self, partitions: Iterable[int]) -> None:
        self._consumer.pause(*(TopicPartition(self._topic, partition) for partition in partitions))

    def close(self) -> None:
        with suppress(errors.KafkaError):
            self._consumer.close(autocommit=False)


class _PartitionBatches(Fetcher.PartitionRecords):  # type: ignore[misc]
    """One partition's part of a fetch, as whole batches; what to leave out is decided as the library does."""

    next_fetch_offset: int

    def __init__(self, fetch_offset: int, tp: TopicPartition, records: MemoryRecords, **settings: Any) -> None:
        super().__init__(fetch_offset, tp, records, **settings)
        self._fetched = memoryview(records._buffer or b"")

    def take(self, n: int | None = None) -> list[Fetched]:
        """All batches at once (``n`` counts records, and is for the library's own loops)."""
        batches = split(self._fetched)
        taken = in_order([self._of_today(batch) if magic_of(batch) >= 2 else _of_old(batch) for batch in batches])
        if taken:
            self.next_fetch_offset = max(self.next_fetch_offset, taken[-1].next_offset)
            self.leader_epoch = taken[-1].leader_epoch
        self.bytes_read = len(self._fetched)
        self.drain()
        return taken

    def _of_today(self, batch: memoryview) -> Fetched:
        header = read_header(batch)
        packed = None if self._is_skipped(batch, header) else (batch, header)
        return Fetched(header.base_offset, header.last_offset + 1, header.record_count, header.leader_epoch, packed)

    def _is_skipped(self, batch: memoryview, header: Header) -> bool:
        if header.producer_id < 0:
            return header.is_control_batch
        self._consume_aborted_transactions_up_to(header.last_offset)
        if header.is_control_batch:
            if self._contains_abort_marker(DefaultRecordBatch(batch)):
                self.aborted_producer_ids.discard(header.producer_id)
            return True
        return bool(self._is_batch_aborted(header))


class _BatchFetcher(Fetcher):  # type: ignore[misc]
    PartitionRecords = _PartitionBatches
    answers, latencies = 0, deque[float]()

    is_ahead = True
    _failed: Exception | None = None

    def fetch_records(self, *args: Any, **options: Any) -> tuple[dict[TopicPartition, list[Fetched]], bool]:
        """Asks for what comes next before what came is worked on; the library would ask, and wait, when more is wanted."""
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        found, is_idle = super().fetch_records(*args, **options)
        if found and self.is_ahead:
            self.send_fetches()
        return found, is_idle

    def send_fetches(self) -> list[Any]:
        """Tells of a failure in the next call: whoever calls this has records in hand that would be lost."""
        try:
            return list(super().send_fetches())
        except (errors.KafkaError, OSError) as error:
            self._failed = error
            return []

    def _handle_fetch_response(self, node: Any, offsets: Any, sent: float, response: Any) -> None:
        self.answers += 1
        if any(part.records for topic in response.responses for part in topic.partitions):
            self.latencies.append(clock.monotonic() - sent)  # without records it is the broker that waited
        super()._handle_fetch_response(node, offsets, sent, response)


class _BatchConsumer(KafkaConsumer):  # type: ignore[misc]
    """A consumer whose ``poll`` gives ``{partition: [Fetched, ...]}``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._fetcher = _BatchFetcher(self._client, self._subscription, metrics=None, **self.config)
        self._fetcher.latencies = deque(maxlen=LATENCIES_KEPT)


def _of_old(batch: memoryview) -> Fetched:
    """A batch of format 0 or 1, decoded by the library."""
    found = MemoryRecords(batch).next_batch()
    if not found.validate_crc():
        msg = "a record batch is damaged: its checksum does not match"
        raise LogError(msg, where=f"batch at {found.base_offset:,}")
    rows = [
        (r.offset, -1 if r.timestamp is None else r.timestamp, r.timestamp_type or 0, r.key, r.value) for r in found
    ]
    return Fetched(rows[0][0], rows[-1][0] + 1, len(rows), records=from_rows(rows))


async def _sending(manager: Any, request: Any, node: int | None) -> Any:
    return await manager.send(request, node_id=node)


def _produce_request(topic: str, batches: Mapping[int, bytes], timeout_ms: int) -> Any:
    parts = [ProduceRequest.TopicProduceData.PartitionProduceData(index=p, records=b) for p, b in batches.items()]
    data = [ProduceRequest.TopicProduceData(name=topic, partition_data=parts)]
    return ProduceRequest(acks=-1, timeout_ms=timeout_ms, topic_data=data, min_version=3, max_version=9)


def _outcome(part: Any, url: str) -> int | Exception:
    """What a produce response says of one partition."""
    error = errors.for_code(part.error_code)
    if error is errors.NoError:
        return int(part.base_offset)
    if error is errors.DuplicateSequenceNumberError:
        return SequenceLost()
    if issubclass(error, errors.RetriableError):
        return TryAgain(error.__name__)
    return translation(error(), url)
