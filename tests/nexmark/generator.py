"""Nexmark's events, all at once: a pure function of how many, how fast and a seed.

    drawn = draw(Market(events=30_000, seed=1))      # drawn.person, drawn.auction, drawn.bid: Polars frames

Every fifty events are one person, three auctions and forty-six bids, as in the public generator, and so are the hot
auctions (half of the bids), hot bidders and hot sellers (three quarters each), the sellers and auctions that are named
a little before they appear, and auctions that end after a random time while others are being opened. Every fourth
stretch of auctions has no hot one, so that several are ahead with equally many bids. Only integers go in, so that no
machine's arithmetic can come out. Prices are spread like a log-normal law over a few hundred values, ``CLUMP`` events
share a millisecond, and auctions end when something may happen: ties and boundaries of all kinds are frequent.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

Ints = npt.NDArray[np.int64]

PERSON_SHARE, AUCTION_SHARE, ROUND = 1, 3, 50
FIRST_ID, HOT_EVERY, LEAD = 1000, 100, 10
HOT_BIDS, HOT_PEOPLE = 2, 4
"""One in so many is not hot."""
QUIET = 4
"""One in so many stretches of ``HOT_EVERY`` auctions has no hot one."""
OCTAVES, STEPS = 20, 16
"""Of prices, from 1.00 up, and how many prices to the octave."""
ACTIVE_PEOPLE, OPEN_AUCTIONS = 200, 100
CLUMP = 4
FIRST_CATEGORY, CATEGORY_COUNT = 10, 5

STATES = ["AZ", "CA", "ID", "OR", "WA", "WY"]
CITIES = [
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
    "Cheyenne",
]
FIRST_NAMES = ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"]
LAST_NAMES = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"]
CHANNELS = ["Google", "Facebook", "Baidu", "Apple"]


@dataclass(frozen=True, slots=True)
class Market:
    """``events`` of all kinds, ``per_second`` of them; midnight comes after half of them if ``start`` is left alone."""

    events: int = 30_000
    per_second: int = 100
    seed: int = 1

    def start_ms(self) -> int:
        midnight = int(dt.datetime(2015, 7, 16, tzinfo=dt.UTC).timestamp() * 1000)
        return (midnight - self.events * 500 // self.per_second) // 1000 * 1000

    def time_ms(self, number: Ints) -> Ints:
        return self.start_ms() + number // CLUMP * CLUMP * 1000 // self.per_second

    def tick_ms(self) -> int:
        """Between one clump of events and the next."""
        return max(CLUMP * 1000 // self.per_second, 1)

    def end_ms(self) -> int:
        """Beyond every time in the events, the last auction's end included."""
        return int(self.time_ms(np.array([self.events])).max()) + 2 * self.auction_ms() + 1

    def auction_ms(self) -> int:
        """Mean time that an auction lasts."""
        return OPEN_AUCTIONS * ROUND // AUCTION_SHARE * 1000 // self.per_second


class Drawn(NamedTuple):
    """``number`` (of the event among all), ``time_ms``, and the fields by their names in the event types."""

    person: pl.DataFrame
    auction: pl.DataFrame
    bid: pl.DataFrame


def draw(market: Market) -> Drawn:
    number = np.arange(market.events, dtype=np.int64)
    place = number % ROUND
    is_person, is_bid = place < PERSON_SHARE, place >= PERSON_SHARE + AUCTION_SHARE
    return Drawn(
        _persons(market, number[is_person]),
        _auctions(market, number[~is_person & ~is_bid]),
        _bids(market, number[is_bid]),
    )


def lots(seed: int, what: int, number: Ints) -> npt.NDArray[np.uint64]:
    """64 random bits for each number: SplitMix64's finalizer over seed, purpose and number."""
    z = number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64((seed * 1_000_003 + what) * 0xD1342543DE82EF95 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class _Lots:
    """Draws for these events; each is independent of all before it."""

    def __init__(self, market: Market, number: Ints) -> None:
        self._seed, self._number, self._drawn = market.seed, number, 0

    def bits(self) -> npt.NDArray[np.uint64]:
        self._drawn += 1
        return lots(self._seed, self._drawn, self._number)

    def below(self, bound: int | Ints) -> Ints:
        return ((self.bits() >> np.uint64(1)) % np.asarray(bound, np.uint64)).astype(np.int64)

    def one_of(self, texts: list[str]) -> pl.Series:
        return pl.Series(texts).gather(self.below(len(texts)))

    def prices(self) -> Ints:
        """Powers of two with an exponent that is bell-shaped: a sum of four draws."""
        exponent = sum((self.below(OCTAVES * STEPS // 4 + 1) for _ in range(4)), np.zeros(len(self._number), np.int64))
        return 100 * ((STEPS + exponent % STEPS) << (exponent // STEPS)) // STEPS

    def people(self) -> Ints:
        """The hot one of the moment, or one of those who registered last or are going to in a moment."""
        last = self._number // ROUND
        active = np.minimum(last + 1, ACTIVE_PEOPLE)
        other = last + 1 - active + self.below(active + LEAD)
        return FIRST_ID + np.where(self.below(HOT_PEOPLE) > 0, last // HOT_EVERY * HOT_EVERY, other)

    def extra(self) -> pl.Expr:
        return pl.format("{}", pl.Series(self.bits()))


def _opened(number: Ints) -> Ints:
    """How many auctions were opened before this event."""
    return number // ROUND * AUCTION_SHARE + np.clip(number % ROUND - PERSON_SHARE, 0, AUCTION_SHARE)


def _begin(market: Market, number: Ints) -> tuple[_Lots, dict[str, pl.Series]]:
    times = {"number": pl.Series(number), "time_ms": pl.Series(market.time_ms(number))}
    return _Lots(market, number), times


def _persons(market: Market, number: Ints) -> pl.DataFrame:
    drawn, columns = _begin(market, number)
    first, last = drawn.one_of(FIRST_NAMES), drawn.one_of(LAST_NAMES)
    return pl.DataFrame(columns).with_columns(
        person=pl.Series(FIRST_ID + number // ROUND),
        name=pl.format("{} {}", first, last),
        email=pl.format("{}@{}.com", first, last),
        city=drawn.one_of(CITIES),
        state=drawn.one_of(STATES),
        extra=drawn.extra(),
    )


def _auctions(market: Market, number: Ints) -> pl.DataFrame:
    drawn, columns = _begin(market, number)
    initial = drawn.prices()
    lasts_ms = market.tick_ms() * (1 + drawn.below(2 * market.auction_ms() // market.tick_ms()))
    return pl.DataFrame(columns).with_columns(
        auction=pl.Series(FIRST_ID + _opened(number)),
        item_name=pl.format("item {}", pl.Series(drawn.below(1000))),
        description=pl.format("description {}", pl.Series(drawn.bits())),
        initial_bid=pl.Series(initial),
        reserve=pl.Series(initial + drawn.prices()),
        expires_ms=pl.col("time_ms") + pl.Series(lasts_ms),
        seller=pl.Series(drawn.people()),
        category=pl.Series(FIRST_CATEGORY + drawn.below(CATEGORY_COUNT)),
        extra=drawn.extra(),
    )


def _bids(market: Market, number: Ints) -> pl.DataFrame:
    drawn, columns = _begin(market, number)
    last = _opened(number) - 1
    oldest = np.maximum(last - OPEN_AUCTIONS, 0)
    other = oldest + drawn.below(last - oldest + 1 + LEAD)
    hot = (drawn.below(HOT_BIDS) > 0) & (last // HOT_EVERY % QUIET != QUIET - 1)
    named, rare = drawn.one_of(CHANNELS), drawn.below(10_000)
    is_rare = pl.Series(drawn.below(2) > 0)
    return pl.DataFrame(columns).with_columns(
        auction=pl.Series(FIRST_ID + np.where(hot, last // HOT_EVERY * HOT_EVERY, other)),
        bidder=pl.Series(drawn.people()),
        price=pl.Series(drawn.prices()),
        channel=pl.when(is_rare).then(pl.format("channel-{}", pl.Series(rare))).otherwise(named),
        url=pl.format("https://auction.example/item?query={}", pl.Series(rare)),
        extra=drawn.extra(),
    )
