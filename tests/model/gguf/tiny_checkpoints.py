"""Tiny random checkpoints of every family, made and saved by `transformers`: what the GGUF translation is tested on."""

import json

from cadran.model.gguf.reader import GgufFile
from cadran.model.gguf.translate import export_gguf
from cadran.model.gguf.writer import write_gguf

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LATENT = {
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 32,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "routed_scaling_factor": 2.5,
}


def scaled(kind, **parameters):
    """``rope_parameters`` of a stretched model."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **parameters}}


LLAMA_3 = scaled(
    "llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
)
SHORT, LONG = [1.0, 1.05, 1.1, 1.25, 1.5, 1.75], [1.0, 1.5, 2.0, 4.0, 8.0, 16.0]

CHECKPOINTS = {
    "llama": ("LlamaConfig", {}),
    "llama tied, wide heads": ("LlamaConfig", {"tie_word_embeddings": True, "head_dim": 32, "rms_norm_eps": 1e-5}),
    "llama biased": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama 3.2": ("LlamaConfig", {"max_position_embeddings": 131_072, **LLAMA_3}),
    "llama linear": ("LlamaConfig", scaled("linear", factor=4.0)),
    "llama yarn": ("LlamaConfig", scaled("yarn", factor=4.0, original_max_position_embeddings=32)),
    "mistral": ("MistralConfig", {"sliding_window": 16, "head_dim": 24}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}),
    "qwen2": ("Qwen2Config", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen3": ("Qwen3Config", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"head_dim": 16, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
         "norm_topk_prob": True},
    ),
    "gemma2": ("Gemma2Config", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}),
    "gemma3": (
        "Gemma3TextConfig",
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16, "num_hidden_layers": 7},
    ),
    "phi3": ("Phi3Config", {"sliding_window": 16}),
    "phi3 longrope": (
        "Phi3Config",
        {
            "original_max_position_embeddings": 32,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10_000.0,
                "short_factor": SHORT,
                "long_factor": LONG,
                "partial_rotary_factor": 0.75,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "olmo2": ("Olmo2Config", {"rms_norm_eps": 1e-6}),
    "gpt2": (
        "GPT2Config",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 96, "vocab_size": 96,
         "bos_token_id": 1, "eos_token_id": 2},
    ),
    "deepseek_v2": ("DeepseekV2Config", LATENT),
    "deepseek_v2 lite": ("DeepseekV2Config", {**LATENT, "q_lora_rank": None, "topk_method": "greedy"}),
    "deepseek_v2 groups": (
        "DeepseekV2Config",
        {**LATENT, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
    ),
    "deepseek_v3": (
        "DeepseekV3Config",
        {
            **LATENT, "n_group": 2, "topk_group": 1,
            **scaled("yarn", factor=4.0, original_max_position_embeddings=32, mscale=1.0, mscale_all_dim=1.0,
                     beta_fast=32, beta_slow=1),
        },
    ),
}  # fmt: skip
"""Name of the test -> configuration class of `transformers` and what differs from `SIZES`."""


def checkpoint(name, folder, **changes):
    """Save a tiny model and read back what lies on disk.

    The weights are multiples of 1/128 below 1/2: float16 holds them, and float32 holds their sum with one.

    Returns:
        Content of ``config.json``, and the tensors by name.
    """
    import torch
    import transformers
    from safetensors.torch import load_file

    kind, differences = CHECKPOINTS[name]
    plain = {} if kind == "GPT2Config" else SIZES
    config = getattr(transformers, kind)(**{**plain, **differences, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in (*model.parameters(), *(b for n, b in model.named_buffers() if "correction" in n)):
            parameter.copy_(torch.randint(-63, 64, parameter.shape, generator=generator) / 128)
    model.save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return content, load_file(folder / "model.safetensors")


TOKENIZER = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": [f"<{i}>" for i in range(SIZES["vocab_size"])]}


def exported(name, folder, kind="f16", **changes):
    """Path of a tiny model written as GGUF, its ``config.json`` and its weights."""
    config, weights = checkpoint(name, folder / "checkpoint", **changes)
    path = folder / "model.gguf"
    export_gguf(path, config, weights, TOKENIZER, kind, "tiny")
    return path, config, weights


def rewritten(path, target, keys=(), without=(), tensors=()):
    """The same file with other keys (None removes one), without some tensors and with others added."""
    with GgufFile.open(path) as file:
        metadata = {key: value for key, value in {**file.metadata, **dict(keys)}.items() if value is not None}
        kept = [(t.name, t.dequantised(), t.kind) for t in file.tensors.values() if t.name not in without]
    write_gguf(target, metadata, [*kept, *tensors])
    return target
