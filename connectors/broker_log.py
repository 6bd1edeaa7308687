"""What a log in a broker does whatever the client library: be patient, make categories, append, open readers.

``BrokerLog`` is the log but for the requests themselves, which connectors/redpanda.py adds. Promises: what it asks for
again is asked until the time-out, not longer. Must not know: the client library.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

import pyarrow as pa

from connectors import broker_config, clock
from connectors.appending import Appending, as_appends
from connectors.broker_reader import BrokerReader, Source
from connectors.log import DEFAULT_PARTITIONS, CategoryInfo
from connectors.producers_seen import records_without_producer_id
from connectors.producing import Producer
from connectors.reach import why_silent
from connectors.topic_settings import TopicSettings
from schemas.errors import LogError, LogUnreachable, UnknownCategory
from schemas.hints import meant

RETRY_SECONDS = 0.1

Answer = TypeVar("Answer")


class BrokerLog(Appending):
    """The log at ``servers`` (``host:port,...``). Raises ``UsageError`` when these or the settings are wrong."""

    def __init__(self, servers: str) -> None:
        self.addresses = broker_config.addresses(servers)
        self.url = f"redpanda://{','.join(self.addresses)}"
        self.timeout_ms = int(broker_config.timeout_seconds() * 1000)
        self._producer = Producer(self, self.timeout_ms)

    @abstractmethod
    def categories(self) -> list[str]:
        """See ``Log.categories``."""

    @abstractmethod
    def create(self, category: str, partitions: int = DEFAULT_PARTITIONS) -> CategoryInfo:
        """See ``Log.create``."""

    def describe(self, category: str) -> CategoryInfo:
        """See ``Log.describe``. The identity is the topic's id ("" where the broker is too old to have one)."""
        return self.patiently(lambda: self.describe_once(category))

    def reader(self, category: str, start: Mapping[int, int], until: Mapping[int, int] | None = None) -> BrokerReader:
        """See ``Log.reader``."""
        describe, connect = (lambda: self.describe(category)), (lambda offsets: self.source(category, offsets))
        return BrokerReader(start, until or {}, describe, connect, self.timeout_ms)

    def append_batch(self, category: str, batch: pa.Table) -> tuple[int, ...]:
        """See ``Log.append_batch``. A record with neither key nor partition goes to partition 0."""
        table = as_appends(batch)
        info = self._described_or_created(category)
        taken = self._producer.append(category, table, info.partitions)
        if any(end < 0 for end in taken.values()):  # appended, but the broker no longer knew where
            return self.describe(category).ends
        return tuple(taken.get(partition, end) for partition, end in enumerate(info.ends))

    @abstractmethod
    def describe_once(self, category: str) -> CategoryInfo:
        """``describe`` without patience."""

    def settings(self, category: str) -> TopicSettings:
        """What the broker says of the topic. Raises ``UnknownCategory``, ``LogUnreachable``."""
        return self.patiently(lambda: self.settings_once(category))

    def records_without_producer_id(self, category: str, last: int) -> dict[int, int]:
        """See ``connectors.producers_seen``."""
        info = self.describe(category)
        return records_without_producer_id(
            info, lambda start: self.source(category, start), last, self.timeout_ms / 1000
        )

    @abstractmethod
    def settings_once(self, category: str) -> TopicSettings:
        """``settings`` without patience."""

    @abstractmethod
    def source(self, category: str, start: Mapping[int, int]) -> Source:
        """Batches of the partitions named in ``start``, from there. Raises ``LogUnreachable``, ``LogError``."""

    @abstractmethod
    def new_producer(self) -> tuple[int, int]:
        """See ``Transport.new_producer``."""

    @abstractmethod
    def produce(self, category: str, batches: Mapping[int, bytes]) -> dict[int, int | Exception]:
        """See ``Transport.produce``."""

    def patiently(self, ask: Callable[[], Answer]) -> Answer:
        """What ``ask`` returns; asked again while nobody answers, as an election or a restart may soon be over."""
        deadline = clock.monotonic() + self.timeout_ms / 1000
        while True:
            try:
                return ask()
            except LogUnreachable as error:
                if clock.monotonic() > deadline:
                    raise LogUnreachable(error.what, where=error.where, why=self._why(error), do=error.do) from error
            pause()

    def _why(self, error: LogUnreachable) -> str:
        return why_silent(self.addresses, f"it takes connections, and does not answer in time ({error.why})")

    def unknown(self, category: str) -> UnknownCategory:
        """The error for a category that is not there, with those that have a similar name."""
        there = self.categories()
        do = meant(category, there, f"check the name; categories there: {', '.join(there[:8]) or 'none'}")
        return UnknownCategory(f"there is no category {category} in the log", where=self.url, do=do)

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


def pause() -> None:
    """Give an election or a restart time before asking again."""
    threading.Event().wait(RETRY_SECONDS)
