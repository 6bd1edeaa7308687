"""Reading with regard for the neighbours: at most at a rate, and no faster than lets a fetch take the time that it takes unhurried.

``Rate`` counts what was read and says how long to wait before more. ``Governor`` says which share of the time may be spent reading and
folding: it learns the latency of an unhurried fetch, backs off when fetches take much longer than that, and comes back slowly. Both are
functions of what they are told and of the time that they are given: they read no clock. They decide when something is read, never what.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from connectors import clock
from connectors.log import Reader, Slice
from schemas.errors import UsageError

BURST_S = 0.1
"""So much of a second's worth may be read at once."""


@dataclass
class Rate:
    """At most ``per_s`` units a second, over any time but for one burst. Shared by all readers of a job."""

    per_s: float
    unit: str = "events"

    def __post_init__(self) -> None:
        self._free_at: float | None = None  # when all that was taken is paid for
        self._lock = threading.Lock()

    def wait_s(self, now: float) -> float:
        """How long until more may be read."""
        with self._lock:
            return max((self._free_at or now) - now - BURST_S, 0.0)

    def took(self, units: int, now: float) -> None:
        with self._lock:
            self._free_at = max(self._free_at or now, now) + units / self.per_s


_PREFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def parse_rate(text: str) -> Rate:
    """``200000/s``, ``200k/s``: events a second; ``20MB/s``, ``8MiB/s``: bytes a second. Raises ``UsageError``."""
    found = re.fullmatch(r"\s*(\d[\d,_]*(?:\.\d+)?)\s*(|[kKMG]|[KMG]i)(B?)(?:/s)?\s*", text)
    amount = float(re.sub("[,_]", "", found[1])) * _PREFIXES[found[2]] if found else 0.0
    if found is None or amount <= 0:
        raise UsageError(f"no rate: {text!r}", do="write events a second (200000/s, 200k/s) or bytes a second (20MB/s)")
    return Rate(amount, "bytes" if found[3] else "events")


class Governor:
    """``share`` of the time for work, the rest for pauses. Latencies are in seconds."""

    FACTOR = 1.5
    """A fetch may take so many times what an unhurried one takes."""
    FLOOR_S = 0.0005
    """What a fetch may take more in any case: timers and schedulers are not finer."""
    LEARNED_FROM = 4
    """Unhurried fetches that a latency is learned from."""
    WINDOW = 4
    """Fetches that are looked at together: the middle one decides, so that a single slow one does not."""
    AGAIN_S = 10.0
    """How long what was learned holds: a broker may become slower, or faster, for good."""
    CALM, LEAST = 0.25, 0.02
    """The share while it learns, and the least of all."""
    DOWN, UP = 0.6, 0.1

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unhurried: float | None = None
        self._latest: float | None = None
        self._learning: list[float] = []
        self._recent: deque[float] = deque(maxlen=self.WINDOW)
        self._share = self._before = 1.0  # until fetches tell something: an archive has none
        self._learned_at = 0.0

    @property
    def share(self) -> float:
        """Between ``LEAST`` and 1."""
        return self._share

    @property
    def unhurried_s(self) -> float | None:
        return self._unhurried

    @property
    def latency_s(self) -> float | None:
        """The middle one of those that were last looked at together."""
        return self._latest

    def note(self, latencies_s: Iterable[float], now: float) -> None:
        """Fetches that were answered with records."""
        with self._lock:
            for latency in latencies_s:
                self._note(latency, now)

    def _note(self, latency: float, now: float) -> None:
        if self._is_learning(now):
            self._learning.append(latency)
            if len(self._learning) >= self.LEARNED_FROM:
                self._learn(now)
            return
        self._recent.append(latency)
        if len(self._recent) == self.WINDOW:
            self._decide()

    def _is_learning(self, now: float) -> bool:
        if self._unhurried is not None and not self._learning and now - self._learned_at < self.AGAIN_S:
            return False
        if not self._learning:
            self._before, self._share = self._share, min(self._share, self.CALM)
        return True

    def _learn(self, now: float) -> None:
        self._unhurried = _middle(self._learning)
        self._learning.clear()
        self._recent.clear()
        self._share, self._learned_at = self._before, now

    def _decide(self) -> None:
        assert self._unhurried is not None
        middle = self._latest = _middle(self._recent)
        self._unhurried = min(self._unhurried, middle)  # it was less unhurried then than it seemed
        if middle > self.FACTOR * self._unhurried + self.FLOOR_S:
            self._share = max(self._share * self.DOWN, self.LEAST)
        else:
            self._share = min(self._share + self.UP, 1.0)
        self._recent.clear()


def _middle(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


@dataclass
class Throttle:
    """What holds the readers of a job back; each part may be absent. ``stop``: ends every wait."""

    stop: threading.Event
    rate: Rate | None = None
    governor: Governor | None = None

    @property
    def words(self) -> str:
        """What it does, for people."""
        if self.governor is not None and self.governor.unhurried_s is not None:
            latency = self.governor.latency_s or self.governor.unhurried_s
            return (
                f"governed: fetch {latency * 1000:.1f} ms (unhurried {self.governor.unhurried_s * 1000:.1f} ms), "
                f"at {self.governor.share:.0%} of full speed"
            )
        return f"at most {self.rate.per_s:,.0f} {self.rate.unit}/s" if self.rate is not None else ""

    def over(self, reader: Reader) -> Reader:
        """A reader that is held back."""
        return ThrottledReader(reader, self) if self.rate or self.governor else reader


class ThrottledReader:
    """Implements ``connectors.log.Reader``. Never waits longer at a time than its caller would have it wait for news."""

    def __init__(self, reader: Reader, throttle: Throttle) -> None:
        self._reader, self._throttle = reader, throttle
        self._began: float | None = None  # when the work on what was read last began
        self._rest_until = 0.0

    def read(self, timeout_ms: int = 0) -> list[Slice]:
        """See ``Reader.read``; nothing while it is too soon."""
        now = clock.monotonic()
        self._rest_after_work(now)
        rate = self._throttle.rate
        wait = max(self._rest_until - now, rate.wait_s(now) if rate else 0.0)
        if wait > 0:
            self._throttle.stop.wait(min(wait, timeout_ms / 1000))
            if wait * 1000 > timeout_ms:
                return []
        self._began = clock.monotonic()
        slices = self._reader.read(timeout_ms)
        if not slices:
            self._began = None
        if rate and slices:
            rate.took(sum(_units(found, rate.unit) for found in slices), clock.monotonic())
        return slices

    def positions(self) -> dict[int, int]:
        """See ``Reader.positions``."""
        return self._reader.positions()

    def close(self) -> None:
        self._reader.close()

    def _rest_after_work(self, now: float) -> None:
        governor = self._throttle.governor
        took = getattr(self._reader, "latencies", None)
        if governor is None or took is None:
            return
        governor.note(took(), now)
        if self._began is not None:
            self._rest_until = now + (now - self._began) * (1.0 / governor.share - 1.0)
            self._began = None


def _units(found: Slice, unit: str) -> int:
    return found.records.nbytes if unit == "bytes" else found.next_offset - found.first_offset
