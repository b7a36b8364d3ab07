"""What a GGUF file may not say, and what it cannot say: plain errors, nothing allocated, nothing left behind."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_checkpoints import TOKENIZER, checkpoint, exported, rewritten

from cadran.errors import UserError
from cadran.model.gguf.reader import GgufFile
from cadran.model.gguf.rope_keys import FREQUENCIES
from cadran.model.gguf.translate import GgufModel, export_gguf


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A plain Llama as GGUF."""
    return exported("llama", tmp_path_factory.mktemp("llama"))[0]


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory):
    """A DeepSeek-V3 as GGUF."""
    return exported("deepseek_v3", tmp_path_factory.mktemp("deepseek"))[0]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}, "sliding window"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "layers without experts"),
        ("qwen3", {"attention_bias": True}, "bias"),
        ("gemma2", {"query_pre_attn_scalar": 20}, "query_pre_attn_scalar"),
        ("gemma2", {"attn_logit_softcapping": None}, "soft cap"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "layer_types"),
        ("gpt2", {"activation_function": "gelu"}, "gelu by tanh"),
        ("llama", {"hidden_act": "gelu"}, "silu"),
        ("olmo2", {"attention_bias": True}, "bias"),
        (
            "qwen3",
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                                 "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
            "llama3",
        ),
    ],
)  # fmt: skip
def test_what_llama_cpp_would_compute_otherwise_is_refused(name, changes, message, tmp_path):
    config, weights = checkpoint(name, tmp_path / "checkpoint", **changes)
    with pytest.raises(UserError, match=message):
        export_gguf(tmp_path / "model.gguf", config, weights, TOKENIZER, "f16", "tiny")
    assert not (tmp_path / "model.gguf").exists()


def test_weights_that_do_not_belong_together_are_named(tmp_path):
    config, weights = checkpoint("llama", tmp_path / "checkpoint")
    target = tmp_path / "model.gguf"

    def refused(changed, message, **arguments):
        with pytest.raises(UserError, match=message):
            export_gguf(target, *(arguments.get(key, value) for key, value in (
                ("config", config), ("weights", changed), ("tokenizer", TOKENIZER), ("kind", "f16"), ("name", "tiny")
            )))  # fmt: skip
        assert not list(tmp_path.glob("*.gguf*"))

    q = "model.layers.1.self_attn.q_proj.weight"
    refused({k: v for k, v in weights.items() if k != q}, "model.layers.1.self_attn.q_proj.weight")
    refused(weights | {"model.layers.0.mlp.extra.weight": torch.zeros(1)}, "extra")
    refused(weights | {q: torch.zeros(8, 8)}, r"\(8, 8\)")
    refused(weights | {q: torch.full((64, 64), 1e6)}, "too large")
    refused(weights, "q5_1", kind="q5_1")
    refused(weights, "'mamba'", config=config | {"model_type": "mamba"})
    refused(weights, "95 pieces", tokenizer={"tokenizer.ggml.tokens": TOKENIZER["tokenizer.ggml.tokens"][1:]})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"general.architecture": "mamba"}, "'mamba' is not known; Cadran opens llama, qwen2"),
        ({"general.architecture": None}, "not known"),
        ({"llama.block_count": 1 << 30}, "claims"),
        ({"llama.block_count": 1 << 40}, "block_count"),
        ({"llama.block_count": 1}, "blk.1"),
        ({"llama.block_count": 3}, "lacks the tensor blk.2"),
        ({"llama.block_count": None}, "block_count"),
        ({"llama.embedding_length": 32}, "shape"),
        ({"llama.embedding_length": "wide"}, "embedding_length"),
        ({"llama.feed_forward_length": 97}, "ffn_gate.weight"),
        ({"llama.attention.head_count": 0}, "attention head"),
        ({"llama.attention.head_count_kv": 3}, "multiple"),
        ({"llama.attention.value_length": 8}, "another key"),
        ({"llama.expert_count": 1 << 30, "llama.expert_used_count": 2}, "ffn_gate_inp"),
        ({"llama.rope.dimension_count": 8}, "in part"),
        ({"llama.rope.dimension_count": 18}, "turns 18 of 16"),
        ({"llama.rope.freq_base": -1.0}, "cannot be"),
        ({"llama.rope.scaling.type": "spiral"}, "spiral"),
        ({"llama.rope.scaling.type": "longrope"}, "rope_factors_long"),
        ({"split.count": 4}, "parts"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "token_embd.weight"),
    ],
)
def test_metadata_that_do_not_fit_the_tensors_are_refused(llama, tmp_path, keys, message):
    path = rewritten(llama, tmp_path / "changed.gguf", keys)
    with pytest.raises(UserError, match=message):
        GgufModel.open(path)


def test_missing_and_unknown_tensors_are_named(llama, tmp_path):
    for without, extra, message in (
        (["blk.1.attn_v.weight"], [], "lacks the tensor blk.1.attn_v.weight"),
        (["token_embd.weight"], [], "token_embd.weight"),
        ([], [("blk.0.attn_sinks.weight", np.zeros(4, np.float32), "F32")], "attn_sinks"),
        ([], [(FREQUENCIES, np.ones(7, np.float32), "F32")], "rope_freqs"),
        ([], [(FREQUENCIES, np.full(8, np.nan, np.float32), "F32")], "impossible"),
    ):
        path = rewritten(llama, tmp_path / "changed.gguf", (), without, extra)
        with pytest.raises(UserError, match=message):
            GgufModel.open(path)


VALUES = st.one_of(
    st.integers(0, 1 << 40),
    st.floats(width=32),
    st.booleans(),
    st.text(max_size=5),
    st.lists(st.integers(0, 9), max_size=4),
)


@given(data=st.data())
def test_any_value_of_any_key_ends_in_a_model_or_a_plain_error(deepseek, llama, tmp_path_factory, data):
    source = data.draw(st.sampled_from([deepseek, llama]))
    with GgufFile.open(source) as file:
        names = sorted(key for key in file.metadata if not key.startswith(("tokenizer.", "general.")))
    changed = {name: data.draw(VALUES) for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))}
    path = rewritten(source, tmp_path_factory.mktemp("any") / "any.gguf", changed)
    try:
        model = GgufModel.open(path)
    except UserError:
        return
    with model:
        assert all(torch.isfinite(tensor).all() for _, tensor in model.weights())
