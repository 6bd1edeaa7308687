"""Category streams in Redpanda, or in any broker that speaks Kafka's protocol. The only module that knows kafka-python.

Reading takes whole record batches out of the library's fetcher: sessions, leader changes, reconnecting and lists of
aborted transactions stay the library's; bytes become Arrow in connectors/record_batch.py and slices in
connectors/broker_reader.py. Appending hands over whole batches too (connectors/producing.py): the library's own
producer takes records one by one, some 40,000 a second.

Promises: no consumer group, and no offset is ever stored in the broker; positions are never reset; only committed
records are read, and ends are last stable offsets; a broker that does not answer is ``LogUnreachable`` within
``REFOLD_BROKER_TIMEOUT``; no setting's value is in an error. Must not know: what is in a record.
"""

from __future__ import annotations

import difflib
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel, OffsetSpec
from kafka.protocol.producer import InitProducerIdRequest, ProduceRequest
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch

from connectors import broker_config, clock
from connectors.appending import Appending, as_appends
from connectors.broker_reader import BrokerReader, PositionLost
from connectors.continuity import Fetched
from connectors.log import DEFAULT_PARTITIONS, RECORDS, CategoryInfo
from connectors.producing import Producer, SequenceLost, TryAgain
from connectors.record_batch import Header, magic_of, read_header, split
from schemas.errors import LogError, LogUnreachable, RefoldError, UnknownCategory, UsageError

FETCH_BYTES_MAX = 4 << 20
FETCH_PARTITION_BYTES_MAX = 1 << 20
FETCH_WAIT_MS_MAX = 500
RETRY_SECONDS = 0.1

# The library logs each failed attempt, some with a traceback; whoever calls us gets one error that says it all.
if logging.getLogger("kafka").level == logging.NOTSET:
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


class RedpandaLog(Appending):
    """The log at ``servers`` (``host:port,...``); implements ``connectors.log.Log``. Connects when it is first used."""

    def __init__(self, servers: str) -> None:
        self._addresses = broker_config.addresses(servers)
        self.url = f"redpanda://{','.join(self._addresses)}"
        self._timeout_ms = int(broker_config.timeout_seconds() * 1000)
        self._security = broker_config.security()
        self._lock = threading.RLock()
        self._client: Any = None
        self._producer = Producer(self, self._timeout_ms)

    def categories(self) -> list[str]:
        """Names of all topics but the broker's own, sorted."""
        with self._asking() as admin:
            topics = admin.describe_topics(None)
        return sorted(t["name"] for t in topics if not t["is_internal"] and not t["name"].startswith("__"))

    def describe(self, category: str) -> CategoryInfo:
        """See ``Log.describe``. The identity is the topic's id ("" where the broker is too old to have one)."""
        deadline = clock.monotonic() + self._timeout_ms / 1000
        while True:
            try:
                return self._described(category)
            except LogUnreachable:  # may be an election, over in a moment
                if clock.monotonic() > deadline:
                    raise
            self._pause()

    def create(self, category: str, partitions: int = DEFAULT_PARTITIONS) -> CategoryInfo:
        """See ``Log.create``. The topic keeps its records for ever."""
        settings = {"retention.ms": "-1", "cleanup.policy": "delete"}
        wanted = {category: {"num_partitions": partitions, "configs": settings}}
        try:
            with self._asking() as admin:
                admin.create_topics(wanted, wait_for_metadata=True)
        except kafka_errors.TopicAlreadyExistsError as error:
            msg = f"the category {category} exists already"
            raise LogError(msg, where=self.url) from error
        except kafka_errors.InvalidTopicError as error:
            msg = f"a broker does not take {category!r} as a name"
            raise UsageError(msg, do="use letters, digits, '.', '_' and '-'") from error
        return self.describe(category)

    def reader(self, category: str, start: Mapping[int, int], until: Mapping[int, int] | None = None) -> BrokerReader:
        """See ``Log.reader``."""

        def connect(offsets: Mapping[int, int]) -> _Source:
            with _translated(self.url):
                return _Source(self._settings(), self.url, category, offsets)

        return BrokerReader(start, until or {}, lambda: self.describe(category), connect, self._timeout_ms)

    def append_batch(self, category: str, batch: pa.Table) -> tuple[int, ...]:
        """See ``Log.append_batch``. A record with neither key nor partition goes to partition 0."""
        table = as_appends(batch)
        info = self._described_or_created(category)
        taken = self._producer.append(category, table, info.partitions)
        if any(end < 0 for end in taken.values()):  # appended, but the broker no longer knew where
            return self.describe(category).ends
        return tuple(taken.get(partition, end) for partition, end in enumerate(info.ends))

    def close(self) -> None:
        with self._lock:
            self._drop_client()

    # The transport of ``connectors.producing.Producer``:

    def new_producer(self) -> tuple[int, int]:
        """See ``Transport.new_producer``."""
        request = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=60_000, max_version=4)
        with self._asking() as admin:
            answer = admin._manager.run(_sending, admin, request, None)
            if answer.error_code:
                raise kafka_errors.for_code(answer.error_code)()
        return answer.producer_id, answer.producer_epoch

    def produce(self, category: str, batches: Mapping[int, bytes]) -> dict[int, int | Exception]:
        """See ``Transport.produce``."""
        answers: dict[int, int | Exception] = {}
        try:
            for leader, partitions in self._leaders(category, batches).items():
                request = _produce_request(category, {p: batches[p] for p in partitions}, self._timeout_ms)
                with self._asking() as admin:
                    response = admin._manager.run(_sending, admin, request, leader)
                for part in response.responses[0].partition_responses:
                    answers[part.index] = _outcome(part, self.url)
        except LogUnreachable as error:
            answers |= {partition: TryAgain(error) for partition in batches.keys() - answers.keys()}
        if any(isinstance(answer, TryAgain) for answer in answers.values()):
            self._pause()
        return answers

    def _pause(self) -> None:
        """Give an election or a restart time before asking again."""
        threading.Event().wait(RETRY_SECONDS)

    def _leaders(self, category: str, partitions: Iterable[int]) -> dict[int, list[int]]:
        """Partitions by the node that leads them. Raises ``LogUnreachable`` when one has no leader."""
        leaders = {part["partition_index"]: part["leader_id"] for part in self._topic(category)["partitions"]}
        without = [partition for partition in partitions if leaders.get(partition, -1) < 0]
        if without:
            raise LogUnreachable(f"no broker leads partitions {without}", where=f"{category} at {self.url}")
        return {node: [p for p in partitions if leaders[p] == node] for node in {leaders[p] for p in partitions}}

    def _settings(self) -> dict[str, Any]:
        return {
            "bootstrap_servers": self._addresses,
            "request_timeout_ms": self._timeout_ms,
            "bootstrap_timeout_ms": self._timeout_ms,
            "reconnect_backoff_max_ms": 1000,
            **self._security,
        }

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        """The admin client, made on first use; dropped when it fails, so that the next call connects anew."""
        with self._lock, _translated(self.url):
            try:
                if self._client is None:
                    self._client = KafkaAdminClient(**self._settings())
                yield self._client
            except (kafka_errors.RetriableError, kafka_errors.UnknownBrokerIdError, OSError):
                self._drop_client()
                raise

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(kafka_errors.KafkaError):
                client.close()

    def _described_or_created(self, category: str) -> CategoryInfo:
        try:
            return self.describe(category)
        except UnknownCategory:
            try:
                return self.create(category)
            except LogError:
                with suppress(UnknownCategory):  # somebody else made it meanwhile
                    return self.describe(category)
                raise

    def _described(self, category: str) -> CategoryInfo:
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
            compacted=self._is_compacted(category),
        )

    def _topic(self, category: str) -> dict[str, Any]:
        with self._asking() as admin:
            (topic,) = admin.describe_topics([category])
            error = kafka_errors.for_code(topic["error_code"])
            if error in (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.InvalidTopicError):
                raise self._unknown(category)
            if topic["error_code"]:
                raise error()
        return dict(topic)

    def _unknown(self, category: str) -> UnknownCategory:
        known = self.categories()
        close = difflib.get_close_matches(category, known, n=3)
        do = f"did you mean {' or '.join(close)}?" if close else None
        return UnknownCategory(f"there is no category {category} in the log", where=self.url, do=do)

    def _is_compacted(self, category: str) -> bool:
        resource = ConfigResource(ConfigResourceType.TOPIC, category, {"cleanup.policy": None})
        with self._asking() as admin:
            found = admin.describe_configs([resource], config_filter="all")
        return "compact" in (found["topic"].get(category, {}).get("cleanup.policy", {}).get("value") or "")


class _Source:
    """Implements ``connectors.broker_reader.Source`` with a consumer of its own."""

    def __init__(self, settings: Mapping[str, Any], url: str, topic: str, start: Mapping[int, int]) -> None:
        self._url, self._topic = url, topic
        self._consumer = _BatchConsumer(
            **settings,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            fetch_max_bytes=FETCH_BYTES_MAX,
            max_partition_fetch_bytes=FETCH_PARTITION_BYTES_MAX,
            fetch_max_wait_ms=min(FETCH_WAIT_MS_MAX, settings["request_timeout_ms"] // 2),
            metrics_enabled=False,
        )
        self._consumer.assign([TopicPartition(topic, partition) for partition in start])
        for partition, offset in start.items():
            self._consumer.seek(TopicPartition(topic, partition), offset)

    @property
    def answers(self) -> int:
        return int(self._consumer._fetcher.answers)

    @property
    def identity(self) -> str:
        return str(self._consumer._cluster.topic_id(self._topic) or "")

    def fetch(self, timeout_ms: int) -> dict[int, list[Fetched]]:
        try:
            with _translated(self._url):
                found = self._consumer.poll(timeout_ms)
        except LogUnreachable:
            return {}  # the library goes on trying; the reader counts how long
        return {partition.partition: batches for partition, batches in found.items()}

    def finish(self, partitions: Iterable[int]) -> None:
        self._consumer.pause(*(TopicPartition(self._topic, partition) for partition in partitions))

    def close(self) -> None:
        with suppress(kafka_errors.KafkaError):
            self._consumer.close(autocommit=False)


class _PartitionBatches(Fetcher.PartitionRecords):  # type: ignore[misc]
    """One partition's part of a fetch, as whole batches; what to leave out is decided as the library does."""

    next_fetch_offset: int

    def __init__(self, fetch_offset: int, tp: TopicPartition, records: MemoryRecords, **settings: Any) -> None:
        super().__init__(fetch_offset, tp, records, **settings)
        self._fetched = memoryview(records._buffer or b"")

    def take(self, n: int | None = None) -> list[Fetched]:
        """All batches at once (``n`` counts records, and is for the library's own loops)."""
        taken = [self._of_today(batch) if magic_of(batch) >= 2 else _of_old(batch) for batch in split(self._fetched)]
        if taken:
            self.next_fetch_offset = max(self.next_fetch_offset, taken[-1].next_offset)
            self.leader_epoch = taken[-1].leader_epoch
        self.bytes_read = len(self._fetched)
        self.drain()
        return taken

    def _of_today(self, batch: memoryview) -> Fetched:
        header = read_header(batch)
        packed = None if self._is_skipped(batch, header) else (batch, header)
        end = header.last_offset + 1
        return Fetched(header.base_offset, end, header.record_count, header.leader_epoch, packed)

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
    answers = 0

    def _handle_fetch_response(self, *arguments: Any) -> None:
        self.answers += 1
        super()._handle_fetch_response(*arguments)


class _BatchConsumer(KafkaConsumer):  # type: ignore[misc]
    """A consumer whose ``poll`` gives ``{partition: [Fetched, ...]}``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._fetcher = _BatchFetcher(self._client, self._subscription, metrics=None, **self.config)


def _of_old(batch: memoryview) -> Fetched:
    """A batch of format 0 or 1, decoded by the library."""
    found = MemoryRecords(batch).next_batch()
    if not found.validate_crc():
        msg = "a record batch is damaged: its checksum does not match"
        raise LogError(msg, where=f"batch at offset {found.base_offset:,}")
    rows = [
        (r.offset, -1 if r.timestamp is None else r.timestamp, r.timestamp_type or 0, r.key, r.value) for r in found
    ]
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), RECORDS, strict=False)]
    records = pa.RecordBatch.from_arrays([*columns, pa.nulls(len(rows), pa.binary())], schema=RECORDS)
    return Fetched(rows[0][0], rows[-1][0] + 1, len(rows), records=records)


async def _sending(admin: Any, request: Any, node: int | None) -> Any:
    return await admin._manager.send(request, node_id=node)


def _produce_request(topic: str, batches: Mapping[int, bytes], timeout_ms: int) -> Any:
    parts = [ProduceRequest.TopicProduceData.PartitionProduceData(index=p, records=b) for p, b in batches.items()]
    data = [ProduceRequest.TopicProduceData(name=topic, partition_data=parts)]
    return ProduceRequest(
        transactional_id=None, acks=-1, timeout_ms=timeout_ms, topic_data=data, min_version=3, max_version=9
    )


def _outcome(part: Any, url: str) -> int | Exception:
    """What a produce response says of one partition."""
    error = kafka_errors.for_code(part.error_code)
    if error is kafka_errors.NoError:
        return int(part.base_offset)
    if error is kafka_errors.DuplicateSequenceNumberError:
        return SequenceLost()
    if issubclass(error, kafka_errors.RetriableError):
        return TryAgain(error.__name__)
    return _translation(error(), url)


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Errors of the library become ours, but for the few that a caller here tells apart."""
    try:
        yield
    except (kafka_errors.OffsetOutOfRangeError, kafka_errors.LogTruncationError) as error:
        raise PositionLost(type(error).__name__) from error
    except (RefoldError, kafka_errors.TopicAlreadyExistsError, kafka_errors.InvalidTopicError):
        raise
    except (kafka_errors.KafkaError, OSError) as error:
        raise _translation(error, url) from error


_CREDENTIALS = (
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
)
_SILENCE = (kafka_errors.RetriableError, kafka_errors.UnknownBrokerIdError, OSError)
_SIZE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
_MEANINGS: tuple[tuple[Any, type[RefoldError], str, str | None], ...] = (
    (kafka_errors.KafkaConfigurationError, UsageError, "the broker's settings do not fit", "check REFOLD_KAFKA_*"),
    (_CREDENTIALS, LogError, "the broker refused the credentials", "check REFOLD_KAFKA_SASL_*"),
    (kafka_errors.AuthorizationError, LogError, "the broker does not allow this", "ask for the right to do it"),
    (_SIZE, LogError, "an event is too large for the broker", "raise max.message.bytes of the topic"),
    (_SILENCE, LogUnreachable, "the broker does not answer", "see whether it runs, then try again"),
    (Exception, LogError, "the broker answered with an error", None),
)


def _translation(error: Exception, url: str) -> RefoldError:
    """The error that a user sees for one of the library's, whose own texts may hold settings: only its name is told."""
    kind, what, do = next((kind, what, do) for known, kind, what, do in _MEANINGS if isinstance(error, known))
    return kind(what, where=url, why=type(error).__name__, do=do)
