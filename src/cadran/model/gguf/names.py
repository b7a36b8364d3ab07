"""Names and shapes of the tensors of each architecture, in GGUF files and in Hugging Face checkpoints.

Tables only: a rule is a name in the file, a name in the checkpoint, a shape in words, and what lies differently.
The facts are those of llama.cpp (``gguf.constants``, ``gguf.tensor_mapping``, the loader and the converter).
"""

from collections.abc import Callable

from cadran.model.config import ModelConfig
from cadran.model.gguf.layouts import CentredOnZero, LatentExpansion, RotaryPairs, Same, Stacked, Transposed
from cadran.model.gguf.places import EXPERT, LAYER, NameRule


def _same(_: ModelConfig) -> Same:
    return Same()


def _centred(_: ModelConfig) -> Same:
    return CentredOnZero()


def _transposed(_: ModelConfig) -> Same:
    return Transposed()


def _stacked(_: ModelConfig) -> Same:
    return Stacked()


def _query_pairs(model: ModelConfig) -> Same:
    return RotaryPairs(model.heads)


def _key_pairs(model: ModelConfig) -> Same:
    return RotaryPairs(model.kv_heads)


def _expansion(model: ModelConfig) -> Same:
    assert model.latent is not None
    return LatentExpansion(model.heads, model.latent.plain, model.latent.value)


_Layouts = Callable[[ModelConfig], Same]
_Condition = Callable[[ModelConfig, int], bool]


def _always(_: ModelConfig, __: int) -> bool:
    return True


def _untied(model: ModelConfig, _: int) -> bool:
    return not model.tied


def _attention_biased(model: ModelConfig, _: int) -> bool:
    return model.qkv_bias


def _mlp_biased(model: ModelConfig, layer: int) -> bool:
    return model.mlp_bias and _dense(model, layer)


def _sparse(model: ModelConfig, layer: int) -> bool:
    return model.experts is not None and model.experts.sparse[layer]


def _dense(model: ModelConfig, layer: int) -> bool:
    return not _sparse(model, layer)


def _shared(model: ModelConfig, layer: int) -> bool:
    return _sparse(model, layer) and model.experts is not None and model.experts.shared > 0


def _corrected(model: ModelConfig, layer: int) -> bool:
    return _sparse(model, layer) and model.experts is not None and model.experts.correction


def _narrow_queries(model: ModelConfig, _: int) -> bool:
    return model.latent is not None and model.latent.query_rank > 0


def _full_queries(model: ModelConfig, layer: int) -> bool:
    return not _narrow_queries(model, layer)


def _outer(gguf: str, checkpoint: str, shape: str, layout: _Layouts = _same, when: _Condition = _always) -> NameRule:
    return NameRule((gguf,), checkpoint, (tuple(shape.split()),), layout, when)


def _inner(gguf: str, checkpoint: str, shape: str, layout: _Layouts = _same, when: _Condition = _always) -> NameRule:
    return _outer(LAYER + gguf, "model.layers.{layer}." + checkpoint, shape, layout, when)


def _ends(norm: _Layouts = _same) -> tuple[NameRule, ...]:
    return (
        _outer("token_embd.weight", "model.embed_tokens.weight", "vocabulary width"),
        _outer("output_norm.weight", "model.norm.weight", "width", norm),
    )


def _attention(queries: _Layouts = _same, keys: _Layouts = _same) -> tuple[NameRule, ...]:
    return (
        _inner("attn_q.weight", "self_attn.q_proj.weight", "queries width", queries),
        _inner("attn_k.weight", "self_attn.k_proj.weight", "keys width", keys),
        _inner("attn_v.weight", "self_attn.v_proj.weight", "keys width"),
        _inner("attn_output.weight", "self_attn.o_proj.weight", "width queries"),
        _inner("attn_q.bias", "self_attn.q_proj.bias", "queries", queries, _attention_biased),
        _inner("attn_k.bias", "self_attn.k_proj.bias", "keys", keys, _attention_biased),
        _inner("attn_v.bias", "self_attn.v_proj.bias", "keys", when=_attention_biased),
    )


def _head_norms(norm: _Layouts = _same) -> tuple[NameRule, ...]:
    return (
        _inner("attn_q_norm.weight", "self_attn.q_norm.weight", "head", norm),
        _inner("attn_k_norm.weight", "self_attn.k_norm.weight", "head", norm),
    )


def _experts(folder: str, gate: str, up: str, down: str) -> tuple[NameRule, ...]:
    each = f"{folder}.experts.{EXPERT}."
    return (
        _inner("ffn_gate_inp.weight", f"{folder}.gate.weight", "experts width", when=_sparse),
        _inner("ffn_gate_exps.weight", f"{each}{gate}.weight", "experts expert width", _stacked, _sparse),
        _inner("ffn_up_exps.weight", f"{each}{up}.weight", "experts expert width", _stacked, _sparse),
        _inner("ffn_down_exps.weight", f"{each}{down}.weight", "experts width expert", _stacked, _sparse),
    )


def _four_norms(norm: _Layouts) -> tuple[NameRule, ...]:
    return (
        _inner("attn_norm.weight", "input_layernorm.weight", "width", norm),
        _inner("post_attention_norm.weight", "post_attention_layernorm.weight", "width", norm),
        _inner("ffn_norm.weight", "pre_feedforward_layernorm.weight", "width", norm),
        _inner("post_ffw_norm.weight", "post_feedforward_layernorm.weight", "width", norm),
    )


_NORMS = (
    _inner("attn_norm.weight", "input_layernorm.weight", "width"),
    _inner("ffn_norm.weight", "post_attention_layernorm.weight", "width"),
)
_HEAD = _outer("output.weight", "lm_head.weight", "vocabulary width", when=_untied)
_MLP = (
    _inner("ffn_gate.weight", "mlp.gate_proj.weight", "hidden width", when=_dense),
    _inner("ffn_up.weight", "mlp.up_proj.weight", "hidden width", when=_dense),
    _inner("ffn_down.weight", "mlp.down_proj.weight", "width hidden", when=_dense),
)

LLAMA = (
    *_ends(),
    _HEAD,
    *_NORMS,
    *_attention(_query_pairs, _key_pairs),
    _inner("attn_output.bias", "self_attn.o_proj.bias", "width", when=_attention_biased),
    *_MLP,
    _inner("ffn_gate.bias", "mlp.gate_proj.bias", "hidden", when=_mlp_biased),
    _inner("ffn_up.bias", "mlp.up_proj.bias", "hidden", when=_mlp_biased),
    _inner("ffn_down.bias", "mlp.down_proj.bias", "width", when=_mlp_biased),
    *_experts("block_sparse_moe", gate="w1", up="w3", down="w2"),
)
"""Llama, Mistral and Mixtral: llama.cpp turns interleaved pairs for these, the checkpoints halves."""

QWEN2 = (*_ends(), _HEAD, *_NORMS, *_attention(), *_MLP)

QWEN3 = (*_ends(), _HEAD, *_NORMS, *_attention(), *_head_norms(), *_MLP)

QWEN3_MOE = (
    *_ends(),
    _HEAD,
    *_NORMS,
    *_attention(),
    *_head_norms(),
    *_experts("mlp", gate="gate_proj", up="up_proj", down="down_proj"),
)

# The head of Gemma is always the embedding.
GEMMA2 = (*_ends(_centred), *_four_norms(_centred), *_attention(), *_MLP)

GEMMA3 = (*_ends(_centred), *_four_norms(_centred), *_attention(), *_head_norms(_centred), *_MLP)

PHI3 = (
    *_ends(),
    _HEAD,
    *_NORMS,
    _inner("attn_qkv.weight", "self_attn.qkv_proj.weight", "queries_keys_values width"),
    _inner("attn_output.weight", "self_attn.o_proj.weight", "width queries"),
    _inner("ffn_up.weight", "mlp.gate_up_proj.weight", "gate_and_up width"),
    _inner("ffn_down.weight", "mlp.down_proj.weight", "width hidden"),
)

OLMO2 = (
    *_ends(),
    _HEAD,
    *_attention(),
    _inner("attn_q_norm.weight", "self_attn.q_norm.weight", "queries"),
    _inner("attn_k_norm.weight", "self_attn.k_norm.weight", "keys"),
    _inner("post_attention_norm.weight", "post_attention_layernorm.weight", "width"),
    *_MLP,
    _inner("post_ffw_norm.weight", "post_feedforward_layernorm.weight", "width"),
)


def _gpt2_inner(gguf: str, checkpoint: str, shape: str, bias: str, layout: _Layouts = _same) -> tuple[NameRule, ...]:
    theirs = "transformer.h.{layer}." + checkpoint
    return (
        _outer(f"{LAYER}{gguf}.weight", f"{theirs}.weight", shape, layout),
        _outer(f"{LAYER}{gguf}.bias", f"{theirs}.bias", bias),
    )


GPT2 = (
    _outer("token_embd.weight", "transformer.wte.weight", "vocabulary width"),
    _outer("position_embd.weight", "transformer.wpe.weight", "context width"),
    _outer("output_norm.weight", "transformer.ln_f.weight", "width"),
    _outer("output_norm.bias", "transformer.ln_f.bias", "width"),
    _HEAD,
    *_gpt2_inner("attn_norm", "ln_1", "width", "width"),
    *_gpt2_inner("attn_qkv", "attn.c_attn", "queries_keys_values width", "queries_keys_values", _transposed),
    *_gpt2_inner("attn_output", "attn.c_proj", "width queries", "width", _transposed),
    *_gpt2_inner("ffn_norm", "ln_2", "width", "width"),
    *_gpt2_inner("ffn_up", "mlp.c_fc", "hidden width", "hidden", _transposed),
    *_gpt2_inner("ffn_down", "mlp.c_proj", "width hidden", "width", _transposed),
)

_JOINED_EXPANSION = _inner("attn_kv_b.weight", "self_attn.kv_b_proj.weight", "expanded rank")
_SPLIT_EXPANSION = NameRule(
    (LAYER + "attn_k_b.weight", LAYER + "attn_v_b.weight"),
    "model.layers.{layer}.self_attn.kv_b_proj.weight",
    (("heads", "rank", "plain"), ("heads", "value", "rank")),
    _expansion,
    _always,
    older=_JOINED_EXPANSION,
)

DEEPSEEK2 = (
    *_ends(),
    _HEAD,
    *_NORMS,
    _inner("attn_q.weight", "self_attn.q_proj.weight", "latent_queries width", when=_full_queries),
    _inner("attn_q_a.weight", "self_attn.q_a_proj.weight", "query_rank width", when=_narrow_queries),
    _inner("attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight", "query_rank", when=_narrow_queries),
    _inner("attn_q_b.weight", "self_attn.q_b_proj.weight", "latent_queries query_rank", when=_narrow_queries),
    _inner("attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight", "rank_and_rotary width"),
    _inner("attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight", "rank"),
    _SPLIT_EXPANSION,
    _inner("attn_output.weight", "self_attn.o_proj.weight", "width latent_values"),
    *_MLP,
    *_experts("mlp", gate="gate_proj", up="up_proj", down="down_proj"),
    _inner("exp_probs_b.bias", "mlp.gate.e_score_correction_bias", "experts", when=_corrected),
    _inner("ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight", "shared width", when=_shared),
    _inner("ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight", "shared width", when=_shared),
    _inner("ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight", "width shared", when=_shared),
)
"""DeepSeek-V2 and V3: pairs are interleaved on both sides, so nothing is permuted."""
