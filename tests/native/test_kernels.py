"""The compiled kernels against numpy and against each other, through the C interface."""

import ctypes
from ctypes import POINTER, c_float, c_uint8

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.engine.native import library

pytestmark = pytest.mark.skipif(not library.available(), reason=library.why_not() or "")

LANES, GROUP = 16, 32
F32, F16, BF16, I8, I4, I4M = range(6)
Floats = npt.NDArray[np.float32]


def isas() -> list[str]:
    return list(library.library().cadran_isas().decode().split(","))


def pointer(array: npt.NDArray[np.generic], kind: type) -> "ctypes._Pointer[ctypes.c_float]":
    return array.ctypes.data_as(POINTER(kind))


def halves(random: np.random.Generator, *shape: int) -> npt.NDArray[np.float16]:
    return random.uniform(-1, 1, shape).astype(np.float16)


def random_matrix(random: np.random.Generator, kind: int, blocks: int, columns: int) -> tuple[bytes, Floats]:
    """Bytes as native/kernels.h describes them, and the numbers (16 blocks, columns) that they stand for."""
    if kind <= BF16:
        numbers = random.uniform(-1, 1, (blocks, columns, LANES)).astype(np.float32)
        if kind == F16:
            stored = numbers.astype(np.float16)
            numbers = stored.astype(np.float32)
        elif kind == BF16:
            bits = numbers.view(np.uint32) & np.uint32(0xFFFF0000)
            numbers, stored = bits.view(np.float32), (bits >> 16).astype(np.uint16)
        else:
            stored = numbers
        rows = stored.reshape(blocks, -1).view(np.uint8)
        return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 64))).tobytes(), numbers.swapaxes(1, 2).reshape(-1, columns)
    pairs = -(-columns // (2 * GROUP))
    scale = halves(random, blocks, pairs, 2, LANES)
    least = halves(random, blocks, pairs, 2, LANES) if kind == I4M else np.zeros_like(scale)
    top, zero = (256, 128) if kind == I8 else (16, 0 if kind == I4M else 8)
    level = random.integers(0, top, (blocks, pairs, 2, LANES, GROUP), dtype=np.uint8)
    column = np.arange(pairs * 2 * GROUP).reshape(pairs, 2, 1, GROUP)
    level = np.where(column < columns, level, np.uint8(zero))
    numbers = (level.astype(np.float32) - zero) * scale.astype(np.float32)[..., None] + least.astype(np.float32)[
        ..., None
    ]
    if kind == I8:  # (lines of four columns, rows, columns)
        lines = level.reshape(blocks, pairs, 2, LANES, 8, 4).swapaxes(3, 4)
    else:
        low, high = level[..., :16], level[..., 16:]
        lines = (low | high << 4).reshape(blocks, pairs, 2, LANES, 4, 4).swapaxes(3, 4)
    heads = [scale.reshape(blocks, pairs, -1).view(np.uint8)]
    heads += [least.reshape(blocks, pairs, -1).view(np.uint8)] * (kind == I4M)
    packed = np.concatenate([*heads, np.ascontiguousarray(lines).reshape(blocks, pairs, -1)], axis=2)
    dense = numbers.transpose(0, 3, 1, 2, 4).reshape(blocks * LANES, -1)[:, :columns]
    return packed.tobytes(), dense


def multiply(isa: str, kind: int, weights: bytes, blocks: int, columns: int, x: Floats, planes: int = 1) -> Floats:
    padded = -(-columns // (2 * GROUP)) * 2 * GROUP
    wide = np.zeros((len(x), padded), np.float32)
    wide[:, :columns] = x
    out = np.empty((len(x), blocks * LANES), np.float32)
    # Aligned, and with nothing behind it: a read beyond the end would be seen by the sanitizers.
    buffer = np.frombuffer(weights, np.uint8)
    failed = library.library().cadran_test_multiply(
        isa.encode(),
        kind,
        planes,
        pointer(buffer, c_uint8),
        blocks,
        columns,
        pointer(wide, c_float),
        len(x),
        pointer(out, c_float),
    )
    assert failed == 0
    return out


@settings(deadline=None, max_examples=80)
@given(
    kind=st.integers(F32, I4M),
    blocks=st.integers(1, 5),
    columns=st.integers(1, 200),
    tokens=st.integers(1, 14),
    planes=st.integers(1, 2),
    seed=st.integers(0, 2**32),
)
def test_every_instruction_set_gives_the_bits_of_the_plain_one(
    kind: int, blocks: int, columns: int, tokens: int, planes: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    weights, dense = random_matrix(random, kind, blocks, columns)
    x = random.uniform(-3, 3, (tokens, columns)).astype(np.float32)
    plain = multiply("scalar", kind, weights, blocks, columns, x, planes)
    for isa in isas():
        assert multiply(isa, kind, weights, blocks, columns, x, planes).tobytes() == plain.tobytes()
    exact = x.astype(np.float64) @ dense.T.astype(np.float64)
    # Activations are rounded to 1/254 of the largest of their group of 32, at most; the rest is float rounding.
    # A second plane of bytes leaves 1/254 of that.
    rounding = 3 / 254**planes if kind >= I8 else 1e-5
    bound = rounding * np.abs(dense).sum(axis=1) + 1e-4
    assert (np.abs(plain - exact) <= bound).all()


@settings(deadline=None, max_examples=20)
@given(kind=st.integers(F32, I4M), tokens=st.integers(2, 260), planes=st.integers(1, 2), seed=st.integers(0, 2**32))
def test_a_token_is_multiplied_alike_alone_and_among_others(kind: int, tokens: int, planes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    weights, _ = random_matrix(random, kind, 3, 96)
    x = random.uniform(-3, 3, (tokens, 96)).astype(np.float32)
    for isa in isas():
        together = multiply(isa, kind, weights, 3, 96, x, planes)
        one = int(random.integers(tokens))
        alone = multiply(isa, kind, weights, 3, 96, x[one : one + 1], planes)
        assert alone.tobytes() == together[one].tobytes()


@settings(deadline=None, max_examples=60)
@given(
    kernel=st.sampled_from(["quantise", "normalise", "silu", "gelu", "gelu_tanh", "turn", "cap"]),
    sixteens=st.integers(1, 20),
    spread=st.sampled_from([1e-3, 1.0, 50.0, 1e4]),
    seed=st.integers(0, 2**32),
)
def test_activations_and_norms_have_the_same_bits_everywhere(
    kernel: str, sixteens: int, spread: float, seed: int
) -> None:
    x = (np.random.default_rng(seed).normal(size=sixteens * 16) * spread).astype(np.float32)
    results = set()
    for isa in isas():
        out = np.empty_like(x)
        call = library.library().cadran_test_map
        assert call(isa.encode(), kernel.encode(), pointer(x, c_float), len(x), pointer(out, c_float)) == 0
        results.add(out.tobytes())
    assert len(results) == 1


def test_an_instruction_set_that_is_not_there_is_an_error() -> None:
    one = np.zeros(64, np.float32)
    call = library.library().cadran_test_multiply
    weights = pointer(np.zeros(4096, np.uint8), c_uint8)
    assert call(b"abacus", F32, 1, weights, 1, 1, pointer(one, c_float), 1, pointer(one, c_float)) < 0
    assert "instruction set" in library.error(library.library())
