"""How a job gets its memory: freed arrays go back to the system, or to whoever wants one next, instead of lying about.

A job makes and drops arrays of up to a few megabytes all the time, in several threads. Left alone, glibc's allocator learns from
the largest of them that all should come from its heaps, of which it makes one for nearly every thread; and Arrow's has heaps of
its own. Each keeps what its own past once needed: half the memory of a job with many open windows. So a job uses one
allocator, few heaps, and the system itself for what is large and lives long.

Nothing depends on this but time and room. What the environment says (``MALLOC_...``, ``GLIBC_TUNABLES``,
``ARROW_DEFAULT_MEMORY_POOL``) is left as it is.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa

MIB = 1 << 20
HEAPS = 2
LARGE_BYTES = 4 * MIB
"""From here on an allocation is memory of its own, which goes back to the system when it is freed."""
KEPT_BYTES = 16 * MIB
"""What a heap may keep at its end: enough for the arrays of a slice, which would else be fresh memory every time."""
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""


@contextmanager
def sparing() -> Iterator[None]:
    """For the time of a job. glibc's settings stay (it cannot be asked what they were); Arrow's pool is put back."""
    before = pa.default_memory_pool()
    if "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
        pa.set_memory_pool(pa.system_memory_pool())
    _tune()
    try:
        yield
    finally:
        pa.set_memory_pool(before)
        before.release_unused()


def _tune() -> None:
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    with suppress(OSError, AttributeError):  # another C library than glibc
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            for parameter, value in ((MMAP_THRESHOLD, LARGE_BYTES), (TRIM_THRESHOLD, KEPT_BYTES), (ARENA_MAX, HEAPS)):
                libc.mallopt(parameter, value)
