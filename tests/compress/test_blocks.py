"""Levels and scales, and the bytes of a file."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadran.compress.blocks import LEVELS, Grid, Quantised
from cadran.model.gguf.quantization import dequantise

gguf = pytest.importorskip("gguf")


def drawn(kind, rows, groups, seed):
    draw = np.random.default_rng(seed)
    low, high = LEVELS[kind]
    halves = lambda: torch.from_numpy((draw.normal(0, 1, (rows, groups)) ** 5).astype(np.float16).astype(np.float32))  # noqa: E731
    levels = torch.from_numpy(draw.integers(low, high, (rows, 32 * groups), endpoint=True).astype(np.int8))
    scale = halves()
    return Quantised(kind, levels, scale, halves() if kind == "Q4_1" else torch.zeros_like(scale))


@given(kind=st.sampled_from(list(LEVELS)), rows=st.integers(1, 5), groups=st.integers(1, 4), seed=st.integers(0, 999))
def test_the_values_are_exactly_what_readers_decode_from_the_bytes(kind, rows, groups, seed):
    quantised = drawn(kind, rows, groups, seed)
    encoded = quantised.encoded()
    assert encoded.shape == (rows, 32 * groups)
    values = quantised.values().numpy()
    assert np.array_equal(dequantise(kind, encoded.rows.tobytes(), encoded.shape), values)
    theirs = gguf.quants.dequantize(encoded.rows, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(theirs, values)


def test_a_scale_of_zero_gives_its_minimum_and_no_nan():
    grid = Grid("Q4_1", torch.zeros(1, 1), torch.full((1, 1), 0.5))
    weights = torch.linspace(-1, 1, 32)[None]
    assert torch.equal(grid.values(grid.levels(weights)), torch.full((1, 32), 0.5))
