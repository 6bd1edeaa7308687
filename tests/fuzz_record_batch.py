"""Fuzzes the decoder of record batches against kafka-python's and a plain reference, in processes that may die.

    python -m tests.fuzz_record_batch --inputs 10000000 --seed 1 [--processes 1] [--first 0] [--as-shipped]

Inputs are damaged variants of what a real broker sent (``tests/golden/batches``); input N of a seed is always the
same. The decoder runs on memory between forbidden pages, and with bounds checked in compiled kernels unless it is asked for
``--as-shipped``: the compiler makes other code of the same kernels then. Every input on which
decoders differ, or that ends a process, is kept in ``build/fuzz/SEED``, and makes the exit code 1. To have the library
unpack all codecs by itself, put lz4, python-snappy and zstandard on the path.

The work is done by batch_fuzz/worker.py; this module knows nothing of batches, so that it outlives whatever they do.
"""

from __future__ import annotations

import argparse
import mmap
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from itertools import pairwise
from pathlib import Path

TESTS = Path(__file__).resolve().parent
BUILD = TESTS.parent / "build" / "fuzz"
WORKER = (sys.executable, "-m", "batch_fuzz.worker")
INPUT_BYTES_MAX = 1 << 18
SILENT_SECONDS_MAX = 120.0
REPORT_SECONDS = 20.0


class Verdict(IntEnum):
    """What came of an input."""

    SAME = 0
    """All decoders gave the same records."""
    REFUSED = 1
    """All refused it."""
    BEYOND_LIBRARY = 2
    """The reference gave the same records; the library is known not to read such bytes."""
    DIFFERENT = 3
    REFUSED_ALONE = 4
    BROKE = 5
    """Another error than the one that there is for damaged batches."""
    CRASHED = 6
    """The process ended, or did not come to an end."""

    @property
    def is_failure(self) -> bool:
        return self >= Verdict.DIFFERENT


class Slate:
    """What a process writes down so that it is there when the process is not: the input at hand, and counts.

    A file mapped into memory: it costs no system call, and outlives a crash.
    """

    _HEAD = struct.Struct("<qq")
    _COUNTS_END = _HEAD.size + 8 * len(Verdict)

    def __init__(self, path: Path) -> None:
        path.touch()
        os.truncate(path, self._COUNTS_END + INPUT_BYTES_MAX)
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self.counts = memoryview(self._memory)[self._HEAD.size : self._COUNTS_END].cast("q")

    def put(self, number: int, data: bytes) -> None:
        self._HEAD.pack_into(self._memory, 0, number, len(data))
        self._memory[self._COUNTS_END : self._COUNTS_END + len(data)] = data

    @property
    def number(self) -> int:
        return int(self._HEAD.unpack_from(self._memory)[0])

    @property
    def input(self) -> bytes:
        size = self._HEAD.unpack_from(self._memory)[1]
        return self._memory[self._COUNTS_END : self._COUNTS_END + size]


class Share:
    """The inputs ``[first, end)`` of a seed, given to one process after the other until all have been decided on."""

    def __init__(
        self, directory: Path, seed: int, first: int, end: int, *, checked: bool, command: Sequence[str] = WORKER
    ) -> None:
        self._directory, self._seed, self._first, self._end = directory, seed, first, end
        self._checked, self._command = checked, command
        path = directory / f"slate-{first}"
        path.unlink(missing_ok=True)
        self._path, self.slate = path, Slate(path)
        self.slate.put(first - 1, b"")

    def run(self) -> None:
        first = self._first
        while first < self._end:
            if self._survives(first):
                return
            first = self._keep_crash() + 1

    def _survives(self, first: int) -> bool:
        arguments = (self._path, self._seed, first, self._end - first)
        with subprocess.Popen([*self._command, *map(str, arguments)], env=environment(self._checked)) as process:
            try:
                code = self._wait(process)
            finally:
                process.kill()
        if code > 0:
            raise RuntimeError(f"a fuzzing process ended with exit code {code}")
        return code == 0

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Exit code; ends a process that stays with one input."""
        at, since = None, time.monotonic()
        while True:
            try:
                return process.wait(1)
            except subprocess.TimeoutExpired:
                if self.slate.number != at:
                    at, since = self.slate.number, time.monotonic()
                elif time.monotonic() - since > SILENT_SECONDS_MAX:
                    process.kill()

    def _keep_crash(self) -> int:
        number = self.slate.number
        self.slate.counts[Verdict.CRASHED] += 1
        (self._directory / f"crashed-{number}.bin").write_bytes(self.slate.input)
        print(f"CRASHED input {number}: {self.slate.input[:2000].hex()}", flush=True)
        return number


def environment(checked: bool) -> dict[str, str]:
    """Of a fuzzing process. ``checked`` kernels are cached apart: a cached kernel does not tell how it was compiled."""
    path = os.pathsep.join(filter(None, (str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH"))))
    kernels = {"NUMBA_BOUNDSCHECK": str(int(checked)), "NUMBA_CACHE_DIR": str(BUILD / f"numba-{int(checked)}")}
    return {**os.environ, "PYTHONPATH": path, **kernels}


def shares(directory: Path, seed: int, first: int, inputs: int, processes: int, checked: bool) -> Iterator[Share]:
    cuts = [first + inputs * number // processes for number in range(processes + 1)]
    for begin, end in pairwise(cuts):
        yield Share(directory, seed, begin, end, checked=checked)


def counted(running: Sequence[Share]) -> dict[Verdict, int]:
    return {verdict: sum(share.slate.counts[verdict] for share in running) for verdict in Verdict}


def told(counts: dict[Verdict, int], seconds: float) -> str:
    total = sum(counts.values())
    accepted = counts[Verdict.SAME] + counts[Verdict.BEYOND_LIBRARY]
    differences = counts[Verdict.DIFFERENT] + counts[Verdict.REFUSED_ALONE]
    crashes = counts[Verdict.BROKE] + counts[Verdict.CRASHED]
    return (
        f"inputs {total:,}, accepted {accepted:,} ({counts[Verdict.BEYOND_LIBRARY]:,} beyond the library), "
        f"refused {counts[Verdict.REFUSED]:,}, differences {differences:,}, crashes {crashes:,}, "
        f"{total / max(seconds, 0.001):,.0f}/s"
    )


def fuzz(
    seed: int, inputs: int, first: int = 0, processes: int = 1, *, checked: bool, directory: Path | None = None
) -> dict[Verdict, int]:
    """Decide on ``inputs`` inputs, tell how it goes, and count the verdicts."""
    directory = directory or BUILD / str(seed)
    directory.mkdir(parents=True, exist_ok=True)
    running, began = list(shares(directory, seed, first, inputs, processes, checked)), time.monotonic()
    with ThreadPoolExecutor(processes) as pool:
        waiting = [pool.submit(share.run) for share in running]
        reported = began
        while not all(one.done() for one in waiting):
            time.sleep(0.1)  # between two looks
            if time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                print(told(counted(running), reported - began), flush=True)
        for one in waiting:
            one.result()
    counts = counted(running)
    print(told(counts, time.monotonic() - began), flush=True)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_record_batch", description="Fuzz the batch decoder.")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first input (with --inputs 1: only that)")
    parser.add_argument("--as-shipped", action="store_true", help="kernels as users have them, without bounds checks")
    chosen = parser.parse_args()
    counts = fuzz(chosen.seed, chosen.inputs, chosen.first, chosen.processes, checked=not chosen.as_shipped)
    sys.exit(any(counts[verdict] for verdict in Verdict if verdict.is_failure))


if __name__ == "__main__":
    main()
