"""Random records for random projections to fold, and whole random logs of them. Mostly good ones, so that rows come of them."""

from __future__ import annotations

import json
import random

from hypothesis import strategies as st
from memory_log import CONTROL, RECORD, REMOVED, Entry

MISSING = ""
TEXTS = ['"a"', '"b"', '"\\u00e9"', '"é"', '""', '"\\u0000"', '"\\ud83d\\ude00"', '"z\u2028"', '"ａ"']
LARGE = ["4611686018427387904", "9223372036854775807", "-9223372036854775808"]
GOOD = {
    "place": TEXTS,
    "number": [*map(str, range(-4, 5)), "-0", "9007199254740993", "-9007199254740993"],
    "size": [MISSING, "0.0", "-0.0", "-0", "0.1", "0.2", "0.3", "1e16", "-1e16", "5e-324", "3", "9007199254740993",
             "1.7e308", "-1.7e308", "12345678901234567890123"],
    "note": [MISSING, "null", *TEXTS],
    "good": [MISSING, "true", "false"],
    "day": [MISSING, '"2013-01-31"', '"1969-12-31"'],
    "at": [MISSING, '"2013-01-31T00:00:00Z"', '"1969-12-31T23:59:59.999999+01:00"', "86400000"],
}  # fmt: skip
BAD = {
    "place": ["5", MISSING, "null", '"a","place":"b"'],
    "number": ["null", MISSING, "1.0", "1e3", '"1"', '"x"', "true", "NaN", "9223372036854775808", "[1]"],
    "size": ["NaN", "Infinity", "-Infinity", "1e400", '"x"', "[]"],
    "note": ['"bad \xff"', "{}", "1", '"a","note":"b"'],
    "good": ["1", '"true"'],
    "day": ['"2013-02-30"', "5"],
    "at": ['"2013-01-31"', '"soon"', "1.5"],
}
TYPE_NAMES = ["Measured"] * 6 + ["Moved"] * 3 + ["Renamed"] * 2 + ["Unknown", "refold.progress"]
WHOLE_VALUES: list[bytes | None] = [
    None, b"", b"null", b"[]", b"{}", b"{", b'{"type":"Measured"}', b'{"type":1,"time":5}', b'{"type":"Moved","time":1}{}',
    b"\xff{}", b'{"type":"Moved","time":1}\n', b'{"type":"Moved",\n"time":2000,"data":{"place":"a"}}', b'{"type":"Mo\nved","time":1}',
    b'{"type":"Moved","time":true}', b'{"type":"Moved","time":1.5}', b'{"type":"Moved","time":1,"time":2}',
    b'{"type":"Moved","time":99999999999999999,"data":{"place":"a"}}', b'{"type":"Measured","time":3,"data":7}',
    b'{"type":"Measured","time":"1970-01-01T00:00:09.999999Z","data":{"place":"a","number":1,"size":-0.0}}',
    b'{"type":"Moved","time":"1970-01-01T02:00:30+02:00","data":{"place":"b"},"extra":{"a":[1,2,{"b":null}]}}',
    b'{"type":"Moved","time":"yesterday","data":{"place":"b"}}', b'\xef\xbb\xbf{"type":"Moved","time":1}',
    b'{"type":"Moved","time":50000,"data":null,"subject":"s"}', b'{"type":"Moved","time":4000,"subject":5,"data":{"place":"a"}}',
]  # fmt: skip
SUBJECTS = ['"s"', '"s"', '"t"', '"t"', '""', "null", MISSING, "7"]
FAR_AHEAD_MS = 32_472_144_000_000
"""In the year 2999: a dead letter, unless the record has no timestamp to compare with."""
OUT_OF_ORDER_MS = [-5000, 0, 0, 999, 1000, 3000, 20_000, 20_000, 60_000, 60_000, 86_400_000, FAR_AHEAD_MS]
PACE_MS = 2000
"""Event time moves on by so much from offset to offset, give or take a few seconds. Many events have the same time."""


def joined(members: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in members.items() if text != MISSING) + "}"


def value(kind: str, time: int, subject: str, members: dict[str, str]) -> bytes:
    text = joined({"type": json.dumps(kind), "time": str(time), "subject": subject, "data": joined(members)})
    return text.encode().replace("\xff".encode(), b"\xff")


def event(lots: random.Random, offset: int, *, large: bool) -> bytes:
    """Mostly a good one; a bad member hurts those who read it."""
    members = {name: lots.choice(texts) for name, texts in GOOD.items()}
    if lots.random() < 0.2:
        name = lots.choice(list(BAD))
        members[name] = lots.choice(BAD[name])
    if large and lots.random() < 0.3:
        members["number"] = lots.choice(LARGE)
    time = (offset // 2 + lots.randint(-2, 2)) * 2 * PACE_MS if lots.random() < 0.9 else lots.choice(OUT_OF_ORDER_MS)
    return value(lots.choice(TYPE_NAMES), time, lots.choice(SUBJECTS), members)


def entry(seed: int, offset: int, *, large: bool, gaps: str, leader_epoch: int = 0) -> Entry:
    """What is at an offset, drawn as one number, so that a log is found fast and shrinks by leaving records out.

    ``gaps`` is the kind of the offsets without a record. ``large``: sums may overflow.
    """
    lots = random.Random(seed)
    return Entry(
        value=event(lots, offset, large=large) if lots.random() < 0.9 else lots.choice(WHOLE_VALUES),
        timestamp=lots.choice([90_000, 90_000, 90_000, 90_000, 90_000, 0, -1]),
        key=lots.choice([b"s", b"t", b"", None, b"\xff"]),
        kind=gaps if lots.random() < 0.2 else RECORD,
        timestamp_type=lots.randint(0, 1),
        leader_epoch=leader_epoch,
    )


SEEDS = st.integers(0, 2**32)


@st.composite
def partitions(draw: st.DrawFn, *, large: bool = False) -> list[list[Entry]]:
    """A whole category, either transactional or compacted; one of its partitions may be empty, or all be short."""
    gaps = draw(st.sampled_from([CONTROL, REMOVED]))
    sizes = draw(st.lists(st.sampled_from([30, 30, 10, 3]), min_size=1, max_size=6))
    if draw(st.integers(0, 3)) == 3:
        sizes[draw(st.integers(0, len(sizes) - 1))] = 0
    return [draw(_partition(size, large=large, gaps=gaps)) for size in sizes]


@st.composite
def _partition(draw: st.DrawFn, size: int, *, large: bool, gaps: str) -> list[Entry]:
    """From some offset on there is another leader."""
    change = draw(st.integers(0, size))
    seeds = draw(st.lists(SEEDS, min_size=size, max_size=size))
    return [
        entry(seed, offset, large=large, gaps=gaps, leader_epoch=int(offset >= change))
        for offset, seed in enumerate(seeds)
    ]
