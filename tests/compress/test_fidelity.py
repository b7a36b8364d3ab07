"""Two models on one text."""

import copy
import math

import numpy as np
import pytest
import torch

from cadran.compress.fidelity import compare
from cadran.errors import UserError
from cadran.evaluate.bits_per_byte import negative_log_likelihood
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer

CONFIG = ModelConfig(vocabulary=61, layers=1, width=32, heads=2, kv_heads=1, head_width=16, hidden=32, context=32)


def drawn(seed, scale=0.3):
    model = Transformer(CONFIG, seed=0)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * scale)
    return model.eval()


def documents(*lengths):
    draw = np.random.default_rng(0)
    return [draw.integers(0, 50, length) for length in lengths]


def test_a_model_has_lost_nothing_against_itself():
    model = drawn(1)
    found = compare(model, model, documents(100, 7, 40), 32, 50)
    assert (found.change, found.divergence, found.agreement, found.tokens) == (0.0, 0.0, 1.0, 144)


def test_perplexity_is_that_of_the_evaluation():
    original, other, texts = drawn(1), drawn(2), documents(100, 7, 40)
    found = compare(original, other, texts, 32, 61)
    for model, perplexity in ((original, found.before), (other, found.after)):
        nats = negative_log_likelihood(model, texts, 32)
        assert math.log(perplexity) == pytest.approx(nats / found.tokens, rel=1e-5)


def test_divergence_and_agreement_are_those_of_the_whole_distributions():
    original, other, (ids,) = drawn(1), drawn(2), documents(80)
    found = compare(original, other, [ids], 128, 50)
    with torch.no_grad():
        rows = torch.from_numpy(ids[:-1])[None]
        left, right = (model(rows)[0, :, :50].double().log_softmax(-1) for model in (original, other))
    divergence = (left.exp() * (left - right)).sum(-1)
    assert found.divergence == pytest.approx(float(divergence.mean()), rel=1e-4)
    assert found.divergence_99 == pytest.approx(float(divergence.quantile(0.99)), rel=1e-3)
    assert found.agreement == pytest.approx(float((left.argmax(-1) == right.argmax(-1)).double().mean()))


def test_a_slightly_changed_model_lies_nearer_than_a_much_changed_one():
    original, texts = drawn(1), documents(200)
    found = []
    for size in (0.001, 0.1):
        other = copy.deepcopy(original)
        with torch.no_grad():
            other.model.layers[0].mlp.up_proj.weight.mul_(1 + size)
        found.append(compare(original, other, texts, 32, 61))
    assert 0 < found[0].divergence < found[1].divergence and abs(found[0].change) < abs(found[1].change)


def test_a_long_text_is_sampled_evenly():
    model = drawn(1)
    assert 300 <= compare(model, model, documents(*[50] * 100), 32, 61, most=400).tokens <= 500


def test_too_short_a_text_is_refused():
    with pytest.raises(UserError, match="has 9 tokens to predict and needs 64"):
        compare(drawn(1), drawn(1), documents(10), 32, 61)
