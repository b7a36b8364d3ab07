"""Middles of held-out texts: what is counted, and that a model that looks at the end is seen to do so."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cadran.evaluate.fill_in_the_middle import middle_bits_per_byte
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer
from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.tokenizer import Tokenizer

TEXTS = [f"def f{number}(a, b):\n    return a + b * {number}\n\n\n" * 8 for number in range(12)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, 300)


def small(tokenizer: Tokenizer) -> Transformer:
    size = tokenizer.vocabulary_size
    config = ModelConfig(
        vocabulary=size, layers=1, width=size, heads=1, kv_heads=1, head_width=16, hidden=8, context=64, tied=False
    )
    return Transformer(config, seed=1)


def test_a_model_without_an_opinion_pays_the_same_with_and_without_the_end(tokenizer: Tokenizer) -> None:
    model = small(tokenizer)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = middle_bits_per_byte(model, tokenizer, TEXTS, 64, seed=3)
    assert found["middles"] >= 30 and found["middles"] == sum(gap["middles"] for gap in found["gaps"].values())
    assert found["with_the_end"] == pytest.approx(found["without"], rel=1e-6)
    # Every token costs the same, and a token spells a few bytes.
    assert math.log2(tokenizer.vocabulary_size) / 6 < found["without"] <= math.log2(tokenizer.vocabulary_size)
    assert found == middle_bits_per_byte(model, tokenizer, TEXTS, 64, seed=3)


def test_a_model_that_needs_the_end_is_seen_to_use_it(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(tokenizer)

    def repeats_what_is_there(ids: Tensor, *others: Any) -> Tensor:
        """States that point at the tokens read so far, once the mark of the middle was among them."""
        seen = torch.nn.functional.one_hot(ids, tokenizer.vocabulary_size).float().cumsum(1).clamp(max=1)
        return 4 * seen * (ids == tokenizer.fim_middle).cumsum(1).clamp(max=1)[..., None]

    with torch.no_grad():
        model.lm_head.weight.copy_(torch.eye(tokenizer.vocabulary_size))
    monkeypatch.setattr(model, "hidden_states", repeats_what_is_there)
    found = middle_bits_per_byte(model, tokenizer, TEXTS, 64, seed=3)
    assert found["with_the_end"] < 0.9 * found["without"]


def test_the_order_decides_what_the_model_reads(tokenizer: Tokenizer) -> None:
    model = small(tokenizer)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():  # a fresh model looks at nothing but the last token
            weight.normal_(0.0, 0.1)
    one, other = (middle_bits_per_byte(model, tokenizer, TEXTS, 64, 3, order) for order in ("psm", "spm"))
    assert one["without"] == other["without"] and one["with_the_end"] != other["with_the_end"]
