"""Weights in the order in which the compiled core reads them: blocks of sixteen rows; see native/kernels.h."""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from cadran.model.gguf.legacy_quants import Q4_0, Q4_1, Q8_0, pack_q8_0

ROWS, GROUP = 16, 32
VERSION = 2
"""Of this layout: a file of another one is made anew."""


class Kind(IntEnum):
    """How a number is kept; the codes of native/kernels.h."""

    F32 = 0
    F16 = 1
    BF16 = 2
    I8 = 3
    I4 = 4
    I4M = 5


GGUF_KINDS = {"Q8_0": (Kind.I8, Q8_0), "Q4_0": (Kind.I4, Q4_0), "Q4_1": (Kind.I4M, Q4_1)}
"""Kinds of a GGUF file whose numbers are kept as they are."""


def pack_floats(weights: npt.NDArray[np.float32] | npt.NDArray[np.uint16], kind: Kind) -> bytes:
    """Lay out a matrix of floats.

    Args:
        weights: shape (rows, columns); float32, or for F16 and BF16 the bits as uint16.
        kind: F32, F16 or BF16.
    """
    padded = _padded_rows(weights)
    blocks = padded.reshape(len(padded) // ROWS, ROWS, -1).swapaxes(1, 2)  # (blocks, columns, 16)
    row = np.ascontiguousarray(blocks).reshape(len(blocks), -1).view(np.uint8)
    return _to_lines(row).tobytes()


def pack_blocks(blocks: npt.NDArray[np.void], kind: Kind) -> bytes:
    """Lay out a matrix that is quantised already.

    Args:
        blocks: records ``Q8_0``, ``Q4_0`` or ``Q4_1`` of ``cadran.model.gguf.legacy_quants``, shape
            (rows, columns / 32).
        kind: I8, I4 or I4M accordingly.
    """
    rows, groups = blocks.shape
    filled = np.zeros((-(-rows // ROWS) * ROWS, groups + groups % 2), blocks.dtype)
    filled[:rows, :groups] = blocks
    count, pairs = len(filled) // ROWS, filled.shape[1] // 2
    tall = filled.reshape(count, ROWS, pairs, 2)
    parts = [_line(tall["scale"])]
    if kind == Kind.I4M:
        parts.append(_line(tall["minimum"]))
    numbers = tall["levels"].view(np.uint8) ^ np.uint8(128) if kind == Kind.I8 else tall["pairs"]
    steps = numbers.reshape(count, ROWS, pairs, 2, -1, 4)
    # (blocks, pairs, two groups, steps of four columns, 16 rows, 4 columns)
    parts.append(np.ascontiguousarray(steps.transpose(0, 2, 3, 4, 1, 5)).reshape(count, pairs, -1))
    return np.concatenate(parts, axis=2).tobytes()


def quantised(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.void]:
    """A matrix of floats as records ``Q8_0``, rounded to nearest; columns are filled up with zeros.

    Args:
        weights: finite, shape (rows, columns).

    Returns:
        Shape (rows, columns / 32 rounded up).
    """
    rows, columns = weights.shape
    filled = np.pad(weights, ((0, 0), (0, -columns % GROUP)))
    return pack_q8_0(filled.reshape(-1, GROUP)).reshape(rows, -1)


def _padded_rows(weights: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return np.pad(weights, ((0, -len(weights) % ROWS), (0, 0))) if len(weights) % ROWS else weights


def _line(halves: npt.NDArray[np.float16]) -> npt.NDArray[np.uint8]:
    """(blocks, 16, pairs, 2) halves as (blocks, pairs, 64) bytes: sixteen rows of one group, then of the other."""
    lanes = np.ascontiguousarray(halves.transpose(0, 2, 3, 1))
    return lanes.reshape(*lanes.shape[:2], -1).view(np.uint8)


def _to_lines(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Rows of bytes filled up to a multiple of 64."""
    missing = -rows.shape[1] % 64
    return np.pad(rows, ((0, 0), (0, missing))) if missing else rows
