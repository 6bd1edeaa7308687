"""Loads from addresses, of one byte or several at once, and stores, for compiled kernels.

Nothing here checks bounds, as a load of 8 or 32 bytes is one instruction: who calls makes sure that they may be read (or written), and
that the memory outlives the call. (Kernels that use these are tested between guard pages.)
"""

from __future__ import annotations

import sys
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from schemas.compiled import inlined, kernel

assert sys.byteorder == "little", "the compiled kernels load little-endian numbers"

HALF, WORD, BLOCK = 4, 8, 32
"""Bytes of half a word, of a ``word`` and of a block."""

LOWEST, HIGHEST = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
"""The lowest and the highest bit of each byte of a word."""


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


@intrinsic
def byte(typing: Any, address: Any) -> Any:
    """The byte at an address, as an int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(_load(builder, args[0], ir.IntType(8)), ir.IntType(64))

    return nb.int64(nb.int64), generate


@intrinsic
def half(typing: Any, address: Any) -> Any:
    """The 4 bytes at an address, as a uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(_load(builder, args[0], ir.IntType(32)), ir.IntType(64))

    return nb.uint64(nb.int64), generate


@intrinsic
def word(typing: Any, address: Any) -> Any:
    """The 8 bytes at an address, as a uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(builder, args[0], ir.IntType(64))

    return nb.uint64(nb.int64), generate


@intrinsic
def signed_word(typing: Any, address: Any) -> Any:
    """The 8 bytes at an address, as an int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(builder, args[0], ir.IntType(64))

    return nb.int64(nb.int64), generate


@intrinsic
def put_word(typing: Any, address: Any, value: Any) -> Any:
    """Write a uint64 to an address."""
    return nb.void(nb.int64, nb.uint64), _storing(64)


@intrinsic
def put_half(typing: Any, address: Any, value: Any) -> Any:
    """Write the low 32 bits of a number to an address."""
    return nb.void(nb.int64, nb.int64), _storing(32)


def _storing(bits: int) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.IntType(bits)
        value = builder.trunc(args[1], kind) if bits < 64 else args[1]
        builder.store(value, builder.inttoptr(args[0], kind.as_pointer()), align=1)
        return context.get_dummy_value()

    return generate


@intrinsic
def odd_bytes(typing: Any, address: Any) -> Any:
    """A bit for each of the 32 bytes at an address: set where it is not plain ASCII text (a quote, a backslash, a control
    character, or beyond ASCII)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.IntType(8), BLOCK)
        found = _load(builder, args[0], kind)
        quote, escape, space = (ir.Constant(kind, [code] * BLOCK) for code in (0x22, 0x5C, 0x20))
        special = builder.or_(builder.icmp_unsigned("==", found, quote), builder.icmp_unsigned("==", found, escape))
        odd = builder.or_(special, builder.icmp_signed("<", found, space))  # signed: also all from 0x80 on
        return builder.zext(builder.bitcast(odd, ir.IntType(BLOCK)), ir.IntType(64))

    return nb.uint64(nb.int64), generate


@intrinsic
def differing_bytes(typing: Any, one: Any, other: Any) -> Any:
    """A bit for each of the 32 bytes at two addresses: set where they differ."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.IntType(8), BLOCK)
        unlike = builder.icmp_unsigned("!=", _load(builder, args[0], kind), _load(builder, args[1], kind))
        return builder.zext(builder.bitcast(unlike, ir.IntType(BLOCK)), ir.IntType(64))

    return nb.uint64(nb.int64, nb.int64), generate


@intrinsic
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Begin to load an element of an array into the cache: it will be wanted soon. Harmless for any index."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = context.make_array(signature.args[0])(context, builder, args[0]).data
        address = builder.bitcast(builder.gep(pointer, [args[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), *[ir.IntType(32)] * 3])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(call, [address, *(ir.Constant(ir.IntType(32), value) for value in (0, 3, 1))])
        return context.get_dummy_value()

    return nb.void(array, nb.int64), generate


@intrinsic
def trailing_zeros(typing: Any, bits: Any) -> Any:
    """The number of the lowest bit that is set; 64 when none is."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return nb.int64(nb.uint64), generate


@inlined
def _low_bytes(count: int) -> np.uint64:
    """A mask of the lowest ``count`` (0 to 8) bytes."""
    if count >= WORD:
        return np.uint64(0xFFFFFFFFFFFFFFFF)
    return (np.uint64(1) << np.uint64(8 * count)) - np.uint64(1)


@inlined
def no_zero(eight: np.uint64) -> bool:
    """Whether none of the 8 bytes of a word is 0."""
    return ((eight - LOWEST) & ~eight & HIGHEST) == 0


@kernel
def head_of(at: int, size: int) -> np.uint64:
    """The first 8 of ``size`` bytes, fewer padded with zeros."""
    return word(at) & _low_bytes(size)


@intrinsic
def copy(typing: Any, to: Any, source: Any, count: Any) -> Any:
    """Copy so many bytes from one address to another; they must not overlap."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointers = [builder.inttoptr(address, ir.IntType(8).as_pointer()) for address in args[:2]]
        cgutils.raw_memcpy(builder, *pointers, args[2], 1)
        return context.get_dummy_value()

    return nb.void(nb.int64, nb.int64, nb.int64), generate
