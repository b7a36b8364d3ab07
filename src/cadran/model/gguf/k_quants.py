"""Blocks of 256 weights whose sub-blocks have scales that are quantised themselves: Q4_K, Q5_K and Q6_K.

The order of the float32 operations is part of the format: it makes the result equal to ggml's bit for bit.
Source: ``block_q4_K`` and its neighbours in ggml's ``ggml-common.h``.
"""

import numpy as np
from numpy.typing import NDArray

Blocks = NDArray[np.void]
Weights = NDArray[np.float32]

# Byte j of row i of `pairs`: weight j of sub-block 2i in its low half, of sub-block 2i + 1 in its high half.
Q4_K = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("packed", "u1", 12), ("pairs", "u1", (4, 32))])
# Bit i of byte j of `fifth`: the fifth bit of weight j of sub-block i.
Q5_K = np.dtype(
    [("scale", "<f2"), ("minimum", "<f2"), ("packed", "u1", 12), ("fifth", "u1", 32), ("pairs", "u1", (4, 32))]
)
# Two halves of 128 weights, each in four quarters of 32. `low`: four bits, quarters 0 and 1 in the low halves of 64
# bytes, quarters 2 and 3 in the high halves. `high`: bits 2q and 2q + 1 of byte j belong to weight j of quarter q.
Q6_K = np.dtype([("low", "u1", (2, 64)), ("high", "u1", (2, 32)), ("scales", "i1", 16), ("scale", "<f2")])


def unpack_q4_k(blocks: Blocks, out: Weights) -> None:
    """Decode Q4_K: weight = scale * sub-scale * level - minimum * sub-minimum, per sub-block of 32.

    Args:
        blocks: records of type `Q4_K`, shape (n,).
        out: written in place, shape (n, 256). The same holds for every function of this file, with its own record.
    """
    np.copyto(out.reshape(-1, 8, 32), _low_bits(blocks))
    _scale_and_shift(blocks, out)


def unpack_q5_k(blocks: Blocks, out: Weights) -> None:
    """Decode Q5_K: as Q4_K with levels of five bits."""
    levels = _low_bits(blocks)
    fifth = blocks["fifth"]
    for part in range(8):
        levels[:, part] |= ((fifth >> part) & 1) << 4
    np.copyto(out.reshape(-1, 8, 32), levels)
    _scale_and_shift(blocks, out)


def unpack_q6_k(blocks: Blocks, out: Weights) -> None:
    """Decode Q6_K: weight = scale * sub-scale * (level - 32), per sub-block of 16."""
    levels = np.empty((len(blocks), 2, 4, 32), np.uint8)
    low, high = blocks["low"], blocks["high"]
    pairs = levels.reshape(-1, 2, 2, 64)
    np.bitwise_and(low, 15, out=pairs[:, :, 0])
    np.right_shift(low, 4, out=pairs[:, :, 1])
    for quarter in range(4):
        levels[:, :, quarter] |= ((high >> (2 * quarter)) & 3) << 4
    levels -= 32  # wraps around in uint8, which is two's complement
    np.copyto(out, levels.reshape(-1, 256).view(np.int8))
    scales = blocks["scale"].astype(np.float32)[:, None] * blocks["scales"].astype(np.float32)
    by_part = out.reshape(-1, 16, 16)
    by_part *= scales[:, :, None]


def _low_bits(blocks: Blocks) -> NDArray[np.uint8]:
    levels = np.empty((len(blocks), 4, 2, 32), np.uint8)
    np.bitwise_and(blocks["pairs"], 15, out=levels[:, :, 0])
    np.right_shift(blocks["pairs"], 4, out=levels[:, :, 1])
    return levels.reshape(-1, 8, 32)


def _scale_and_shift(blocks: Blocks, out: Weights) -> None:
    # Eight scales and eight minima of six bits in twelve bytes. Bytes 0-3 hold scales 0-3 and the upper two bits of
    # scales 4-7, bytes 4-7 the same for the minima, bytes 8-11 the lower four bits of scales and minima 4-7.
    packed = blocks["packed"]
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1).astype(np.float32)
    minima = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1).astype(np.float32)
    scales *= blocks["scale"].astype(np.float32)[:, None]
    minima *= blocks["minimum"].astype(np.float32)[:, None]
    by_part = out.reshape(-1, 8, 32)
    by_part *= scales[:, :, None]
    by_part -= minima[:, :, None]
