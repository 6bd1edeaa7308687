"""The scanner of JSON against the exact parser: what it accepts must be what the parser gives, to the bit.

    python -m tests.fuzz_scanner --inputs 10000000 --seed 1

Inputs are plausible records, broken in small ways: bytes changed, cut, repeated and spliced, numbers at their limits, names
twice, white space, escapes, UTF-8 right and wrong, other orders and other types. They lie between two pages that nobody may
touch. Of what the scanner leaves to the parser nothing needs to be checked: it only costs time.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))

from batch_fuzz.guarded import Guarded

from schemas import scan_kernels
from schemas.dictionary import plain
from schemas.event import TIMESTAMP
from schemas.json_columns import read_exactly
from schemas.scanner import Scanner

WANTED = {
    ("type",): pa.string(),
    ("time",): TIMESTAMP,
    ("data", "n"): pa.int64(),
    ("data", "x"): pa.float64(),
    ("data", "text_with_a_long_name"): pa.string(),
    ("data", "b"): pa.bool_(),
    ("data", "d"): pa.date32(),
    ("data", "deep", "n"): pa.int64(),
    ("é",): pa.string(),
}
BATCH = 2000
ALONE = 20
"""Values of a batch that are scanned by themselves as well."""
NUMBERS = [
    "0",
    "-0",
    "1",
    "-1",
    "01",
    "1.",
    ".5",
    "-",
    "--1",
    "+1",
    "1e3",
    "1E-3",
    "1.5e3",
    "0.0",
    "-0.0",
    "0.1",
    "380.15000000000003",
    "9007199254740993",
    "123456789012345678",
    "1234567890123456789",
    "9223372036854775807",
    "-9223372036854775808",
    "0.30000000000000004",
    "0.000000000000000001",
    "999999999999999999",
    "99999999999999.9999",
    "4503599627370497.5",
    "4503599627370496.5",
    "1.7976931348623157e308",
    "NaN",
    "Infinity",
]
TEXTS = [
    '""',
    '"a"',
    '"é"',
    '"€uro"',
    '"😀"',
    '"a\\nb"',
    '"\\u00e9"',
    '"\\ud83d"',
    '"\\x"',
    '"tab\t"',
    '"null"',
    '"}"',
    '"{"',
    '","',
    '"\x7f"',
    '"0123456789012345678901234567890"',
    '"01234567890123456789012345678901"',
    '"a longer text than one block of bytes, with an é behind it"',
    '"\\"',
    '"\\\\"',
]
TIMES = [
    '"2013-01-01T00:00:00Z"',
    '"2013-01-01T00:00:00.123Z"',
    '"2013-01-01T00:00:00.1234567Z"',
    '"2016-02-29T23:59:59Z"',
    '"2015-02-29T23:59:59Z"',
    '"2013-01-01T00:00:60Z"',
    '"2013-01-01t00:00:00z"',
    '"2013-01-01 00:00:00Z"',
    '"2013-01-01T00:00:00+01:00"',
    '"2013-01-01T00:00:00"',
    '"0001-01-01T00:00:00Z"',
    '"0000-01-01T00:00:00Z"',
    '"9999-12-31T23:59:59.999999Z"',
    '"2013-01-01T24:00:00Z"',
    '"2013-01-01T00:00:00.Z"',
    "1356998400000",
    "-62135596800000",
    "-62135596800001",
    "253402300799999",
    "253402300800000",
    "1.5",
    '"2013-1-01T00:00:00Z"',
    '"2013-00-10T00:00:00Z"',
]
DATES = ['"2013-02-03"', '"2013-02-29"', '"2013-2-3"', '""', "20130203"]
OTHERS = [
    "null",
    "true",
    "false",
    "nul",
    "truefalse",
    "[]",
    "[1,2]",
    '[{"n":1},[[]]]',
    "{}",
    '{"n":1}',
    '{"n":{"n":2}}',
    "[1,]",
    "[1 2]",
    '{"a":1,}',
    '{"a"}',
]
NOISE = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b"\n",
    b" ",
    b",",
    b":",
    b"\\",
    b"\x00",
    b"\xff",
    b"\xc3",
    b"\xa9",
    b"\xed\xa0\x80",
    b"1",
    b"-",
    b".",
    b"e",
    b"null",
    b"\t",
    b"\x1f",
]


GOOD = {
    "n": ["0", "1", "-7", "1356998400000", "123456789012345678", "-999999999999999999", "null"],
    "x": [
        "0",
        "0.0",
        "-1",
        "0.1",
        "232.37",
        "380.15000000000003",
        "0.30000000000000004",
        "123456789012345678",
        "4503599627370497.5",
        "9007199254740993",
        "99999999999999.9999",
        "0.00000000000000001",
        "null",
    ],
    "text": [
        '""',
        '"a"',
        '"é"',
        '"€uro"',
        '"😀"',
        '"}"',
        '","',
        '"\x7f"',
        '"0123456789012345678901234567890"',
        '"01234567890123456789012345678901"',
        '"a longer text than one block of bytes, with an é behind it"',
        "null",
    ],
    "time": [
        '"2013-01-01T00:00:00Z"',
        '"2013-01-01T00:00:00.123Z"',
        '"2016-02-29T23:59:59.1234567Z"',
        '"0001-01-01T00:00:00Z"',
        '"9999-12-31T23:59:59.999999Z"',
        "1356998400000",
        "-62135596800000",
        "253402300799999",
    ],
    "date": ['"2013-02-03"', '"2016-02-29"', '"2013-02-29"', "null"],
    "bool": ["true", "false", "null"],
    "other": [
        "null",
        "true",
        "[]",
        "[1,2]",
        '[{"n":1},[[]]]',
        "{}",
        '{"n":{"n":2}}',
        "1.25",
        '"a\\"b"',
        '"\\\\"',
        "-0",
        '"é"',
    ],
}
"""Values that the scanner takes, most of them."""


def member(lots: random.Random, kind: str) -> str:
    if lots.random() < 0.97:
        return lots.choice(GOOD[kind])
    return lots.choice([*NUMBERS, *TEXTS, *TIMES, *DATES, *OTHERS])


def number(lots: random.Random) -> str:
    """A decimal of any length that may be taken, most of them long."""
    digits = str(lots.getrandbits(lots.randint(1, 62)))[:18]
    point = lots.randint(0, len(digits))
    return (digits[:point].lstrip("0") or "0") + ("." + digits[point:] if point < len(digits) else "")


def record(lots: random.Random) -> bytes:
    """Mostly a good one, of varying shape."""
    data = {
        '"n"': member(lots, "n"),
        '"x"': number(lots) if lots.random() < 0.5 else member(lots, "x"),
        '"text_with_a_long_name"': member(lots, "text"),
        '"b"': member(lots, "bool"),
        '"d"': member(lots, "date"),
        '"deep"': f'{{"n":{member(lots, "n")}}}' if lots.random() < 0.97 else member(lots, "other"),
        '"other"': member(lots, "other"),
        '"text_with_a_long_nam3"': member(lots, "text"),
    }
    top = {
        '"specversion"': '"1.0"',
        '"type"': member(lots, "text"),
        '"time"': member(lots, "time"),
        '"data"': joined(lots, data) if lots.random() < 0.97 else member(lots, "other"),
        '"more"': member(lots, "other"),
    }
    if lots.random() < 0.03:
        top['"é"'] = member(lots, "text")
    return joined(lots, top).encode("utf-8", "surrogatepass")


def joined(lots: random.Random, members: dict[str, str]) -> str:
    chosen = [pair for pair in members.items() if lots.random() < 0.8]
    if lots.random() < 0.1:
        lots.shuffle(chosen)
    if chosen and lots.random() < 0.03:
        chosen.append(lots.choice(chosen))
    colon, comma = lots.choice([(":", ",")] * 8 + [(": ", ", "), (" :\n", " ,\r\n\t")])
    return "{" + comma.join(name + colon + value for name, value in chosen) + "}"


def broken(lots: random.Random, value: bytes) -> bytes:
    """With up to three small changes."""
    if lots.random() < 0.6:
        return value
    changed = bytearray(value)
    for _ in range(lots.randint(1, 3)):
        at, size = lots.randrange(len(changed) + 1), lots.choice([0, 0, 1, 1, 2, 8])
        piece = lots.choice(NOISE) if lots.random() < 0.7 else bytes(changed[lots.randrange(len(changed) + 1) :][:8])
        changed[at : at + size] = piece
    return bytes(changed)


@dataclass
class Outcome:
    inputs: int = 0
    accepted: int = 0


def check(values: list[bytes], memory: Guarded, lots: random.Random) -> int:
    """How many of the values the scanner accepted; raises ``AssertionError`` when one is not what the parser says."""
    ends = np.cumsum([0, *map(len, values)])
    text = b"".join(values) + bytes(scan_kernels.BEHIND)
    low = lots.random() < 0.5
    data = np.frombuffer(memory.place(text, low=low), np.uint8)
    scanner = Scanner.of(WANTED)
    assert scanner is not None
    found = scanner.scan(data, ends)
    for row in lots.sample(range(len(values)), min(ALONE, len(values))):
        alone = scanner.scan(np.frombuffer(values[row], np.uint8), np.array([0, len(values[row])]))
        assert alone.accepted[0] == found.accepted[row], ("its neighbours decide whether it is accepted", values[row])
    rows = np.flatnonzero(found.accepted)
    kept = pa.array([values[row] for row in rows.tolist()], pa.binary())
    exact = read_exactly(kept, WANTED)
    assert not exact.not_object.any(), kept.filter(pa.array(exact.not_object))[0]
    for path in WANTED:
        ours, theirs = plain(found.columns[path]).take(pa.array(rows)), plain(exact.columns[path])
        invalid = found.invalid.get(path, np.zeros(len(values), np.bool_))[rows]
        assert_same(path, bits(ours), bits(theirs), kept)
        assert np.array_equal(invalid, exact.invalid[path]), (
            path,
            kept.filter(pa.array(invalid != exact.invalid[path]))[0],
        )
    return len(rows)


def bits(column: pa.Array) -> pa.Array:
    """With floats as their 64 bits: -0.0 is not 0.0."""
    if column.type != pa.float64():
        return column
    return pa.array(np.asarray(column.fill_null(0.5)).view(np.int64), mask=np.asarray(column.is_null()))


def assert_same(path: object, ours: pa.Array, theirs: pa.Array, values: pa.Array) -> None:
    if not ours.equals(theirs):
        pairs = zip(ours.to_pylist(), theirs.to_pylist(), values.to_pylist(), strict=True)
        raise AssertionError((path, next(found for found in pairs if found[0] != found[1])))


def batches(lots: random.Random, inputs: int) -> Iterator[list[bytes]]:
    """Batches of like shapes and of all kinds."""
    while inputs > 0:
        count = min(BATCH, inputs)
        few = [record(lots) for _ in range(lots.choice([1, 5, 50]))]
        mixed = lots.random() < 0.5
        yield [broken(lots, record(lots) if mixed else lots.choice(few)) for _ in range(count)]
        inputs -= count


def fuzz(inputs: int, seed: int) -> Outcome:
    lots, outcome = random.Random(seed), Outcome()
    with Guarded(8 << 20) as memory:
        for values in batches(lots, inputs):
            try:
                outcome.accepted += check(values, memory, lots)
            except AssertionError as error:
                error.add_note(f"seed {seed}, among inputs {outcome.inputs:,} to {outcome.inputs + len(values):,}")
                raise
            outcome.inputs += len(values)
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    done = fuzz(asked.inputs, asked.seed)
    print(json.dumps({"inputs": done.inputs, "accepted": done.accepted, "differences": 0, "seed": asked.seed}))


if __name__ == "__main__":
    main()
