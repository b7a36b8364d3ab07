"""Qwen 3 with a mixture of experts (2025)."""

from typing import Any

from cadran.model.config import Experts, ModelConfig
from cadran.model.families.family import Family, common_config, common_fields, every_window
from cadran.model.families.fields import Fields


def read(fields: Fields) -> ModelConfig:
    """Configuration of a Qwen 3 with experts."""
    biased, layers = fields.flag("attention_bias"), fields.layers()
    count, step, dense = (
        fields.integer("num_experts", fields.integer("num_local_experts", 128)),
        fields.integer("decoder_sparse_step", 1),
        fields.sequence("mlp_only_layers"),
    )
    experts = Experts(
        count=count,
        active=fields.integer("num_experts_per_tok", 8),
        hidden=fields.integer("moe_intermediate_size"),
        sparse=tuple(count > 0 and layer not in dense and (layer + 1) % max(step, 1) == 0 for layer in range(layers)),
        normalise=fields.flag("norm_topk_prob"),
    )
    window = every_window(fields) if fields.flag("use_sliding_window") else {}
    return common_config(
        fields, "qwen3_moe", qk_norm="head", qkv_bias=biased, output_bias=biased, experts=experts, **window
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Fields of a Qwen 3 with experts."""
    experts = config.experts
    assert experts is not None
    return common_fields(config) | {
        "num_experts": experts.count,
        "num_experts_per_tok": experts.active,
        "moe_intermediate_size": experts.hidden,
        "norm_topk_prob": experts.normalise,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [layer for layer, sparse in enumerate(experts.sparse) if not sparse],
        "attention_bias": config.qkv_bias,
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
    }


FAMILY = Family("qwen3_moe", "Qwen3MoeForCausalLM", "Qwen 3 30B-A3B, 235B-A22B", read, write)
