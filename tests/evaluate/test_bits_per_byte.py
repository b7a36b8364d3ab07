"""Bits per byte: every target once, and the number a uniform model must have."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadran.corpus.shards import EncodedDocument, write_shard
from cadran.evaluate.bits_per_byte import bits_per_byte, negative_log_likelihood, windows
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer

CONFIG = ModelConfig(
    vocabulary=30, layers=1, width=16, heads=2, kv_heads=1, head_width=8, hidden=32, context=12, tied=True
)


@given(length=st.integers(1, 200), context=st.integers(1, 40))
def test_windows_predict_every_target_once_with_half_a_context_before_it(length: int, context: int) -> None:
    spans = list(windows(length, context))
    assert [i for _, counted, end in spans for i in range(counted, end)] == list(range(length))
    for begin, counted, end in spans:
        assert end - begin <= context and begin <= counted
        if begin:
            assert counted - begin >= context // 2


def model_of(seed: int) -> Transformer:
    model = Transformer(CONFIG, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def test_short_documents_score_what_a_plain_forward_pass_gives() -> None:
    model, generator = model_of(0), np.random.Generator(np.random.PCG64(0))
    documents = [generator.integers(0, 30, n) for n in (2, 5, 9, 13, 3)]
    plain = 0.0
    with torch.no_grad():
        for ids in documents:
            row = torch.from_numpy(ids)[None]
            plain += float(torch.nn.functional.cross_entropy(model(row)[0, :-1], row[0, 1:], reduction="sum"))
    assert negative_log_likelihood(model, documents, 12) == pytest.approx(plain, rel=1e-5)


def test_a_uniform_model_needs_log2_of_the_vocabulary_per_token(tmp_path: Path) -> None:
    model = Transformer(CONFIG, seed=0)
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    documents = [EncodedDocument(np.arange(n), 2 * (n - 1), language) for n, language in ((30, "fr"), (4, "en"))]
    shard = write_shard(tmp_path, documents, 30)
    bits = bits_per_byte(model, shard, CONFIG.context)
    assert set(bits) == {"all", "fr", "en"}
    for value in bits.values():
        assert value == pytest.approx(math.log2(30) / 2, rel=1e-5)


def test_the_limit_takes_the_first_documents_of_each_language(tmp_path: Path) -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    documents = [EncodedDocument(generator.integers(0, 30, 8), 20, "en" if i % 2 else "fr") for i in range(8)]
    whole = write_shard(tmp_path / "whole", documents, 30)
    first = write_shard(tmp_path / "first", documents[:4], 30)
    limited = bits_per_byte(model_of(2), whole, 12, limit=2)
    assert limited == pytest.approx(bits_per_byte(model_of(2), first, 12))
