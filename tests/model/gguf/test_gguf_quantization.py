"""Blocks decode to the bits of the `gguf` package, encode to its bytes, and take little memory on the way."""

import tracemalloc

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st

from cadran.errors import UserError
from cadran.model.gguf.quantization import BLOCKS, WRITABLE, dequantise, quantise, stored_size
from cadran.model.gguf.tensor_kind import CODES, KINDS, kind_of

# float16 patterns that a scale can be: zeros, the smallest, one, the largest, infinities, not a number.
SPECIAL_HALVES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x3C00, 0x7BFF, 0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x7C01]
SCALE_OFFSETS = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2],
                 "Q5_K": [0, 2], "Q6_K": [208]}  # fmt: skip


def assert_same_bits(ours, theirs):
    """Equal bits, except that one NaN is as good as another: which one comes out is the processor's choice."""
    assert ours.dtype == theirs.dtype == np.float32 and ours.shape == theirs.shape
    lost = np.isnan(theirs)
    assert np.array_equal(np.isnan(ours), lost)
    assert np.array_equal(ours.view(np.uint32)[~lost], np.ascontiguousarray(theirs).view(np.uint32)[~lost])


def random_blocks(kind, seed, rows, blocks_per_row):
    """Random bytes in the layout of a kind, with special scales in about a third of the blocks; and their shape."""
    generator = np.random.default_rng(seed)
    weights, size = BLOCKS[kind]
    blocks = generator.integers(0, 256, (rows * blocks_per_row, size), np.uint8)
    for offset in SCALE_OFFSETS.get(kind, []):
        chosen = np.flatnonzero(generator.random(len(blocks)) < 0.3)
        halves = generator.choice(np.array(SPECIAL_HALVES, "<u2"), len(chosen))
        blocks[chosen, offset : offset + 2] = halves.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1), (rows, blocks_per_row * weights)


def random_weights(seed, rows, blocks_per_row):
    """Weights of very different sizes, zeros, ties for the largest magnitude, and levels at or next to a half."""
    generator = np.random.default_rng(seed)
    blocks = generator.standard_normal((rows * blocks_per_row, 32)).astype(np.float32)
    blocks *= np.float32(10) ** generator.integers(-7, 5, (len(blocks), 1)).astype(np.float32)
    blocks[generator.random(blocks.shape) < 0.1] = 0
    blocks[generator.random(len(blocks)) < 0.1] = 0
    tied = generator.random(len(blocks)) < 0.3
    blocks[tied, 20] = -blocks[tied, 3]
    # Multiples of a power of two: many products fall exactly on a half.
    even = generator.random(len(blocks)) < 0.3
    blocks[even] = generator.integers(-127, 128, (int(even.sum()), 32)) / np.float32(2)
    # Halves of a scale that is no power of two: the roundings on the way decide to which side they fall.
    for steps in (8, 127):
        near = generator.random(len(blocks)) < 0.2
        levels = generator.integers(-steps, steps, (int(near.sum()), 32)) + np.float32(0.5)
        levels[:, 0] = -steps
        blocks[near] = levels * generator.random((len(levels), 1), np.float32)
    return blocks.reshape(rows, -1)


@given(st.sampled_from(sorted(BLOCKS)), st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 5))
def test_any_bytes_decode_to_the_bits_of_the_gguf_package(kind, seed, rows, blocks_per_row):
    blocks, shape = random_blocks(kind, seed, rows, blocks_per_row)
    with np.errstate(all="ignore"):
        theirs = dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert_same_bits(dequantise(kind, blocks.tobytes(), shape), theirs.reshape(shape))


@pytest.mark.parametrize("kind", sorted(BLOCKS))
def test_tensors_longer_than_a_piece_decode_as_a_whole(kind):
    """Pieces are 65,536 weights; the last one here is a short one."""
    blocks, shape = random_blocks(kind, 7, 3, 70_000 // BLOCKS[kind][0])
    with np.errstate(all="ignore"):
        theirs = dequantize(blocks, gguf.GGMLQuantizationType[kind])
    assert_same_bits(dequantise(kind, memoryview(blocks.tobytes()), shape), theirs.reshape(shape))


def test_every_float16_decodes_to_the_bits_of_the_gguf_package():
    halves = np.arange(1 << 16, dtype="<u2")
    for kind in ("F16", "BF16"):
        theirs = dequantize(halves.view(np.uint8), gguf.GGMLQuantizationType[kind])
        assert_same_bits(dequantise(kind, halves.tobytes(), (1 << 16,)), theirs)


def test_float32_passes_through_with_every_bit():
    patterns = np.random.default_rng(0).integers(0, 1 << 32, 5000, np.uint32)
    decoded = dequantise("F32", patterns.tobytes(), (50, 100))
    assert np.array_equal(decoded.view(np.uint32).reshape(-1), patterns)
    assert quantise("F32", decoded) == patterns.tobytes()


@given(st.sampled_from(["Q8_0", "Q4_0"]), st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 5))
def test_finite_weights_encode_to_the_bytes_of_the_gguf_package(kind, seed, rows, blocks_per_row):
    weights = random_weights(seed, rows, blocks_per_row)
    with np.errstate(all="ignore"):
        theirs = quantize(weights, gguf.GGMLQuantizationType[kind])
    assert quantise(kind, weights) == theirs.tobytes()


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_any_float32_encodes_to_the_bytes_of_the_gguf_package(kind):
    generator = np.random.default_rng(1)
    patterns = generator.integers(0, 1 << 32, 200_000, np.uint32)
    # Ties of the rounding, the largest numbers, infinities and NaN whose rounding would carry into the exponent.
    patterns[:70_000] = (patterns[:70_000] & 0xFFFF0000) | 0x8000
    patterns[70_000:70_006] = [0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FFFFFFF, 0x7F800001]
    weights = patterns.view(np.float32).reshape(100, 2000)
    with np.errstate(all="ignore"):
        theirs = quantize(weights, gguf.GGMLQuantizationType[kind])
    assert quantise(kind, weights) == theirs.tobytes()


@pytest.mark.parametrize("kind", WRITABLE)
def test_encoding_what_was_decoded_gives_the_same_bytes(kind):
    weights = random_weights(3, 20, 8)
    once = quantise(kind, weights)
    assert len(once) == stored_size(kind, weights.shape)
    decoded = dequantise(kind, once, weights.shape)
    assert np.array_equal(dequantise(kind, quantise(kind, decoded), weights.shape), decoded)


@pytest.mark.parametrize("kind", WRITABLE)
def test_a_transposed_array_is_encoded_in_the_order_of_its_shape(kind):
    weights = random_weights(4, 64, 3)
    assert quantise(kind, weights.T) == quantise(kind, weights.T.copy())


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("culprit", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_where_the_kind_cannot_hold_them(kind, culprit):
    weights = np.zeros((2, 64), np.float32)
    weights[1, 40] = culprit
    with pytest.raises(UserError, match=kind):
        quantise(kind, weights)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_weights_whose_scale_vanishes_decode_to_zero(kind):
    weights = np.full((1, 32), 1e-44, np.float32)
    assert not dequantise(kind, quantise(kind, weights), (1, 32)).any()


def test_rows_that_do_not_divide_into_blocks_and_kinds_that_are_not_supported_are_refused():
    weights = np.zeros((4, 48), np.float32)
    with pytest.raises(UserError, match="multiples of 32"):
        quantise("Q8_0", weights)
    with pytest.raises(UserError, match="Q4_K"):
        quantise("Q4_K", weights)
    with pytest.raises(UserError, match="IQ2_XXS"):
        dequantise("IQ2_XXS", b"", (0,))
    with pytest.raises(ValueError, match="takes 34 bytes"):
        dequantise("Q8_0", bytes(33), (32,))


@pytest.mark.parametrize("kind", sorted(BLOCKS))
def test_decoding_takes_little_more_memory_than_its_result(kind):
    shape = (1024, 4096)
    data = bytes(stored_size(kind, shape))
    tracemalloc.start()
    try:
        weights = dequantise(kind, data, shape)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < weights.nbytes * 1.1


def test_the_table_of_kinds_agrees_with_the_gguf_package():
    for kind in gguf.GGMLQuantizationType:
        # Q8_1 is a format of intermediate results: no file holds it, and the package's size of it is not ggml's.
        if kind.name != "Q8_1":
            assert KINDS[kind.value] == (kind.name, *gguf.GGML_QUANT_SIZES[kind])
            assert CODES[kind.name] == kind.value
    assert kind_of(99) == ("type 99", 1, 0)
