"""Appending events from JSON lines to a category, in batches, with nothing left out before a line that is wrong."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from connectors.log import Log
from flows.event_lines import events_of
from schemas import Category, Event
from schemas.errors import UsageError

BATCH = 1_000
Told = Callable[[int], None]
"""Called with how many events were appended so far."""


@dataclass(frozen=True, slots=True)
class Fed:
    """``cut``: next offsets after the last of them; None when there was nothing to append. ``until``: the greatest event time."""

    events: int
    cut: dict[str, tuple[int, ...]] | None
    until: dt.datetime | None


def feed(
    log: Log,
    category: Category,
    lines: Iterable[str],
    *,
    key: str | None = None,
    told: Told | None = None,
    stop: threading.Event | None = None,
) -> Fed:
    """Append the events of JSON lines (see ``flows.event_lines``), keyed by subject or by a field.

    What comes before a wrong line is appended. Raises ``UsageError`` that names the line and the field, and what appending raises.
    """
    feeder = _Feeder(log, category, key, told)
    try:
        for _, event in events_of(category, lines):
            feeder.take(event)
            if stop is not None and stop.is_set():
                break
    except UsageError as error:
        feeder.append()
        why = f"what came before it was appended ({feeder.events:,} events)"
        raise UsageError(
            error.what, where=error.where, why="; ".join(filter(None, (error.why, why))), do=error.do
        ) from error
    feeder.append()
    return Fed(feeder.events, feeder.cut, feeder.until)


def mark_progress(log: Log, category: Category, until: dt.datetime) -> dict[str, tuple[int, ...]]:
    """A progress marker in every partition: nothing that happened before ``until`` will be appended. Returns the new cut."""
    partitions = log.describe(category.name).partitions
    return {category.name: log.append_batch(category.name, category.progress(until, partitions))}


class _Feeder:
    def __init__(self, log: Log, category: Category, key: str | None, told: Told | None) -> None:
        self._log, self._category, self._key, self._told = log, category, key, told
        self._waiting: list[Event] = []
        self.events = 0
        self.cut: dict[str, tuple[int, ...]] | None = None
        self.until: dt.datetime | None = None

    def take(self, event: Event) -> None:
        self._waiting.append(event)
        if len(self._waiting) == BATCH:
            self.append()

    def append(self) -> None:
        if not self._waiting:
            return
        keys = None if self._key is None else [_key_of(event, self._key) for event in self._waiting]
        self.cut = self._log.append(self._category, self._waiting, keys=keys)
        self.events += len(self._waiting)
        times = [event.time for event in self._waiting]
        self.until = max(times if self.until is None else [self.until, *times])
        self._waiting = []
        if self._told:
            self._told(self.events)


def _key_of(event: Event, name: str) -> str | None:
    value = getattr(event, name, None)
    return None if value is None else str(value)
