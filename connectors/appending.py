"""What every log does the same way: typed events become records, and a log is a context manager.

A log's own module gives ``append_batch`` and ``close``. Nothing here knows where records are kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

import pyarrow as pa

from connectors.log import APPENDS
from connectors.topic_settings import TopicSettings
from schemas.errors import UsageError

if TYPE_CHECKING:
    from schemas import Category, Event

_HEADERS = pa.field("headers", pa.binary())


class Appending(ABC):
    """Base of the logs: ``append`` in terms of ``append_batch``."""

    @abstractmethod
    def append_batch(self, category: str, batch: pa.Table) -> tuple[int, ...]: ...

    @abstractmethod
    def close(self) -> None: ...

    def settings(self, category: str) -> TopicSettings | None:
        """What the broker says of the topic; None where no broker keeps it."""
        return None

    def records_without_producer_id(self, category: str, last: int) -> dict[int, int]:
        """See ``connectors.producers_seen``; nothing where no broker keeps the category."""
        return {}

    def append(
        self, category: Category, events: Iterable[Event], *, keys: Sequence[str | None] | None = None
    ) -> dict[str, tuple[int, ...]]:
        """Append typed events; the record key is the subject unless ``keys`` says otherwise. Returns the new cut."""
        return {category.name: self.append_batch(category.name, category.encode(events, keys))}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def as_appends(batch: pa.Table) -> pa.Table:
    """``batch`` with exactly the columns of ``APPENDS`` and ``headers`` (binary; all null when it has none).

    Raises ``UsageError`` when a column is missing or cannot be cast.
    """
    columns = {name: batch[name] for name in batch.column_names}
    columns.setdefault("headers", pa.nulls(len(batch), pa.binary()))
    wanted = pa.schema([*APPENDS, _HEADERS])
    try:
        return pa.table({name: columns[name] for name in wanted.names}).cast(wanted)
    except (KeyError, ValueError, pa.ArrowException) as error:
        msg = f"records to append do not have the columns of APPENDS: {error}"
        raise UsageError(msg, do="give key, value (binary), timestamp (int64), partition (int32)") from error
