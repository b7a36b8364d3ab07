"""DeepSeek-V3 and R1 (2024): V2 with independent scores and a learnt correction of the choice."""

from typing import Any

from cadran.model.config import ModelConfig
from cadran.model.families.deepseek_v2 import latent_changes, latent_fields, read_experts, scaled
from cadran.model.families.family import Family, common_config
from cadran.model.families.fields import Fields


def read(fields: Fields) -> ModelConfig:
    """Configuration of a DeepSeek-V3."""
    experts = read_experts(
        fields, scoring="sigmoid", normalise=fields.flag("norm_topk_prob", True), correction=True, group_score="top2",
        groups=fields.integer("n_group", 8), active_groups=fields.integer("topk_group", 4),
    )  # fmt: skip
    return scaled(common_config(fields, "deepseek_v3", experts=experts, **latent_changes(fields)))


def write(config: ModelConfig) -> dict[str, Any]:
    """Fields of a DeepSeek-V3."""
    assert config.experts is not None and config.latent is not None
    return latent_fields(config) | {
        "n_group": config.experts.groups,
        "topk_group": config.experts.active_groups,
        "rope_interleave": config.latent.interleaved,
    }


# What predicts the token after next (`model.layers.61`) is no part of the model that answers.
FAMILY = Family("deepseek_v3", "DeepseekV3ForCausalLM", "DeepSeek-V3, R1 (small sizes tested)", read, write)
