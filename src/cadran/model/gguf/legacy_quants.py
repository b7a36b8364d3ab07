"""Blocks of 32 weights with one scale each: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.

Byte ``i`` of ``pairs`` carries weight ``i`` in its low half and weight ``i + 16`` in its high half; bit ``i`` of
``fifth`` is the fifth bit of weight ``i``. The order of the float32 operations is part of the format: it makes the
result equal to ggml's bit for bit.
Source: ``block_q4_0`` and its neighbours in ggml's ``ggml-common.h``.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Blocks = NDArray[np.void]
Weights = NDArray[np.float32]

Q4_0 = np.dtype([("scale", "<f2"), ("pairs", "u1", 16)])
Q4_1 = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("pairs", "u1", 16)])
Q5_0 = np.dtype([("scale", "<f2"), ("fifth", "u1", 4), ("pairs", "u1", 16)])
Q5_1 = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("fifth", "u1", 4), ("pairs", "u1", 16)])
Q8_0 = np.dtype([("scale", "<f2"), ("levels", "i1", 32)])


def unpack_q4_0(blocks: Blocks, out: Weights) -> None:
    """Decode Q4_0: weight = scale * (level - 8).

    Args:
        blocks: records of type `Q4_0`, shape (n,).
        out: written in place, shape (n, 32). The same holds for every function of this file, with its own record.
    """
    levels = _low_bits(blocks["pairs"])
    levels -= 8  # wraps around in uint8, which is two's complement
    np.copyto(out, levels.view(np.int8))
    out *= _column(blocks["scale"])


def unpack_q4_1(blocks: Blocks, out: Weights) -> None:
    """Decode Q4_1: weight = scale * level + minimum."""
    np.copyto(out, _low_bits(blocks["pairs"]))
    out *= _column(blocks["scale"])
    out += _column(blocks["minimum"])


def unpack_q5_0(blocks: Blocks, out: Weights) -> None:
    """Decode Q5_0: weight = scale * (level - 16)."""
    levels = _five_bits(blocks)
    levels -= 16
    np.copyto(out, levels.view(np.int8))
    out *= _column(blocks["scale"])


def unpack_q5_1(blocks: Blocks, out: Weights) -> None:
    """Decode Q5_1: weight = scale * level + minimum."""
    np.copyto(out, _five_bits(blocks))
    out *= _column(blocks["scale"])
    out += _column(blocks["minimum"])


def unpack_q8_0(blocks: Blocks, out: Weights) -> None:
    """Decode Q8_0: weight = scale * level."""
    np.copyto(out, blocks["levels"])
    out *= _column(blocks["scale"])


def pack_q8_0(weights: Weights) -> Blocks:
    """Encode as Q8_0: the largest magnitude becomes 127, halves are rounded away from zero.

    Args:
        weights: finite, shape (n, 32).

    Returns:
        Records of type `Q8_0`, shape (n,).
    """
    blocks = np.empty(len(weights), Q8_0)
    scale = np.abs(weights).max(axis=1, keepdims=True) / np.float32(127)
    scaled = weights * _inverse(scale)
    magnitude = np.abs(scaled)
    # floor(x + 0.5) would lift 0.49999997 to 1; the fraction itself is exact.
    rounded = np.floor(magnitude)
    rounded += (magnitude - rounded) >= 0.5
    blocks["scale"] = scale[:, 0]
    blocks["levels"] = np.copysign(rounded, scaled)
    return blocks


def pack_q4_0(weights: Weights) -> Blocks:
    """Encode as Q4_0: the weight of largest magnitude (the first of equals) becomes level 0, that is -8 scales.

    Args:
        weights: finite, shape (n, 32).

    Returns:
        Records of type `Q4_0`, shape (n,).
    """
    blocks = np.empty(len(weights), Q4_0)
    largest = np.abs(weights).argmax(axis=1, keepdims=True)
    scale = np.take_along_axis(weights, largest, axis=1) / np.float32(-8)
    # Two roundings, of the product and of the sum: a processor that fuses them rounds once and differs now and then.
    levels = weights * _inverse(scale)
    levels += np.float32(8.5)
    whole = np.minimum(levels.astype(np.uint8), 15)
    blocks["scale"] = scale[:, 0]
    blocks["pairs"] = whole[:, :16] | (whole[:, 16:] << 4)
    return blocks


def _inverse(scale: Weights) -> Weights:
    # 0 where the scale is 0, or so small that its inverse overflows. Such a scale is 0 in float16, so any level decodes
    # to 0; this choice spares the conversion of an infinity, which each processor makes in its own way.
    inverse = np.float32(1) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _column(scale: NDArray[Any]) -> Weights:
    return scale.astype(np.float32)[:, None]


def _low_bits(pairs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    levels = np.empty((len(pairs), 2, 16), np.uint8)
    np.bitwise_and(pairs, 15, out=levels[:, 0])
    np.right_shift(pairs, 4, out=levels[:, 1])
    return levels.reshape(-1, 32)


def _five_bits(blocks: Blocks) -> NDArray[np.uint8]:
    levels = _low_bits(blocks["pairs"])
    fifth = np.unpackbits(blocks["fifth"], axis=1, bitorder="little")
    fifth <<= 4
    levels |= fifth
    return levels
