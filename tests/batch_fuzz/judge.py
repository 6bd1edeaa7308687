"""One input, three decoders: ours on guarded memory, the plain reference, and the library's own where it applies.

Our decoder and the reference must agree on every input: the same records, or both refuse. What they accept the
library must read the same way, but for what it is known not to read (``beyond_library``).
"""

from __future__ import annotations

import pyarrow as pa
from batch_fuzz.guarded import Guarded, GuardedWorkspace
from batch_fuzz.reference import LOG_APPEND_TIME, Row, record_bodies, reference, sealed, wire_headers
from batch_fuzz.unpacking import XERIAL_HEADER_BYTES, unpacked
from fuzz_record_batch import INPUT_BYTES_MAX, Verdict
from kafka import codec as library
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch

from connectors.codecs import GZIP, LZ4, NAMES, NONE, SNAPPY, ZSTD
from connectors.log import RECORDS
from connectors.record_batch import HEADER, Decoder, read_header, split
from schemas.errors import LogError

Rows = list[tuple[int, Row]]
"""Time type and record."""

_HAS_CODEC = {
    NONE: True,
    GZIP: library.has_gzip(),
    SNAPPY: library.has_snappy(),
    LZ4: library.has_lz4(),
    ZSTD: library.has_zstd(),
}
LIBRARY_CODECS = [NAMES[codec] for codec, there in _HAS_CODEC.items() if there]
"""What the library can unpack here; of the others it is given unpacked batches."""


class Judge:
    """Decides on inputs, one after the other, with one decoder as a run has it."""

    def __init__(self) -> None:
        self._input = Guarded(INPUT_BYTES_MAX)
        self._workspace = GuardedWorkspace(INPUT_BYTES_MAX)
        self._decoder = Decoder()
        self._decoder._workspace = self._workspace
        self.why = ""

    def judge(self, fetched: bytes, *, low: bool) -> Verdict:
        """``low``: against the forbidden page before the bytes, not the one behind. ``why`` tells of a failure."""
        self.why = ""
        try:
            ours = self._ours(fetched, low=low)
        except LogError as refusal:
            self.why = str(refusal)
            return Verdict.REFUSED if expected(fetched) is None else Verdict.REFUSED_ALONE
        except Exception as error:
            self.why = repr(error)
            return Verdict.BROKE
        return self._compared(ours, fetched)

    def _ours(self, fetched: bytes, *, low: bool) -> Rows:
        self._workspace.low = low
        placed = self._input.place(fetched, low=low)
        try:
            for batch in split(placed):
                self._decoder.add(batch, read_header(batch))
        except LogError:
            self._decoder._batches.clear()
            self._workspace.clear()
            raise
        return rows_of(self._decoder.take())

    def _compared(self, ours: Rows, fetched: bytes) -> Verdict:
        plain = expected(fetched)
        if plain is None or ours != [row for batch in plain for row in rows_expected(batch)]:
            self.why = f"ours {ours}, expected {plain}"
            return Verdict.DIFFERENT
        if any(map(is_beyond_library, plain)):
            return Verdict.BEYOND_LIBRARY
        theirs = by_library(fetched, plain)
        if ours != theirs:
            self.why = f"ours {ours}, the library's {theirs}"
            return Verdict.DIFFERENT
        return Verdict.SAME


def rows_of(records: pa.RecordBatch) -> Rows:
    records.validate(full=True)
    assert records.schema == RECORDS
    offsets, moments, types, keys, values, headers = (column.to_pylist() for column in records.columns)
    pairs = [wire_headers(raw) if raw else [] for raw in headers]
    return list(zip(types, zip(offsets, moments, keys, values, pairs, strict=True), strict=True))


def expected(fetched: bytes) -> list[bytes] | None:
    """The batches that ``fetched`` should give, uncompressed; None when it should be refused."""
    try:
        batches = [_plain(batch) for batch in _frames(fetched)]
        for batch in batches:
            reference(batch)
    except Exception:  # the reference and the library's codecs fail in every way there is
        return None
    return batches


def _frames(fetched: bytes) -> list[bytes]:
    frames, at = [], 0
    while len(fetched) - at >= 17:
        size = 12 + int.from_bytes(fetched[at + 8 : at + 12], signed=True)
        if size < 17:
            raise ValueError("too short")
        if size > len(fetched) - at:
            break
        frames.append(fetched[at : at + size])
        at += size
    return frames


def _plain(batch: bytes) -> bytes:
    base, _, _, magic, _, attributes, last_delta, *_, count = HEADER.unpack_from(batch)
    if magic != 2 or not DefaultRecordBatch(batch).validate_crc():
        raise ValueError("damaged")
    if base < 0 or not 0 <= last_delta < 2**63 - 1 - base or not 0 <= count <= last_delta + 1:
        raise ValueError("offsets and records do not fit")
    return sealed(batch[: HEADER.size] + unpacked(batch[HEADER.size :], attributes & 7), attributes=attributes & ~7)


def rows_expected(plain: bytes) -> Rows:
    by_log = int(bool(HEADER.unpack_from(plain)[5] & LOG_APPEND_TIME))
    return [(by_log, row) for row in reference(plain)]


def is_beyond_library(plain: bytes) -> bool:
    """Whether a batch has what the library does not read: a record's attributes above 127 (it takes them for a varint),
    the name of a header that is no UTF-8, a control batch whose key is no control record's."""
    control = HEADER.unpack_from(plain)[5] & 0x20
    if any(body[0] > 127 for body in record_bodies(plain[HEADER.size :], HEADER.unpack_from(plain)[12])):
        return True
    rows = reference(plain)
    names = (name for row in rows for name, _ in row[4])
    return any(map(_is_not_text, names)) or bool(control and any(len(row[2] or b"") != 4 for row in rows))


def _is_not_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return True
    return False


def by_library(fetched: bytes, plain: list[bytes]) -> Rows | str:
    """The same fetch, by the library alone as far as it has the codecs; its error if it has one."""
    frames = _frames(fetched)
    taken = frames if all(map(_library_unpacks, frames)) else plain
    try:
        found = [record for batch in MemoryRecords(b"".join(taken)) for record in batch]
        return [
            (r.timestamp_type, (r.offset, r.timestamp, r.key, r.value, [(n.encode(), v) for n, v in r.headers]))
            for r in found
        ]
    except Exception as error:  # whatever it raises, it does not read what we read
        return repr(error)


def _library_unpacks(batch: bytes) -> bool:
    codec = HEADER.unpack_from(batch)[5] & 7
    nothing_in_it = codec == SNAPPY and len(batch) == HEADER.size + XERIAL_HEADER_BYTES  # it does not know that header
    return _HAS_CODEC[codec] and not nothing_in_it
