"""Rotary positions in GGUF files: what comes back turns as it did before."""

import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoints import exported, rewritten
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from cadran.model.config import Rope
from cadran.model.families import read_config
from cadran.model.families.fields import Fields
from cadran.model.gguf.reader import GgufFile
from cadran.model.gguf.rope_keys import FREQUENCIES, read_rope_keys, write_rope_keys, write_rope_tensors
from cadran.model.gguf.translate import GgufModel
from cadran.model.gguf.writer import write_gguf
from cadran.model.rope import inverse_frequencies
from cadran.model.rope_magnitude import table_magnitude


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A plain Llama as GGUF."""
    return exported("llama", tmp_path_factory.mktemp("llama"))[0]


@given(
    factor=st.floats(1.5, 64),
    low=st.sampled_from([0.5, 1.0, 2.0]),
    ratio=st.sampled_from([1.5, 2.0, 4.0, 8.0]),
    original=st.sampled_from([256, 2048, 8192]),
    theta=st.sampled_from([1e4, 5e5, 1e6]),
    width=st.sampled_from([16, 64, 128]),
)
def test_llama_3_positions_turn_as_before(tmp_path_factory, factor, low, ratio, original, theta, width):

    rope = Rope(theta, "llama3", factor=factor, original=original, low=low, high=low * ratio)
    context = original * 4
    path = tmp_path_factory.mktemp("rope") / "rope.gguf"
    write_gguf(path, {}, [(name, tensor, "F32") for name, tensor in write_rope_tensors(rope, width, context)])
    with GgufFile.open(path) as file:
        assert list(file.tensors) == [FREQUENCIES]
        back = read_rope_keys(Fields(write_rope_keys(rope, width, context)), file.tensors, width, context)
    wanted = inverse_frequencies(width, rope, context)
    torch.testing.assert_close(inverse_frequencies(width, back, context), wanted, rtol=2e-5, atol=0)
    assert table_magnitude(back, context) == 1


def test_published_llama_3_scaling_comes_back_in_its_own_words(tmp_path):
    path, config, _ = exported("llama 3.2", tmp_path)
    with GgufModel.open(path) as model:
        assert FREQUENCIES in model.file.tensors
        rope = model.config["rope_parameters"]
    for key, value in config["rope_parameters"].items():
        assert rope[key] == value, key


def test_divisors_of_no_known_formula_are_kept_as_they_are(llama, tmp_path):
    divisors = np.array([1, 1.5, 1.25, 3, 2, 7, 1, 9], np.float32)
    with GgufModel.open(rewritten(llama, tmp_path / "odd.gguf", (), (), [(FREQUENCIES, divisors, "F32")])) as model:
        rope = read_config(model.config).rope
    plain = inverse_frequencies(16, Rope(10_000.0), 128)
    for longest in (1, 128, 4096):
        assert torch.allclose(inverse_frequencies(16, rope, 128, longest), plain / torch.from_numpy(divisors))
    assert table_magnitude(rope, 128) == 1


@given(
    factor=st.sampled_from([2.0, 4.0, 8.0, 40.0]),
    attention_factor=st.sampled_from([None, 1.0, 1.3]),
    fast=st.sampled_from([16.0, 32.0]),
)
def test_yarn_comes_back_and_sharpens_as_before(tmp_path_factory, factor, attention_factor, fast):

    rope = Rope(1e6, "yarn", factor=factor, original=4096, fast=fast, magnitude=attention_factor)
    path = tmp_path_factory.mktemp("rope") / "rope.gguf"
    write_gguf(path, write_rope_keys(rope, 64, 131_072), [("x", np.zeros(1, np.float32), "F32")])
    with GgufFile.open(path) as file:
        back = read_rope_keys(Fields(file.metadata), file.tensors, 64, 131_072)
    assert (back.base, back.kind, back.factor, back.original, back.fast) == (1e6, "yarn", factor, 4096, fast)
    assert math.isclose(table_magnitude(back, 131_072), table_magnitude(rope, 131_072), rel_tol=1e-6)


def test_longrope_divisors_and_magnitude_are_those_of_transformers(tmp_path):
    path, config, _ = exported("phi3 longrope", tmp_path)
    with GgufModel.open(path) as model:
        back = transformers.AutoConfig.for_model(**model.config)
    whole = transformers.AutoConfig.for_model(**config)
    for length in (8, 100):
        for ours, theirs in zip(
            ROPE_INIT_FUNCTIONS["longrope"](back, "cpu", length),
            ROPE_INIT_FUNCTIONS["longrope"](whole, "cpu", length),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
