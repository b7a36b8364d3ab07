"""OLMo 2 (2025): norms after each block, and over all heads of queries and of keys together."""

from typing import Any

from cadran.model.config import ModelConfig
from cadran.model.families.family import Family, common_config, common_fields
from cadran.model.families.fields import Fields


def read(fields: Fields) -> ModelConfig:
    """Configuration of an OLMo 2."""
    biased = fields.flag("attention_bias")
    return common_config(
        fields, "olmo2", norm_order="post", qk_norm="all", qkv_bias=biased, output_bias=biased,
        norm_epsilon=fields.number("rms_norm_eps", 1e-5),
    )  # fmt: skip


def write(config: ModelConfig) -> dict[str, Any]:
    """Fields of an OLMo 2."""
    return common_fields(config) | {"attention_bias": config.qkv_bias}


FAMILY = Family("olmo2", "Olmo2ForCausalLM", "OLMo 2", read, write)
