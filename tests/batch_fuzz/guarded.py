"""Memory between two pages that nobody may touch: a read one byte too far, or one too early, ends the process.

For code that is given addresses (pyarrow's decompressors) or that does not check bounds (compiled kernels).
"""

from __future__ import annotations

import ctypes
import mmap
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from connectors.codecs import Workspace

_PAGE = mmap.PAGESIZE
_NOTHING = 0  # PROT_NONE
_LIBC = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """``size`` bytes (rounded up to pages) that can be used, a forbidden page on either side."""

    def __init__(self, size: int) -> None:
        self.size = -(-size // _PAGE) * _PAGE
        self._memory = mmap.mmap(-1, self.size + 2 * _PAGE)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._protect(_NOTHING)

    def array(self, count: int, *, low: bool) -> npt.NDArray[np.uint8]:
        """The first ``count`` bytes (``low``) or the last; uninitialised."""
        return np.frombuffer(self._memory, np.uint8, count, _PAGE if low else _PAGE + self.size - count)

    def place(self, data: bytes | memoryview | npt.NDArray[np.uint8], *, low: bool) -> memoryview:
        placed = self.array(len(data), low=low)
        placed[:] = np.frombuffer(data, np.uint8)
        return memoryview(placed).toreadonly()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._protect(mmap.PROT_READ | mmap.PROT_WRITE)

    def _protect(self, allowed: int) -> None:
        for page in (self._address, self._address + _PAGE + self.size):
            if _LIBC.mprotect(ctypes.c_void_p(page), _PAGE, allowed):
                raise OSError(ctypes.get_errno(), "mprotect")


class GuardedWorkspace(Workspace):
    """A workspace whose unpacked bytes lie against a forbidden page: the one before (``low``) or the one behind."""

    low = False

    def __init__(self, size: int) -> None:
        super().__init__()
        self._plain, self._guarded = self.data, Guarded(size)

    def clear(self) -> None:
        self.used, self.data = 0, self._plain

    def unpack(self, packed: memoryview, codec: int) -> tuple[int, int]:
        span = super().unpack(packed, codec)
        if self.used <= self._guarded.size:
            unpacked = self.data[: self.used].copy()
            self.data = self._guarded.array(self.used, low=self.low)
            self.data[:] = unpacked
        return span
