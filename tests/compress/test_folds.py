"""Scaling channels without changing the model."""

import copy
import dataclasses

import pytest
import torch

from cadran.compress.activations import Moments
from cadran.compress.awq import best_scale
from cadran.compress.folds import folds
from cadran.compress.gptq import output_error
from cadran.compress.rounding import nearest
from cadran.model.config import Experts, ModelConfig
from cadran.model.transformer import Transformer

PLAIN = ModelConfig(vocabulary=61, layers=2, width=32, heads=4, kv_heads=4, head_width=8, hidden=64, context=32)
CONFIGS = {
    "qwen3": (PLAIN, 4),
    "grouped heads with biases": (
        dataclasses.replace(PLAIN, kv_heads=2, qk_norm=None, qkv_bias=True, output_bias=True, mlp_bias=True), 4
    ),
    "norms before and after, centred on zero": (
        dataclasses.replace(PLAIN, norm_order="both", norm_offset=1.0, activation="gelu_tanh"), 4
    ),
    "norms after": (dataclasses.replace(PLAIN, norm_order="post", qk_norm="all"), 2),
    "LayerNorm and no gate": (
        dataclasses.replace(PLAIN, norm="layer", gated=False, qkv_bias=True, mlp_bias=True, rope=None, qk_norm=None,
                            activation="gelu_tanh"), 3,
    ),
    "experts": (dataclasses.replace(PLAIN, experts=Experts(4, 2, 32, (True, True))), 2),
}  # fmt: skip


def drawn(config, seed=0):
    model = Transformer(config, seed=0)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.2)
    return model.eval()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_scaling_every_fold_leaves_the_logits_as_they_were(name):
    config, count = CONFIGS[name]
    model = drawn(config)
    ids = torch.arange(24)[None] % 61
    before = model(ids)
    scaled = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(5)
    for block in scaled.model.layers:
        there = list(folds(block))
        assert len(there) == count
        for fold in there:
            inputs = block.get_submodule(fold.readers[0]).in_features
            channels = len(fold.gathered(torch.ones(inputs)))
            fold.apply(block, torch.rand(channels, generator=draw) * 3.5 + 0.25)
    changed = [n for (n, a), b in zip(model.named_parameters(), scaled.parameters(), strict=True) if not a.equal(b)]
    assert len(changed) >= 2 * config.layers
    assert torch.allclose(scaled(ids), before, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_channel_of_large_inputs_is_given_more_of_the_levels():
    block = drawn(PLAIN).model.layers[0]
    fold = next(iter(folds(block)))
    x = torch.randn(4096, 32, generator=torch.Generator().manual_seed(1)) * 0.1
    x[:, 3] *= 300
    moments = Moments(32)
    moments.add(x)
    kinds = dict.fromkeys(fold.readers, "Q4_0")
    scale = best_scale(block, fold, moments, kinds)
    assert scale is not None and int(scale.argmax()) == 3
    weight = block.get_submodule(fold.readers[0]).weight
    plain = output_error(weight, nearest(weight, "Q4_0", coarse=True), moments.hessian).sum()
    wise = nearest(weight * scale, "Q4_0", coarse=True).values() / scale
    assert output_error(weight, wise, moments.hessian).sum() < 0.5 * plain


@torch.no_grad()
def test_maps_that_keep_8_bits_or_saw_nothing_are_not_scaled():
    block = drawn(PLAIN).model.layers[0]
    fold = next(iter(folds(block)))
    moments = Moments(32)
    assert best_scale(block, fold, moments, dict.fromkeys(fold.readers, "Q4_0")) is None
    moments.add(torch.randn(64, 32))
    assert best_scale(block, fold, moments, dict.fromkeys(fold.readers, "Q8_0")) is None
