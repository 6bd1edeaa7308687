"""The events of Nexmark's auction house, and the three categories that hold them.

Nexmark is a public benchmark of stream processors (github.com/nexmark/nexmark): people register, open auctions and bid.
Its ``dateTime`` is the time of the event here, and its ``id`` is called after the entity, since an event has an id already.
Prices are integers, times have milliseconds.
"""

from __future__ import annotations

import datetime as dt

from schemas import Category, Event


class PersonRegistered(Event):
    person: int
    name: str
    email: str
    city: str
    state: str
    extra: str


class AuctionOpened(Event):
    auction: int
    item_name: str
    description: str
    initial_bid: int
    reserve: int
    expires: dt.datetime
    seller: int
    category: int
    extra: str


class BidPlaced(Event):
    auction: int
    bidder: int
    price: int
    channel: str
    url: str
    extra: str


persons = Category("persons", events=[PersonRegistered])
auctions = Category("auctions", events=[AuctionOpened])
bids = Category("bids", events=[BidPlaced])

CATEGORIES = (persons, auctions, bids)
