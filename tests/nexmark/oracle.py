"""Nexmark's queries in SQL, run by DuckDB over the drawn events: what the views must say.

    with Oracle(drawn) as oracle:
        q5(oracle)                          # a Polars frame, rows in order of all its columns

The texts follow the public ones (Flink SQL, github.com/nexmark/nexmark) as closely as DuckDB allows. What differs:

- ``tumble`` and ``hop`` are macros below, with sizes in seconds; a session is found with ``lag``. Two bids of a session are less
  than the gap apart, as half-open windows have it (the public text leaves it to the engine).
- Output columns have the names of the fields in ``market``; the public ``dateTime`` of a row is ``event_time``.
- q1: the decimal price is given in thousandths, as an exact integer.
- q4 and q17: an average is a float. Flink's average of integers is an integer, cut off.
- q12: windows of event time. The public text takes the clock of the machine, which no two runs share.
- Ties that the public texts leave open fall to the event that happened earlier, and of one millisecond to the one generated earlier:
  q9 (same price and time), q19 (same price). In q18 (same time) the one generated later is the last.

Nothing of refold is used here.
"""

from __future__ import annotations

from typing import Self

import duckdb
import polars as pl
from nexmark.generator import Drawn

TABLES = """
CREATE TABLE person AS
    SELECT number, person AS id, name, email, city, state, make_timestamp_ms(time_ms) AS dateTime, extra FROM persons;
CREATE TABLE auction AS
    SELECT number, auction AS id, item_name, description, initial_bid, reserve, make_timestamp_ms(time_ms) AS dateTime,
           make_timestamp_ms(expires_ms) AS expires, seller, category, extra
    FROM auctions;
CREATE TABLE bid AS
    SELECT number, auction, bidder, price, channel, url, make_timestamp_ms(time_ms) AS dateTime, extra FROM bids;

CREATE MACRO tumble(stream, seconds) AS TABLE
    SELECT *, time_bucket(to_seconds(seconds), dateTime, TIMESTAMP '1970-01-01') AS window_start,
           window_start + to_seconds(seconds) AS window_end
    FROM query_table(stream);
CREATE MACRO hop(stream, slide, seconds) AS TABLE
    SELECT stream.*, unnest(range(last - to_seconds(seconds - slide), last + to_seconds(slide), to_seconds(slide))) AS window_start,
           window_start + to_seconds(seconds) AS window_end
    FROM (SELECT *, time_bucket(to_seconds(slide), dateTime, TIMESTAMP '1970-01-01') AS last FROM query_table(stream)) stream;
"""


class Oracle:
    """The three streams as tables."""

    def __init__(self, drawn: Drawn) -> None:
        self._connection = duckdb.connect()
        self._connection.execute("SET threads = 1")
        for name, frame in zip(("persons", "auctions", "bids"), drawn, strict=True):
            self._connection.register(name, frame.to_arrow())
        self._connection.execute(TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def rows(self, query: str) -> pl.DataFrame:
        found = self._connection.sql(f"FROM ({query}) ORDER BY ALL").pl()
        times = [name for name, kind in found.schema.items() if isinstance(kind, pl.Datetime)]
        return found.with_columns(pl.col(times).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))


def q1(oracle: Oracle) -> pl.DataFrame:
    """Currency conversion."""
    return oracle.rows("""
        SELECT auction, bidder, CAST(price * 1000 AS BIGINT) AS price_thousandths, event_time, extra
        FROM (SELECT auction, bidder, 0.908 * price AS price, dateTime AS event_time, extra FROM bid)
    """)


def q2(oracle: Oracle) -> pl.DataFrame:
    """Selection."""
    return oracle.rows("SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0")


def q3(oracle: Oracle) -> pl.DataFrame:
    """Local item suggestion: who sells in OR, ID or CA in category 10, whenever they registered."""
    return oracle.rows("""
        SELECT P.name, P.city, P.state, A.id AS auction
        FROM auction AS A INNER JOIN person AS P ON A.seller = P.id
        WHERE A.category = 10 AND (P.state = 'OR' OR P.state = 'ID' OR P.state = 'CA')
    """)


def q4(oracle: Oracle) -> pl.DataFrame:
    """Average of the winning prices by category."""
    return oracle.rows("""
        SELECT Q.category, AVG(Q.final) AS price
        FROM (
            SELECT MAX(B.price) AS final, A.category
            FROM auction A, bid B
            WHERE A.id = B.auction AND B.dateTime BETWEEN A.dateTime AND A.expires
            GROUP BY A.id, A.category
        ) Q
        GROUP BY Q.category
    """)


def q5(oracle: Oracle) -> pl.DataFrame:
    """Hot items: the auctions with the most bids in the last ten seconds, every two seconds."""
    return oracle.rows("""
        SELECT AuctionBids.starttime AS window_start, AuctionBids.auction, AuctionBids.num
        FROM (
            SELECT auction, count(*) AS num, window_start AS starttime, window_end AS endtime
            FROM hop('bid', 2, 10)
            GROUP BY auction, window_start, window_end
        ) AS AuctionBids
        JOIN (
            SELECT max(CountBids.num) AS maxn, CountBids.starttime, CountBids.endtime
            FROM (
                SELECT count(*) AS num, window_start AS starttime, window_end AS endtime
                FROM hop('bid', 2, 10)
                GROUP BY auction, window_start, window_end
            ) AS CountBids
            GROUP BY CountBids.starttime, CountBids.endtime
        ) AS MaxBids
        ON AuctionBids.starttime = MaxBids.starttime AND AuctionBids.endtime = MaxBids.endtime
           AND AuctionBids.num >= MaxBids.maxn
    """)


def q7(oracle: Oracle) -> pl.DataFrame:
    """Highest bids of each ten seconds."""
    return oracle.rows("""
        SELECT B.auction, B.bidder, B.price, B.dateTime AS event_time, B.extra
        FROM bid B
        JOIN (
            SELECT MAX(price) AS maxprice, window_end AS dateTime
            FROM tumble('bid', 10)
            GROUP BY window_start, window_end
        ) B1
        ON B.price = B1.maxprice
        WHERE B.dateTime BETWEEN B1.dateTime - INTERVAL '10' SECOND AND B1.dateTime
    """)


def q8(oracle: Oracle) -> pl.DataFrame:
    """Monitor new users: who registered and opened an auction in the same ten seconds."""
    return oracle.rows("""
        SELECT P.starttime AS window_start, P.id AS person, P.name
        FROM (
            SELECT id, name, window_start AS starttime, window_end AS endtime
            FROM tumble('person', 10)
            GROUP BY id, name, window_start, window_end
        ) P
        JOIN (
            SELECT seller, window_start AS starttime, window_end AS endtime
            FROM tumble('auction', 10)
            GROUP BY seller, window_start, window_end
        ) A
        ON P.id = A.seller AND P.starttime = A.starttime AND P.endtime = A.endtime
    """)


def q9(oracle: Oracle) -> pl.DataFrame:
    """Winning bids: the highest bid while an auction was open, of equal ones the earliest."""
    return oracle.rows("""
        SELECT id AS auction, item_name, description, initial_bid, reserve, dateTime AS opened, expires, seller, category, extra,
               bidder, price, bid_dateTime AS bid_time, bid_extra
        FROM (
            SELECT A.*, B.auction, B.bidder, B.price, B.dateTime AS bid_dateTime, B.extra AS bid_extra,
                   ROW_NUMBER() OVER (PARTITION BY A.id ORDER BY B.price DESC, B.dateTime ASC, B.number ASC) AS rownum
            FROM auction A, bid B
            WHERE A.id = B.auction AND B.dateTime BETWEEN A.dateTime AND A.expires
        )
        WHERE rownum <= 1
    """)


def q11(oracle: Oracle) -> pl.DataFrame:
    """User sessions: bids of a user that are less than ten seconds apart; a session ends ten seconds after its last."""
    return oracle.rows("""
        SELECT min(dateTime) AS window_start, max(dateTime) + INTERVAL '10' SECOND AS window_end, bidder, count(*) AS bid_count
        FROM (
            SELECT *, count(*) FILTER (is_first) OVER (PARTITION BY bidder ORDER BY dateTime) AS session
            FROM (
                SELECT bidder, dateTime,
                       dateTime >= lag(dateTime) OVER (PARTITION BY bidder ORDER BY dateTime) + INTERVAL '10' SECOND AS is_first
                FROM bid
            )
        )
        GROUP BY bidder, session
    """)


def q12(oracle: Oracle) -> pl.DataFrame:
    """Bids of a user in each ten seconds."""
    return oracle.rows("""
        SELECT window_start, window_end, bidder, count(*) AS bid_count
        FROM tumble('bid', 10)
        GROUP BY bidder, window_start, window_end
    """)


def q17(oracle: Oracle) -> pl.DataFrame:
    """Auction statistics: bids on an auction on a day, and their prices."""
    return oracle.rows("""
        SELECT
            auction,
            strftime(dateTime, '%Y-%m-%d') AS day,
            count(*) AS total_bids,
            count(*) FILTER (WHERE price < 10000) AS rank1_bids,
            count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
            count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
            min(price) AS min_price,
            max(price) AS max_price,
            avg(price) AS avg_price,
            CAST(sum(price) AS BIGINT) AS sum_price
        FROM bid
        GROUP BY auction, strftime(dateTime, '%Y-%m-%d')
    """)


def q18(oracle: Oracle) -> pl.DataFrame:
    """The last bid of each bidder on each auction."""
    return oracle.rows("""
        SELECT auction, bidder, price, channel, url, dateTime AS event_time, extra
        FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY bidder, auction ORDER BY dateTime DESC, number DESC) AS rank_number
            FROM bid
        )
        WHERE rank_number <= 1
    """)


def q19(oracle: Oracle) -> pl.DataFrame:
    """The ten highest bids on an auction."""
    return oracle.rows("""
        SELECT auction, rank_number, bidder, price, channel, url, dateTime AS event_time, extra
        FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price DESC, dateTime ASC, number ASC) AS rank_number
            FROM bid
        )
        WHERE rank_number <= 10
    """)


def q20(oracle: Oracle) -> pl.DataFrame:
    """Bids with their auction, where that is of category 10, whichever was first."""
    return oracle.rows("""
        SELECT auction, bidder, price, channel, url, B.dateTime AS event_time, B.extra AS extra, item_name, description, initial_bid,
               reserve, A.dateTime AS opened, expires, seller, category, A.extra AS auction_extra
        FROM bid AS B INNER JOIN auction AS A ON B.auction = A.id
        WHERE A.category = 10
    """)


QUERIES = {query.__name__: query for query in (q1, q2, q3, q4, q5, q7, q8, q9, q11, q12, q17, q18, q19, q20)}
