"""The decoder of record batches on what a real broker sent, and on thousands of damaged variants of it.

Long runs: ``python -m tests.fuzz_record_batch``. REFOLD_TEST_SEED=... makes the same inputs again.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from batch_fuzz.answers import batches_of
from batch_fuzz.corpus import Golden, corpus
from batch_fuzz.judge import Judge, expected, rows_of
from batch_fuzz.reference import Row
from fuzz_record_batch import WORKER, Share, Verdict, environment, fuzz

from connectors.codecs import NAMES
from connectors.continuity import Stitcher
from connectors.record_batch import Decoder, Header, decode, read_header, split
from schemas.errors import LogError

GOLDEN = list(corpus())
every_golden = pytest.mark.parametrize("golden", GOLDEN, ids=[golden.name for golden in GOLDEN])


def batches(golden: Golden) -> list[tuple[memoryview, Header]]:
    return [(batch, read_header(batch)) for batch in split(memoryview(golden.raw))]


@every_golden
def test_what_a_broker_sent_is_read_as_what_was_sent(golden: Golden) -> None:
    found = [row for batch, header in batches(golden) if not header.is_control_batch for row in rows_of(decode(batch))]
    assert found == [(golden.time_types[offset], row) for offset, row in golden.rows.items()]
    assert {header.base_offset for _, header in batches(golden) if header.is_control_batch} == golden.control


@every_golden
def test_what_a_broker_sent_is_read_as_the_library_and_the_reference_read_it(golden: Golden) -> None:
    judge = Judge()
    for low in (True, False):
        assert (judge.judge(golden.raw, low=low), judge.why) == (Verdict.SAME, "")


@every_golden
def test_from_every_offset_only_committed_records_are_handed_out(golden: Golden) -> None:
    for start in range(0, golden.end, 1 + golden.end // 40):
        assert handed_out(golden, start) == [row for offset, row in golden.committed.items() if offset >= start]


def handed_out(golden: Golden, start: int) -> list[Row]:
    raw = b"".join(batch for batch, header in batches(golden) if header.last_offset >= start)
    stitcher, decoder, found = Stitcher(golden.name, 0, start, None, golden.compacted), Decoder(), []
    stitcher.add(batches_of(golden, start, raw))
    while (one := stitcher.take(decoder)) is not None:
        found += [row for _, row in rows_of(one.records)]
    assert stitcher.position == golden.end
    return found


def test_the_corpus_has_every_kind_of_batch_and_of_record() -> None:
    headers = [header for golden in GOLDEN for _, header in batches(golden)]
    assert {header.codec for header in headers if not header.is_control_batch} == set(NAMES)
    assert any(header.is_log_append_time for header in headers)
    assert any(header.producer_id < 0 for header in headers) and any(header.producer_id >= 0 for header in headers)
    assert any(header.record_count <= header.last_offset_delta for header in headers), "a hole inside a batch"
    assert any(header.record_count == 0 for header in headers), "a batch of which nothing is left"
    assert all(any(golden.aborted and golden.name.endswith(codec) for golden in GOLDEN) for codec in ("gzip", "zstd"))
    rows = [row for golden in GOLDEN for row in golden.rows.values()]
    for part in (2, 3):
        assert {None, b""} <= {row[part] for row in rows}
    pairs = [pair for row in rows for pair in row[4]]
    assert {None, b""} <= {value for _, value in pairs} and any(not name.isascii() for name, _ in pairs)


def test_a_marker_met_twice_is_refused_for_it_would_let_aborted_records_through() -> None:
    (interleaved,) = (golden for golden in GOLDEN if golden.name == "interleaved")
    markers = [batch for batch, header in batches(interleaved) if header.is_control_batch]
    others = [batch for batch, _ in batches(interleaved)]
    with pytest.raises(LogError, match="out of order"):
        batches_of(interleaved, 0, b"".join([*others[:-4], *markers, *others[-4:]]))


@pytest.mark.parametrize(
    ("inputs", "checked"),
    [
        (8_000, True),
        pytest.param(300_000, True, marks=pytest.mark.slow),
        pytest.param(300_000, False, marks=pytest.mark.slow),
    ],
)
def test_damaged_batches_are_read_as_by_the_library_and_the_reference_or_refused(
    inputs: int, checked: bool, tmp_path: Path
) -> None:
    seed = int(os.environ.get("REFOLD_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"REFOLD_TEST_SEED={seed}")
    counts = fuzz(seed, inputs, checked=checked, directory=tmp_path)
    assert {verdict.name: counts[verdict] for verdict in Verdict if verdict.is_failure and counts[verdict]} == {}
    assert sum(counts.values()) == inputs
    assert counts[Verdict.SAME] > inputs // 5 and counts[Verdict.REFUSED] > inputs // 5


TRESPASSER = """
import ctypes, sys
from pathlib import Path
from batch_fuzz.guarded import Guarded
from fuzz_record_batch import Slate, Verdict

slate, first, count = Slate(Path(sys.argv[1])), int(sys.argv[3]), int(sys.argv[4])
memory = Guarded(4096)
for number in range(first, first + count):
    slate.put(number, b"input %d" % number)
    if number in (3, 5):
        data = memory.array(10, low=number == 3)
        ctypes.string_at(data.ctypes.data - (number == 3), 10 + (number == 5))
    slate.counts[Verdict.SAME] += 1
"""


def test_a_read_beyond_either_end_ends_the_process_and_the_input_is_kept(tmp_path: Path) -> None:
    share = Share(tmp_path, 1, 0, 8, checked=True, command=(sys.executable, "-c", TRESPASSER))
    share.run()
    assert (share.slate.counts[Verdict.CRASHED], share.slate.counts[Verdict.SAME]) == (2, 6)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.bin")} == {
        "crashed-3.bin": b"input 3",
        "crashed-5.bin": b"input 5",
    }


@pytest.mark.slow
def test_a_fuzzing_process_does_not_run_with_kernels_that_were_compiled_without_checks(tmp_path: Path) -> None:
    cached = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    compile_one = [sys.executable, "-c", "from batch_fuzz import worker; print(worker.checks_bounds())"]
    unchecked = subprocess.run(compile_one, env=environment(False) | cached, capture_output=True, text=True, check=True)
    assert unchecked.stdout == "False\n"
    command = [*WORKER, str(tmp_path / "slate"), "1", "0", "1"]
    ended = subprocess.run(command, env=environment(True) | cached, capture_output=True, text=True)
    assert ended.returncode and "NUMBA_BOUNDSCHECK" in ended.stderr


def test_the_judge_tells_a_wrong_record_from_a_right_one_and_a_refusal_from_both() -> None:

    batch = next(golden.raw for golden in GOLDEN if golden.name == "not-idempotent")
    judge = Judge()
    right = judge._ours(batch, low=False)
    assert judge._compared(right, batch) is Verdict.SAME
    assert judge._compared(right[:-1], batch) is Verdict.DIFFERENT
    assert judge._compared(right, batch[:-1] + b"\x01") is Verdict.DIFFERENT
    assert expected(batch[:-1] + b"\x01") is None
