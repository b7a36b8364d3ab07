"""Mixtral (Jiang et al. 2024): Mistral with eight experts, two of them active, in every layer."""

from typing import Any

from cadran.model.config import Experts, ModelConfig
from cadran.model.families.family import Family, Rule, common_config, common_fields, every_window
from cadran.model.families.fields import Fields


def read(fields: Fields) -> ModelConfig:
    """Configuration of a Mixtral."""
    experts = Experts(
        count=fields.integer("num_local_experts", 8),
        active=fields.integer("num_experts_per_tok", 2),
        hidden=fields.integer("intermediate_size"),
        sparse=(True,) * fields.layers(),
    )
    return common_config(fields, "mixtral", base=1e6, experts=experts, **every_window(fields))


def write(config: ModelConfig) -> dict[str, Any]:
    """Fields of a Mixtral."""
    assert config.experts is not None
    return common_fields(config) | {
        "num_local_experts": config.experts.count,
        "num_experts_per_tok": config.experts.active,
        "sliding_window": config.window,
    }


_LAYER = r"model\.layers\.(\d+)\.mlp\."
_THEIRS = r"model.layers.\1.block_sparse_moe."
FAMILY = Family(
    "mixtral", "MixtralForCausalLM", "Mixtral 8x7B, 8x22B", read, write,
    rules=(
        Rule(_LAYER + r"gate\.weight", _THEIRS + "gate.weight"),
        Rule(_LAYER + r"experts\.(\d+)\.gate_proj\.weight", _THEIRS + r"experts.\2.w1.weight"),
        Rule(_LAYER + r"experts\.(\d+)\.down_proj\.weight", _THEIRS + r"experts.\2.w2.weight"),
        Rule(_LAYER + r"experts\.(\d+)\.up_proj\.weight", _THEIRS + r"experts.\2.w3.weight"),
    ),
)  # fmt: skip
