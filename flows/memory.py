"""How a job gets its memory: freed arrays go to whoever wants one next, or back to the system, instead of lying about.

A job makes and drops arrays of up to a few megabytes all the time, in several threads. Left alone, glibc's allocator learns from
the largest of them that all should come from its heaps, of which it makes one for nearly every thread, and each keeps what was
once needed: half the memory of a job with many open windows. So a job has few heaps, and what is large is memory of its own.

Nothing depends on this but time and room. Whoever sets ``MALLOC_...`` or ``GLIBC_TUNABLES`` in the environment has the last word.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa

from connectors.clock import monotonic

MIB = 1 << 20
HEAPS = 2
LARGE_BYTES = 4 * MIB
"""From here on an allocation is memory of its own, which goes back to the system when it is freed."""
KEPT_BYTES = 16 * MIB
"""What a heap may keep at its end: enough for the arrays of a slice or of a block, which would else be fresh memory every time."""
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""
TRIM_INTERVAL_S = 2.0

_trimmed = 0.0  # when that was


@contextmanager
def sparing() -> Iterator[None]:
    """For the time of a job. glibc's settings stay: it cannot be asked what they were."""
    _tune()
    try:
        yield
    finally:
        let_go()


def let_go() -> None:
    """Give back what Arrow keeps for threads that are gone, after a commit, whose threads are; and what is free in the midst of heaps:
    they would grow with every commit of many groups, though what lives in them does not."""
    pa.default_memory_pool().release_unused()
    _trim()


def _trim() -> None:
    """Seldom: it goes through all that is free, ten milliseconds."""
    global _trimmed
    if monotonic() - _trimmed >= TRIM_INTERVAL_S and (libc := _glibc()) is not None:
        libc.malloc_trim(0)
        _trimmed = monotonic()


class _Commits:
    """How many commits are under way, of several views perhaps: the first changes Arrow's pool, the last one puts it back."""

    def __init__(self) -> None:
        self._lock, self._count, self._usual = threading.Lock(), 0, pa.default_memory_pool()

    def begin(self) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1:
                self._usual = pa.default_memory_pool()
                pa.set_memory_pool(pa.system_memory_pool())

    def end(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                pa.set_memory_pool(self._usual)
                let_go()


_commits = _Commits()


@contextmanager
def sparing_commit() -> Iterator[None]:
    """For the time of a commit beside which nothing is decoded: Arrow takes memory from glibc. Its own pool would keep much of what a
    commit's short-lived threads had (a quarter of the peak with many open windows), but decoding is quicker with it."""
    _commits.begin()
    try:
        yield
    finally:
        _commits.end()


def _tune() -> None:
    if (libc := _glibc()) is not None:
        for parameter, value in ((MMAP_THRESHOLD, LARGE_BYTES), (TRIM_THRESHOLD, KEPT_BYTES), (ARENA_MAX, HEAPS)):
            libc.mallopt(parameter, value)


def _glibc() -> ctypes.CDLL | None:
    """None where it is another C library, or its allocator not ours to tune."""
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return None
    with suppress(OSError):
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "gnu_get_libc_version") else None
    return None
