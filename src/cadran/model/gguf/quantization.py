"""Between the bytes of a GGUF tensor and float32 weights, in pieces small enough to stay in the processor's cache.

Decoding gives the bits that the `gguf` package gives, for every input; encoding too, for finite weights.
"""

from collections.abc import Callable, Iterator
from math import prod

import numpy as np
from numpy.typing import NDArray

from cadran.errors import UserError
from cadran.model.gguf import k_quants, legacy_quants
from cadran.model.gguf.tensor_kind import CODES, KINDS

_PIECE = 1 << 16  # weights decoded or encoded at once: 256 KiB of float32

_UNPACK: dict[str, tuple[np.dtype[np.void], Callable[[NDArray[np.void], NDArray[np.float32]], None]]] = {
    "Q4_0": (legacy_quants.Q4_0, legacy_quants.unpack_q4_0),
    "Q4_1": (legacy_quants.Q4_1, legacy_quants.unpack_q4_1),
    "Q5_0": (legacy_quants.Q5_0, legacy_quants.unpack_q5_0),
    "Q5_1": (legacy_quants.Q5_1, legacy_quants.unpack_q5_1),
    "Q8_0": (legacy_quants.Q8_0, legacy_quants.unpack_q8_0),
    "Q4_K": (k_quants.Q4_K, k_quants.unpack_q4_k),
    "Q5_K": (k_quants.Q5_K, k_quants.unpack_q5_k),
    "Q6_K": (k_quants.Q6_K, k_quants.unpack_q6_k),
}

_PACK: dict[str, Callable[[NDArray[np.float32]], NDArray[np.void]]] = {
    "Q4_0": legacy_quants.pack_q4_0,
    "Q8_0": legacy_quants.pack_q8_0,
}

BLOCKS: dict[str, tuple[int, int]] = {
    name: (KINDS[CODES[name]].weights, KINDS[CODES[name]].size) for name in ("F32", "F16", "BF16", *_UNPACK)
}
"""Kinds that can be decoded: name -> (weights per block, bytes per block)."""

WRITABLE = ("F32", "F16", "BF16", *_PACK)
"""Kinds that can be encoded."""


def dequantise(kind: str, data: bytes | memoryview, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Decode a tensor.

    Args:
        kind: one of `BLOCKS`.
        data: the tensor's bytes, exactly as many as the shape needs.
        shape: row-major, outermost dimension first; the last one is a multiple of the kind's block.

    Returns:
        A new float32 array of that shape, which keeps no hold on ``data``.

    Raises:
        UserError: the kind is not one that Cadran decodes.
        ValueError: bytes and shape disagree.
    """
    if kind not in BLOCKS:
        raise UserError(f"Weights stored as {kind} are not supported: choose a file of {', '.join(BLOCKS)}.")
    expected = stored_size(kind, shape)
    if memoryview(data).nbytes != expected:
        raise ValueError(f"{kind} of shape {shape} takes {expected} bytes, not {memoryview(data).nbytes}")
    weights = np.empty(shape, np.float32)
    flat = weights.reshape(-1)
    if kind == "F32":
        flat[:] = np.frombuffer(data, "<f4")
    elif kind == "F16":
        flat[:] = np.frombuffer(data, "<f2")
    elif kind == "BF16":
        # bfloat16 is the upper half of a float32.
        bits = flat.view(np.uint32)
        bits[:] = np.frombuffer(data, "<u2")
        bits <<= 16
    else:
        layout, unpack = _UNPACK[kind]
        blocks = np.frombuffer(data, layout)
        rows = flat.reshape(len(blocks), -1)
        step = _PIECE // rows.shape[1]
        # A scale may be infinite or not a number, in damaged or in overflowed files: the weights then are, too.
        with np.errstate(all="ignore"):
            for first in range(0, len(blocks), step):
                unpack(blocks[first : first + step], rows[first : first + step])
    return weights


def quantise(kind: str, weights: NDArray[np.float32]) -> bytes:
    """Encode a tensor.

    Args:
        kind: one of `WRITABLE`.
        weights: float32, at least one dimension; the last one is a multiple of the kind's block.

    Returns:
        The tensor's bytes, row-major.

    Raises:
        UserError: the kind cannot be written, rows do not divide into blocks, or a weight is not finite where the
            kind has no way to say so.
    """
    return b"".join(quantised_pieces(kind, weights))


def quantised_pieces(kind: str, weights: NDArray[np.float32]) -> Iterator[bytes]:
    """The bytes of `quantise` piece by piece, for a writer that holds no second copy of the tensor."""
    if kind not in WRITABLE:
        raise UserError(f"Weights cannot be written as {kind}: choose one of {', '.join(WRITABLE)}.")
    stored_size(kind, weights.shape)
    flat = np.ascontiguousarray(weights, np.float32).reshape(-1)
    for first in range(0, flat.size, _PIECE):
        piece = flat[first : first + _PIECE]
        with np.errstate(all="ignore"):
            yield _encoded(kind, piece).tobytes()


def stored_size(kind: str, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor of this shape takes.

    Args:
        kind: one of `BLOCKS`.
        shape: row-major, outermost dimension first.

    Raises:
        UserError: its rows do not divide into blocks of the kind.
    """
    weights, size = BLOCKS[kind]
    if not shape or shape[-1] % weights:
        raise UserError(f"A tensor of shape {shape} cannot be stored as {kind}, whose rows are multiples of {weights}.")
    return prod(shape) // weights * size


def _encoded(kind: str, piece: NDArray[np.float32]) -> NDArray[np.generic]:
    if kind == "F32":
        return piece.astype("<f4", copy=False)
    if kind == "F16":
        return piece.astype("<f2")
    if kind == "BF16":
        return _bfloat16(piece)
    # Converting an infinity to a small integer gives whatever the processor likes.
    if not np.isfinite(piece).all():
        raise UserError(f"A weight is infinite or not a number and cannot be stored as {kind}: write F16 or retrain.")
    return _PACK[kind](piece.reshape(-1, 32))


def _bfloat16(piece: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = piece.view(np.uint32)
    # Round to the nearest, ties to even. NaN is made quiet instead: rounding could carry it over into another number.
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    quiet = (bits >> 16) | np.uint32(64)
    return np.where(np.isnan(piece), quiet, rounded).astype("<u2")
