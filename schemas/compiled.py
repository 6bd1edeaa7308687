"""How kernels are compiled: once per installation, without the interpreter's lock, and (mostly) without counting references.

Numba counts references to arrays: a function that gets one counts it up and down again at every call, atomically, which takes longer
than most small functions take (a scan of JSON: 0.32 us a record with, 0.13 without). A ``kernel`` does not count, which is safe
because whoever calls it holds the arrays; so it cannot make one. What makes arrays is a ``maker``: it should call
kernels in its loops, and be called by none.
"""

from __future__ import annotations

from typing import Any

import numba as nb
from numba.core import event
from numba.core.registry import cpu_target

kernel: Any = nb.njit(nogil=True, cache=True, _nrt=False)
inlined: Any = nb.njit(nogil=True, cache=True, _nrt=False, inline="always")
maker: Any = nb.njit(nogil=True, cache=True)

# What the first kernel would load otherwise, in the midst of the work and with all other threads waiting: 0.1 s.
cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()


class _Compiling(event.Listener):  # type: ignore[misc]
    """Counts kernels that are being compiled; those that are loaded from disk do not count."""

    def __init__(self) -> None:
        self.count = 0

    def on_start(self, event: Any) -> None:
        self.count += 1

    def on_end(self, event: Any) -> None:
        self.count -= 1


_compiling = _Compiling()
event.register("numba:compile", _compiling)


def is_compiling() -> bool:
    """Whether a kernel is being compiled now, as happens once per installation."""
    return _compiling.count > 0
