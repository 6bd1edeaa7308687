"""Damaged batches, made of good ones: input number N of a seed is always the same bytes.

Damage is done where it can be met: in the bytes of the records (then compressed again), in one record's fields (then
encoded again, so that the result is odd but whole), in compressed bytes, in the header, in the frames of a fetch. The
checksum is made to fit afterwards, mostly, or else nothing but the checksum would be tested.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from batch_fuzz.reference import PACKERS, number, part, record_bodies, sealed, wire_headers
from batch_fuzz.unpacking import unpacked

from connectors.record_batch import FRAME, HEADER, read_header, split

NUMBERS = sorted(
    {
        sign * (1 << bits) + near
        for bits in (0, 6, 7, 8, 13, 15, 16, 31, 32, 63)
        for sign in (1, -1)
        for near in (-1, 0, 1)
    }
)
"""Where numbers change their length or overflow."""

FIELDS = {"base_offset": "q", "epoch": "i", "magic": "b", "attributes": "h", "last_delta": "i", "base_timestamp": "q"}
FIELDS |= {"max_timestamp": "q", "producer_id": "q", "producer_epoch": "h", "sequence": "i", "count": "i"}
BITS = {"b": 8, "h": 16, "i": 32, "q": 64}

Record = tuple[int, int, int, bytes | None, bytes | None, list[tuple[bytes, bytes | None]]]
"""Attributes, timestamp delta, offset delta, key, value, headers."""


class Seed(NamedTuple):
    """One good batch: as captured, unpacked, and its records one by one."""

    batch: bytes
    plain: bytes
    codec: int
    bodies: list[bytes]


def seeds(fetched: Iterable[bytes]) -> list[Seed]:
    """A seed of each batch, and of its first few records where it has many (those are read a hundred times as often)."""
    found: dict[bytes, Seed] = {}
    for raw in fetched:
        for view in split(memoryview(raw)):
            whole = seed(bytes(view))
            for one in (whole, *([shortened(whole)] if len(whole.bodies) > 5 else [])):
                found.setdefault(one.batch[HEADER.size - 4 :], one)
    return list(found.values())


def seed(batch: bytes) -> Seed:
    header = read_header(memoryview(batch))
    records = unpacked(batch[HEADER.size :], header.codec)
    plain = sealed(batch[: HEADER.size] + records, attributes=header.attributes & ~7)
    return Seed(batch, plain, header.codec, list(record_bodies(records, header.record_count)))


def shortened(one: Seed) -> Seed:
    bodies = one.bodies[:4]
    plain = sealed(one.plain[: HEADER.size] + joined(bodies), count=len(bodies))
    return Seed(packed(plain, one.codec, random.Random(0)), plain, one.codec, bodies)


def packed(plain: bytes, codec: int, chance: random.Random) -> bytes:
    """An uncompressed batch compressed in one of the ways that ``codec`` has."""
    pack = chance.choice([pack for kind, pack in PACKERS.values() if kind == codec])
    (attributes,) = struct.unpack_from(">h", plain, 21)
    return sealed(plain[: HEADER.size] + pack(plain[HEADER.size :]), attributes=attributes & ~7 | codec)


def varint(value: int) -> bytes:
    bits = ((value << 1) ^ (value >> 63)) & (2**64 - 1)
    out = bytearray()
    while bits >= 0x80:
        out.append(bits & 0x7F | 0x80)
        bits >>= 7
    out.append(bits)
    return bytes(out)


def padded(short: bytes, zeros: int) -> bytes:
    """The same number in more bytes than it needs."""
    return short[:-1] + bytes([short[-1] | 0x80]) + b"\x80" * (zeros - 1) + b"\x00" if zeros else short


def joined(bodies: Iterable[bytes]) -> bytes:
    return b"".join(varint(len(body)) + body for body in bodies)


def parsed(body: bytes) -> Record:
    moment, at = number(body, 1)
    delta, at = number(body, at)
    key, at = part(body, at)
    value, at = part(body, at)
    return body[0], moment, delta, key, value, wire_headers(body[at:])


def encoded(record: Record, zeros: Sequence[int] = (0, 0, 0, 0, 0)) -> bytes:
    attributes, moment, delta, key, value, headers = record
    numbers = [varint(n) for n in (moment, delta, _size(key), _size(value), len(headers))]
    first, second, third, fourth, fifth = map(padded, numbers, zeros)
    pairs = b"".join(varint(len(n)) + n + varint(_size(v)) + (v or b"") for n, v in headers)
    return b"".join((bytes([attributes]), first, second, third, key or b"", fourth, value or b"", fifth, pairs))


def _size(data: bytes | None) -> int:
    return -1 if data is None else len(data)


class Mutator:
    """Makes inputs. ``input_at(number)`` depends on the seed number, the corpus and ``number``, and on nothing else."""

    def __init__(self, found: list[Seed], seed_number: int) -> None:
        self._seeds, self._seed_number = found, seed_number
        self._weights = list(accumulate(1 / (len(one.plain) + 300 + 40 * len(one.bodies)) for one in found))
        self._heaps = [one.plain[HEADER.size :] for one in found]

    def chance(self, number: int) -> random.Random:
        return random.Random((self._seed_number << 48) + number)

    def input_at(self, number: int) -> bytes:
        """The bytes of one fetch: mostly one batch, sometimes a damaged one among good ones."""
        chance = self.chance(number)
        damaged = self._damaged(self._seed(chance), chance)
        if chance.random() < 0.9:
            return damaged
        batches = [damaged, *(self._seed(chance).batch for _ in range(chance.randrange(3)))]
        chance.shuffle(batches)
        fetched = b"".join(batches)
        return self._edited(fetched, chance) if chance.random() < 0.2 else fetched

    def _seed(self, chance: random.Random) -> Seed:
        return chance.choices(self._seeds, cum_weights=self._weights)[0]

    def _damaged(self, one: Seed, chance: random.Random) -> bytes:
        kind = chance.random()
        if kind < 0.4:
            batch = sealed(one.plain[: HEADER.size] + self._edited(one.plain[HEADER.size :], chance))
        elif kind < 0.65:
            batch = self._rebuilt(one, chance)
        elif kind < 0.8:
            batch = sealed(one.batch[: HEADER.size] + self._edited(one.batch[HEADER.size :], chance))
        else:
            batch = one.batch if chance.random() < 0.5 else one.plain
        if kind > 0.8 or chance.random() < 0.15:
            batch = self._with_other_header(batch, chance)
        if kind < 0.65 and chance.random() < 0.3:
            batch = packed(batch, chance.randint(1, 4), chance)
        return batch if chance.random() < 0.97 else self._edited(batch, chance)

    def _with_other_header(self, batch: bytes, chance: random.Random) -> bytes:
        fields = list(FIELDS) if chance.random() < 0.5 else ["count", "last_delta", "attributes", "base_timestamp"]
        now = dict(zip(FIELDS, _field_values(batch), strict=True))
        names = chance.sample(fields, chance.choice((1, 1, 1, 2, 3)))
        changed = sealed(batch, **{name: _other(now[name], BITS[FIELDS[name]], chance) for name in names})
        if chance.random() < 0.05:
            length = _other(len(batch) - FRAME.size, 32, chance)
            changed = changed[:8] + struct.pack(">i", length) + changed[FRAME.size :]
        return changed

    def _rebuilt(self, one: Seed, chance: random.Random) -> bytes:
        """Some records with other fields, or in other places; lengths and counts fit, mostly."""
        bodies = list(one.bodies)
        for at in chance.sample(range(len(bodies)), min(len(bodies), chance.choice((1, 1, 2)))):
            bodies[at] = self._other_record(parsed(bodies[at]), chance)
        if chance.random() < 0.2 and bodies:
            at = chance.randrange(len(bodies))
            bodies[at : at + 1] = chance.choice(([], [bodies[at]] * 2, [bodies[chance.randrange(len(bodies))]]))
        count = len(bodies) + (chance.randint(-1, 1) if chance.random() < 0.1 else 0)
        last = max(HEADER.unpack_from(one.plain)[6], count - 1, chance.choice((0, 0, 2**31 - 1)))
        return sealed(one.plain[: HEADER.size] + joined(bodies), count=count, last_delta=last)

    def _other_record(self, record: Record, chance: random.Random) -> bytes:
        attributes, moment, delta, key, value, headers = record
        kind = chance.randrange(8)
        if kind == 0:
            attributes = chance.randrange(256 if chance.random() < 0.2 else 128)
        elif kind == 1:
            moment = chance.choice(NUMBERS)
        elif kind == 2:
            delta = chance.choice((delta + 1, delta - 1, chance.choice(NUMBERS)))
        elif kind == 3:
            key = self._piece(chance)
        elif kind == 4:
            value = self._piece(chance)
        elif kind == 5:
            headers = [(self._piece(chance) or b"", self._piece(chance)) for _ in range(chance.randrange(4))]
        zeros = [chance.randrange(10) if kind > 5 and chance.random() < 0.4 else 0 for _ in range(5)]
        body = encoded((attributes, moment, delta, key, value, headers), zeros)
        return self._edited(body, chance) if kind == 7 and chance.random() < 0.5 else body

    def _piece(self, chance: random.Random) -> bytes | None:
        if chance.random() < 0.3:
            return chance.choice((None, b"", b"\xff", b"\xc3\xa9", bytes(127), bytes(64), bytes(63)))
        heap = chance.choice(self._heaps)
        at = chance.randrange(len(heap) + 1)
        return heap[at : at + chance.randrange(70)]

    def _edited(self, data: bytes, chance: random.Random) -> bytes:
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            at = chance.randrange(len(changed) + 1)
            chance.choice(_EDITS)(changed, at, self, chance)
        return bytes(changed)


def _field_values(batch: bytes) -> list[int]:
    base, _, epoch, magic, _, *others = HEADER.unpack_from(batch)
    return [base, epoch, magic, *others]


def _other(value: int, bits: int, chance: random.Random) -> int:
    kind = chance.random()
    if kind < 0.3:
        value += chance.choice((-1, 1))
    elif kind < 0.6:
        value ^= 1 << chance.randrange(bits)
    else:
        value = chance.choice(NUMBERS)
    return (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


Edit = Callable[[bytearray, int, Mutator, random.Random], None]


def _flip(data: bytearray, at: int, _: Mutator, chance: random.Random) -> None:
    if at < len(data):
        data[at] ^= 1 << chance.randrange(8)


def _put(data: bytearray, at: int, _: Mutator, chance: random.Random) -> None:
    if at < len(data):
        data[at] = chance.choice((0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, chance.randrange(256)))


def _insert(data: bytearray, at: int, _: Mutator, chance: random.Random) -> None:
    data[at:at] = chance.randbytes(chance.choice((1, 1, 2, 8)))


def _delete(data: bytearray, at: int, _: Mutator, chance: random.Random) -> None:
    del data[at : at + chance.choice((1, 1, 2, 8))]


def _number(data: bytearray, at: int, _: Mutator, chance: random.Random) -> None:
    put = varint(chance.choice(NUMBERS))
    data[at : at + chance.choice((0, 1, len(put)))] = put


def _splice(data: bytearray, at: int, mutator: Mutator, chance: random.Random) -> None:
    heap = chance.choice(mutator._heaps)
    first = chance.randrange(len(heap) + 1)
    data[at : at + chance.choice((0, 1, 8, 1 << 20))] = heap[first : first + chance.choice((4, 30, 1 << 10))]


def _cut(data: bytearray, at: int, _: Mutator, chance: random.Random) -> None:
    del data[at:]


_EDITS: tuple[Edit, ...] = (_flip, _flip, _flip, _put, _put, _insert, _delete, _number, _number, _splice, _cut)
